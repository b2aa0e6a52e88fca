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


DRIFT = 100 * (20_000 + 8_000) / 100 / 4


# A pair has two sides, and a third more for the reference; then the drift of 100 validation turns.
@pytest.mark.parametrize(
    ("step", "more", "expected"),
    [
        ("sft-sp", {}, 3 * (40_000 + 1_600) / 4),
        ("sft-vanilla", {}, 3 * 16_000 / 4),
        ("sft-rg", {"train_args": "max_samples=5"}, 3 * 5 * 280 / 4),
        ("sft-rg", {"limit": 5}, 3 * (10_000 + 4_000) / 4),
        ("dpo-vanilla", {"pairs": 40}, 40 * 2 * 396 / 4 * 4 / 3 + 100 * 396 / 4),
        ("dpo-rg", {}, 100 * 6041 / 14763 * 2 * 280 / 4 * 4 / 3 + DRIFT),
    ],
)
def test_a_training_reads_prompts_and_answers_or_both_sides_of_pairs(
    loads, tmp_path, step, more, expected
):
    if pairs := more.pop("pairs", 0):
        mined = tmp_path / paths.preference_file(paths.preference_dataset("vanilla", "qwen2.5-7b"))
        mined.parent.mkdir()
        mined.write_text("{}\n" * pairs)
    assert loads(step, **more).trained == pytest.approx(expected)


# Scores of two systems: 20 turns and 10 again, 20 pairs and 10 again; then 200 errors are named.
@pytest.mark.parametrize(
    ("step", "systems", "more", "requests", "judged"),
    [
        ("mine-sp", (), {}, 100, 0),
        ("mine-rg", (), {}, 300, 300),
        ("mine", (), {}, 100 + 300 + 100, 300 + 100),
        ("mine-rg", (), {"judge": "random", "samples": 2}, 200, 0),
        ("predict", ("vanilla_base",), {}, 100, 0),
        ("predict", ("self-refine_base",), {}, 300, 0),
        ("predict", ("decoupled_dpo",), {}, 300, 0),
        ("predict", ("decoupled-gold_sft",), {}, 100, 0),
        (
            *("eval", ("vanilla_base", "decoupled_dpo"), {"judge_n": 20}, 0),
            4 * (2 * (20 + 10)) + 4 * (2 * 20 + 10) + 2 * 100,
        ),
    ],
)
def test_every_turn_is_asked_for_each_answer_and_each_judgement(
    loads, step, systems, more, requests, judged
):
    found = loads(step, *systems, **more)
    assert (found.requests, found.judged) == (requests, judged)


def test_the_tokens_are_those_of_the_prompts_and_answers_and_the_base_judges_the_embedded(loads):
    found = loads("mine-rg")
    assert (found.read, found.written) == (3 * 20_000 / 4, 3 * 8_000 / 4)
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
