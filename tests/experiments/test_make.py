"""The Makefile's contract, through make itself."""

import re

import pytest

from esc import paths

QUICK = "TRAIN_ARGS=max_steps=1 gradient_accumulation_steps=1"
MAKEFILE = (paths.ROOT / "Makefile").read_text()


def test_help_lists_every_target(run):
    shown = run("make", "help").stdout
    targets = set(re.findall(r"^([a-z-]+(?: [a-z-]+)*):", MAKEFILE, re.MULTILINE))
    assert {name for names in targets for name in names.split()} >= {"data", "sft-sp", "demo"}
    for names in targets:
        assert f"make {names} " in shown


def test_the_makefile_stays_short():
    assert MAKEFILE.count("\n") <= 265


@pytest.mark.parametrize(
    ("target", "given", "sample", "judge"),
    [
        ("mine-rg", ("BATCH=openai",), "", "openai"),
        ("mine", ("BATCH=vllm",), "vllm", ""),
        ("mine-vanilla", ("BATCH=ray", "JUDGE_BATCH=openai"), "ray", ""),
        ("mine-rg", ("BATCH=write",), "write", "write"),
        ("mine-rg", ("BATCH=openai", "JUDGE_BATCH=live"), "openai", "openai"),
        ("mine-sp", ("BATCH=openai",), "openai", None),
    ],
)
def test_batch_is_of_the_step_that_can_use_it(run, target, given, sample, judge):
    shown = run("make", "--dry-run", target, *given).stdout
    steps = re.findall(r'^BATCH="(\w*)" \S+ -m mining (\w+)', shown, re.MULTILINE)
    assert [(name, batch) for batch, name in steps] == [
        ("sample", sample),
        *([("judge", judge)] if judge is not None else []),
    ]


@pytest.mark.parametrize(("given", "needs"), [("BATCH=openai", True), ("BATCH=write", False)])
def test_a_server_is_needed_unless_the_samples_come_from_elsewhere(run, given, needs):
    database = run("make", "--dry-run", "--print-data-base", "mine-rg", given).stdout
    (prerequisites,) = re.findall(r"^mine-rg: (.*)$", database, re.MULTILINE)
    assert (".venv-serve/.ready" in prerequisites) is needs


def test_an_unknown_model_stops_before_anything_is_made(run, tmp_path):
    shown = run("make", "sft-sp", "MODEL=gpt9", f"WORK={tmp_path / 'w'}")
    assert shown.returncode != 0 and "unknown MODEL 'gpt9'; known: " in shown.stderr
    assert not (tmp_path / "w").exists()


def test_data_without_network_or_path_names_both_ways_out(run, tmp_path):
    shown = run("make", "data", f"WORK={tmp_path}", ESCONV_URL="http://127.0.0.1:9/ESConv.json")
    assert shown.returncode != 0
    assert "ESCONV=path" in shown.stderr and "network" in shown.stderr
    assert "Traceback" not in shown.stderr


@pytest.mark.slow
def test_training_again_does_nothing_and_with_other_options_says_what_to_do(
    run, model, tmp_path, small_corpus
):
    common = (f"ESCONV={small_corpus}", f"WORK={tmp_path}", QUICK)
    first = run("make", "sft-sp", "LIMIT=2", *common)
    assert first.returncode == 0, first.stderr[-2000:]
    assert "make sft-rg" in first.stdout
    adapter = tmp_path / "saves" / "smollm2-135m" / "sp_sft" / "adapter_model.safetensors"
    trained = adapter.stat().st_mtime_ns
    second = run("make", "sft-sp", "LIMIT=2", *common)
    assert second.returncode == 0 and "nothing to do" in second.stdout
    other = run("make", "sft-sp", *common)
    assert other.returncode != 0
    (line,) = [text for text in other.stderr.splitlines() if text.startswith("error: ")]
    assert "LIMIT 2 -> unset" in line and "WORK=" in line and "FORCE=1" in line
    assert adapter.stat().st_mtime_ns == trained
