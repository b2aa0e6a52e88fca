import pytest

from esc.psych_errors import PsychError, parse

SAID = {
    PsychError.STRATEGY_MISMATCH: ["Mismatched Strategy", "Inappropriate strategy"],
    PsychError.EARLY_EMOTION_SHIFT: ["Premature Early Emotion Shift", "Premature advice",
        "Premature Emotional Transition", "Transition of emotion too early"],
    PsychError.LACK_OF_EMPATHY: ["Lacking empathy", "No empathy", "Insufficient empathy"],
    PsychError.TEMPLATE_RESPONSE: ["Templated response", "Generic response"],
    PsychError.EMOTION_MISREAD: ["Misread emotion", "Emotional Misunderstanding",
        "Misjudged feelings"],
    PsychError.OTHER: ["Other Error"],
    PsychError.NONE: ["N/A", "No errors", "None (no lack of empathy)",
        "None - no template phrases", "None of these errors", "None, though a little short"],
    # Unknown, denied, or several.
    None: ["", "Rudeness", "Lack of Empathy / Template Response", "empathy", "No lack of empathy",
        "The strategy is not inappropriate", "Emotional mismatch", "Misunderstanding",
        "Early strategy shift", "Lack of empathy, premature advice", "Not a template response",
        "None, but lack of empathy", "None / Template Response", "None (no empathy)",
        "None (no template phrases), lack of empathy", "None, Other"],
}  # fmt: skip


@pytest.mark.parametrize("error", SAID)
def test_labels_as_judges_paraphrase_them_parse(error):
    assert {text: parse(text) for text in SAID[error]} == dict.fromkeys(SAID[error], error)
    for text in (error.value, f" {error.upper()}.", f"**{error}**") if error else ():
        assert parse(text) is error
