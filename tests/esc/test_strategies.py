import pytest

from esc import strategies
from esc.strategies import Strategy, parse, strip_tag, tag


def test_the_eight_stand_in_the_order_of_table_6():
    assert [s.code for s in Strategy] == ["Qu", "RP", "RF", "Sd", "AR", "PS", "In", "Ot"]


@pytest.mark.parametrize("strategy", Strategy)
def test_every_name_code_and_untidy_writing_of_it_parses_and_a_tag_is_undone(strategy):
    untidy = f"  **{strategy.lower()}**. ", strategy.replace(" ", "_").replace("-", " ")
    for text in (strategy.value, strategy.code, strategy.upper(), f"[{strategy}]", *untidy):
        assert parse(text) is strategy
    response = "I see. [sigh]\nAnd then?"
    assert strip_tag(tag(strategy, response)) == (strategy, response)


@pytest.mark.parametrize(
    ("strategy", "texts"),
    [
        # The labels of FailedESConv, and however two words of a name are joined.
        (Strategy.QUESTION, ["Questions", "Strategy: Question", "**Strategy**: Question.",
                             "The best strategy is [Question]", "Answer: question"]),
        (Strategy.OTHERS, ["Other"]),
        (Strategy.PROVIDING_SUGGESTIONS, ["Direct Guidance"]),
        (Strategy.AFFIRMATION_REASSURANCE, ["Approval and Reassurance", "Affirmation & Reassurance",
                                "Affirmation/Reassurance", "Approval & Reassurance"]),
        (Strategy.RESTATEMENT_PARAPHRASING, ["Restatement", "Restatement, Paraphrasing"]),
        (Strategy.SELF_DISCLOSURE, ["Self/disclosure"]),
        (None, ["", " ", "[]", "Empathy", "Question or Others", "Question/Others", "Questionable",
                "and", "Strategy:", "Strategy: Empathy", "The strategy is not Question",
                "my question: strategy"]),
    ],
)  # fmt: skip
def test_other_names_and_what_stands_before_one_are_read_and_nothing_else(strategy, texts):
    assert {text: parse(text) for text in texts} == dict.fromkeys(texts, strategy)


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
        ("no tag", None, "no tag"),
        ("[a\nb] hello", None, "[a\nb] hello"),
    ],
)
def test_the_first_bracket_is_the_tag_wherever_it_stands(text, strategy, response):
    assert strip_tag(text) == (strategy, response)


def test_a_known_name_with_brackets_of_its_own_is_one_tag(monkeypatch):
    monkeypatch.setitem(strategies._NAMES, "question open", Strategy.QUESTION)
    assert strip_tag("[Question [open]] Why?") == (Strategy.QUESTION, "Why?")
    assert strip_tag("[Praise [open]] Why?") == (None, "] Why?")
