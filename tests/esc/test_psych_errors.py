import pytest

from esc.psych_errors import PsychError, parse


@pytest.mark.parametrize("error", PsychError)
def test_every_name_parses_in_any_case_and_punctuation(error):
    assert parse(error.value) is parse(f" {error.upper()}.") is parse(f"**{error}**") is error


@pytest.mark.parametrize(
    ("label", "error"),
    [
        ("Mismatched Strategy", PsychError.STRATEGY_MISMATCH),
        ("Premature Early Emotion Shift", PsychError.EARLY_EMOTION_SHIFT),
        ("Premature Emotional Shift", PsychError.EARLY_EMOTION_SHIFT),
        ("Lacking empathy", PsychError.LACK_OF_EMPATHY),
        ("Templated response", PsychError.TEMPLATE_RESPONSE),
        ("Misread emotion", PsychError.EMOTION_MISREAD),
        ("No empathy", PsychError.LACK_OF_EMPATHY),
        ("Premature Emotional Transition", PsychError.EARLY_EMOTION_SHIFT),
        ("Transition of emotion too early", PsychError.EARLY_EMOTION_SHIFT),
        ("Premature advice", PsychError.EARLY_EMOTION_SHIFT),
        ("Emotional Misunderstanding", PsychError.EMOTION_MISREAD),
        ("Misjudged feelings", PsychError.EMOTION_MISREAD),
        ("Inappropriate strategy", PsychError.STRATEGY_MISMATCH),
        ("Insufficient empathy", PsychError.LACK_OF_EMPATHY),
        ("Generic response", PsychError.TEMPLATE_RESPONSE),
        ("Other Error", PsychError.OTHER),
        ("N/A", PsychError.NONE),
        ("No errors", PsychError.NONE),
        ("None (no lack of empathy)", PsychError.NONE),
        ("None - no template phrases", PsychError.NONE),
        ("None of these errors", PsychError.NONE),
        ("None, though a little short", PsychError.NONE),
    ],
)
def test_labels_as_judges_paraphrase_them_parse(label, error):
    assert parse(label) is error


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Rudeness",
        "Lack of Empathy / Template Response",
        "empathy",
        "No lack of empathy",
        "The strategy is not inappropriate",
        "Emotional mismatch",
        "Misunderstanding",
        "Early strategy shift",
        "Lack of empathy, premature advice",
        "Not a template response",
        "None, but lack of empathy",
        "None / Template Response",
        "None (no empathy)",
        "None (no template phrases), lack of empathy",
        "None, Other",
    ],
)
def test_an_unknown_or_a_double_label_is_none(text):
    assert parse(text) is None
