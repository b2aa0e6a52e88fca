"""What several test modules need: the real corpus, small corpora, the kit's commands."""

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from corpora import release_row

from esc import paths

# No test may reach a model hub; what is not on this machine is missing.
os.environ |= {"HF_HUB_OFFLINE": "1", "LLAMAFACTORY_VERBOSITY": "ERROR"}

# What is set for the tests is no option of the steps under test; the workers of one run inherit it.
_CORPUS = "TESTED_ESCONV"
os.environ.setdefault(_CORPUS, os.environ.get("ESCONV", ""))
_MAKEFILE = (paths.ROOT / "Makefile").read_text()
for _name in re.findall(r"\w+", re.findall(r"^VARIABLES := ((?:.*\\\n)*.*)$", _MAKEFILE, re.M)[0]):
    os.environ.pop(_name, None)

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def esconv() -> Path:
    """The real ESConv.json; a test that needs it is skipped, visibly, where ESCONV is not set."""
    value = os.environ[_CORPUS]
    if not value:
        pytest.skip("ESCONV is not set: needs the real corpus")
    return Path(value).resolve()


@pytest.fixture(scope="session")
def esconv_folder(esconv: Path) -> Path:
    """The folder of ESConv.json, where it also holds the corpus's other layouts."""
    if not (esconv.parent / "hf_train.txt").is_file():
        pytest.skip("the other layouts of the corpus are not beside ESCONV")
    return esconv.parent


@pytest.fixture(scope="session")
def model() -> Path:
    """The embedded model's folder, as `make model` leaves it."""
    folder = paths.ROOT / "models" / "smollm2-135m"
    assert (folder / "manifest.json").is_file(), "run 'make model' first"
    return folder


@pytest.fixture
def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        port: int = probe.getsockname()[1]
    return port


@pytest.fixture(scope="session")
def run() -> Command:
    """Run a command from the repository root, or from ``cwd``, and return what it printed."""

    def call(*command: str, cwd: Path = paths.ROOT, **environment: str) -> Any:
        program = [sys.executable, *command] if command[0] == "-m" else list(command)
        without = {"ESCONV", "PROMPTS_DIR", "MAKEFLAGS", "MAKELEVEL", "MFLAGS"}
        kept = {key: value for key, value in os.environ.items() if key not in without}
        return subprocess.run(
            program, cwd=cwd, env=kept | environment, capture_output=True, text=True, check=False
        )

    return call


@pytest.fixture
def small_corpus(tmp_path: Path) -> Path:
    """A corpus of 20 dialogues that is not the ESConv release."""
    path = tmp_path / "small.json"
    path.write_text(json.dumps([release_row(number) for number in range(20)]))
    return path


@pytest.fixture(scope="session")
def sample_work(tmp_path_factory: pytest.TempPathFactory, run: Command) -> Path:
    """A WORK folder with the sets of the whole sample corpus."""
    work = tmp_path_factory.mktemp("sample_work")
    built = run("-m", "data_builders", "build", "--esconv", "sample", "--work", str(work))
    assert built.returncode == 0, built.stderr
    return work


@pytest.fixture(scope="session")
def esconv_work(tmp_path_factory: pytest.TempPathFactory, run: Command, esconv: Path) -> Path:
    """A WORK folder with the sets of the real corpus, paper's split."""
    work = tmp_path_factory.mktemp("esconv_work")
    built = run("-m", "data_builders", "build", "--esconv", str(esconv), "--work", str(work))
    assert built.returncode == 0, built.stderr
    return work


@pytest.fixture(scope="session")
def chain(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Path:
    """A WORK folder of a small corpus with what trainings of two steps leave.

    SFT of planner and generator, fast enough to tell each from the base, pairs and DPO of the
    planner, composed. Tests read it; one that changes something copies what it needs.
    """
    # Here, for what it imports reads the environment that is set above.
    from trained import train_chain

    return train_chain(tmp_path_factory.mktemp("chain"))
