"""The preference losses a recipe can have: LLaMA-Factory's settings, and the first loss they show.

The first step shows the reference. A new LoRA changes nothing yet, so the policy *is* its reference
and the loss is a constant of the loss itself. Another value means another reference.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from esc.lineage import Lineage


@dataclass(frozen=True, slots=True)
class Loss:
    """One preference loss, as a recipe has it."""

    stage: str
    """LLaMA-Factory's."""
    name: str
    """LLaMA-Factory's ``pref_loss``; ``kto`` where the stage is the loss."""
    start: Callable[[float], float] | None
    """First loss, from beta; None where there is no reference."""
    beta: float | None = None
    """None for the one of Table 7."""
    gamma: float | None = None
    """SimPO's margin."""
    papers_rate: bool = False
    """Whether the learning rate is that of Table 7, or one that moves a LoRA."""


SIGMOID = Loss("dpo", "sigmoid", lambda beta: math.log(2), papers_rate=True)
"""The paper's own (equations 1 and 2)."""
VARIANTS = {
    "practical": Loss("dpo", "sigmoid", lambda beta: math.log(2)),
    # LLaMA-Factory averages log-probabilities over tokens for the next three: beta 0.5 asks IPO
    # for a gap of one nat a token.
    "ipo": Loss("dpo", "ipo", lambda beta: 1 / (4 * beta**2), beta=0.5),
    "simpo": Loss("dpo", "simpo", None, beta=2.0, gamma=1.0),
    "orpo": Loss("dpo", "orpo", None, beta=0.1),
    "kto": Loss("kto", "kto", lambda beta: 0.5, beta=0.1),
}
"""Variant to loss; mixes of pairs have the paper's."""


def of(lineage: Lineage) -> Loss:
    """The loss of a preference training."""
    return VARIANTS.get(lineage.variant or "", SIGMOID)
