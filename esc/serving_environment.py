"""Where vLLM lives: its own environment, of one of two kinds."""

import shutil
import subprocess
from pathlib import Path

FOLDER = Path(".venv-serve")
PYTHON = FOLDER / "bin" / "python"
READY = FOLDER / ".ready"
"""Holds the kind, and exists when vLLM imports."""
RAY_FOLDER = Path(".venv-ray")
"""The optional environment that adds Ray to vLLM's."""
RAY_PYTHON = RAY_FOLDER / "bin" / "python"
RAY_READY = RAY_FOLDER / ".ready"
"""Exists when Ray's part for language models imports."""


def gpus() -> list[str]:
    """One line for each NVIDIA GPU: its name and memory; empty where there is none."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    query = [program, "--query-gpu=name,memory.total", "--format=csv,noheader"]
    answer = subprocess.run(query, capture_output=True, text=True, check=False)
    return answer.stdout.strip().splitlines() if answer.returncode == 0 else []


def kind_here() -> str:
    """The kind this machine needs."""
    return "gpu" if gpus() else "cpu"
