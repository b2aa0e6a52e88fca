"""The guard on the reference model: a preference training's first step shows what it is.

A fresh LoRA changes nothing, so the policy starts as its own reference: the first loss is a
constant of the loss, and all rewards are 0. Anything else means another reference, such as the base
model where `create_new_adapter` was taken out; such a training is stopped at its first step.
"""

import json
import math
from pathlib import Path

from esc import files
from esc.files import EscError, Row
from training.recipes import Loss

LOG, STATE = "trainer_log.jsonl", "trainer_state.json"
TOLERANCE = 1e-3
"""Of the first loss and of the first rewards."""
NO_NUMBER = (
    "it was no number (which the trainer may show as 0); a setting of TRAIN_ARGS, or the "
    "precision, is wrong for this model"
)


def logged(output: Path) -> list[Row]:
    """The steps that the trainer has logged; it writes on, so half a line is none."""
    log = output / LOG
    text = log.read_text(encoding="utf-8") if log.is_file() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def check_loss(output: Path, loss: Loss, settings: Row) -> bool:
    """Whether the first step is logged and right; EscError where it is logged and wrong."""
    found = next((float(row["loss"]) for row in logged(output) if "loss" in row), None)
    if found is None:
        return False
    if loss.start is None:
        if not 0 < found < math.inf:
            raise EscError(f"the first {loss.name} loss in {output} is {found}: {NO_NUMBER}")
        return True
    expected = loss.start(settings["pref_beta"])
    # Written so that a loss that is no number is wrong too.
    if not abs(found - expected) <= TOLERANCE:
        raise EscError(
            f"the first {loss.name} loss in {output} is {found:.4f}, not {expected:.4f}: the "
            f"reference is not the model it starts from; {_reason(settings)}"
        )
    return True


def check_rewards(output: Path, loss: Loss, settings: Row) -> None:
    """Raise EscError where the first step's rewards are not 0, by the trainer's own state."""
    first: Row = files.read_json(output / STATE)["log_history"][0]
    # KTO has a side's rewards only where the first batch has replies of that side.
    sides = [f"rewards/{side}" for side in ("chosen", "rejected") if f"rewards/{side}" in first]
    if loss.start and not (sides and all(abs(first[side]) <= TOLERANCE for side in sides)):
        told = ", ".join(f"{side} {first[side]:.4f}" for side in sides) or "not logged"
        raise EscError(
            f"the first rewards in {output} are not 0 ({told}): the reference is not the model it "
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
