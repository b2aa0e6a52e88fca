"""What this machine has and lacks for each part of the kit, with the fix; needs nothing installed.

    python3 -m experiments.doctor

Imports LLaMA-Factory and vLLM in their environments to see that they really load. Exit code 1 where
something that the kit cannot do without is missing, also of a MODEL that is named.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from esc import serving_environment

DISK_GB = 16
MEMORY_GB = 12
TRAINING = (
    "import torch, torchaudio, llamafactory, gguf; "
    "print(torch.__version__, torch.cuda.device_count())"
)
SERVING = "import vllm.entrypoints.openai.api_server, vllm; print(vllm.__version__)"


class Finding(NamedTuple):
    """One line of the report: ``ok``, ``missing`` (the kit cannot work) or ``note``."""

    name: str
    state: str
    detail: str


def findings(root: Path) -> Iterator[Finding]:
    """Everything that is looked at, in the order of the pipeline."""
    version, gigabytes = ".".join(map(str, sys.version_info[:3])), 2**30
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / gigabytes
    free, training = shutil.disk_usage(root).free / gigabytes, root / ".venv"
    works, said = _imports(training, TRAINING)
    torch, seen = said.split() if works else ("", "")
    again = "make setup" if said == "no .venv" else "rm -r .venv && make setup"

    def found(name: str, fits: bool, told: str, fix: str, lacking: str = "missing") -> Finding:
        return Finding(name, "ok" if fits else lacking, told + ("" if fits else fix))

    fix = "; use 3.11 or newer: make setup PYTHON=python3.11"
    yield found("python", sys.version_info >= (3, 11), version, fix)
    told = f"{os.cpu_count()} cores, {memory:.0f} GB of memory"
    fix = f"; the longest rows of ESConv take {MEMORY_GB} in training"
    yield found("machine", memory >= MEMORY_GB, told, fix, "note")
    fits, fix = training.is_dir() or free >= DISK_GB, f"; the environment and data take {DISK_GB}"
    yield found("disk", fits, f"{free:.0f} GB free", fix)
    yield _gpu(seen)
    told = f"LLaMA-Factory imports, torch {torch}" if works else said
    yield found("training", works, told, f"; run: {again}")
    yield _serving(root)
    for name, folder, what, fix in (
        ("model", "models/smollm2-135m", "the embedded model", "make model"),
        ("data", "data", "the SFT sets", "make data ESCONV=path, or without to download"),
    ):
        fits = (root / folder / "manifest.json").is_file()
        told = f"{what}: {'there' if fits else 'not yet'}"
        yield found(name, fits, told, f"; run: {fix}", "note")


def _gpu(seen: str) -> Finding:
    """``seen`` is how many torch of the training environment sees, empty where it does not load."""
    found = "; ".join(serving_environment.gpus())
    if not found:
        why = "none: the embedded model trains on the CPU, the 7B ones do not"
        return Finding("gpu", "note", why)
    if seen == "0":
        why = (
            "its CUDA may be newer than the driver (update it), or CUDA_VISIBLE_DEVICES hides them"
        )
        return Finding("gpu", "missing", f"{found}, but torch sees none: {why}")
    return Finding("gpu", "ok", found + (f" (torch sees {seen})" if seen else ""))


def _serving(root: Path) -> Finding:
    folder, ready = serving_environment.FOLDER, root / serving_environment.READY
    if not ready.is_file():
        found = "unfinished" if (root / serving_environment.PYTHON).exists() else "none"
        told = f"{folder}, which predictions need: {found}; run: make setup-serve"
        return Finding("serving", "note", told)
    works, said = _imports(root / folder, SERVING)
    if not works:
        return Finding("serving", "missing", f"{said}; run: rm -r {folder} && make setup-serve")
    kind, here = ready.read_text().strip(), serving_environment.kind_here()
    if kind != here:
        told = f"{kind}, this machine needs {here}; run: make setup-serve KIND={here}"
        return Finding("serving", "note", told)
    return Finding("serving", "ok", f"vLLM {said} imports ({kind})")


def _imports(environment: Path, program: str) -> tuple[bool, str]:
    """(whether ``program`` runs in an environment, the last line of what it says)."""
    python = environment / "bin" / "python"
    if not python.exists():
        return False, f"no {environment.name}"
    answer = subprocess.run([python, "-c", program], capture_output=True, text=True, check=False)
    works = answer.returncode == 0
    lines = (answer.stdout if works else answer.stderr).strip().splitlines()
    return works, (lines or ["no output"])[-1]


def main() -> int:
    """Exit code of the step, 1 where something is missing."""
    argparse.ArgumentParser(prog="python3 -m experiments.doctor", description=__doc__).parse_args()
    states = []
    for name, state, detail in findings(Path()):
        print(f"{state:<8} {name:<10} {detail}", flush=True)
        states.append(state)
    return max(int("missing" in states), _backbone(os.environ.get("MODEL")))


def _backbone(model: str | None) -> int:
    """What `training backbone` says of a model that was named, where it can; its exit code."""
    python = Path(".venv") / "bin" / "python"
    if not model or not python.exists():
        return 0
    command = [str(python), "-m", "training", "backbone", "--model", model]
    return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
