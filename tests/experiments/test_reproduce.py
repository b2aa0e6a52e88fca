"""The paper's experiment as one command: its plan on paper, and a small part of it really run."""

import os
import re
import signal
import subprocess
import sys
import time

import pytest

from esc import cli, files, paths, policy_server
from esc.exceptions import EscError
from esc.paths import EMBEDDED
from experiments import reproduce, variables

STEPS = ("predict-decoupled_sft", "eval", "report")
SMALL = (
    *("ESCONV=sample", "LIMIT=1", "JUDGE=random", "JUDGE_N=2"),
    "TRAIN_ARGS=max_steps=1 gradient_accumulation_steps=1",
)


def lines(*given, model="qwen2.5-7b", work, only=()):
    found = variables.parsed(list(given))
    return list(reproduce.dry_run(reproduce.Asked(model, work, found, only)))


def row(name, *given, **where):
    (line,) = [one for one in lines(*given, **where) if one.split()[:1] == [name]]
    return line


def test_the_plan_is_shown_without_corpus_model_or_network(run, tmp_path):
    shown = run(
        *("make", "reproduce", "MODEL=qwen2.5-7b", "DRY_RUN=1", f"WORK={tmp_path}"),
        HF_HUB_OFFLINE="1",
        OPENAI_API_KEY="",
    )
    assert shown.returncode == 0, shown.stderr
    assert "33 steps for qwen2.5-7b" in shown.stdout and "0 done, 33 to run" in shown.stdout
    assert "committed statistics of the ESConv release" in shown.stdout
    assert "14,763 train and 1,792 test turns" in shown.stdout
    assert not any(tmp_path.iterdir())


def test_every_training_and_request_has_its_time_and_gpu_memory(tmp_path):
    rows = {line.split()[0]: line for line in lines(work=tmp_path) if line.startswith("  ")}
    for name in ("sft-rg", "dpo-vanilla-psnr", "mine-rg", "predict-self-refine_base"):
        assert " GB " in rows[name] and (" h " in rows[name] or " min " in rows[name]), rows[name]
    assert "asked, $" in rows["mine-rg"] and "asked" not in rows["mine-sp"]


def test_a_server_of_several_gpus_is_counted_as_one(tmp_path):
    shown = "\n".join(lines(model="qwen2.5-72b", work=tmp_path))
    assert "one server of 8 GPUs" in shown
    assert " 23 GB" in row("mine-rg", model="qwen2.5-72b", work=tmp_path)


def test_the_judges_price_is_the_one_given(tmp_path):
    def cost(*given):
        (line,) = [one for one in lines(*given, work=tmp_path) if one.startswith("to run")]
        return float(line.partition("$")[2].split()[0].replace(",", ""))

    assert cost("PRICE=0.80/3.20") == pytest.approx(2 * cost("PRICE=0.40/1.60"), abs=0.02)
    assert cost() == cost("PRICE=0.40/1.60")


def test_more_processes_take_less_time_in_training_alone(tmp_path):
    def both(given):
        return [row(name, given, work=tmp_path) for name in ("sft-rg", "mine-rg")]

    (trained, mined), (trained_by_4, mined_by_4) = both("NPROC=1"), both("NPROC=4")
    assert trained != trained_by_4 and mined == mined_by_4


def test_what_a_call_of_its_own_has_made_is_not_counted(tmp_path):
    def sums():
        shown = lines("JUDGE=random", work=tmp_path)
        return shown[0], next(line for line in shown if line.startswith("to run"))

    before = sums()
    files.write_json(tmp_path / paths.adapter("qwen2.5-7b", "sp", "sft") / "run.json", {})
    after = sums()
    assert row("sft-sp", work=tmp_path).split()[1] == "made"
    assert "0 done, 33 to run" in before[0] and "1 done, 32 to run" in after[0]
    assert before[1] != after[1]


def test_a_part_of_the_plan_takes_what_it_takes_in_the_whole(tmp_path):
    """Evaluation is of every system, whichever steps are named beside it."""
    assert row("eval", work=tmp_path).split() == row("eval", work=tmp_path, only=("eval",)).split()


def test_the_epochs_that_train_args_names_are_counted(tmp_path):
    def tokens(step, *given):
        return float(row(step, *given, work=tmp_path).split()[4].rstrip("Mk"))

    one = "TRAIN_ARGS=learning_rate=2.0e-5 num_train_epochs=1.0"
    assert tokens("sft-rg") == pytest.approx(3 * tokens("sft-rg", one), rel=0.02)
    assert tokens("dpo-rg") == tokens("dpo-rg", one)


def test_the_rows_that_train_args_names_are_counted(tmp_path):
    def tokens(*given):
        return row("sft-rg", "LIMIT=1", *given, work=tmp_path).split()[4]

    assert tokens("TRAIN_ARGS=max_samples=4") != tokens() == tokens("TRAIN_ARGS=max_samples=999")


@pytest.mark.parametrize(
    ("model", "given", "trained"),
    [
        (EMBEDDED, {"LIMIT": "1"}, variables.smoke_training(1)),
        (EMBEDDED, {"LIMIT": "3"}, variables.smoke_training(3)),
        (EMBEDDED, {"LIMIT": "1", "TRAIN_ARGS": "max_steps=2"}, "max_steps=2"),
        (EMBEDDED, {}, None),
        ("qwen2.5-7b", {"LIMIT": "1"}, None),
    ],
)
def test_with_a_limit_the_embedded_model_learns_from_a_few_rows(model, given, trained):
    assert variables.with_smoke_training(model, given).get("TRAIN_ARGS") == trained
    assert "max_samples=12" in variables.smoke_training(3)


def test_what_a_smoke_run_trains_with_is_told(tmp_path, capsys):
    given = ["--work", str(tmp_path), "--dry-run", "--set"]
    reproduce.main([*given, "LIMIT=1"])
    assert variables.smoke_training(1) in capsys.readouterr().out
    reproduce.main([*given, "LIMIT=1", "TRAIN_ARGS=max_steps=2"])
    assert "SMOKE      trained" not in capsys.readouterr().out


def test_a_judge_whose_price_is_not_known_is_said_to_be(tmp_path):
    told = "judge      my-judge: price not known; PRICE=in/out gives it"
    assert told in lines("JUDGE=my-judge", work=tmp_path)
    assert told not in lines("JUDGE=my-judge", "PRICE=1/2", work=tmp_path)


def test_random_draws_cost_nothing_and_are_said_to_be_no_result(tmp_path):
    shown = lines("JUDGE=random", work=tmp_path)
    assert not any("asked" in line for line in shown)
    assert "judge      random draws throughout: SMOKE, no result" in shown


def test_the_verdicts_of_figure_2_are_said_not_to_be_counted(tmp_path):
    given = "FAILED_ESCONV=FailedESConv.json"
    assert any("FAILED_ESCONV" in line for line in lines(given, work=tmp_path))
    assert not any("FAILED_ESCONV" in line for line in lines(work=tmp_path))


@pytest.mark.parametrize("name", variables.COUNTS)
@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
def test_a_count_that_is_none_is_one_line(tmp_path, capsys, name, dry):
    given = ["--work", str(tmp_path), *dry, "--set", f"{name}=abc"]
    assert cli.run(reproduce.main, given) == 2
    said = capsys.readouterr()
    assert said.err == f"error: {name}='abc' is not a whole number of at least 1\n"
    assert not said.out and not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("MAX_COST=much", "MAX_COST='much' is not a number above 0"),
        ("MAX_COST=5", "MAX_COST needs PRICE=PROMPT/COMPLETION, money per million tokens"),
        ("PRICE=1", "PRICE='1' is not PROMPT/COMPLETION"),
        ("TRAIN_ARGS=num_train_epochs=x", "TRAIN_ARGS: num_train_epochs='x' is not a number"),
        ("TRAIN_ARGS=hf_hub_token=x", "TRAIN_ARGS cannot hold hf_hub_token, which"),
        ("TRAIN_ARGS=max_samples=0.5", "TRAIN_ARGS: max_samples='0.5' is not a whole number"),
    ],
)
def test_an_amount_that_no_step_would_take_is_named(given, told):
    with pytest.raises(EscError, match=re.escape(told)):
        variables.parsed([given])


@pytest.mark.parametrize("name", variables.PER_STEP)
def test_what_the_plan_sets_itself_is_refused(name):
    with pytest.raises(EscError, match=f"^{name}=x: 'make reproduce' takes no {name}, which it"):
        variables.refuse_others({name: "x"})


@pytest.mark.parametrize("name", variables.BATCHES)
def test_batches_are_refused_with_the_way_that_works(name):
    with pytest.raises(EscError, match=r"takes no .* run a step alone, such as 'make predict BATC"):
        variables.refuse_others({name: "vllm"})


def test_what_make_is_told_of_a_step_stops_it_in_one_line(run, tmp_path):
    given = ("SET=validation", "DRY_RUN=1", f"WORK={tmp_path}")
    shown = run("make", "reproduce", *given, BATCH="")
    assert shown.returncode != 0 and not shown.stdout
    assert "error: SET=validation: 'make reproduce' takes no SET" in shown.stderr
    assert "Traceback" not in shown.stderr


def test_quotes_in_the_servers_flags_stay_out_of_the_plans_own_call(run, tmp_path):
    given = ('SERVE_ARGS=--override "a b"', "DRY_RUN=1", f"WORK={tmp_path}")
    shown = run("make", "reproduce", *given)
    assert shown.returncode == 0, shown.stderr


def test_what_the_makefile_hands_over_is_what_a_plan_takes():
    makefile = (paths.ROOT / "Makefile").read_text()
    (listed,) = re.findall(r"^PLANNED := ((?:.*\\\n)*.*)$", makefile, re.M)
    assert set(listed.replace("\\", " ").split()) == {*variables.DECISIVE, *variables.SPEED}


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("LIMITS=3", "--set 'LIMITS=3' is not NAME=value of ESCONV"),
        ("LIMIT", "--set 'LIMIT' is not NAME=value"),
    ],
)
def test_an_unknown_variable_is_one_line(run, tmp_path, given, told):
    shown = run("-m", "experiments", "reproduce", "--work", str(tmp_path), "--set", given)
    assert shown.returncode == 2 and shown.stderr.startswith(f"error: {told}")


def begin(work):
    command = ["-m", "experiments", "reproduce", "--work", str(work), "--steps", *STEPS]
    kept = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    return subprocess.Popen(
        [sys.executable, *command, "--set", *SMALL],
        cwd=paths.ROOT, env=kept, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


@pytest.mark.slow
def test_after_a_kill_it_goes_on_without_repeating_a_finished_step(model, tmp_path):
    record = tmp_path / "runs" / EMBEDDED / "plan" / "reproduce.json"
    killed = begin(tmp_path)
    patience = time.monotonic() + 600
    while not (record.is_file() and "sft-sp" in files.read_json(record)["steps"]):
        assert killed.poll() is None and time.monotonic() < patience, killed.communicate()[0]
        time.sleep(0.2)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    trained = tmp_path / paths.adapter(EMBEDDED, "sp", "sft") / "run.json"
    before = trained.stat().st_mtime_ns
    again = begin(tmp_path)
    said, _ = again.communicate()
    assert again.returncode == 0, said[-3000:]
    assert trained.stat().st_mtime_ns == before
    assert "sft-sp:" not in said and "sft-rg:" in said
    predicted = tmp_path / paths.run(EMBEDDED, "decoupled", "sft")
    assert files.read_json(predicted / "run.json")["failed"] == 0
    page = (tmp_path / "runs" / EMBEDDED / "report.html").read_text()
    assert "SMOKE" in page and "not run" in page
    assert policy_server.on_this_machine() == []
    finished = begin(tmp_path)
    said, _ = finished.communicate()
    assert finished.returncode == 0, said
    # The sets alone are looked at each time.
    assert re.findall(r"^=== \d+/\d+ (.+):", said, re.M) == ["data"], said
