"""The evaluation of every system: which steps, with how much money, and what its record says."""

import json
import subprocess
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import documented
import predicted
import pytest

from esc import files, paths
from esc.exceptions import EscError
from esc.llm import Budget, Price
from experiments import evaluate
from experiments.asking import Asking

MODEL = "qwen2.5-7b"
SYSTEMS = ("decoupled_sft", "vanilla_sft")
PRICE = Price(1.0, 2.0)
"""Of a million tokens: an answer of those below costs 1 + 2."""
ANSWER = {"answer": {"prompt_tokens": 1_000_000, "completion_tokens": 1_000_000}}


@pytest.fixture
def work(tmp_path):
    for system in SYSTEMS:
        folder = tmp_path / "runs" / MODEL / system
        predicted.save(folder / "predictions.jsonl", [predicted.row(0, 0)])
        (folder / "run.json").write_text("{}")
    return tmp_path


@pytest.fixture
def ran(monkeypatch, work):
    """The commands that were run: each asks for one answer, and writes what it is to write.

    Those whose name ``fails`` holds stop halfway.
    """
    commands, fails = [], set()

    def step(words, check):
        command = words[2:]
        commands.append(command)
        name, out = command[1], option(command, "--out")
        if name in ("judge", "classify"):
            Path(out).mkdir(exist_ok=True, parents=True)
            with (Path(out) / "calls.jsonl").open("a") as stream:
                stream.write(json.dumps(ANSWER) + "\n")
        if name in fails:
            return SimpleNamespace(returncode=2)
        result = {
            "metrics": "metrics.json", "judge": "judge.json", "classify": "proportions.json",
        }.get(name)  # fmt: skip
        if result:
            (Path(out) / result).write_text(name)
        elif name == "compare":
            (work / "runs" / MODEL / "comparisons.json").write_text(name)
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(subprocess, "run", step)
    return SimpleNamespace(commands=commands, fails=fails)


def option(command, name):
    return command[command.index(name) + 1] if name in command else None


def names(ran):
    return [command[1] for command in ran.commands]


def record(work):
    return work / "runs" / MODEL / "evaluated.json"


def test_each_step_that_asks_gets_what_the_ones_before_have_left(work, ran):
    assert evaluate.evaluate(work, MODEL, Asking(Budget(PRICE, 100.0), in_flight=7)) == 0
    asked = [one for one in ran.commands if one[1] in ("judge", "classify")]
    assert [option(one, "--max-cost") for one in asked] == ["100.0", "97.0", "94.0", "91.0"]
    assert {(option(one, "--price"), option(one, "--in-flight")) for one in asked} == {
        ("1.0/2.0", "7")
    }
    assert not any(
        option(one, "--price") for one in ran.commands if one[1] in ("metrics", "compare")
    )


def test_what_a_step_that_stopped_halfway_has_spent_is_counted_too(work, ran):
    ran.fails.add("judge")
    assert evaluate.evaluate(work, MODEL, Asking(Budget(PRICE, 100.0))) == 1
    asked = [one for one in ran.commands if one[1] in ("judge", "classify")]
    assert [option(one, "--max-cost") for one in asked] == ["100.0", "97.0", "94.0", "91.0"]


def test_answers_of_an_earlier_call_are_not_this_calls_money(work, ran):
    calls = work / "runs" / MODEL / SYSTEMS[0] / "judge" / "calls.jsonl"
    predicted.save(calls, [{"calls of": {}}, ANSWER, ANSWER])
    asking = Asking(Budget(PRICE, 100.0))
    evaluate.evaluate(work, MODEL, asking)
    assert asking.budget.spent == 4 * 3


def test_where_the_money_is_spent_nobody_is_asked_and_one_line_says_so(work, ran, capsys):
    assert evaluate.evaluate(work, MODEL, Asking(Budget(PRICE, 6.0))) == 1
    assert names(ran) == ["metrics", "judge", "classify", "metrics", "compare"]
    (line,) = [one for one in capsys.readouterr().out.splitlines() if "MAX_COST" in one]
    told = "not asked: vanilla_sft judge, vanilla_sft errors"
    assert line == f"MAX_COST=6 is spent (6.0000); {told}"
    assert not record(work).exists()


def test_a_rest_that_no_request_fits_in_counts_as_nothing(work, ran):
    ran.fails.add("judge")
    assert evaluate.evaluate(work, MODEL, Asking(Budget(PRICE, 3.001))) == 1
    assert names(ran) == ["metrics", "judge", "metrics", "compare"]


def test_a_limit_without_a_price_is_one_line(run, work):
    shown = run("-m", "experiments", "evaluate", "--work", str(work), "--max-cost", "5")
    assert shown.returncode == 2
    assert shown.stderr.startswith("error: MAX_COST needs PRICE=PROMPT/COMPLETION")


def test_the_makefile_hands_over_money(run):
    given = ("PRICE=1/2", "MAX_COST=5", "DRY_RUN=1")
    told = run("make", "--dry-run", "eval", *given).stdout
    for option in ('--price "1/2"', '--max-cost "5"', "--dry-run"):
        assert option in told.partition("experiments evaluate")[2]


def test_a_dry_run_asks_what_would_be_asked_and_changes_nothing(work, ran):
    record(work).write_text("{}")
    failed = Path("FailedESConv.json")
    assert evaluate.evaluate(work, MODEL, Asking(dry_run=True), failed=failed) == 0
    assert names(ran) == ["judge", "classify"] * len(SYSTEMS)
    assert all("--dry-run" in one for one in ran.commands)
    assert record(work).read_text() == "{}"


def test_an_evaluation_that_fails_leaves_no_record_of_an_earlier_one(work, ran):
    record(work).write_text("{}")
    ran.fails.add("classify")
    assert evaluate.evaluate(work, MODEL, Asking()) == 1
    assert not record(work).exists()


def test_the_record_changes_with_whatever_came_out(work, ran):
    evaluate.evaluate(work, MODEL, Asking())
    found = files.read_json(record(work))
    assert set(found["predictions"]) == set(SYSTEMS)
    of_one = ("metrics.json", "judge/judge.json", "errors/proportions.json")
    results = {f"runs/{MODEL}/{system}/{name}" for system in SYSTEMS for name in of_one}
    results.add(f"runs/{MODEL}/comparisons.json")
    assert set(found["results"]) == results
    for name in results:
        assert found["results"][name] == files.sha256(work / name)


def test_mined_pairs_and_figure_2_are_in_the_record_too(work):
    pairs = work / paths.preference_file(paths.preference_dataset("rg", MODEL))
    pairs.parent.mkdir()
    pairs.touch()
    found = [step.result for step in evaluate.steps(work, MODEL, False, Path("F.json"))]
    assert work / "runs" / MODEL / "pairs_judge" / "judge.json" in found
    assert work / "runs" / "failed_esconv" / "errors" / "proportions.json" in found


def test_without_predictions_the_way_to_them_is_told(tmp_path):
    with pytest.raises(EscError, match=r"make predict MODEL=qwen2\.5-7b"):
        evaluate.evaluate(tmp_path, MODEL, Asking())


def test_every_step_takes_what_it_is_handed(work):
    options = Asking(Budget(PRICE, 5.0), in_flight=3, dry_run=True).options()
    for step in evaluate.steps(work, MODEL, True, Path("F.json")):
        package, name, *given = step.command
        main = import_module(f"{package}.__main__").STEPS[name][0]
        documented.parsed(main, [*given, *(options if step.asks else [])], whole=True)
