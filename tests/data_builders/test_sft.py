from corpora import dialogue

from data_builders.build import rg_rows, sp_rows, vanilla_rows
from esc import prompts
from esc.dialogue import turns
from esc.strategies import Strategy

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
    assert list(sp_rows(TURNS, PROVENANCE)) == [
        {
            "id": "7-0",
            "system": prompts.sp_system(),
            "instruction": "seeker: I lost it\n",
            "input": "",
            "output": "Question",
            "provenance": PROVENANCE | {"turn": 0},
        },
        {
            "id": "7-1",
            "system": prompts.sp_system(),
            "instruction": "seeker: I lost it\nsupporter: Lost what?\nseeker: my key\n",
            "input": "",
            "output": "Reflection of feelings",
            "provenance": PROVENANCE | {"turn": 1},
        },
    ]


def test_rg_rows_hold_the_strategy_in_the_prompt_and_the_chat_as_turns():
    assert list(rg_rows(TURNS, PROVENANCE)) == [
        {
            "id": "7-0",
            "system": prompts.rg_system(Strategy.QUESTION),
            "instruction": "I lost it",
            "input": "",
            "output": "Lost what?",
            "history": [],
            "strategy": "Question",
            "provenance": PROVENANCE | {"turn": 0},
        },
        {
            "id": "7-1",
            "system": prompts.rg_system(Strategy.REFLECTION),
            "instruction": "my key",
            "input": "",
            "output": "You sound upset.",
            "history": [["I lost it", "Lost what?"]],
            "strategy": "Reflection of feelings",
            "provenance": PROVENANCE | {"turn": 1},
        },
    ]


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


def test_the_planner_sees_what_the_transcript_of_the_generators_history_says():
    for sp, rg in zip(sp_rows(TURNS, {}), rg_rows(TURNS, {}), strict=True):
        assert sp["instruction"] == prompts.sp_transcript(rg["history"], rg["instruction"])
