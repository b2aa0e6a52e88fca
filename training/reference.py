"""The guard on the reference model: a preference training's first step shows what it is.

A fresh LoRA changes nothing, so the policy starts as its own reference: the first loss is a
constant of the loss, and all rewards are 0. Anything else means another reference, such as the base
model where `create_new_adapter` was taken out; such a training is stopped at its first step.
"""

import json
import math
import subprocess
import time
from pathlib import Path

import psutil

from esc import files
from esc.exceptions import EscError
from esc.files import Row
from training.recipes import Loss

LOG, STATE = "trainer_log.jsonl", "trainer_state.json"
TOLERANCE = 1e-3
"""Of the first loss and of the first rewards."""
NO_NUMBER = (
    "it was no number (which the trainer may show as 0); a setting of TRAIN_ARGS, or the "
    "precision, is wrong for this model"
)
_EVERY = 0.5
_GRACE = 20.0


def expected_start(loss: Loss, settings: Row) -> float | None:
    """The loss that the first step must show; None where there is no reference."""
    return loss.start(settings["pref_beta"]) if loss.start else None


def first_loss(log: Path) -> float | None:
    """The loss of the first logged step; None where none is logged yet."""
    if not log.is_file():
        return None
    with log.open(encoding="utf-8") as stream:
        # The trainer writes on while this reads: the last line may not be whole.
        whole = (line for line in stream if line.endswith("\n"))
        return next((float(row["loss"]) for row in map(json.loads, whole) if "loss" in row), None)


def check_loss(output: Path, loss: Loss, settings: Row) -> bool:
    """Whether the first step is logged and right; EscError where it is logged and wrong."""
    expected = expected_start(loss, settings)
    found = first_loss(output / LOG)
    if found is None:
        return False
    if expected is None and not 0 < found < math.inf:
        raise EscError(f"the first {loss.name} loss in {output} is {found}: {NO_NUMBER}")
    # Written so that a loss that is no number is wrong too.
    if expected is not None and not abs(found - expected) <= TOLERANCE:
        raise EscError(
            f"the first {loss.name} loss in {output} is {found:.4f}, not {expected:.4f}: the "
            f"reference is not the model it starts from; {_reason(settings)}"
        )
    return True


def check_rewards(output: Path, loss: Loss, settings: Row) -> None:
    """Raise EscError where the first step's rewards are not 0, by the trainer's own state."""
    if loss.start is None:
        return
    first: Row = files.read_json(output / STATE)["log_history"][0]
    # KTO has a side's rewards only where the first batch has replies of that side.
    found = {
        side: first[f"rewards/{side}"]
        for side in ("chosen", "rejected")
        if f"rewards/{side}" in first
    }
    if not found or any(not abs(reward) <= TOLERANCE for reward in found.values()):
        told = ", ".join(f"{side} {reward:.4f}" for side, reward in found.items()) or "not logged"
        raise EscError(
            f"the first rewards in {output} are {told}, not 0: the reference is not the model it "
            f"starts from; {_reason(settings)}"
        )


def _reason(settings: Row) -> str:
    if "adapter_name_or_path" not in settings:
        return (
            "it starts from the merged SFT model, so a setting of TRAIN_ARGS changes its first step"
        )
    if not settings.get("create_new_adapter"):
        return (
            "create_new_adapter is not true, so the SFT adapter itself is trained against the base "
            "model; leave it as the recipe has it"
        )
    return (
        "LLaMA-Factory did not merge the SFT adapter (a quantized base, DeepSpeed ZeRO-3 and "
        "unsloth keep it apart), or a setting of TRAIN_ARGS changes the first step"
    )


def watched(process: subprocess.Popen[bytes], output: Path, loss: Loss, settings: Row) -> int:
    """Exit code of a training; it is ended where its first step is wrong.

    Raises EscError then, with the reason, once all of its processes are gone.
    """
    try:
        while process.poll() is None and not check_loss(output, loss, settings):
            time.sleep(_EVERY)
        code = process.wait()
    except BaseException:
        _end(process.pid)
        process.wait()
        raise
    if code == 0:
        check_loss(output, loss, settings)
    return code


def _end(leader: int) -> None:
    """End a training and the workers it has launched."""
    try:
        first = psutil.Process(leader)
        processes = [first, *first.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for process in processes:
        process.terminate()
    _, alive = psutil.wait_procs(processes, timeout=_GRACE)
    for process in alive:
        process.kill()
