import pytest

from esc.strategies import Strategy, parse, strip_tag, tag


def test_the_eight_stand_in_the_order_of_table_6():
    assert [s.code for s in Strategy] == ["Qu", "RP", "RF", "Sd", "AR", "PS", "In", "Ot"]


@pytest.mark.parametrize("strategy", Strategy)
def test_every_name_code_and_untidy_writing_of_it_parses(strategy):
    for text in (
        strategy.value,
        strategy.code,
        strategy.upper(),
        f"[{strategy}]",
        f"  **{strategy.lower()}**. ",
        strategy.replace(" ", "_").replace("-", " "),
    ):
        assert parse(text) is strategy


@pytest.mark.parametrize(
    ("label", "strategy"),
    [
        ("Questions", Strategy.QUESTION),
        ("Other", Strategy.OTHERS),
        ("Direct Guidance", Strategy.SUGGESTIONS),
        ("Approval and Reassurance", Strategy.AFFIRMATION),
        ("Restatement", Strategy.RESTATEMENT),
    ],
)
def test_the_labels_of_failed_esconv_parse(label, strategy):
    assert parse(label) is strategy


@pytest.mark.parametrize("text", ["", " ", "[]", "Empathy", "Question or Others", "Questionable"])
def test_what_is_no_strategy_is_none(text):
    assert parse(text) is None


@pytest.mark.parametrize("strategy", Strategy)
def test_strip_tag_undoes_tag(strategy):
    response = "I see. [sigh]\nAnd then?"
    assert strip_tag(tag(strategy, response)) == (strategy, response)


@pytest.mark.parametrize(
    "text", ["no tag", "[Empathy] hello", "hello [Question] there", "[Question"]
)
def test_strip_tag_leaves_a_text_without_a_known_tag_whole(text):
    assert strip_tag(text) == (None, text)
