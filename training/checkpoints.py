"""The checkpoints of a training folder: which one LLaMA-Factory goes on from, and whether it can.

On several machines every process writes its own part of a checkpoint (its random state, under ZeRO
its share of the optimizer), and node 0 the rest: with a disk of its own, a machine has its part.
"""

import re
import shutil
from pathlib import Path

from esc import adapters, files, nodes
from esc.exceptions import EscError
from esc.files import Row
from training.recipe import Training, world
from training.reference import STATE

_STEP = re.compile(r"checkpoint-(\d+)")
_SHARE = re.compile(r"zero_pp_rank_(\d+)_mp_rank_\d+_optim_states\.pt$")


def newest(output: Path) -> Path | None:
    """The checkpoint that LLaMA-Factory goes on from: the one of the last step, whole or not."""
    steps = {int(m[1]): path for path in output.glob("*") if (m := _STEP.fullmatch(path.name))}
    return steps[max(steps)] if steps else None


def drop_torn(output: Path) -> None:
    """Delete checkpoints that a kill left half-written: LLaMA-Factory would choose the newest.

    The trainer writes a checkpoint's state last.
    """
    for checkpoint in output.glob("checkpoint-*"):
        try:
            files.read_json(checkpoint / STATE)
        except EscError:
            shutil.rmtree(checkpoint)


def drop(output: Path) -> None:
    """Delete all: on a shared disk node 0 does it at the same time."""
    for checkpoint in output.glob("checkpoint-*"):
        shutil.rmtree(checkpoint, ignore_errors=True)


def check_whole(output: Path) -> None:
    """Raise EscError on another machine than node 0 where the newest lacks what node 0 wrote."""
    checkpoint = newest(output)
    # One with weights and no state was torn on a shared disk: node 0 drops it.
    if checkpoint and not any((checkpoint / name).exists() for name in (STATE, adapters.WEIGHTS)):
        raise EscError(
            f"{checkpoint} is this machine's share alone: copy node 0's {checkpoint.name} over it "
            "(keep what is here), delete it where node 0 has none, or FORCE=1 on all machines"
        )


def check_processes(output: Path, training: Training, settings: Row) -> None:
    """Raise EscError where the newest is of another number of processes than ZeRO goes on with."""
    checkpoint = newest(output)
    if not checkpoint or not settings.get("deepspeed") or not (checkpoint / STATE).exists():
        return
    found = (_SHARE.search(path.name) for path in checkpoint.glob("global_step*/*"))
    ranks = {int(share[1]) for share in found if share}
    first = nodes.here().rank * training.processes
    own = set(range(first, first + training.processes))
    # Without a shared disk a machine has its own, and what was copied from node 0.
    if ranks and not own <= ranks <= set(range(world(training))):
        count = max(ranks) + 1
        machines = nodes.here().count
        needed = f"NPROC={count}" if machines == 1 else f"NPROC x NNODES = {count}"
        raise EscError(
            f"{checkpoint} was begun on {count} processes, and ZeRO goes on with no other number: "
            f"{needed} goes on, FORCE=1 begins anew"
        )
