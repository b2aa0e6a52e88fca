"""The systems that the paper's tables compare: each a row, at a stage of training.

Who predicts them, plans their trainings or sets them beside the paper reads them here.
"""

from dataclasses import dataclass

from esc import paths
from esc.lineage import Lineage

PROMPT_BASELINES = ("direct-refine", "self-refine", "emotional-cot")
"""Systems that are prompts alone, and so are run on the base model only."""

_TASKS: dict[str, tuple[str, ...]] = {"decoupled": ("sp", "rg"), "decoupled-gold": ("rg",)}


def tasks_of(system: str) -> tuple[str, ...]:
    """The tasks whose policies a system asks."""
    return _TASKS.get(system, ("vanilla",))


@dataclass(frozen=True, slots=True)
class Kind:
    """One row of the paper's tables: a system at a stage of training."""

    system: str
    stage: str
    label: str
    paradigm: str
    lineage: Lineage = paths.PAPER

    @property
    def name(self) -> str:
        """Of its folder."""
        return paths.run("", self.system, self.stage, self.lineage).name


TABLE_3 = (
    Kind("vanilla", "base", "Vanilla Base", "Vanilla"),
    Kind("direct-refine", "base", "+ Direct-Refine", "Vanilla"),
    Kind("self-refine", "base", "+ Self-Refine", "Vanilla"),
    Kind("emotional-cot", "base", "+ Emotional CoT", "Vanilla"),
    Kind("vanilla", "sft", "Vanilla SFT", "Vanilla"),
    Kind("vanilla", "dpo", "Vanilla DPO", "Vanilla"),
    Kind("decoupled", "base", "Decoupled Base", "Decoupled"),
    Kind("decoupled", "sft", "Decoupled SFT", "Decoupled"),
    Kind("decoupled", "dpo", "Decoupled DPO", "Decoupled"),
)
TABLE_4 = (
    Kind("decoupled-gold", "sft", "SFT, gold strategy", "Decoupled"),
    Kind("decoupled-gold", "dpo", "DPO, gold strategy", "Decoupled"),
)
TABLE_5 = (
    Kind("vanilla", "dpo", "PsPr > NsNr", "Vanilla", Lineage("nsnr")),
    Kind("vanilla", "dpo", "PsPr > NsNr, PsNr", "Vanilla", Lineage("nsnr_psnr")),
    Kind("vanilla", "dpo", "PsPr > NsNr, NsPr", "Vanilla", Lineage("nsnr_nspr")),
    Kind("vanilla", "dpo", "PsPr > NsNr, PsNr, NsPr", "Vanilla"),
)
FIGURE_4 = (
    Kind("vanilla", "dpo", "PsPr > PsNr", "Vanilla", Lineage("psnr")),
    Kind("vanilla", "dpo", "PsPr > NsNr", "Vanilla", Lineage("nsnr")),
)
KINDS = {kind.name: kind for kind in (*TABLE_5, *FIGURE_4, *TABLE_4, *TABLE_3)}
"""By the name of the folder: what two tables share is here once."""
