"""Where vLLM lives: its own environment, of one of two kinds."""

import os
import shutil
import subprocess
from pathlib import Path

FOLDER = Path(".venv-serve")
PYTHON, READY = FOLDER / "bin" / "python", FOLDER / ".ready"
"""The second holds the kind, and exists when vLLM imports."""
RAY_FOLDER = Path(".venv-ray")
RAY_PYTHON, RAY_READY = RAY_FOLDER / "bin" / "python", RAY_FOLDER / ".ready"
"""Of the optional environment that adds Ray to vLLM's."""


def gpus() -> list[str]:
    """One line for each NVIDIA GPU: its name and memory; empty where there is none."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    query = [program, "--query-gpu=name,memory.total", "--format=csv,noheader"]
    answer = subprocess.run(query, capture_output=True, text=True, check=False)
    return answer.stdout.strip().splitlines() if answer.returncode == 0 else []


def visible() -> list[str]:
    """The GPUs that a program started from here sees."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return gpus() if named is None else [one for one in named.split(",") if one.strip()]


def kind_here() -> str:
    """The kind this machine needs."""
    return "gpu" if gpus() else "cpu"
