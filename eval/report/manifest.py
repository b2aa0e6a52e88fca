"""What the numbers of a report come from: code, packages, seeds, options, files, commands."""

import json
import platform
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from esc import backbones, files, paths
from esc.adapters import BASE
from esc.dialogue import JUDGED, JUDGED_BY_EMBEDDED
from esc.exceptions import EscError
from esc.files import Row
from esc.judging import NUMBER
from esc.paths import (
    EMBEDDED,
    KINDS,
    SYSTEMS_OF_FIGURE_4,
    SYSTEMS_OF_TABLE_3,
    SYSTEMS_OF_TABLE_4,
    SYSTEMS_OF_TABLE_5,
    Kind,
    tasks_of,
)
from esc.plan_and_speak import TEMPERATURE
from esc.records import Judged, Metrics, Proportions, Shape
from esc.stats import RESAMPLES, SEED
from eval.judge import usual_judge
from eval.report.parts import NOT_RUN, STALE, Cell, Manifest, Table, Todo

Known = TypeVar("Known", bound=Shape)
MANIFEST = Path("data/manifest.json")


@dataclass
class Sources:
    """What is read under one ``work``."""

    work: Path
    hashes: dict[str, str] = field(default_factory=dict)
    """Path relative to ``work`` to the SHA-256 of every file that was read."""
    options: dict[str, Row] = field(default_factory=dict)
    """Folder to what it was made with."""

    def make(self, target: str, model: str = EMBEDDED, **variables: object) -> str:
        """The make command of a step here."""
        return paths.make(target, work=self.work, model=model, **variables)

    def raw(self, path: Path) -> Any:
        """The JSON value of a file under ``work``, or None where there is no such file."""
        whole = self.work / path
        if not whole.is_file():
            return None
        self._keep(path)
        return files.read_value(whole)

    def known(self, path: Path, shape: type[Known], renew: str) -> Known | None:
        """The file as a shape, or None where there is no such file.

        Raises EscError, with ``renew``, the command that makes it anew, where it is another thing.
        """
        found = self.raw(path)
        if found is None:
            return None
        try:
            return shape.model_validate(found)
        except ValidationError as error:
            raise EscError(f"{self.work / path}: {first(error)}; {renew} renews it") from error

    def rows(self, path: Path) -> Iterator[Row]:
        """The rows of a JSONL file under ``work``."""
        self._keep(path)
        yield from files.read_jsonl(self.work / path)

    def options_of(self, folder: Path) -> Row:
        """What ``options.json`` of a folder says; empty where there is none."""
        found = self.raw(folder / "options.json")
        if isinstance(found, dict):
            self.options[folder.as_posix()] = found
            return found
        return {}

    def built(self) -> Row | None:
        """The manifest of the built sets, or None where there is none."""
        found = self.raw(MANIFEST)
        return found if isinstance(found, dict) else None

    def build_variables(self) -> dict[str, object]:
        """Make's variables that keep those sets as they are, None for what is the default.

        A target that builds them needs all: without, it builds the default's in their place.
        """
        options = (self.built() or {}).get("options")
        if not isinstance(options, dict):
            return {}
        # Only the ESConv release can have the paper's split, and it has no other by itself.
        usual = {"SPLIT": "paper", "LIMIT": None, "CONSECUTIVE": "separate"}
        return {
            name: None if options.get(name) == value else options.get(name)
            for name, value in usual.items()
        }

    def hash_of(self, path: Path) -> str | None:
        """The SHA-256 of a file under ``work``, or None where there is no such file."""
        if not (self.work / path).is_file():
            return None
        self._keep(path)
        return self.hashes[path.as_posix()]

    def _keep(self, path: Path) -> None:
        if path.as_posix() not in self.hashes:
            self.hashes[path.as_posix()] = files.sha256(self.work / path)


def first(error: ValidationError) -> str:
    """The first fault in one line: where it is and what is wrong."""
    fault = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in fault["loc"]) or "the whole file"
    if fault["type"] == "missing":
        return f"no {where!r} in it"
    return f"{where} is {json.dumps(fault['input'], default=str)[:60]} ({fault['msg']})"


PACKAGES = (
    *("decoupled-esc", "llamafactory", "torch", "transformers", "peft", "trl"),
    *("numpy", "nltk", "sacrebleu", "matplotlib", "pydantic"),
)
"""Those that decide a number or a picture; vLLM lives in an environment of its own."""


def manifest(sources: Sources, models: Sequence[str], tables: Iterable[Table]) -> Manifest:
    """Everything behind the numbers that were read so far."""
    return Manifest(
        commit=commit(),
        python=platform.python_version(),
        packages={name: _version(name) for name in PACKAGES},
        seeds={
            "requests": "each from its record's id",
            "draws of turns and examples": "by a hash of the id",
            "intervals": f"{SEED}, {RESAMPLES:,} resamples",
            "trainings": "as their options say; 42, LLaMA-Factory's default, where they do not",
            "split": _split(sources),
        },
        options=dict(sources.options),
        files=dict(sorted(sources.hashes.items())),
        commands=commands_of(sources, models),
        signatures=signatures(tables),
    )


def commit() -> str:
    """The commit of the code that writes the report, or why it is unknown."""
    git = shutil.which("git")
    if git is None or not (paths.ROOT / ".git").exists():
        return "unknown: no git"

    def ask(*arguments: str) -> str | None:
        told = subprocess.run(
            [git, *arguments], cwd=paths.ROOT, capture_output=True, text=True, check=False
        )
        return told.stdout.strip() if told.returncode == 0 else None

    head = ask("rev-parse", "HEAD")
    if not head:
        return "unknown: no git"
    return head + (" with uncommitted changes" if ask("status", "--porcelain") else "")


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _split(sources: Sources) -> str:
    options = (sources.built() or {}).get("options")
    return str(options.get("SPLIT")) if isinstance(options, dict) else "unknown: no sets are built"


def commands_of(sources: Sources, models: Sequence[str]) -> tuple[str, ...]:
    """The commands that make the runs that were read, in their order."""
    built = sources.build_variables()
    told = [
        sources.make("data", EMBEDDED, ESCONV=_corpus(sources), **built),
        sources.make("stats", EMBEDDED, **built),
    ]
    for model in models:
        of_model = {
            folder: options
            for folder, options in sources.options.items()
            if folder.startswith(f"runs/{model}/")
        }
        told += [
            _predict(sources, model, options)
            for options in of_model.values()
            if "SYSTEM" in options
        ]
        told += [sources.make("eval", model, **given) for given in _judges(model, of_model)]
    if len(models) == 1:
        return (*told, sources.make("report", models[0]))
    return (*told, sources.make("report", EMBEDDED, MODELS=" ".join(models)))


def _corpus(sources: Sources) -> str | None:
    """What ESCONV named; None where it was the download that needs no name."""
    corpus = (sources.built() or {}).get("corpus")
    origin = corpus.get("origin") if isinstance(corpus, dict) else None
    return None if origin is None or "://" in origin else str(origin)


def _predict(sources: Sources, model: str, options: Row) -> str:
    """The command that makes predictions with these options."""
    usual = {"ROUND": 1, "SET": "test", "DECODE": backbones.get(model).decode}
    usual |= {"TEMPERATURE": TEMPERATURE}
    given = {
        name: options.get(name)
        for name in ("SYSTEM", "STAGE", "VARIANT", "ROUND", "SET", "LIMIT", "DECODE", "TEMPERATURE")
        if options.get(name) != usual.get(name)
    }
    return sources.make("predict", model, **given)


def _judges(model: str, of_model: Mapping[str, Row]) -> list[dict[str, object]]:
    """JUDGE, JUDGE_N, JUDGE_FORM of what was judged, each setting once, None for the default.

    Where the judge is and what it costs is known to the user alone.
    """
    found: list[dict[str, object]] = []
    for options in of_model.values():
        if "JUDGE_N" in options:
            found.append(_judge(model, options))
    # Errors are classified by the same JUDGE, which has another default there.
    usual = backbones.get(model).judge
    for folder, options in of_model.items():
        if Path(folder).name == "errors" and "JUDGE" in options:
            name = options["JUDGE"]
            if name not in {one["JUDGE"] or usual for one in found}:
                found.append({"JUDGE": None if name == usual else name, "JUDGE_N": None})
    return [one for place, one in enumerate(found) if one not in found[:place]] or [{}]


def _judge(model: str, options: Row) -> dict[str, object]:
    name = BASE if options["JUDGE"] == f"{model} (base)" else options["JUDGE"]
    # Only this kit's own server tells its weights.
    is_embedded = model == EMBEDDED and name == BASE and options.get("weights")
    turns = JUDGED_BY_EMBEDDED if is_embedded else JUDGED
    return {
        "JUDGE": None if name == usual_judge(model) else name,
        "JUDGE_N": None if options["JUDGE_N"] == turns else options["JUDGE_N"],
        "JUDGE_FORM": None if options.get("JUDGE_FORM") == NUMBER else options.get("JUDGE_FORM"),
    }


def signatures(tables: Iterable[Table]) -> dict[str, str]:
    """Table and column to everything that decides its numbers, where they say it."""
    found: dict[str, str] = {}
    for table in tables:
        for row in table.rows:
            for name, cell in _named(table, row.cells):
                if cell.signature and not row.label.startswith("baseline"):
                    found.setdefault(f"{table.name} {name}", cell.signature)
    return found


def _named(table: Table, cells: Sequence[Cell]) -> Iterable[tuple[str, Cell]]:
    return zip(table.columns, cells, strict=True)


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
        what, count = ("turn", self.metrics.n) if n is None else ("dialogue", n)
        size = f"{count:,} {what}{'' if count == 1 else 's'}"
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
    names = [
        kind.name
        for kind in (
            *SYSTEMS_OF_TABLE_3,
            *SYSTEMS_OF_TABLE_4,
            *SYSTEMS_OF_TABLE_5,
            *SYSTEMS_OF_FIGURE_4,
        )
    ]
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
