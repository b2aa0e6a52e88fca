"""What a plan would take, against hand-computed cases and the committed facts of the release.

ESCONV=path/to/ESConv.json python tests/experiments/test_estimate.py    # renews those facts
"""

import json
import os
import sys
import tempfile
from collections import Counter
from pathlib import Path

import pytest

from data_builders import build
from esc import files, paths
from esc.dialogue import gold_turns
from esc.plan_and_speak import chat_and_gold
from esc.prompts import TASKS
from experiments import estimate
from experiments.estimate import COMMITTED, Forecast

# 10 dialogues of 10 turns; 4 characters are a token.
SMALL = {
    **{"dialogues": 10, "turns": 100, "conversations": 16_000},
    **{"sp_prompts": 40_000, "rg_prompts": 20_000, "vanilla_prompts": 30_000},
    **{"sp_answers": 1_600, "rg_answers": 8_000, "vanilla_answers": 9_600},
}


@pytest.fixture
def loads(monkeypatch, tmp_path):
    small = tmp_path / "volumes.json"
    small.write_text(json.dumps(dict.fromkeys(paths.SPLITS, SMALL)))
    monkeypatch.setattr(estimate, "COMMITTED", small)

    def load(step, *systems, **more):
        known = {"model": "qwen2.5-7b", "judge": "a-judge", "work": tmp_path} | more
        return Forecast([step], list(systems), **known).load(step)

    return load


def test_sft_reads_prompts_and_answers_three_times_and_a_conversation_once_an_epoch(loads):
    assert loads("sft-sp").trained == 3 * (40_000 + 1_600) / 4
    assert loads("sft-vanilla").trained == 3 * 16_000 / 4
    assert loads("sft-rg", train_args="max_samples=5").trained == pytest.approx(3 * 5 * 280 / 4)
    assert loads("sft-rg", limit=5).trained == 3 * (10_000 + 4_000) / 4


def test_mining_samples_every_turn_and_judges_every_reply(loads):
    assert (loads("mine-sp").requests, loads("mine-sp").judged) == (100, 0)
    found = loads("mine-rg")
    assert (found.requests, found.judged) == (300, 300)
    assert (found.read, found.written) == (3 * 20_000 / 4, 3 * 8_000 / 4)
    assert loads("mine").requests == 100 + 300 + 100
    drawn = loads("mine-rg", judge="random", samples=2)
    assert (drawn.requests, drawn.judged) == (200, 0)


def test_preference_training_reads_both_sides_and_its_reference(loads, tmp_path):
    # 40 pairs of (30,000 + 9,600) / 100 characters, two sides, a third more for the reference, and
    # the drift of 100 validation turns.
    mined = tmp_path / paths.preference_file(paths.preference_dataset("vanilla", "qwen2.5-7b"))
    mined.parent.mkdir()
    mined.write_text("{}\n" * 40)
    side = 396 / 4
    expected = 40 * 2 * side * 4 / 3 + 100 * side
    assert loads("dpo-vanilla").trained == pytest.approx(expected)


def test_without_pairs_the_papers_yield_counts(loads):
    drift = 100 * (20_000 + 8_000) / 100 / 4
    pairs = (loads("dpo-rg").trained - drift) / (2 * 280 / 4 * 4 / 3)
    assert pairs == pytest.approx(100 * 6041 / 14763)


@pytest.mark.parametrize(
    ("system", "requests"),
    [("vanilla_base", 100), ("self-refine_base", 300), ("decoupled_dpo", 300),
     ("decoupled-gold_sft", 100)],
)  # fmt: skip
def test_a_system_asks_for_each_of_its_answers_and_the_planner_for_its_probabilities(
    loads, system, requests
):
    assert loads("predict", system).requests == requests


def test_evaluation_scores_four_dimensions_and_classifies_every_reply(loads):
    found = loads("eval", "vanilla_base", "decoupled_dpo", judge_n=20)
    # Two systems of 20 turns and 10 again; 20 pairs of two replies and 10 again; 200 errors.
    assert found.judged == 4 * (2 * (20 + 10)) + 4 * (2 * 20 + 10) + 2 * 100
    served = loads("eval", "vanilla_base", model="smollm2-135m", judge=None, judge_n=1)
    assert served.judged == 0 and served.requests > 0


def test_the_table_has_every_step_its_state_and_the_sum(capsys, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "check_qwen2.5-7b.json").write_text("{}")
    words = ["--step", "check-data", "sft-sp", "predict", "--system", "vanilla_base", "--work"]
    estimate.main([*words, str(tmp_path), "--model", "qwen2.5-7b", "--price", "1/2"])
    shown = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in shown[1:4]] == [
        ["check-data", "done"], ["sft-sp", "to"], ["predict", "to"],
    ]  # fmt: skip
    assert any(line.startswith("to run: ") and "$0.00" in line for line in shown)
    assert "28 GB" in shown[2] and "gpt-4.1-mini" in shown[-2]


def measured(work):
    """Split to its volume, counted on built sets."""
    found = {}
    for split in paths.SPLITS:
        sizes = Counter()
        conversations = {}
        turns = gold_turns(work, split, None)
        for turn in turns:
            for task in TASKS:
                chat, gold = chat_and_gold(task, turn)
                size = sum(len(message.content) for message in chat)
                sizes[f"{task}_prompts"] += size
                sizes[f"{task}_answers"] += len(gold)
                if task == "vanilla":
                    # The last turn's prompt and answer are the whole conversation.
                    conversations[turn.id.rpartition("-")[0]] = size + len(gold)
        found[split] = {
            "dialogues": len(conversations),
            "turns": len(turns),
            "conversations": sum(conversations.values()),
        } | sizes
    return found


def test_the_committed_facts_are_those_of_the_release(esconv, tmp_path):
    build.main(["--esconv", str(esconv), "--work", str(tmp_path)])
    assert measured(tmp_path) == files.read_json(COMMITTED)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        build.main(["--esconv", os.environ["ESCONV"], "--work", scratch])
        files.write_json(COMMITTED, measured(Path(scratch)))
    sys.exit()
