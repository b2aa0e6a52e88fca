"""LLaMA-Factory's process: how it is started, on this machine's share, and why it has ended.

What it writes to stderr goes to a file, and from there on to ours: so the reason of a failure is
found in it, and a training whose parent was killed does not break at its next line.
"""

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from esc import nodes, paths, policy_server
from esc.exceptions import EscError
from esc.files import Row
from training.recipe import Training, by_torchrun

_TAIL = 100_000
_EVERY = 0.2
_AGAIN = "the same command goes on from the newest checkpoint, if there is one"


def environment(training: Training, settings: Row) -> dict[str, str]:
    """The variables LLaMA-Factory is started with."""
    place = nodes.here()
    # LLaMA-Factory looks torchrun up on the PATH, which an environment not activated is not on.
    programs = str(Path(sys.executable).parent)
    search = os.pathsep.join([programs, os.environ.get("PATH", os.defpath)])
    modules = [str(paths.IN_LLAMAFACTORY), *filter(None, [os.environ.get("PYTHONPATH")])]
    made = os.environ | {"PATH": search, "PYTHONUNBUFFERED": "1"}
    made["PYTHONPATH"] = os.pathsep.join(modules)
    if not settings.get("use_cpu") and "PYTORCH_ALLOC_CONF" not in made:
        # LLaMA-Factory sets it for several processes alone; without it, rows of ever other lengths
        # leave memory in pieces too small for the longest.
        made.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    # At its default it prints the model's configuration several times over.
    made.setdefault("LLAMAFACTORY_VERBOSITY", "WARN")
    # Set for one process too: LLaMA-Factory would start one on each GPU, with another batch.
    made["NPROC_PER_NODE"] = str(training.processes)
    if training.spread and not training.spread.launched_by_torchrun:
        made.pop("FORCE_TORCHRUN", None)
    if by_torchrun(training):
        made |= {"FORCE_TORCHRUN": "1", "MASTER_ADDR": place.address}
        made.setdefault("PET_RDZV_CONF", f"timeout={nodes.PATIENCE}")
    if place.port is not None:
        made["MASTER_PORT"] = str(place.port)
    if settings.get("use_cpu") and training.processes > 1:
        cores = (os.cpu_count() or 1) // training.processes
        made["OMP_NUM_THREADS"] = str(max(cores, 1))
    if training.spread:
        made |= training.spread.environment
    return made


def run(
    recipe: Path,
    training: Training,
    settings: Row,
    *,
    log: Path,
    lock: int | None,
    watch: Callable[[subprocess.Popen[bytes]], int],
) -> float:
    """Seconds that the training took; ``watch`` waits for it and gives its exit code.

    Raises EscError with the reason where it failed.
    """
    nodes.check_port(nodes.here())
    program = Path(sys.executable).with_name("llamafactory-cli")
    command = [str(program), "train", str(recipe)]
    print("running: " + " ".join([program.name, *command[1:]]), flush=True)
    begin = time.monotonic()
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_bytes(b"")
    with (
        log.open("ab") as stream,
        _shown(log),
        # The training holds the lock too: it outlives this process when only this one is killed.
        subprocess.Popen(
            command,
            env=environment(training, settings),
            stderr=stream,
            pass_fds=[] if lock is None else [lock],
        ) as process,
    ):
        code = watch(process)
    if code:
        beside = None if settings.get("use_cpu") else policy_server.beside_training(training.work)
        raise EscError(reason(code, _tail(log), nodes.here(), beside))
    return time.monotonic() - begin


@contextmanager
def _shown(log: Path) -> Iterator[None]:
    """Show on stderr what is written to ``log``, while the block runs."""
    ended = threading.Event()

    def follow() -> None:
        with log.open("rb") as stream:
            last = False
            while not last:
                # Asked before reading: what was written until then is read.
                last = ended.wait(_EVERY)
                sys.stderr.write(stream.read().decode(errors="replace"))
                sys.stderr.flush()

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _tail(log: Path) -> str:
    with log.open("rb") as stream:
        stream.seek(max(log.stat().st_size - _TAIL, 0))
        return stream.read().decode(errors="replace")


_FULL_DISK = (
    r"No space left on device|Disk quota exceeded|os error 28|PytorchStreamWriter failed writing"
)
_SMALLER = (
    "ENGINE=zero3 or fsdp shares the weights out, ENGINE=qlora takes 4 bits of them; another "
    "ENGINE begins anew: with FORCE=1, or another WORK. Where it is true, "
    "TRAIN_ARGS=disable_gradient_checkpointing=false leaves less to hold"
)


def reason(code: int, said: str, place: nodes.Place, beside: str | None = None) -> str:
    """One line: why it ended, and how to go on.

    ``said`` is the end of what it wrote to stderr, ``beside`` what else holds the GPUs' memory.
    """
    # Another engine does not help where the memory is somebody else's.
    smaller = beside or _SMALLER
    if re.search(_FULL_DISK, said):
        return f"the disk is full; free some space: {_AGAIN}"
    if re.search(r"OutOfMemoryError|out of memory|can't allocate memory", said):
        return f"the training ran out of memory; {smaller}: {_AGAIN}"
    if code in (-9, 137) or re.search(r"Signal 9 \(SIGKILL\)|exitcode\s*: -9\b", said):
        return (
            "a training process was killed (signal 9): most likely the machine ran out of memory; "
            f"{smaller}: {_AGAIN}"
        )
    if re.search(r"EADDRINUSE|[Aa]ddress already in use", said):
        return (
            f"port {place.port} is in use on node 0; set MASTER_PORT to a free one, the same on "
            "every machine"
        )
    if place.count > 1 and re.search(r"DistStoreError|DistNetworkError|clients joined", said):
        return (
            f"not all NNODES={place.count} machines came to {place.address}:{place.port} in time "
            "(600 s, or what PET_RDZV_CONF=timeout=… says); start the same command on each, with "
            f"its own NODE_RANK, and let the port through: {_AGAIN}"
        )
    if place.count > 1 and re.search(r"[Cc]onnection (closed|reset) by peer|ncclRemoteError", said):
        return f"another machine of the training was lost; start it on all of them again: {_AGAIN}"
    return f"LLaMA-Factory stopped with exit code {code} (its output is above); {_AGAIN}"
