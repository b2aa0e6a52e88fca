"""Two systems on the same turns, and the paper's questions from the runs that are complete."""

import pytest
from predicted import rows, save

from esc import files
from esc.strategies import Strategy
from eval import metrics
from eval.cases import Case, Cases
from eval.metrics import compared

Q, R = Strategy.QUESTION, Strategy.RESTATEMENT_PARAPHRASING


def system(share, name="{}", dialogues=12):
    """A system that names the gold strategy in ``share`` of ten turns."""
    cases = []
    for d in range(dialogues):
        for t in range(10):
            gold, other = (Q, R) if t % 2 else (R, Q)
            says, word = (gold, "words") if t < share else (other, "noise")
            case = Case(f"{name.format(d)}-{t}", gold, f"gold words {d} {t}", says, f"{word} {d}")
            cases.append(case)
    return Cases(cases, "dialogue")


def test_a_better_system_is_told_by_every_number_that_knows_whatever_the_order_and_the_ids():
    found = compared(system(3), system(7))
    assert (found["n"], found["resampled_by"]) == (120, "dialogue")
    for name in ("strategy.accuracy", "text.paper.f1", "text.corpus.bleu1"):
        assert found["numbers"][name]["verdict"] == "higher, outside the noise", name
    assert "reverse percentile of bias" in found["interval"]
    worse = compared(system(7), system(3))["numbers"]["strategy.accuracy"]
    assert worse["difference"] == -40 and worse["verdict"] == "lower, outside the noise"
    assert compared(system(3), Cases(system(7).rows[::-1], "dialogue")) == found
    assert compared(system(3, "talk {}"), system(7, "talk {}")) == found
    same = compared(system(5), system(5))["numbers"]["strategy.accuracy"]
    assert (same["difference"], same["low"], same["high"]) == (0, 0, 0)
    assert same["verdict"] == "inside the noise"


def test_fewer_than_ten_shared_dialogues_have_no_interval_and_no_verdict():
    found = compared(system(3, dialogues=12), system(7, dialogues=9))
    assert found["n"] == 90 and found["alone"] == {"a": 30, "b": 0}
    assert "9 dialogues, and an interval takes 10" in found["interval"]
    for one in found["numbers"].values():
        assert (one["low"], one["high"]) == (None, None)
        assert one["verdict"].startswith(("no interval", "undefined"))


@pytest.fixture
def runs(tmp_path):
    """Three complete runs and one that is not."""
    runs = tmp_path / "runs" / "smollm2-135m"
    for name in ("vanilla_sft", "vanilla_dpo", "decoupled_sft", "decoupled_dpo"):
        save(runs / name / "predictions.jsonl", rows(reply=f"a reply of {name}"))
        files.write_json(runs / name / "options.json", {"smoke": True})
        if name != "decoupled_dpo":
            files.write_json(runs / name / "run.json", {})
    return runs


@pytest.fixture
def compare(tmp_path, runs, step):
    """Exit code, the pairs that are compared, and all that is printed."""

    def call():
        code, out, err = step(metrics.compare, "--work", tmp_path)
        found = files.read_json(runs / "comparisons.json")["comparisons"]
        return code, {(one["a"], one["b"]): one for one in found}, out + err

    return call


def test_every_question_whose_runs_are_complete_is_answered_once_and_marked(runs, compare):
    code, found, told = compare()
    asked = [("vanilla_sft", "vanilla_dpo"), ("vanilla_sft", "decoupled_sft")]
    assert code == 0 and [*found] == asked and "SMOKE" in told
    assert found[asked[0]]["numbers"]["strategy.weighted_f1"]["difference"] == 0
    assert "nothing to do" in compare()[2]
    files.write_json(runs / "decoupled_dpo" / "run.json", {})
    # A run that shares no turn leaves out its own questions alone.
    other = [one | {"id": f"9{one['id']}"} for one in rows()]
    save(runs / "vanilla_dpo" / "predictions.jsonl", other)
    code, found, told = compare()
    assert code == 1 and "share no turn" in told
    assert [*found] == [asked[1], ("decoupled_sft", "decoupled_dpo")]


def test_errors_of_one_judge_are_compared_turn_by_turn_with_an_interval(runs, compare):
    for run, empty, judge in (
        ("vanilla_sft", 32, "one"),
        ("vanilla_dpo", 12, "one"),
        ("decoupled_sft", 12, "another"),
    ):
        found = [
            {"id": one["id"], "status": "scored", "judge": judge}
            | {"error": "Lack of Empathy" if place < empty else "None"}
            for place, one in enumerate(rows())
        ]
        save(runs / run / "errors" / "errors.jsonl", found)
    first, second = (one["errors"] for one in compare()[1].values())
    none = first["shares"]["None"]
    assert (none["a"], none["b"], none["difference"], first["n"]) == (20.0, 70.0, 50.0, 40)
    assert none["low"] <= 50 <= none["high"] and none["verdict"] == "higher, outside the noise"
    assert second["shares"] == {} and second["reason"] == "judged by one and another"
