"""Two systems on the same turns, and the paper's questions from the runs that are complete."""

import json

import numpy as np
import pytest
from predicted import rows, save

from esc import cli, files
from esc.stats import Units
from esc.strategies import Strategy
from eval import metrics
from eval.cases import Case, Cases
from eval.metrics import compared as compare

MODEL = "smollm2-135m"
Q, R = Strategy.QUESTION, Strategy.RESTATEMENT


def system(share, name="{}", dialogues=12):
    """A system that names the gold strategy in ``share`` of ten turns."""
    cases = [
        Case(
            f"{name.format(d)}-{t}", Q if t % 2 else R, f"gold words {d} {t}",
            (Q if t % 2 else R) if t < share else (R if t % 2 else Q),
            f"gold {'words' if t < share else 'noise'} {d}",
        )
        for d in range(dialogues)
        for t in range(10)
    ]  # fmt: skip
    return Cases(tuple(cases), Units(by_dialogue=True))


def test_a_system_is_not_told_from_itself():
    found = compare(system(5), system(5))
    assert found["n"] == 120 and found["resampled_by"] == "dialogue"
    one = found["numbers"]["strategy.accuracy"]
    assert (one["difference"], one["low"], one["high"]) == (0, 0, 0)
    assert one["verdict"] == "inside the noise"


def test_a_better_system_is_told_by_every_number_that_knows_whatever_the_order_and_the_ids():
    found = compare(system(3), system(7))
    for name in ("strategy.accuracy", "text.paper.f1", "text.corpus.bleu1"):
        assert found["numbers"][name]["verdict"] == "higher, outside the noise", name
    assert "reverse percentile of bias" in found["interval"]
    worse = compare(system(7), system(3))["numbers"]["strategy.accuracy"]
    assert worse["difference"] == -40 and worse["verdict"] == "lower, outside the noise"
    backwards = Cases(system(7).rows[::-1], Units(by_dialogue=True))
    assert compare(system(3), backwards) == found
    assert compare(system(3, "talk {}"), system(7, "talk {}")) == found


def test_pairing_is_sharper_than_two_intervals():
    """Where both systems share what is hard, their difference is certain though neither is."""
    hard = np.random.default_rng(2).random(40) < 0.5

    def one(extra):
        cases = [
            Case(f"{d}-{t}", Q, "", Q if not hard[d] or t == 0 or (extra and t == 1) else R, "")
            for d in range(40)
            for t in range(5)
        ]
        return Cases(tuple(cases), Units(by_dialogue=True))

    found = compare(one(False), one(True))["numbers"]["strategy.accuracy"]
    assert found["low"] > 0 and found["high"] - found["low"] < 10


def test_fewer_than_ten_shared_dialogues_have_no_interval_and_no_verdict():
    found = compare(system(3, dialogues=12), system(7, dialogues=9))
    assert found["n"] == 90 and found["alone"] == {"a": 30, "b": 0}
    assert "9 dialogues, and an interval takes 10" in found["interval"]
    for one in found["numbers"].values():
        assert (one["low"], one["high"]) == (None, None)
        assert one["verdict"].startswith(("no interval", "undefined"))


@pytest.fixture
def work(tmp_path):
    """Three complete runs and one that is not."""
    runs = tmp_path / "runs" / MODEL
    for name in ("vanilla_sft", "vanilla_dpo", "decoupled_sft", "decoupled_dpo"):
        save(runs / name / "predictions.jsonl", rows(reply=f"a reply of {name}"))
        (runs / name / "options.json").write_text(json.dumps({"smoke": True}))
        if name != "decoupled_dpo":
            (runs / name / "run.json").write_text("{}")
    return tmp_path


@pytest.fixture
def run_compare(work, capsys):
    """Exit code, what ``comparisons.json`` says, and all that is printed."""

    def call(*options):
        code = cli.run(metrics.compare, ["--work", str(work), *options])
        shown = capsys.readouterr()
        path = work / "runs" / MODEL / "comparisons.json"
        return code, files.read_json(path) if code < 2 else None, shown.out + shown.err

    return call


def pairs(found):
    return [(one["a"], one["b"]) for one in found]


def test_every_question_whose_runs_are_complete_is_answered_once_and_marked(work, run_compare):
    code, found, told = run_compare()
    asked = [("vanilla_sft", "vanilla_dpo"), ("vanilla_sft", "decoupled_sft")]
    assert code == 0 and pairs(found["comparisons"]) == asked
    assert found["smoke"] is True and "SMOKE" in told
    assert found["comparisons"][0]["numbers"]["strategy.weighted_f1"]["difference"] == 0
    code, again, told = run_compare()
    assert "nothing to do" in told and again == found
    (work / "runs" / MODEL / "decoupled_dpo" / "run.json").write_text("{}")
    assert len(run_compare()[1]["comparisons"]) == 4


def test_a_run_that_shares_no_turn_leaves_out_its_own_question_alone(work, run_compare):
    other = [one | {"id": f"9{one['id']}"} for one in rows()]
    save(work / "runs" / MODEL / "vanilla_dpo" / "predictions.jsonl", other)
    code, found, told = run_compare()
    assert code == 1 and "share no turn" in told
    assert pairs(found["comparisons"]) == [("vanilla_sft", "decoupled_sft")]
    assert pairs(found["left_out"]) == [("vanilla_sft", "vanilla_dpo")]


def errors(work, run, share, judge="some-judge"):
    """The first ``share`` of the run's replies hold an error."""
    said = rows()
    found = [
        {
            "id": one["id"],
            "status": "scored",
            "error": "Lack of Empathy" if place < share * len(said) else "None",
            "judge": judge,
        }
        for place, one in enumerate(said)
    ]
    save(work / "runs" / MODEL / run / "errors" / "errors.jsonl", found)


def test_errors_of_one_judge_are_compared_turn_by_turn_with_an_interval(work, run_compare):
    errors(work, "vanilla_sft", 0.8)
    errors(work, "vanilla_dpo", 0.3)
    errors(work, "decoupled_sft", 0.3, judge="another")
    first, second = (one["errors"] for one in run_compare()[1]["comparisons"])
    none = first["shares"]["None"]
    assert (none["a"], none["b"], none["difference"], first["n"]) == (20.0, 70.0, 50.0, 40)
    assert none["low"] <= 50 <= none["high"] and none["verdict"] == "higher, outside the noise"
    assert second["shares"] == {} and second["reason"] == "judged by some-judge and another"
