"""Which preference training: the recipe's variant and the round of mining, and the names they give.

A variant is another loss or rate (``practical``, ``ipo`` …), or for the entangled model another mix
of pairs (Table 5, Figure 4). Rounds follow one another within a variant: round 2 samples from the
models that round 1 of the same variant trained, and goes on from them.
"""

import re
from dataclasses import dataclass
from enum import StrEnum

from esc.exceptions import EscError


class Quadrant(StrEnum):
    """An entangled reply by its strategy and its response: positive (P) or negative (N)."""

    PSPR = "PsPr"
    PSNR = "PsNr"
    NSPR = "NsPr"
    NSNR = "NsNr"


LOSSES = ("practical", "ipo", "simpo", "orpo", "kto")
"""Variants of every task: rates that move a LoRA, and the losses the paper leaves open."""
ALL = frozenset({Quadrant.PSNR, Quadrant.NSPR, Quadrant.NSNR})
"""What the entangled model is trained against without a variant (Table 3, Table 5's last row)."""
MIXES = {
    "nsnr": frozenset({Quadrant.NSNR}),  # Table 5, first row, and Figure 4
    "nsnr_psnr": frozenset({Quadrant.NSNR, Quadrant.PSNR}),  # Table 5, second row
    "nsnr_nspr": frozenset({Quadrant.NSNR, Quadrant.NSPR}),  # Table 5, third row
    "psnr": frozenset({Quadrant.PSNR}),  # Figure 4
}
"""Variants of the entangled model alone: what PsPr is preferred to."""

_SUFFIX = re.compile(r"(?:_(?P<variant>[a-z_]+?))?(?:_r(?P<round>[1-9]\d*))?")


def variants(task: str) -> tuple[str, ...]:
    """The variants a task can be trained in, besides the paper's own."""
    return (*LOSSES, *MIXES) if task == "vanilla" else LOSSES


@dataclass(frozen=True, slots=True)
class Lineage:
    """A preference training among those of one task."""

    variant: str | None = None
    """None is the paper's own."""
    round: int = 1

    @property
    def suffix(self) -> str:
        """What it adds to the name of a folder: ``""``, ``"_ipo"``, ``"_ipo_r2"`` …"""
        of_round = f"_r{self.round}" if self.round > 1 else ""
        return (f"_{self.variant}" if self.variant else "") + of_round

    @property
    def data_suffix(self) -> str:
        """What it adds to the name of its pairs.

        All losses of round 1 share the pairs mined from the SFT model; only a mix has its own.
        """
        shared = self.round == 1 and self.variant not in MIXES
        return "" if shared else self.suffix

    @property
    def kind(self) -> str:
        """``kto`` where it learns from single replies, ``dpo`` where it learns from pairs."""
        return "kto" if self.variant == "kto" else "dpo"

    @property
    def mining(self) -> "Lineage":
        """The lineage of the mining its pairs come from: in round 1 the same for all variants."""
        return self if self.round > 1 else Lineage()

    @property
    def mixes(self) -> dict[str | None, frozenset[Quadrant]]:
        """Of a mining: variant to the mix of pairs that makes an entangled set of its own."""
        if self.round == 1:
            every: dict[str | None, frozenset[Quadrant]] = {None: ALL}
            every.update(MIXES)
            return every
        return {self.variant: MIXES.get(self.variant or "", ALL)}

    @property
    def before(self) -> list["Lineage"]:
        """The trainings it goes on from, after SFT, oldest first."""
        return [Lineage(self.variant, number) for number in range(1, self.round)]

    @property
    def variables(self) -> dict[str, object]:
        """Make's variables for it, None for what is the default."""
        return {"VARIANT": self.variant, "ROUND": self.round if self.round > 1 else None}

    def checked(self, task: str) -> "Lineage":
        """Itself; EscError where the task has no such variant."""
        if self.variant is not None and self.variant not in variants(task):
            raise EscError(
                f"VARIANT={self.variant} is none of {task}'s: {', '.join(variants(task))}"
            )
        return self


def at_stage(stage: str, variant: str | None, number: int | None) -> Lineage:
    """The lineage that VARIANT and ROUND name; EscError where they are given for another stage."""
    if stage != "dpo" and (variant or number):
        raise EscError("VARIANT and ROUND name a DPO training; use STAGE=dpo")
    return Lineage(variant, number or 1)


def of_suffix(suffix: str) -> Lineage | None:
    """The lineage that a folder's or set's suffix names, or None where it names none."""
    match = _SUFFIX.fullmatch(suffix)
    if match is None or match["round"] == "1":
        return None
    lineage = Lineage(match["variant"], int(match["round"] or 1))
    known = lineage.variant is None or lineage.variant in variants("vanilla")
    return lineage if known else None
