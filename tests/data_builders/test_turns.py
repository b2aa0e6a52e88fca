"""From a dialogue to its turns by the five rules, and to the rows of the three tasks."""

import pytest
from corpora import dialogue

from data_builders.build import ROWS
from esc import prompts
from esc.dialogue import turns
from esc.strategies import Strategy

RUN = (
    ("seeker", "hello"),
    ("supporter", "Others", "hi"),
    ("supporter", "Question", "how are you?"),
    ("supporter", "Question", "what happened?"),
    ("seeker", "bad"),
    ("supporter", "Others", "oh"),
)
MERGED, ASKED = "hi\nhow are you?\nwhat happened?", "how are you?\nwhat happened?"


@pytest.mark.parametrize(
    ("utterances", "consecutive", "expected"),
    [
        # Consecutive seeker utterances are joined with a line break; those after the last reply go.
        (
            [("seeker", "a"), ("seeker", "b"), ("supporter", "Others", "c"), ("seeker", "d")],
            "separate",
            [("a\nb", "Ot", "c")],
        ),
        # A dialogue that the supporter opens begins with Hi, a blank stands between its replies.
        (
            [("supporter", "Others", "a"), ("supporter", "Question", "b")],
            "separate",
            [("Hi", "Ot", "a"), (" ", "Qu", "b")],
        ),
        (RUN, "merge-same", [("hello", "Ot", "hi"), (" ", "Qu", ASKED), ("bad", "Ot", "oh")]),
        (RUN, "merge", [("hello", "Ot", MERGED), ("bad", "Ot", "oh")]),
    ],
)
def test_turns_are_made_by_the_rules(utterances, consecutive, expected):
    found = turns(dialogue(*utterances), consecutive=consecutive)
    assert [(turn.seeker, turn.strategy.code, turn.response) for turn in found] == expected


def rows(task):
    said = turns(
        dialogue(
            ("seeker", "I lost it"),
            ("supporter", "Question", "Lost what?"),
            ("seeker", "my key"),
            ("supporter", "Reflection of feelings", "You sound upset."),
            position=7,
        )
    )
    return list(ROWS[task](said, {"split": "train"}))


def test_sp_rows_hold_the_transcript_and_the_bare_strategy():
    first, second = rows("sp")
    assert first == {
        "id": "7-0",
        "system": prompts.sp_system(),
        "instruction": "seeker: I lost it\n",
        "input": "",
        "output": "Question",
        "provenance": {"split": "train", "turn": 0},
    }
    assert second == first | {
        "id": "7-1",
        "instruction": "seeker: I lost it\nsupporter: Lost what?\nseeker: my key\n",
        "output": "Reflection of feelings",
        "provenance": {"split": "train", "turn": 1},
    }


def test_rg_rows_hold_the_strategy_in_the_prompt_and_the_chat_as_turns():
    first, second = rows("rg")
    assert first["history"] == [] and first["instruction"] == "I lost it"
    assert second == {
        "id": "7-1",
        "system": prompts.rg_system(Strategy.REFLECTION_OF_FEELINGS),
        "instruction": "my key",
        "input": "",
        "output": "You sound upset.",
        "history": [["I lost it", "Lost what?"]],
        "strategy": "Reflection of feelings",
        "provenance": {"split": "train", "turn": 1},
    }


def test_the_vanilla_row_holds_the_dialogue_with_tagged_replies():
    assert rows("vanilla") == [
        {
            "id": "7",
            "system": prompts.vanilla_system(),
            "conversations": [
                {"from": "human", "value": "I lost it"},
                {"from": "gpt", "value": "[Question] Lost what?"},
                {"from": "human", "value": "my key"},
                {"from": "gpt", "value": "[Reflection of feelings] You sound upset."},
            ],
            "provenance": {"split": "train"},
        }
    ]
