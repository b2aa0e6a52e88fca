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
from dataclasses import dataclass
from pathlib import Path

from esc import serving_environment

DISK_GB = 16
MEMORY_GB = 12
TRAINING = (
    "import torch, torchaudio, llamafactory, gguf; "
    "print(torch.__version__, torch.cuda.device_count())"
)
SERVING = "import vllm.entrypoints.openai.api_server, vllm; print(vllm.__version__)"


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    name: str
    state: str
    """``ok``, ``missing`` (the kit cannot work) or ``note``."""
    detail: str


def findings(root: Path) -> list[Finding]:
    """Everything that was looked at, in the order of the pipeline."""
    environment, seen = _environment(root / ".venv")
    return [
        _python(),
        _memory(),
        _disk(root),
        _gpu(seen),
        environment,
        _serving(root),
        _model(root / "models" / "smollm2-135m"),
        _corpus(root / "data"),
    ]


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info >= (3, 11):
        return Finding("python", "ok", version)
    return Finding(
        "python", "missing", f"{version}; use 3.11 or newer: make setup PYTHON=python3.11"
    )


def _memory() -> Finding:
    gigabytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    detail = f"{os.cpu_count()} cores, {gigabytes:.0f} GB of memory"
    if gigabytes < MEMORY_GB:
        return Finding(
            "machine", "note", f"{detail}; the longest rows of ESConv take {MEMORY_GB} in training"
        )
    return Finding("machine", "ok", detail)


def _disk(root: Path) -> Finding:
    free = shutil.disk_usage(root).free / 2**30
    if (root / ".venv").is_dir() or free >= DISK_GB:
        return Finding("disk", "ok", f"{free:.0f} GB free")
    return Finding(
        "disk", "missing", f"{free:.0f} GB free; the environment and data take {DISK_GB}"
    )


def _gpu(seen: int | None) -> Finding:
    """``seen`` is how many torch of the training environment sees, None where it does not load."""
    found = serving_environment.gpus()
    if found and seen == 0:
        return Finding(
            "gpu",
            "missing",
            f"{'; '.join(found)}, but torch sees none: its CUDA may be newer than the driver "
            "(update it), or CUDA_VISIBLE_DEVICES hides them",
        )
    if found:
        told = "" if seen is None else f" (torch sees {seen})"
        return Finding("gpu", "ok", "; ".join(found) + told)
    return Finding("gpu", "note", "none: the embedded model trains on the CPU, the 7B ones do not")


def _environment(folder: Path) -> tuple[Finding, int | None]:
    """(how the training environment is, the number of GPUs that its torch sees)."""
    python = folder / "bin" / "python"
    if not python.exists():
        return Finding("training", "missing", f"no {folder.name}; run: make setup"), None
    works, said = _imports(python, TRAINING)
    if not works:
        fix = f"rm -r {folder.name} && make setup"
        return Finding("training", "missing", f"{said}; run: {fix}"), None
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


def _model(folder: Path) -> Finding:
    if (folder / "manifest.json").is_file():
        return Finding("model", "ok", f"{folder.name} is prepared")
    return Finding("model", "note", f"{folder.name} is not prepared yet; run: make model")


def _corpus(data: Path) -> Finding:
    if (data / "manifest.json").is_file():
        return Finding("data", "ok", "the SFT sets are built")
    return Finding(
        "data", "note", "not built yet; run: make data ESCONV=path, or without to download"
    )


def main() -> int:
    """Exit code of the step, 1 where something is missing."""
    argparse.ArgumentParser(prog="python3 -m experiments.doctor", description=__doc__).parse_args()
    found = findings(Path())
    for finding in found:
        print(f"{finding.state:<8} {finding.name:<10} {finding.detail}")
    return int(any(finding.state == "missing" for finding in found))


if __name__ == "__main__":
    sys.exit(main())
