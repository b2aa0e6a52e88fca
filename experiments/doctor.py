"""What this machine has and lacks for each part of the kit, with the fix; needs nothing installed.

    python3 -m experiments.doctor

Imports LLaMA-Factory and vLLM in their environments to see that they really load. Exit code 1 where
something that the kit cannot do without is missing.
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


def findings(root: Path) -> list[Finding]:
    """Everything that was looked at, in the order of the pipeline."""
    training, seen = _training(root)
    return [*_machine(root), _gpu(seen), training, _serving(root), *_made(root)]


def _machine(root: Path) -> Iterator[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    fits = sys.version_info >= (3, 11)
    fix = "" if fits else "; use 3.11 or newer: make setup PYTHON=python3.11"
    yield Finding("python", "ok" if fits else "missing", version + fix)
    gigabytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    fits = gigabytes >= MEMORY_GB
    fix = "" if fits else f"; the longest rows of ESConv take {MEMORY_GB} in training"
    told = f"{os.cpu_count()} cores, {gigabytes:.0f} GB of memory"
    yield Finding("machine", "ok" if fits else "note", told + fix)
    free = shutil.disk_usage(root).free / 2**30
    fits = (root / ".venv").is_dir() or free >= DISK_GB
    fix = "" if fits else f"; the environment and data take {DISK_GB}"
    yield Finding("disk", "ok" if fits else "missing", f"{free:.0f} GB free{fix}")


def _gpu(seen: int | None) -> Finding:
    """``seen`` is how many torch of the training environment sees, None where it does not load."""
    found = "; ".join(serving_environment.gpus())
    if not found:
        why = "none: the embedded model trains on the CPU, the 7B ones do not"
        return Finding("gpu", "note", why)
    if seen == 0:
        why = (
            "its CUDA may be newer than the driver (update it), or CUDA_VISIBLE_DEVICES hides them"
        )
        return Finding("gpu", "missing", f"{found}, but torch sees none: {why}")
    return Finding("gpu", "ok", found + ("" if seen is None else f" (torch sees {seen})"))


def _training(root: Path) -> tuple[Finding, int | None]:
    """(how the training environment is, the number of GPUs that its torch sees)."""
    python = root / ".venv" / "bin" / "python"
    if not python.exists():
        return Finding("training", "missing", "no .venv; run: make setup"), None
    works, said = _imports(python, TRAINING)
    if not works:
        return Finding("training", "missing", f"{said}; run: rm -r .venv && make setup"), None
    torch, seen = said.split()
    return Finding("training", "ok", f"LLaMA-Factory imports, torch {torch}"), int(seen)


def _serving(root: Path) -> Finding:
    python = root / serving_environment.PYTHON
    folder, fix = serving_environment.FOLDER, "run: make setup-serve"
    ready = root / serving_environment.READY
    if not ready.is_file():
        found = "unfinished" if python.exists() else "none"
        return Finding("serving", "note", f"{folder}, which predictions need: {found}; {fix}")
    works, said = _imports(python, SERVING)
    if not works:
        return Finding("serving", "missing", f"{said}; run: rm -r {folder} && make setup-serve")
    kind = ready.read_text().strip()
    here = serving_environment.kind_here()
    if kind != here:
        told = f"{kind}, this machine needs {here}; {fix} KIND={here}"
        return Finding("serving", "note", told)
    return Finding("serving", "ok", f"vLLM {said} imports ({kind})")


def _imports(python: Path, program: str) -> tuple[bool, str]:
    """(whether ``program`` runs, the last line of what it says)."""
    answer = subprocess.run([python, "-c", program], capture_output=True, text=True, check=False)
    works = answer.returncode == 0
    lines = (answer.stdout if works else answer.stderr).strip().splitlines()
    return works, (lines or ["no output"])[-1]


def _made(root: Path) -> Iterator[Finding]:
    """What the first steps make."""
    data = "make data ESCONV=path, or without to download"
    for name, folder, what, fix in (
        ("model", root / "models" / "smollm2-135m", "the embedded model", "make model"),
        ("data", root / "data", "the SFT sets", data),
    ):
        there = (folder / "manifest.json").is_file()
        told = f"{what}: {'there' if there else f'not yet; run: {fix}'}"
        yield Finding(name, "ok" if there else "note", told)


def main() -> int:
    """Exit code of the step, 1 where something is missing."""
    argparse.ArgumentParser(prog="python3 -m experiments.doctor", description=__doc__).parse_args()
    found = findings(Path())
    for finding in found:
        print(f"{finding.state:<8} {finding.name:<10} {finding.detail}")
    return int(any(finding.state == "missing" for finding in found))


if __name__ == "__main__":
    sys.exit(main())
