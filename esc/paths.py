"""Where everything lies. ``work`` is the root of what is generated (WORK, default ``.``)."""

import os
import re
import shlex
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from esc.files import EscError

EMBEDDED = "smollm2-135m"
"""The default model: small, openly licensed, and runnable without a GPU or a model hub."""


_DEFAULTS: dict[str, object] = {"model": EMBEDDED, "work": Path()}


def make(*targets: str, work: Path, model: str = EMBEDDED, **variables: object) -> str:
    """``make TARGETS MODEL=… WORK=… …``, without what is the default."""
    given = _said({"MODEL": model, "WORK": work} | variables | _lists())
    return " ".join(["make", *targets, *(shlex.quote(f"{name}={one}") for name, one in given)])


def step(*words: str, work: Path, model: str = EMBEDDED, **options: object) -> str:
    """``python -m WORDS --model … --work … …``, without what is the default."""
    lists = {name.lower(): path for name, path in _lists().items()}
    given = _said(options | {"model": model, "work": work} | lists)
    return " ".join(["python -m", *words, *(f"--{k} {shlex.quote(str(one))}" for k, one in given)])


def _said(given: dict[str, object]) -> list[tuple[str, object]]:
    return [one for one in given.items() if one[1] not in (None, _DEFAULTS.get(one[0].lower()))]


def _lists() -> dict[str, object]:
    """The lists of one's own, without which a command would be another one."""
    return {name: os.environ.get(name) for name in ("STRATEGIES", "ERRORS", "BACKBONES")}


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
CONVERSE = "converse"
"""Variant of the generator alone: trained on pairs of simulated conversations; not the paper's."""
OWN_SETS = {"vanilla": (*MIXES,), "rg": (CONVERSE,)}
"""Variants of a task with a set of their own."""

TURN, DIALOGUE = LAYOUTS = "turn", "dialogue"
"""A row of planner and generator is one turn, as in the paper, or one whole dialogue."""
_SUFFIX = re.compile(
    r"(?:_(?P<layout>dialogue))?(?:_(?P<variant>[a-z_]+?))?(?:_r(?P<round>[1-9]\d*))?"
)


def variants(task: str) -> tuple[str, ...]:
    """The variants a task can be trained in, besides the paper's own."""
    return (*LOSSES, *OWN_SETS.get(task, ()))


@dataclass(frozen=True, slots=True)
class Lineage:
    """A preference training among those of one task."""

    variant: str | None = None
    """None is the paper's own."""
    round: int = 1
    layout: str = TURN
    """Of SFT too, which has no variant and no round."""

    @property
    def suffix(self) -> str:
        """What it adds to a folder's name: ``""``, ``"_ipo"``, ``"_dialogue_ipo_r2"`` …"""
        of_round = f"_r{self.round}" if self.round > 1 else ""
        of_layout = "" if self.layout == TURN else f"_{self.layout}"
        return of_layout + (f"_{self.variant}" if self.variant else "") + of_round

    @property
    def sft(self) -> "Lineage":
        """Of the SFT before it."""
        return Lineage(layout=self.layout)

    @property
    def kind(self) -> str:
        """``kto`` where it learns from single replies, ``dpo`` where it learns from pairs."""
        return "kto" if self.variant == "kto" else "dpo"

    @property
    def mining(self) -> "Lineage":
        """The lineage of the mining its pairs come from: in round 1 the same for all losses."""
        return self if self.round > 1 or self.variant == CONVERSE else self.sft

    @property
    def mixes(self) -> dict[str | None, frozenset[Quadrant]]:
        """Of a mining: variant to the mix of pairs that makes an entangled set of its own."""
        every = dict[str | None, frozenset[Quadrant]]([(None, ALL), *MIXES.items()])
        return every if self.round == 1 else {self.variant: every.get(self.variant, ALL)}

    @property
    def before(self) -> list["Lineage"]:
        """The trainings it goes on from, after SFT, oldest first."""
        return [replace(self, round=number) for number in range(1, self.round)]

    @property
    def variables(self) -> dict[str, object]:
        """Make's variables for it, None for what is the default."""
        layout = None if self.layout == TURN else self.layout
        of_round = self.round if self.round > 1 else None
        return {"VARIANT": self.variant, "ROUND": of_round, "LAYOUT": layout}

    def of(self, task: str) -> "Lineage":
        """That of a task of a system: the planner beside a generator of conversations is usual."""
        return self.sft if self.variant == CONVERSE and task == "sp" else self

    def checked(self, task: str) -> "Lineage":
        """Itself, of the entangled model in its one layout; EscError for a variant it lacks."""
        if (known := variants(task)) and self.variant not in (None, *known):
            raise EscError(f"VARIANT={self.variant} is none of {task}'s: {', '.join(known)}")
        if self.variant == CONVERSE and self.layout != TURN:
            raise EscError(f"VARIANT={CONVERSE} has the layout {TURN} alone")
        if self.variant == CONVERSE and self.round > 1:
            raise EscError(f"VARIANT={CONVERSE} has one round, on from SFT; leave ROUND out")
        return replace(self, layout=TURN) if task == "vanilla" else self


def at_stage(
    stage: str, variant: str | None, number: int | None, layout: str | None = None
) -> Lineage:
    """The lineage that VARIANT, ROUND and LAYOUT name; EscError for the first two without DPO."""
    if stage != "dpo" and (variant or number):
        raise EscError("VARIANT and ROUND name a DPO training; use STAGE=dpo")
    return Lineage(variant, number or 1, layout or TURN)


def of_suffix(suffix: str) -> Lineage | None:
    """The lineage that a folder's or set's suffix names, or None where it names none."""
    match = _SUFFIX.fullmatch(suffix)
    known = (
        match
        and match["round"] != "1"
        and match["variant"] in (None, CONVERSE, *variants("vanilla"))
    )
    if not (match and known):
        return None
    return Lineage(match["variant"], int(match["round"] or 1), match["layout"] or TURN)


# Parent of the packages: the repository root, or site-packages in an installed kit.
ROOT = Path(__file__).resolve().parent.parent
RECIPES = ROOT / "llamafactory_configs"
SAMPLE = ROOT / "data_builders" / "sample" / "sample_corpus.json"
IN_LLAMAFACTORY = ROOT / "training" / "in_llamafactory"
"""Folder of the one module that runs inside LLaMA-Factory, and mends it there."""

REGISTRY = "dataset_info.json"
DATA = Path("data")
"""The built sets, relative to ``work``, as the next three are."""
MANIFEST = DATA / "manifest.json"
"""It exists exactly when the sets are complete."""
DIALOGUES = DATA / "dialogues.json"
"""What is known of every built dialogue, for the leak guard."""
STATS = DATA / "stats" / "stats.json"
CORPUS = DATA / "corpus"
"""The corpus files that the sets were built from."""
SPLITS = ("train", "validation", "test")
PAPER = Lineage()
"""The paper's own preference training."""
# No backbone's name holds an underscore.
_PREFERENCE = re.compile(r"esc_([a-z]+)_(dpo|kto)_([^_]+)((?:_.+)?)")


def sft_file(task: str, split: str, layout: str = TURN) -> str:
    """The name of a built SFT set, relative to the folder of the registry."""
    return f"data/{task}_sft{Lineage(layout=layout).suffix}_{split}.jsonl"


def sft_dataset(task: str, split: str = "train", layout: str = TURN) -> str:
    """The registered name of a built SFT set."""
    named = f"esc_{task}_sft{Lineage(layout=layout).suffix}"
    return named + ("" if split == "train" else f"_{split}")


def layout_of(dataset: str) -> str:
    """The layout of a built SFT set's registered name."""
    return DIALOGUE if DIALOGUE in dataset.split("_") else TURN


def layouts(task: str) -> tuple[str, ...]:
    """The layouts that a task's sets are built in."""
    return (TURN,) if task == "vanilla" else LAYOUTS


def preference_dataset(task: str, model: str, lineage: Lineage = PAPER) -> str:
    """The registered name of a mined set; losses of round 1 share one, a mix has its own."""
    is_shared = lineage.round == 1 and lineage.variant not in (*MIXES, CONVERSE)
    return f"esc_{task}_{lineage.kind}_{model}{(lineage.sft if is_shared else lineage).suffix}"


def preference_file(dataset: str) -> str:
    """The name of a mined set's file, relative to the folder of the registry."""
    return f"data/{dataset}.jsonl"


def preference_of(dataset: str) -> tuple[str, str, Lineage] | None:
    """(task, model, lineage) of a mined set's registered name, or None for another name."""
    if not (match := _PREFERENCE.fullmatch(dataset)) or not (lineage := of_suffix(match[4])):
        return None
    return match[1], match[3], replace(lineage, variant="kto") if match[2] == "kto" else lineage


def preference_manifest(task: str, model: str, mining: Lineage) -> str:
    """The manifest of the sets of one mining, relative to the folder of the registry."""
    return f"data/esc_{task}_dpo_{model}{mining.suffix}.manifest.json"


def recipe(model: str, task: str, stage: str, lineage: Lineage = PAPER) -> Path:
    """The LLaMA-Factory YAML of one training, whatever its round."""
    return RECIPES / model / f"{task}_{stage}{replace(lineage, round=1).suffix}.yaml"


def adapter(model: str, task: str, stage: str, lineage: Lineage = PAPER) -> Path:
    """The output folder of one training, relative to ``work``."""
    return adapters(model) / f"{task}_{stage}{lineage.suffix}"


def merged(adapter: Path, dtype: str = "float32") -> Path:
    """The folder of the whole model that an adapter makes of its base."""
    return adapter / ("merged" if dtype == "float32" else f"merged_{dtype}")


def run(model: str, system: str, stage: str, lineage: Lineage = PAPER) -> Path:
    """The folder of one system's predictions, relative to ``work``."""
    return Path("runs") / model / f"{system}_{stage}{lineage.suffix}"


def conversations(model: str, *, danger: bool = False) -> Path:
    """The folder of all simulated conversations, or of those with signs of danger."""
    return Path("runs") / model / ("safety" if danger else "conversations")


def mining(model: str, lineage: Lineage = PAPER) -> Path:
    """The folder of one mining, relative to ``work``."""
    of_round = "" if lineage.variant == CONVERSE else lineage.mining.suffix
    return Path("runs") / model / f"mining{of_round}"


def no_pairs(model: str, task: str, lineage: Lineage = PAPER) -> Path:
    """What a mining leaves that no pair came out of, relative to ``work``."""
    mined = CONVERSE if lineage.variant == CONVERSE else task
    return mining(model, lineage) / mined / "routed" / "no_pairs.json"


def adapters(model: str) -> Path:
    """The folder of all of a model's adapters, relative to ``work``."""
    return Path("saves") / model


def server(model: str) -> Path:
    """The folder of the model's server: its state, log and chat template, relative to ``work``."""
    return Path("runs") / model / "server"


PROMPT_BASELINES = ("direct-refine", "self-refine", "emotional-cot")
"""Systems that are prompts alone, and so are run on the base model only."""


def tasks_of(system: str) -> tuple[str, ...]:
    """The tasks whose policies a system asks."""
    return {"decoupled": ("sp", "rg"), "decoupled-gold": ("rg",)}.get(system, ("vanilla",))


@dataclass(frozen=True, slots=True)
class Kind:
    """One row of the paper's tables: a system at a stage of training."""

    system: str
    stage: str
    label: str
    lineage: Lineage = PAPER

    @property
    def name(self) -> str:
        """Of its folder."""
        return run("", self.system, self.stage, self.lineage).name


SYSTEMS_OF_TABLE_3 = (
    Kind("vanilla", "base", "Vanilla Base"),
    Kind("direct-refine", "base", "+ Direct-Refine"),
    Kind("self-refine", "base", "+ Self-Refine"),
    Kind("emotional-cot", "base", "+ Emotional CoT"),
    Kind("vanilla", "sft", "Vanilla SFT"),
    Kind("vanilla", "dpo", "Vanilla DPO"),
    Kind("decoupled", "base", "Decoupled Base"),
    Kind("decoupled", "sft", "Decoupled SFT"),
    Kind("decoupled", "dpo", "Decoupled DPO"),
)
SYSTEMS_OF_TABLE_4 = tuple(
    Kind("decoupled-gold", stage, f"{stage.upper()}, gold strategy") for stage in ("sft", "dpo")
)
_PSNR, *SYSTEMS_OF_TABLE_5 = (
    Kind("vanilla", "dpo", f"PsPr > {negative}", Lineage(mix))
    for mix, negative in (
        ("psnr", "PsNr"),
        ("nsnr", "NsNr"),
        ("nsnr_psnr", "NsNr, PsNr"),
        ("nsnr_nspr", "NsNr, NsPr"),
        (None, "NsNr, PsNr, NsPr"),
    )
)
SYSTEMS_OF_FIGURE_4 = _PSNR, SYSTEMS_OF_TABLE_5[0]
KINDS = {
    kind.name: kind
    for table in (SYSTEMS_OF_TABLE_5, SYSTEMS_OF_FIGURE_4, SYSTEMS_OF_TABLE_4, SYSTEMS_OF_TABLE_3)
    for kind in table
}
"""By the name of the folder: what two tables share is here once."""
