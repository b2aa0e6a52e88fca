"""Training on another machine than node 0: its share of the work, and little of the writing."""

import time
from pathlib import Path

import yaml

from esc import backbones, files, nodes, paths
from esc.exceptions import EscError
from esc.files import Row
from training import export, train
from training.recipes import Training

_PATIENCE = 1800.0
"""Seconds that it waits for the merged model that node 0 exports, since that last grew."""
_EVERY = 2.0


def follow(training: Training, settings: Row, beside: Path, *, force: bool) -> None:
    """Train until node 0 ends it; ``beside`` is the folder for this machine's recipe and log.

    Raises EscError where node 0, or the merged model it starts from, does not come, or the newest
    checkpoint here is none that it can go on from.
    """
    place = nodes.here()
    if force:
        train.drop(training.output)
    train.check_whole(training.output)
    train.check_processes(training.output, training, settings)
    if training.start_dtype:
        _await_start(training, training.start_dtype)
    recipe = beside / f"node{place.rank}.yaml"
    files.write_text(recipe, yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))
    log = recipe.with_suffix(".log")
    train.run(recipe, training, settings, log=log, lock=None, watch=lambda one: one.wait())


def _await_start(training: Training, dtype: str) -> None:
    """Wait until the merged model is there: made here before, or by node 0 on a shared disk."""
    backbone, deadline = backbones.get(training.model), time.monotonic() + _PATIENCE
    coming, size = export.unfinished(training.starts_from[-1], dtype), 0
    while not export.finished(backbone, training.starts_from, dtype):
        if (grown := _size(coming)) != size:
            size, deadline = grown, time.monotonic() + _PATIENCE
        if time.monotonic() > deadline:
            before = training.lineage.before
            step = paths.make(
                "export",
                work=training.work,
                model=training.model,
                TASK=training.task,
                STAGE="dpo" if before else "sft",
                DTYPE=dtype,
                **(before[-1].variables if before else {}),
            )
            raise EscError(
                f"{training.merged_start} did not come from node 0 (nothing of it for "
                f"{_PATIENCE / 60:.0f} minutes); {step} makes it on this machine"
            )
        time.sleep(_EVERY)


def _size(folder: Path) -> int:
    """Bytes in a folder that another machine is writing, renames or has not made yet."""
    try:
        return sum(path.stat().st_size for path in folder.iterdir())
    except FileNotFoundError:
        return 0
