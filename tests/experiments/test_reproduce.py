"""The paper's experiment as one command: its plan on paper, and a small part of it really run."""

import os
import signal
import subprocess
import sys
import time

import pytest

from esc import files, paths, policy_server
from esc.backbones import EMBEDDED
from experiments import reproduce

STEPS = ("predict-decoupled_sft", "eval", "report")
SMALL = (
    *("ESCONV=sample", "LIMIT=1", "JUDGE=random", "JUDGE_N=2"),
    "TRAIN_ARGS=max_steps=1 gradient_accumulation_steps=1",
)


def lines(*given, model="qwen2.5-7b", work):
    found = reproduce._variables(list(given))
    return list(reproduce.dry_run(reproduce.Asked(model, work, found)))


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


def test_the_judges_price_is_the_one_given(tmp_path):
    def cost(*given):
        (line,) = [one for one in lines(*given, work=tmp_path) if one.startswith("to run")]
        return float(line.partition("$")[2].split()[0].replace(",", ""))

    assert cost("PRICE=0.80/3.20") == pytest.approx(2 * cost("PRICE=0.40/1.60"), abs=0.02)
    assert cost() == cost("PRICE=0.40/1.60")


def test_more_processes_take_less_time_in_training_alone(tmp_path):
    def time_of(step, *given):
        (line,) = [one for one in lines(*given, work=tmp_path) if one.split()[:1] == [step]]
        return line

    assert time_of("sft-rg", "NPROC=4") != time_of("sft-rg", "NPROC=1")
    assert time_of("mine-rg", "NPROC=4") == time_of("mine-rg", "NPROC=1")


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
    assert finished.returncode == 0 and "===" not in said.partition("=== done")[0], said
