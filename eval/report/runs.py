"""The runs of a backbone: which rows of the paper they are, and what was measured of each."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from esc import paths
from esc.backbones import EMBEDDED
from esc.files import Row
from esc.paper_systems import FIGURE_4, KINDS, TABLE_3, TABLE_4, TABLE_5, Kind, tasks_of
from eval.report.page import NOT_RUN, STALE, Todo
from eval.report.shapes import Judged, Metrics, Proportions
from eval.report.sources import Sources

PREDICTIONS = Path("predictions.jsonl")


@dataclass(frozen=True, slots=True)
class Run:
    """What there is of one system of one backbone."""

    model: str
    name: str
    label: str
    metrics: Metrics | None
    judged: Judged | None
    errors: Proportions | None
    missing: str
    """What stands where a measurement is not there: not run, or out of date."""
    todo: str
    """The commands that fill what is missing; empty where nothing is."""
    split: str = ""
    """What was predicted, such as ``test of ESConv.json, SPLIT=paper``; empty where unknown."""
    sampling: str = ""
    """How its answers were drawn; empty where unknown."""

    @property
    def measured_on(self) -> str:
        """The split and how many dialogues (or turns, where no ids name dialogues) of it."""
        if self.metrics is None:
            return ""
        n = self.metrics.dialogues
        size = f"{self.metrics.n:,} turns" if n is None else f"{n:,} dialogues"
        return f"{self.split.partition(' of ')[0] or 'split unknown'}, {size}"

    def same_turns(self, other: "Run") -> bool:
        """Whether both were measured on the very same turns."""
        return bool(self.metrics and other.metrics and self.metrics.turns == other.metrics.turns)

    def smoke(self, source: Metrics | Judged | Proportions) -> bool:
        """Whether a number of this file is marked."""
        return source.smoke or self.model == EMBEDDED


def read_run(sources: Sources, model: str, name: str) -> Run:
    """The measurements of one folder; EscError where one of its files has another shape."""
    folder = Path("runs") / model / name
    kind = KINDS.get(name)
    renew = sources.make("eval", model, FORCE=1)
    found = sources.hash_of(folder / PREDICTIONS)
    options = sources.options_of(folder)
    facts = sources.raw(folder / "run.json")
    split = facts.get("set") if isinstance(facts, dict) else None
    sources.options_of(folder / "judge")
    metrics = sources.known(folder / "metrics.json", Metrics, renew)
    judged = sources.known(folder / "judge" / "judge.json", Judged, renew)
    errors = sources.known(folder / "errors" / "proportions.json", Proportions, renew)
    stale = False
    if found is not None:
        # Measured of predictions that are there no more: no number of these.
        of_errors = sources.options_of(folder / "errors").get("predictions", found)
        if metrics and found not in metrics.made_with.predictions:
            metrics, stale = None, True
        if judged and judged.source.get("predictions", found) != found:
            judged, stale = None, True
        if errors and of_errors != found:
            errors, stale = None, True
    whole = metrics and judged and errors
    return Run(
        model=model,
        name=name,
        label=kind.label if kind else name,
        metrics=metrics,
        judged=judged,
        errors=errors,
        missing=STALE if stale else NOT_RUN,
        todo="" if whole else _commands(sources, model, kind, predicted=found is not None),
        split=split if isinstance(split, str) else "",
        sampling=_sampling(options),
    )


def _sampling(options: Row) -> str:
    temperature = options.get("TEMPERATURE")
    if temperature is None:
        return ""
    if not temperature:
        return "greedy decoding"
    return f"temperature {temperature:g} and top-p {options.get('top_p', 1):g}, seeded by the turn"


def _commands(sources: Sources, model: str, kind: Kind | None, *, predicted: bool) -> str:
    if kind is None or predicted:
        return sources.make("eval", model)
    variables = kind.lineage.variables
    steps = []
    for task in tasks_of(kind.system):
        adapter = paths.adapter(model, task, kind.stage, kind.lineage)
        if kind.stage != "base" and not (sources.work / adapter).is_dir():
            steps.append(sources.make(f"{kind.stage}-{task}", model, **variables))
    steps.append(sources.make("predict", model, SYSTEM=kind.system, STAGE=kind.stage, **variables))
    return " && ".join([*steps, sources.make("eval", model)])


@dataclass(frozen=True, slots=True)
class Backbone:
    """A backbone with all its runs."""

    model: str
    runs: dict[str, Run]
    """By the name of the folder; every row of the paper is there, run or not."""

    def of(self, kinds: tuple[Kind, ...]) -> list[tuple[Kind, Run]]:
        """The runs of rows of the paper."""
        return [(kind, self.runs[kind.name]) for kind in kinds]

    @property
    def others(self) -> list[Run]:
        """Runs that are no row of the paper: other losses, rounds, and other systems."""
        return [run for name, run in self.runs.items() if name not in KINDS]

    @property
    def measured(self) -> list[tuple[Run, Metrics]]:
        """All runs with automatic metrics."""
        return [(run, run.metrics) for run in self.runs.values() if run.metrics]

    def todo(self, kinds: tuple[Kind, ...]) -> tuple[Todo, ...]:
        """What fills the rows."""
        runs = [(kind, self.runs[kind.name]) for kind in kinds]
        return tuple(Todo(f"{self.model} {kind.label}", run.todo) for kind, run in runs if run.todo)


def read_backbone(sources: Sources, model: str) -> Backbone:
    """Every run of a backbone, the paper's rows first."""
    folder = sources.work / "runs" / model
    names = [kind.name for kind in (*TABLE_3, *TABLE_4, *TABLE_5, *FIGURE_4)]
    names += sorted(path.parent.name for path in folder.glob("*/metrics.json"))
    return Backbone(model, {name: read_run(sources, model, name) for name in dict.fromkeys(names)})


def on_one_split(sources: Sources, backbones: Sequence[Backbone]) -> list[Backbone]:
    """The backbones, without the measurements of another split than the one most are of.

    A test split comes before any other. A run whose split is unknown stays where it was measured on
    the very turns of one that is known, or where no split is known at all.
    """
    runs = [run for one in backbones for run, _ in one.measured]
    known = Counter(run.split for run in runs if run.split)
    if not known:
        return list(backbones)
    wanted = max(known, key=lambda split: (split.startswith("test "), known[split], split))
    turns = {run.metrics.turns for run in runs if run.metrics and run.split == wanted}
    return [replace(one, runs=_only(sources, one, wanted, turns)) for one in backbones]


def _only(sources: Sources, of: Backbone, split: str, turns: set[str]) -> dict[str, Run]:
    found = {}
    for name, run in of.runs.items():
        same = run.metrics is None or run.split == split or run.metrics.turns in turns
        found[name] = run if same else _left_out(sources, run, split)
    return found


def _left_out(sources: Sources, run: Run, split: str) -> Run:
    todo = run.todo
    if kind := KINDS.get(run.name):
        variables = {"SYSTEM": kind.system, "STAGE": kind.stage} | kind.lineage.variables
        which = split.partition(" of ")[0]
        renew = sources.make("predict", run.model, **variables, SET=which, FORCE=1)
        todo = f"{renew} && {sources.make('eval', run.model)}"
    missing = f"of another split ({run.measured_on})"
    return replace(run, metrics=None, judged=None, errors=None, missing=missing, todo=todo)
