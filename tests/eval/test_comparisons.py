"""The paper's questions as paired comparisons, from the runs that are complete."""

import json

import pytest
from predicted import rows, save

from esc import cli, files
from eval import metrics

MODEL = "smollm2-135m"


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


def stored(work):
    return files.read_json(work / "runs" / MODEL / "comparisons.json")


def test_every_question_whose_runs_are_complete_is_answered_and_marked(work, capsys):
    assert cli.run(metrics.compare_main, ["--work", str(work)]) == 0
    found = stored(work)
    assert [(row["a"], row["b"]) for row in found["comparisons"]] == [
        ("vanilla_sft", "vanilla_dpo"),
        ("vanilla_sft", "decoupled_sft"),
    ]
    assert found["smoke"] is True and "SMOKE" in capsys.readouterr().out
    assert found["comparisons"][0]["numbers"]["strategy.weighted_f1"]["difference"] == 0


def test_the_same_predictions_are_compared_once_and_others_anew(work, capsys):
    cli.run(metrics.compare_main, ["--work", str(work)])
    before = (work / "runs" / MODEL / "comparisons.json").read_bytes()
    cli.run(metrics.compare_main, ["--work", str(work)])
    assert "nothing to do" in capsys.readouterr().out
    assert (work / "runs" / MODEL / "comparisons.json").read_bytes() == before
    (work / "runs" / MODEL / "decoupled_dpo" / "run.json").write_text("{}")
    cli.run(metrics.compare_main, ["--work", str(work)])
    assert len(stored(work)["comparisons"]) == 4


def test_comparisons_that_are_a_list_are_one_line(work, capsys):
    (work / "runs" / MODEL / "comparisons.json").write_text("[]")
    assert cli.run(metrics.compare_main, ["--work", str(work)]) == 2
    told = capsys.readouterr().err
    assert "comparisons.json holds a list, not a JSON object" in told and told.count("\n") == 1


def test_without_two_runs_of_a_question_it_says_so(tmp_path, capsys):
    assert cli.run(metrics.compare_main, ["--work", str(tmp_path)]) == 0
    assert "no question of the paper has both its runs yet" in capsys.readouterr().out


def errors(work, run, share, judge="some-judge"):
    """The first ``share`` of the run's replies hold an error."""
    said = rows()
    folder = work / "runs" / MODEL / run / "errors"
    folder.mkdir()
    found = [
        {
            "id": one["id"],
            "status": "scored",
            "error": "Lack of Empathy" if place < share * len(said) else "None",
            "judge": judge,
        }
        for place, one in enumerate(said)
    ]
    (folder / "errors.jsonl").write_text("".join(json.dumps(one) + "\n" for one in found))


def test_errors_are_compared_turn_by_turn_with_an_interval(work):
    errors(work, "vanilla_sft", 0.8)
    errors(work, "vanilla_dpo", 0.3)
    cli.run(metrics.compare_main, ["--work", str(work)])
    found = stored(work)["comparisons"][0]["errors"]
    none = found["shares"]["None"]
    assert (none["a"], none["b"], none["difference"], found["n"]) == (20.0, 70.0, 50.0, 40)
    assert none["low"] <= 50 <= none["high"] and none["verdict"] == "higher, outside the noise"
    assert stored(work)["comparisons"][1]["errors"]["shares"] == {}


def test_errors_of_two_judges_are_not_compared(work):
    errors(work, "vanilla_sft", 0.8)
    errors(work, "vanilla_dpo", 0.3, judge="another")
    cli.run(metrics.compare_main, ["--work", str(work)])
    found = stored(work)["comparisons"][0]["errors"]
    assert found["shares"] == {} and found["reason"] == "judged by some-judge and another"


def test_a_run_that_shares_no_turn_leaves_out_its_own_question_alone(work, capsys):
    other = [one | {"id": f"9{one['id']}"} for one in rows()]
    save(work / "runs" / MODEL / "vanilla_dpo" / "predictions.jsonl", other)
    assert cli.run(metrics.compare_main, ["--work", str(work)]) == 1
    found = stored(work)
    assert [(row["a"], row["b"]) for row in found["comparisons"]] == [
        ("vanilla_sft", "decoupled_sft")
    ]
    assert [(one["a"], one["b"]) for one in found["left_out"]] == [("vanilla_sft", "vanilla_dpo")]
    assert "share no turn" in capsys.readouterr().err
