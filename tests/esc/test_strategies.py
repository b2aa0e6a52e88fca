import pytest

from esc import strategies
from esc.strategies import Strategy, parse, strip_tag, tag, untagged


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


@pytest.mark.parametrize(
    ("text", "strategy"),
    [
        ("Affirmation & Reassurance", Strategy.AFFIRMATION),
        ("Affirmation/Reassurance", Strategy.AFFIRMATION),
        ("Restatement/Paraphrasing", Strategy.RESTATEMENT),
        ("Restatement + Paraphrasing", Strategy.RESTATEMENT),
        ("Restatement, Paraphrasing", Strategy.RESTATEMENT),
        ("Approval & Reassurance", Strategy.AFFIRMATION),
        ("Self/disclosure", Strategy.SELF_DISCLOSURE),
    ],
)
def test_however_two_words_of_a_name_are_joined_it_parses(text, strategy):
    assert parse(text) is strategy


@pytest.mark.parametrize(
    "text",
    ["Strategy: Question", "**Strategy**: Question.", "The best strategy is [Question]",
     "Answer: question"],
)  # fmt: skip
def test_a_label_before_the_name_is_passed_over(text):
    assert parse(text) is Strategy.QUESTION


@pytest.mark.parametrize(
    "text",
    ["", " ", "[]", "Empathy", "Question or Others", "Question/Others", "Questionable", "and",
     "Strategy:", "Strategy: Empathy", "The strategy is not Question", "my question: strategy"],
)  # fmt: skip
def test_what_is_no_strategy_is_none(text):
    assert parse(text) is None


@pytest.mark.parametrize("strategy", Strategy)
def test_strip_tag_undoes_tag(strategy):
    response = "I see. [sigh]\nAnd then?"
    assert strip_tag(tag(strategy, response)) == (strategy, response)


@pytest.mark.parametrize(
    ("text", "strategy", "response"),
    [
        ("Of course. [Question] Since when?", Strategy.QUESTION, "Of course. Since when?"),
        ("2. [Question] Since when?", Strategy.QUESTION, "2. Since when?"),
        ("Of course.\n[Question]  Since when?", Strategy.QUESTION, "Of course.\nSince when?"),
        ("Since when? [Question]", Strategy.QUESTION, "Since when?"),
        ("\n\n[Question] Since when?", Strategy.QUESTION, "Since when?"),
        ("[Comfort] That is hard.", None, "That is hard."),
        ("[Comfort] It is. [Question] Why?", None, "It is. [Question] Why?"),
        ("[[Question]] Since when?", Strategy.QUESTION, "Since when?"),
        ("[Question [Qu] Since when?", None, "Since when?"),
    ],
)
def test_the_first_bracket_is_the_tag_wherever_it_stands(text, strategy, response):
    assert strip_tag(text) == (strategy, response)


def test_a_known_name_with_brackets_of_its_own_is_one_tag(monkeypatch):
    monkeypatch.setitem(strategies._NAMES, "question open", Strategy.QUESTION)
    assert strip_tag("[Question [open]] Why?") == (Strategy.QUESTION, "Why?")
    assert strip_tag("[Praise [open]] Why?") == (None, "] Why?")


@pytest.mark.parametrize("text", ["no tag", "[Question", "Question] hello", "[a\nb] hello"])
def test_a_text_without_brackets_on_one_line_has_no_tag(text):
    assert strip_tag(text) == (None, text)


def test_a_persons_own_brackets_are_no_tag_of_a_conversation():
    assert untagged("It went well [laughs] in the end.") == "It went well [laughs] in the end."
    assert untagged(tag(Strategy.OTHERS, "Bye [waves].")) == "Bye [waves]."
