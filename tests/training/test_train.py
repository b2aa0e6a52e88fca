"""What a training's folder holds it to, what it says, and real, short ones with LLaMA-Factory."""

import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import yaml
from trained import training as preference

from data_builders import build
from esc import adapters, backbones, cli, files, paths, policy_server
from esc.files import EscError, OptionsDiffer
from training import recipes, train


def training(work, *overrides, **of):
    return preference(work, *overrides, **{"stage": "sft", **of})


@pytest.fixture
def work(small_corpus, tmp_path):
    """Built sets alone."""
    build.build(str(small_corpus), tmp_path, build.BuildOptions())
    return tmp_path


def claim(work, *overrides, **of):
    """Begin a training with these options, to its first checkpoint."""
    asked = training(work, *overrides, **of)
    train.claim(asked.output, train.stamp(asked, recipes.recipe_for(asked)))
    files.write_json(asked.output / "checkpoint-1" / train.STATE, {})
    return asked.output


def test_other_options_stop_with_the_difference_and_spread_logs_and_saves_bind_not(work):
    claim(work, "seed=1", "max_steps=2")
    more = ("eval_steps=7", "run_name=a", "report_to=wandb", "hub_model_id=a/b", "flash_attn=sdpa")
    claim(work, "max_steps=2", "seed=1", *more, processes=2)
    build.build(None, work, build.BuildOptions(limit=2))
    told = r"\(LIMIT unset -> 2; .*; recipe\.seed 1 -> 2\); use another WORK.* or FORCE=1"
    with pytest.raises(OptionsDiffer, match=told):
        claim(work, "max_steps=2", "seed=2")


def test_zero_goes_on_with_no_other_number_of_processes_and_no_engine_from_anothers(work):
    claim(work, engine="zero2", processes=8)
    with pytest.raises(OptionsDiffer, match="engine zero2 -> unset; processes 8 -> unset"):
        claim(work, processes=8)


def test_a_failed_start_does_not_bind_the_folder_and_files_of_others_are_not_touched(work):
    output = training(work).output
    files.write_json(output / train.OPTIONS, {"recipe": {"learning_rate": 1.0}})
    claim(work)
    (output / train.OPTIONS).unlink()
    with pytest.raises(OptionsDiffer, match="this kit did not make"):
        claim(work)
    assert (output / "checkpoint-1").exists()


def test_a_set_that_is_not_there_or_not_registered_names_the_target_that_makes_it(work):
    with pytest.raises(EscError, match=r"'esc_rg_dpo_\S+' is not there, .*; make mine-rg WORK="):
        train.train(training(work, task="rg", stage="dpo"), force=False)
    files.write_json(work / paths.REGISTRY, {})
    with pytest.raises(EscError, match=r"'esc_sp_sft' is not there, or not in .*; make data makes"):
        train.train(training(work), force=False)


def test_force_deletes_what_other_options_made_and_run_json_is_written_only_where_the_adapter_is(
    work, monkeypatch
):
    monkeypatch.setattr(train, "run", lambda *given, **named: 1.0)
    monkeypatch.setattr(policy_server, "beside_training", lambda work: None)
    output = claim(work, "seed=1")
    with pytest.raises(EscError, match=r"sp_sft holds no adapter; make sft-sp"):
        train.train(training(work, "do_train=false"), force=True)
    assert [path.name for path in output.iterdir()] == [train.OPTIONS]


@pytest.mark.parametrize(
    ("history", "told"),
    [
        ([{"loss": 3.5}, {"loss": 2.5}, {"train_loss": 3.0}], (3.5, 2.5)),
        # Shorter than its logging interval.
        ([{"train_loss": 2.5}], (2.5, 2.5)),
        ([{"loss": 0.0}], None),
        ([{"loss": float("nan")}, {"loss": 2.5}], None),
    ],
)
def test_first_and_last_loss_are_told_and_a_first_one_that_is_no_number_is_not_done(
    work, history, told
):
    asked = training(work)
    files.write_json(asked.output / train.STATE, {"global_step": 3, "log_history": history})
    if told:
        expected = dict(zip(("first_loss", "last_loss"), told, strict=True))
        assert train.learned(asked, {}) == {"smoke": True, "steps": 3} | expected
    else:
        with pytest.raises(EscError, match=r"first SFT loss in .* it was no number"):
            train.learned(asked, {})


@pytest.fixture
def start(work, monkeypatch):
    """Start a training whose llamafactory-cli is a script of these lines."""

    def call(script):
        program = work / "llamafactory-cli"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        asked = training(work)
        return train.run(asked, recipes.recipe_for(asked), work / "recipe.yaml", lock=None)

    monkeypatch.setattr(train.sys, "executable", str(work / "python"))
    monkeypatch.setattr(train, "_EVERY", 0.01)
    return call


@pytest.mark.parametrize("shown", ["", "1"])
def test_what_it_prints_is_kept_and_with_v_shown(work, start, monkeypatch, capfd, shown):
    monkeypatch.setenv("V", shown)
    assert start("echo step 1 of 2 >&2; echo done") > 0
    log = training(work).output.with_name(".sp_sft") / "node0.log"
    assert log.read_text() == "step 1 of 2\ndone\n"
    assert ("step 1 of 2" in capfd.readouterr().err) == bool(shown)


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("kill -9 $$", r"was killed \(signal 9\), .*qlora .* begins anew: with FORCE=1"),
        ("echo CUDA out of memory >&2; exit 1", "ran out of memory"),
        ("echo '[Errno 28] No space left on device' >&2; exit 1", "the disk is full; free some"),
        ("echo '1/2 clients joined.' >&2; exit 1", "machines of NNODES did not come together"),
        ("echo 'ValueError: else' >&2; exit 1", "stopped with exit code 1: ValueError: else"),
    ],
)
def test_the_reason_of_a_failure_is_one_line_with_the_way_on(start, script, told):
    goes_on = "the same command goes on from the newest checkpoint"
    with pytest.raises(EscError, match=rf"^[^\n]*{told}[^\n]*{goes_on}[^\n]*$"):
        start(script)


def command(work, *overrides):
    return ["--task", "sp", "--work", str(work), "--processes", "1", "--set", *overrides]


@pytest.mark.slow
def test_a_killed_training_goes_on_from_its_newest_whole_checkpoint_and_is_then_done(
    model, work, capfd, monkeypatch
):
    quick = ("max_steps=4", "gradient_accumulation_steps=1", "save_steps=1")
    output = training(work).output
    with subprocess.Popen(
        [sys.executable, "-m", "training", "train", *command(work, *quick)],
        cwd=paths.ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:  # fmt: skip
        deadline = time.monotonic() + 300
        while not (output / "checkpoint-1" / train.STATE).is_file():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
    assert not (output / train.DONE).exists()
    # As a kill leaves them half-written.
    for name, state in (("checkpoint-98", None), ("checkpoint-99", "{")):
        (output / name).mkdir()
        if state:
            (output / name / train.STATE).write_text(state)
    monkeypatch.setenv("LLAMAFACTORY_VERBOSITY", "INFO")
    assert cli.run(train.main, command(work, *quick)) == 0
    shown = capfd.readouterr().out
    log = (output.with_name(".sp_sft") / "node0.log").read_text()
    assert files.read_json(output / train.DONE)["steps"] == 4
    assert re.search(r"Resuming training from .*checkpoint-[1-4]\b", log)
    assert (output / adapters.WEIGHTS).is_file() and (output / train.CURVE).is_file()
    assert str(output) in shown and "SMOKE" in shown
    template = adapters.of(str(model), backbones.get("smollm2-135m").template)
    assert (output / adapters.FILE).read_text() == template
    assert cli.run(train.main, command(work, *quick)) == 0
    assert "nothing to do" in capfd.readouterr().out
    assert cli.run(train.main, command(work, "max_steps=11")) == cli.USER_ERROR
    assert "recipe.max_steps 4 -> 11" in capfd.readouterr().err


@pytest.mark.slow
def test_two_machines_begin_with_the_loss_of_one_process(run, chain, work, free_port):
    place = {"NNODES": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port)}
    place["OMP_NUM_THREADS"] = "1"

    def first_step(rank):
        return run(
            *("-m", "training", "train", "--task", "rg", "--work", str(work)),
            *("--processes", "1", "--set", "max_steps=1", "bf16=false"),
            "gradient_accumulation_steps=1",
            NODE_RANK=rank,
            **place,
        )

    with ThreadPoolExecutor() as pool:
        shown = list(pool.map(first_step, ("0", "1")))
    told = [one.stderr[-2000:] for one in shown]
    assert [one.returncode for one in shown] == [0, 0], told
    assert "node 1 is done; node 0 has written" in shown[1].stdout
    two, one = (training(at, task="rg").output for at in (work, chain))
    assert yaml.safe_load((two / train.RECIPE).read_text())["ddp_backend"] == "gloo"
    # The same two rows in float32, weighed by their labels, which the trainer counts over all
    # processes: what is left is the order of sums, and the four digits that are logged.
    found, expected = (files.read_json(of / train.DONE)["first_loss"] for of in (two, one))
    assert found == pytest.approx(expected, abs=2e-3)
