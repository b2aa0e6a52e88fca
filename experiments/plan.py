"""The paper's experiment as an ordered plan: which make target fills which file, and what it needs.

Pure: it names steps and runs none. ``make demo`` runs the plan in small, ``make reproduce`` whole.
A set or training that two tables share is one step.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from esc import backbones, paths
from esc.exceptions import EscError
from esc.paths import (
    EMBEDDED,
    KINDS,
    MIXES,
    PROMPT_BASELINES,
    SYSTEMS_OF_FIGURE_4,
    SYSTEMS_OF_TABLE_5,
    Kind,
    Lineage,
    tasks_of,
)
from esc.prompts import TASKS

STAGES = ("sft", "dpo")


@dataclass(frozen=True, slots=True)
class Step:
    """One make target with its variables."""

    name: str
    """Unique, such as ``dpo-vanilla-nsnr``."""
    target: str
    what: str
    """In a reader's words."""
    product: Path
    """The file that is written last, relative to ``work``."""
    needs: tuple[str, ...] = ()
    """Names of the steps whose products it reads."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """Of make, besides those that every step gets."""
    served: bool = False
    """Whether it asks this kit's own server."""
    together: bool = False
    """Whether it can run beside the others of its kind, which it needs nothing of."""
    takes_what_is_there: bool = False
    """Whether it goes ahead without what a needed step failed to make."""
    always: bool = False
    """Whether it is asked in every call: it looks at what no other step's file tells of."""
    pairs: Path | None = None
    """The preference set a training learns from: without one, there is nothing to train."""
    nothing: Path | None = None
    """What a mining leaves that ends with no pair."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """Make's variables by kind of step, where they are not the same for all."""

    mine: Mapping[str, str] = field(default_factory=dict)
    judge: Mapping[str, str] = field(default_factory=dict)


def steps(model: str, sizes: Sizes, *, whole: bool, judge_is_served: bool) -> list[Step]:
    """The plan for a backbone, in order.

    ``whole`` says whether the mixes of Table 5 and Figure 4 and the prompt baselines of Table 3 are
    in it, ``judge_is_served`` whether the judge of evaluation is a model of this kit's own server.
    """
    kinds = [kind for kind in KINDS.values() if whole or _is_in_the_loop(kind)]
    planned = [*_prepare(model), *_sft(model), *_mine(model, sizes), *_dpo(model, kinds)]
    # In the order of the tables, which is also that of training.
    order = {"base": 0, "sft": 1, "dpo": 2}
    predictions = [_predict(model, kind) for kind in sorted(kinds, key=lambda k: order[k.stage])]
    planned += predictions
    predicted = tuple(step.name for step in predictions)
    planned.append(
        Step(
            "eval",
            "eval",
            "metrics, judge's scores and errors of every system",
            Path("runs") / model / "evaluated.json",
            predicted,
            sizes.judge,
            served=judge_is_served,
            takes_what_is_there=True,
        )
    )
    planned.append(
        Step(
            "report",
            "report",
            "one page beside the paper",
            Path("runs") / model / "report.html",
            tuple(step.name for step in planned),
            takes_what_is_there=True,
        )
    )
    return planned


def _is_in_the_loop(kind: Kind) -> bool:
    """Whether it is trained on all pairs or on none, and no baseline beside that."""
    return kind.lineage.variant not in MIXES and kind.system not in PROMPT_BASELINES


def only(plan: Sequence[Step], names: Sequence[str]) -> list[Step]:
    """The named steps and all that they cannot do without, in the plan's order.

    Raises EscError for a name that is not in the plan.
    """
    by_name = {step.name: step for step in plan}
    wanted: set[str] = set()
    left = list(names)
    while left:
        name = left.pop()
        if name not in by_name:
            raise EscError(f"STEPS: {name!r} is none of {', '.join(by_name)}")
        if name not in wanted:
            wanted.add(name)
            left += () if by_name[name].takes_what_is_there else by_name[name].needs
    return [step for step in plan if step.name in wanted]


def _prepare(model: str) -> Iterator[Step]:
    if model == EMBEDDED:
        product = Path(backbones.get(EMBEDDED).location) / "manifest.json"
        yield Step("model", "model", "the embedded model, SmolLM2-135M", product)
    built = paths.data_manifest(Path())
    # Only it sees another corpus, prompt or strategy; unchanged, it keeps its manifest's bytes.
    what = "turn-level sets for planner, generator, entangled model"
    yield Step("data", "data", what, built, always=True)
    yield Step(
        "check-data",
        "check-data",
        "every row through LLaMA-Factory's converter and tokenizer",
        paths.checked(Path(), model),
        ("data",),
    )
    yield Step("stats", "stats", "Tables 1 and 6, Figure 8", paths.data_stats(Path()), ("data",))


_NAMES = {"sp": "planner", "rg": "generator", "vanilla": "entangled model"}


def _sft(model: str) -> Iterator[Step]:
    for task in TASKS:
        yield Step(
            f"sft-{task}",
            f"sft-{task}",
            f"fine-tune the {_NAMES[task]}",
            paths.adapter(model, task, "sft") / "run.json",
            ("data",),
        )


def _mine(model: str, sizes: Sizes) -> Iterator[Step]:
    for task in TASKS:
        yield Step(
            f"mine-{task}",
            f"mine-{task}",
            f"the {_NAMES[task]}'s errors on train turns, as pairs",
            Path(paths.preference_manifest(task, model, paths.PAPER)),
            (f"sft-{task}",),
            sizes.mine,
            served=True,
            nothing=paths.no_pairs(model, task, paths.PAPER),
        )


def _dpo(model: str, kinds: list[Kind]) -> Iterator[Step]:
    trained = dict.fromkeys(
        (task, kind.lineage)
        for kind in kinds
        if kind.stage == "dpo"
        for task in tasks_of(kind.system)
    )
    # The paper's own first, in the order of the tasks; then the mixes.
    for task, lineage in sorted(
        trained, key=lambda one: (one[1].variant or "", TASKS.index(one[0]))
    ):
        variant = lineage.variant
        yield Step(
            _named(f"dpo-{task}", lineage),
            f"dpo-{task}",
            f"preference training of the {_NAMES[task]}"
            + (f", {variant} ({_where(variant)})" if variant else ""),
            paths.adapter(model, task, "dpo", lineage) / "drift.json",
            (f"mine-{task}",),
            {"VARIANT": variant} if variant else {},
            pairs=Path(paths.preference_file(paths.preference_dataset(task, model, lineage))),
        )


def _predict(model: str, kind: Kind) -> Step:
    needs = ["data"]
    if kind.stage != "base":
        needs = [_named(f"{kind.stage}-{task}", kind.lineage) for task in tasks_of(kind.system)]
    variant = kind.lineage.variant
    return Step(
        f"predict-{kind.name}",
        "predict",
        f"strategies and replies of {kind.label if not variant else f'Vanilla DPO, {variant}'}",
        Path("runs") / model / kind.name / "run.json",
        tuple(needs),
        {
            "SYSTEM": kind.system,
            "STAGE": kind.stage,
            **({"VARIANT": variant} if variant else {}),
        },
        served=True,
        together=True,
    )


def _named(name: str, lineage: Lineage) -> str:
    return f"{name}-{lineage.variant}" if lineage.variant else name


def _where(variant: str) -> str:
    """The tables and figures of the paper that a mix is in."""
    found = {"Table 5": SYSTEMS_OF_TABLE_5, "Figure 4": SYSTEMS_OF_FIGURE_4}
    return ", ".join(
        name for name, kinds in found.items() if variant in {kind.lineage.variant for kind in kinds}
    )
