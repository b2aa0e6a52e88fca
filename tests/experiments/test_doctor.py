"""The doctor, on folders with environments that say what they are told to."""

import sys

import pytest

from esc import serving_environment
from experiments import doctor


def environment(root, program, name=".venv"):
    """An environment whose Python runs a line of shell."""
    python = root / name / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f"#!/bin/sh\n{program}\n")
    python.chmod(0o755)


def found(root):
    return {one.name: (one.state, one.detail) for one in doctor.findings(root)}


def test_a_bare_clone_is_told_every_command(tmp_path):
    told = found(tmp_path)
    for name, state, fix in (
        ("training", "missing", "run: make setup"),
        ("serving", "note", "none; run: make setup-serve"),
        ("model", "note", "make model"),
        ("data", "note", "make data"),
    ):
        assert told[name][0] == state and fix in told[name][1]


def test_an_environment_that_does_not_import_is_named_with_the_fix(tmp_path):
    environment(tmp_path, "echo 'ImportError: no torchaudio' >&2; exit 1")
    environment(tmp_path, "echo 'ImportError: no vllm' >&2; exit 1", ".venv-serve")
    again = "ImportError: no torchaudio; run: rm -r .venv && make setup"
    assert found(tmp_path)["training"] == ("missing", again)
    assert "unfinished" in found(tmp_path)["serving"][1]
    (tmp_path / ".venv-serve" / ".ready").write_text("cpu\n")
    again = "ImportError: no vllm; run: rm -r .venv-serve && make setup-serve"
    assert found(tmp_path)["serving"] == ("missing", again)


@pytest.mark.parametrize(
    ("seen", "state", "told"), [("0", "missing", "torch sees none"), ("1", "ok", "(torch sees 1)")]
)
def test_a_gpu_is_told_with_what_torch_sees_of_it(tmp_path, monkeypatch, seen, state, told):
    monkeypatch.setattr(serving_environment, "gpus", lambda: ["A card, 80 GB"])
    environment(tmp_path, f"echo 2.14.1 {seen}")
    assert found(tmp_path)["gpu"][0] == state and told in found(tmp_path)["gpu"][1]
    assert found(tmp_path)["training"][0] == "ok"


@pytest.mark.slow
def test_this_environment_is_found_to_work_and_the_standard_library_is_enough(run):
    shown = run("make", "doctor")
    assert shown.returncode == 0, shown.stdout
    assert "LLaMA-Factory imports" in shown.stdout
    bare = run(sys.executable, "-S", "-m", "experiments.doctor", "--help")
    assert bare.returncode == 0, bare.stderr
