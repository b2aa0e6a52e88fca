"""The guard on the reference model: a preference training's first step shows what it is.

A fresh LoRA changes nothing, so the policy starts as its own reference: the first loss is a
constant of the loss, and all rewards are 0. Anything else means another reference, such as the base
model where `create_new_adapter` was taken out; such a training is stopped at its first step.
"""

import math
from pathlib import Path

from esc.files import EscError, Row
from training.recipes import Loss

TOLERANCE = 1e-3
"""Of the first loss and of the first rewards."""


def check(first: Row, loss: Loss | None, settings: Row, output: Path) -> None:
    """Raise EscError where the first step that a trainer has logged is not what it must be.

    Without a reference that is any loss above 0. The rewards are in the trainer's own state alone.
    """
    found = float(first["loss"])
    what = f"the first {loss.name if loss else 'SFT'} loss in {output} is"
    if loss is None or loss.start is None:
        if not 0 < found < math.inf:
            raise EscError(
                f"{what} {found}: it was no number (which the trainer may show as 0); a setting of "
                "TRAIN_ARGS, or the precision, is wrong for this model"
            )
        return
    expected = loss.start(settings["pref_beta"])
    # KTO has a side's rewards only where the first batch has replies of that side.
    rewards = {name: reward for name, reward in first.items() if name in _REWARDS}
    # Written so that what is no number is wrong too.
    if abs(found - expected) <= TOLERANCE and all(abs(r) <= TOLERANCE for r in rewards.values()):
        return
    if "adapter_name_or_path" not in settings:
        why = "a setting of TRAIN_ARGS changes the first step from the merged SFT model"
    elif not settings.get("create_new_adapter"):
        why = (
            "create_new_adapter is not true, so the SFT adapter itself is trained against the base "
            "model; leave it as the recipe has it"
        )
    else:
        why = (
            "LLaMA-Factory did not merge the SFT adapter (a quantized base, DeepSpeed ZeRO-3 and "
            "unsloth keep it apart), or a setting of TRAIN_ARGS changes the first step"
        )
    told = "".join(f", {name} {reward:.4f}, not 0" for name, reward in rewards.items())
    raise EscError(
        f"{what} {found:.4f}, not {expected:.4f}{told}: the reference is not the model it starts "
        f"from; {why}"
    )


_REWARDS = ("rewards/chosen", "rewards/rejected")
