"""From a dialogue to its turns by the five rules, and to the rows of the three tasks."""

import pytest
from corpora import dialogue

from data_builders.build import rg_rows, sp_rows, vanilla_rows
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


def exchanges(*utterances, **options):
    return [
        (t.seeker, t.strategy.code, t.response) for t in turns(dialogue(*utterances), **options)
    ]


@pytest.mark.parametrize(
    ("utterances", "expected"),
    [
        # Consecutive seeker utterances are joined with a line break; those after the last reply go.
        (
            [("seeker", "a"), ("seeker", "b"), ("supporter", "Others", "c"), ("seeker", "d")],
            [("a\nb", "Ot", "c")],
        ),
        # A dialogue that the supporter opens begins with Hi, a blank stands between its replies.
        (
            [("supporter", "Others", "a"), ("supporter", "Question", "b")],
            [("Hi", "Ot", "a"), (" ", "Qu", "b")],
        ),
        (
            RUN,
            [
                ("hello", "Ot", "hi"),
                (" ", "Qu", "how are you?"),
                (" ", "Qu", "what happened?"),
                ("bad", "Ot", "oh"),
            ],
        ),
    ],
)
def test_turns_are_made_by_the_rules(utterances, expected):
    assert exchanges(*utterances) == expected


@pytest.mark.parametrize(
    ("consecutive", "expected"),
    [
        (
            "merge-same",
            [
                ("hello", "Ot", "hi"),
                (" ", "Qu", "how are you?\nwhat happened?"),
                ("bad", "Ot", "oh"),
            ],
        ),
        ("merge", [("hello", "Ot", "hi\nhow are you?\nwhat happened?"), ("bad", "Ot", "oh")]),
    ],
)
def test_runs_of_the_supporter_can_be_merged(consecutive, expected):
    assert exchanges(*RUN, consecutive=consecutive) == expected


TURNS = turns(
    dialogue(
        ("seeker", "I lost it"),
        ("supporter", "Question", "Lost what?"),
        ("seeker", "my key"),
        ("supporter", "Reflection of feelings", "You sound upset."),
        position=7,
    )
)
PROVENANCE = {"corpus": "other", "split": "train", "dialogue": 7, "turns": 2}


def test_sp_rows_hold_the_transcript_and_the_bare_strategy():
    first, second = sp_rows(TURNS, PROVENANCE)
    assert first == {
        "id": "7-0",
        "system": prompts.sp_system(),
        "instruction": "seeker: I lost it\n",
        "input": "",
        "output": "Question",
        "provenance": PROVENANCE | {"turn": 0},
    }
    assert second == first | {
        "id": "7-1",
        "instruction": "seeker: I lost it\nsupporter: Lost what?\nseeker: my key\n",
        "output": "Reflection of feelings",
        "provenance": PROVENANCE | {"turn": 1},
    }


def test_rg_rows_hold_the_strategy_in_the_prompt_and_the_chat_as_turns():
    first, second = rg_rows(TURNS, PROVENANCE)
    assert first == {
        "id": "7-0",
        "system": prompts.rg_system(Strategy.QUESTION),
        "instruction": "I lost it",
        "input": "",
        "output": "Lost what?",
        "history": [],
        "strategy": "Question",
        "provenance": PROVENANCE | {"turn": 0},
    }
    assert second == first | {
        "id": "7-1",
        "system": prompts.rg_system(Strategy.REFLECTION),
        "instruction": "my key",
        "output": "You sound upset.",
        "history": [["I lost it", "Lost what?"]],
        "strategy": "Reflection of feelings",
        "provenance": PROVENANCE | {"turn": 1},
    }


def test_the_vanilla_row_holds_the_dialogue_with_tagged_replies():
    assert list(vanilla_rows(TURNS, PROVENANCE)) == [
        {
            "id": "7",
            "system": prompts.vanilla_system(),
            "conversations": [
                {"from": "human", "value": "I lost it"},
                {"from": "gpt", "value": "[Question] Lost what?"},
                {"from": "human", "value": "my key"},
                {"from": "gpt", "value": "[Reflection of feelings] You sound upset."},
            ],
            "provenance": PROVENANCE,
        }
    ]
