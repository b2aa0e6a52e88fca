import sys

from esc import serving_environment
from experiments import doctor


def environment_that_says(root, text):
    (root / ".venv" / "bin").mkdir(parents=True)
    python = root / ".venv" / "bin" / "python"
    python.write_text(f"#!/bin/sh\necho '{text}'\n")
    python.chmod(0o755)


def test_a_bare_clone_is_told_to_make_the_environment(tmp_path):
    found = {finding.name: finding for finding in doctor.findings(tmp_path)}
    assert found["training"].state == "missing" and "make setup" in found["training"].detail
    assert "make model" in found["model"].detail and "make data" in found["data"].detail


def test_an_environment_that_does_not_import_is_named_with_the_fix(tmp_path):
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    python = tmp_path / ".venv" / "bin" / "python"
    python.write_text("#!/bin/sh\necho 'ImportError: no torchaudio' >&2\nexit 1\n")
    python.chmod(0o755)
    found = {finding.name: finding for finding in doctor.findings(tmp_path)}
    assert found["training"].state == "missing"
    assert found["training"].detail == "ImportError: no torchaudio; run: rm -r .venv && make setup"


def test_this_environment_is_found_to_work(run):
    shown = run("make", "doctor")
    assert shown.returncode == 0, shown.stdout
    assert "LLaMA-Factory imports" in shown.stdout


def test_it_needs_nothing_but_the_standard_library(run):
    shown = run(sys.executable, "-S", "-m", "experiments.doctor", "--help")
    assert shown.returncode == 0, shown.stderr


def test_a_serving_environment_that_does_not_import_is_unfinished_or_named_with_the_fix(tmp_path):
    (tmp_path / ".venv-serve" / "bin").mkdir(parents=True)
    python = tmp_path / ".venv-serve" / "bin" / "python"
    python.write_text("#!/bin/sh\necho 'ImportError: no vllm' >&2\nexit 1\n")
    python.chmod(0o755)
    found = {finding.name: finding for finding in doctor.findings(tmp_path)}
    assert found["serving"].state == "note" and "unfinished" in found["serving"].detail
    (tmp_path / ".venv-serve" / ".ready").write_text("cpu\n")
    found = {finding.name: finding for finding in doctor.findings(tmp_path)}
    assert found["serving"].state == "missing"
    assert found["serving"].detail == (
        "ImportError: no vllm; run: rm -r .venv-serve && make setup-serve"
    )


def test_a_missing_serving_environment_is_a_note_with_the_command(tmp_path):
    found = {finding.name: finding for finding in doctor.findings(tmp_path)}
    assert found["serving"].state == "note" and "make setup-serve" in found["serving"].detail


def test_a_gpu_that_torch_does_not_see_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(serving_environment, "gpus", lambda: ["A card, 80 GB"])
    environment_that_says(tmp_path, "2.14.1 0")
    found = {finding.name: finding for finding in doctor.findings(tmp_path)}
    assert found["gpu"].state == "missing" and "torch sees none" in found["gpu"].detail
    assert found["training"].state == "ok"


def test_a_gpu_that_torch_sees_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(serving_environment, "gpus", lambda: ["A card, 80 GB"])
    environment_that_says(tmp_path, "2.14.1 1")
    found = {finding.name: finding for finding in doctor.findings(tmp_path)}
    assert found["gpu"] == doctor.Finding("gpu", "ok", "A card, 80 GB (torch sees 1)")
