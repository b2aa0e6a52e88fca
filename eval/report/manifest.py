"""What a report reads: the runs of each backbone, and everything that their numbers come from."""

import json
import platform
import shutil
import subprocess
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from esc import files, paths
from esc.adapters import BASE
from esc.files import EscError, Row
from esc.paths import EMBEDDED, KINDS, Kind, tasks_of
from esc.predictions import PREDICTIONS
from esc.records import Comparisons, Judged, Metrics, Proportions, Shape
from esc.stats import RESAMPLES, SEED
from esc.step import DONE, OPTIONS
from eval.metrics import COMPARISONS
from eval.report.parts import NOT_RUN, Table, Todo

Known = TypeVar("Known", bound=Shape)
PACKAGES = (
    *("decoupled-esc", "llamafactory", "torch", "transformers", "peft", "trl"),
    *("numpy", "nltk", "sacrebleu", "matplotlib", "pydantic"),
)
"""Those that decide a number or a picture; vLLM lives in an environment of its own."""
_BUILT = ("SPLIT", "LIMIT", "CONSECUTIVE")
_PREDICTED = ("SYSTEM", "STAGE", "VARIANT", "ROUND", "SET", "LIMIT", "DECODE", "TEMPERATURE")
"""Variables of make by which sets, and predictions, are told apart."""


@dataclass
class Sources:
    """What is read under one ``work``; paths are relative to it."""

    work: Path
    hashes: dict[str, str] = field(default_factory=dict)
    """Every file that was read to its SHA-256."""
    options: dict[str, Row] = field(default_factory=dict)
    """Folder to what it was made with."""

    def make(self, target: str, model: str = EMBEDDED, **variables: object) -> str:
        """The make command of a step here."""
        return paths.make(target, work=self.work, model=model, **variables)

    def whole(self, path: Path) -> Path:
        """The path of a file that is read now."""
        self.hashes[path.as_posix()] = files.sha256(self.work / path)
        return self.work / path

    def read(self, path: Path) -> Row:
        """The JSON object of a file; empty where there is no such file."""
        return files.read_json(self.whole(path)) if (self.work / path).is_file() else {}

    def known(self, path: Path, shape: type[Known], renew: str) -> Known | None:
        """The file as a record, or None where there is no such file.

        Raises EscError, with ``renew``, the command that makes it anew, where it is another thing.
        """
        if not (self.work / path).is_file():
            return None
        try:
            return shape.model_validate(files.read_json(self.whole(path)))
        except ValidationError as error:
            raise EscError(f"{self.work / path}: {first(error)}; {renew} renews it") from error

    def options_of(self, folder: Path) -> Row:
        """What ``options.json`` of a folder says; empty where there is none."""
        if found := self.read(folder / OPTIONS):
            self.options[folder.as_posix()] = found
        return found

    def built(self) -> Row:
        """The manifest of the built sets; empty where there is none."""
        return self.read(paths.MANIFEST)


def first(error: ValidationError) -> str:
    """The first fault in one line: where it is and what is wrong."""
    fault = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "missing":
        return f"no {where!r} in it"
    return f"{where} is {json.dumps(fault['input'], default=str)[:60]} ({fault['msg']})"


@dataclass(frozen=True, slots=True)
class Run:
    """What there is of one system of one backbone."""

    model: str
    name: str
    label: str
    metrics: Metrics | None
    judged: Judged | None
    errors: Proportions | None
    todo: str
    """The commands that fill what is missing; empty where nothing is."""
    split: str
    """What was predicted, such as ``test of ESConv.json, SPLIT=paper``; empty where unknown."""
    sampling: str
    """How its answers were drawn; empty where unknown."""
    missing: str = NOT_RUN
    """What stands where a measurement is not there."""

    @property
    def measured_on(self) -> str:
        """The split and how many dialogues (or turns, where no ids name dialogues) of it."""
        if self.metrics is None:
            return ""
        n = self.metrics.dialogues
        what, count = ("turn", self.metrics.n) if n is None else ("dialogue", n)
        size = f"{count:,} {what}{'' if count == 1 else 's'}"
        return f"{self.split.partition(' of ')[0] or 'split unknown'}, {size}"

    def smoke(self, source: Metrics | Judged | Proportions | None) -> bool:
        """Whether a number of this file is marked."""
        return self.model == EMBEDDED or bool(source and source.smoke)


@dataclass(frozen=True, slots=True)
class Backbone:
    """A backbone with all its runs."""

    model: str
    runs: dict[str, Run]
    """By the name of the folder; every row of the paper is there, run or not."""
    comparisons: Comparisons | None

    @property
    def others(self) -> list[Run]:
        """Measured runs that are no row of the paper: other losses, rounds, other systems."""
        return [run for name, run in self.runs.items() if name not in KINDS and run.metrics]

    @property
    def measured(self) -> list[tuple[Run, Metrics]]:
        """All runs with automatic metrics."""
        return [(run, run.metrics) for run in self.runs.values() if run.metrics]

    def todo(self, kinds: Sequence[Kind]) -> tuple[Todo, ...]:
        """What fills these rows of the paper."""
        runs = [(kind, self.runs[kind.name]) for kind in kinds]
        return tuple(Todo(f"{self.model} {kind.label}", run.todo) for kind, run in runs if run.todo)


def read_backbones(sources: Sources, models: Sequence[str]) -> list[Backbone]:
    """Every run of each backbone, the paper's rows first; EscError where a file has another shape.

    Without the measurements of another split than the one most are of, a test split before any
    other; a run whose split is unknown stays.
    """
    found = [_read_backbone(sources, model) for model in models]
    known = Counter(run.split for one in found for run, _ in one.measured if run.split)
    wanted = max(known, key=lambda split: (split.startswith("test "), known[split]), default="")
    for one in found:
        for run, _ in one.measured:
            if run.split not in ("", wanted):
                missing = f"of another split ({run.measured_on})"
                gone = replace(run, metrics=None, judged=None, errors=None, missing=missing)
                one.runs[run.name] = gone
    return found


def _read_backbone(sources: Sources, model: str) -> Backbone:
    root = Path("runs") / model
    kinds = (
        *(*paths.SYSTEMS_OF_TABLE_3, *paths.SYSTEMS_OF_TABLE_4),
        *(*paths.SYSTEMS_OF_TABLE_5, *paths.SYSTEMS_OF_FIGURE_4),
    )
    there = sorted(path.parent.name for path in (sources.work / root).glob("*/metrics.json"))
    names = dict.fromkeys([*(kind.name for kind in kinds), *there])
    runs = {name: _read_run(sources, model, name) for name in names}
    renew = sources.make("eval", model, FORCE=1)
    return Backbone(model, runs, sources.known(root / COMPARISONS, Comparisons, renew))


def _read_run(sources: Sources, model: str, name: str) -> Run:
    folder, kind = Path("runs") / model / name, KINDS.get(name)
    options, renew = sources.options_of(folder), sources.make("eval", model, FORCE=1)
    temperature = options.get("TEMPERATURE")
    sampling = "" if temperature is None else "greedy decoding"
    if temperature:
        top_p = options.get("top_p", 1)
        sampling = f"temperature {temperature:g} and top-p {top_p:g}, seeded by the turn"
    for judging in ("judge", "errors"):
        sources.options_of(folder / judging)
    metrics = sources.known(folder / "metrics.json", Metrics, renew)
    judged = sources.known(folder / "judge" / "judge.json", Judged, renew)
    errors = sources.known(folder / "errors" / "proportions.json", Proportions, renew)
    todo = "" if metrics and judged and errors else _todo(sources, model, folder, kind)
    split = sources.read(folder / DONE).get("set") or ""
    label = kind.label if kind else name
    return Run(model, name, label, metrics, judged, errors, todo, split, sampling)


def _todo(sources: Sources, model: str, folder: Path, kind: Kind | None) -> str:
    """The trainings, predictions and measurements that a run still needs."""
    steps = []
    if kind and not (sources.work / folder / PREDICTIONS).is_file():
        for task in tasks_of(kind.system):
            adapter = paths.adapter(model, task, kind.stage, kind.lineage)
            if kind.stage != "base" and not (sources.work / adapter).is_dir():
                training = f"{kind.stage}-{task}"
                steps.append(sources.make(training, model, **kind.lineage.variables))
        named = {"SYSTEM": kind.system, "STAGE": kind.stage} | kind.lineage.variables
        steps.append(sources.make("predict", model, **named))
    return " && ".join([*steps, sources.make("eval", model)])


def manifest(sources: Sources, models: Sequence[str], tables: Sequence[Table]) -> Row:
    """Everything behind the numbers that were read so far, as ``json`` writes it."""
    split = sources.built().get("options", {}).get("SPLIT", "unknown: no sets are built")
    return {
        "commit": _commit(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "seeds": {
            "requests": "each from its record's id",
            "draws of turns and examples": "by a hash of the id",
            "intervals": f"{SEED}, {RESAMPLES:,} resamples",
            "trainings": "as their options say; 42, LLaMA-Factory's default, where they do not",
            "split": split,
        },
        "options": sources.options,
        "files": dict(sorted(sources.hashes.items())),
        "commands": _commands(sources, models),
        "signatures": {
            f"{table.name} {column}": cell.signature
            for table in tables
            for row in reversed(table.rows)
            for column, cell in zip(table.columns, row.cells, strict=True)
            if cell.signature and not row.label.startswith("baseline")
        },
    }


def _commit() -> str:
    """The commit of the code that writes the report, or why it is unknown."""
    git = shutil.which("git")
    told = []
    for question in (("rev-parse", "HEAD"), ("status", "--porcelain")):
        if git is None or not (paths.ROOT / ".git").exists():
            return "unknown: no git"
        asked = [git, "-C", str(paths.ROOT), *question]
        told.append(subprocess.run(asked, capture_output=True, text=True, check=False).stdout)
    return told[0].strip() + (" with uncommitted changes" if told[1] else "") or "unknown: no git"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _commands(sources: Sources, models: Sequence[str]) -> list[str]:
    """The commands that make the sets and the runs that were read, in their order.

    Where a judge is and what it costs is known to the user alone.
    """
    work, manifest = sources.work, sources.built()
    origin = manifest.get("corpus", {}).get("origin", "://")
    given = {name: manifest.get("options", {}).get(name) for name in _BUILT}
    # What was downloaded needs no name.
    told = [sources.make("data", ESCONV=None if "://" in origin else origin, **given)]
    told.append(paths.step("data_builders", "stats", work=work))
    for model in models:
        here = f"runs/{model}/"
        found = [one for folder, one in sources.options.items() if folder.startswith(here)]
        for options in found:
            if "SYSTEM" in options:
                given = {name: options.get(name) for name in _PREDICTED}
                given["ROUND"] = None if given["ROUND"] == 1 else given["ROUND"]
                told.append(sources.make("predict", model, **given))
        told.append(paths.step("eval", "metrics", work=work, model=model))
        told += dict.fromkeys(_judge(sources, model, one) for one in found if "JUDGE" in one)
        told.append(paths.step("eval", "compare", work=work, model=model))
    return [*told, sources.make("report", MODELS=" ".join(models))]


def _judge(sources: Sources, model: str, options: Row) -> str:
    own = options["JUDGE"] == f"{model} (base)"
    given = {"judge": BASE if own else options["JUDGE"]}
    given |= {"n": options.get("JUDGE_N"), "form": options.get("JUDGE_FORM")}
    step = ("eval", "judge") if "JUDGE_N" in options else ("mining", "classify")
    return paths.step(*step, work=sources.work, model=model, **given)
