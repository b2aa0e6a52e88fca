"""What a report reads: the runs of each backbone, and everything that their numbers come from."""

import json
import platform
import shutil
import subprocess
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import distributions
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from data_builders import leaks
from esc import files, paths
from esc.adapters import BASE
from esc.files import EscError, Row
from esc.paths import EMBEDDED, KINDS, tasks_of
from esc.predictions import PREDICTIONS
from esc.records import Comparison, Comparisons, Judged, Metrics, Proportions, Shape
from esc.stats import RESAMPLES, SEED
from esc.step import DONE, OPTIONS
from esc.strategies import HASH
from eval.metrics import COMPARISONS
from eval.report.parts import NOT_RUN

Known = TypeVar("Known", bound=Shape)
ALL = (
    *(*paths.SYSTEMS_OF_TABLE_3, *paths.SYSTEMS_OF_TABLE_4),
    *(
        replace(kind, label=f"Vanilla DPO, {kind.label}")
        for kind in (*paths.SYSTEMS_OF_TABLE_5[:3], paths.SYSTEMS_OF_FIGURE_4[0])
    ),
)
"""Every run of the paper once."""
PACKAGES = (
    *("decoupled-esc", "llamafactory", "torch", "transformers", "peft", "trl"),
    *("numpy", "nltk", "sacrebleu", "matplotlib", "pydantic"),
)
"""Those that decide a number or a picture; vLLM lives in an environment of its own."""
_PREDICTED = (
    "SYSTEM",
    "STAGE",
    "VARIANT",
    "ROUND",
    "LAYOUT",
    "SET",
    "LIMIT",
    "DECODE",
    "TEMPERATURE",
)
"""Variables of make by which predictions are told apart."""
_TALKED = ("SEEKER", "TURNS", "SEED")
"""Those of conversations; which cards were played is known to the user alone."""


@dataclass
class Sources:
    """What is read under one ``work``; paths are relative to it.

    ``hashes``: every file that was read to its SHA-256; ``options``: folder to what made it.
    """

    work: Path
    hashes: dict[str, str] = field(default_factory=dict)
    options: dict[str, Row] = field(default_factory=dict)

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
        found = self.read(path)
        if found.get("made_with", found).get("list", HASH) != HASH:
            told = f"{self.work / path} was made under another STRATEGIES; set it as it was"
            raise EscError(f"{told}, or {renew} renews it")
        try:
            return shape.model_validate(found)
        except ValidationError as error:
            fault = error.errors(include_url=False)[0]
            place = ".".join(map(str, fault["loc"]))
            wrong = f"{place} is {json.dumps(fault['input'], default=str)[:60]} ({fault['msg']})"
            told = f"no {place!r} in it" if fault["type"] == "missing" else wrong
            raise EscError(f"{self.work / path}: {told}; {renew} renews it") from error

    def options_of(self, folder: Path) -> Row:
        """What ``options.json`` of a folder says; empty where there is none."""
        if found := self.read(folder / OPTIONS):
            self.options[folder.as_posix()] = found
        return found


def marked(model: str, source: Shape | None = None) -> bool:
    """Whether numbers of this file are no result: of the embedded model, or it says so."""
    return model == EMBEDDED or bool(getattr(source, "smoke", False))


@dataclass(frozen=True, slots=True)
class Run:
    """What there is of one system of one backbone; a baseline has no ``name``."""

    model: str
    name: str
    label: str
    metrics: Metrics | None = None
    judged: Judged | None = None
    errors: Proportions | None = None
    todo: str = ""
    """The commands that fill what is missing; empty where nothing is."""
    split: str = ""
    """What was predicted, such as ``test of ESConv.json, SPLIT=paper``; empty where unknown."""
    sampling: str = ""
    leak: str = ""
    """How many of its turns were in the train set of the model that answers, if any were."""
    layout: str = ""
    """What its planner and generator see more than in the paper's layout."""
    missing: str = NOT_RUN
    """What stands where a measurement is not there."""

    @property
    def measured_on(self) -> str:
        """The split and how many dialogues (or turns, where no ids name dialogues) of it."""
        if self.metrics is None or not self.name:
            return ""
        n = self.metrics.dialogues
        what, count = ("turn", self.metrics.n) if n is None else ("dialogue", n)
        size = f"{count:,} {what}{'' if count == 1 else 's'}"
        more = "".join(f", {one}" for one in (self.layout, self.leak) if one)
        return f"{self.split.partition(' of ')[0] or 'split unknown'}, {size}{more}"


@dataclass(frozen=True, slots=True)
class Backbone:
    """A backbone with all its runs by the name of the folder, the paper's run or not."""

    model: str
    runs: dict[str, Run]
    comparisons: Comparisons | None

    @property
    def measured(self) -> list[tuple[Run, Metrics]]:
        """All runs with automatic metrics."""
        return [(run, run.metrics) for run in self.runs.values() if run.metrics]

    def compared(self, a: str, b: str) -> Comparison | None:
        """The comparison of two runs turn by turn; None where one of them is left out."""
        found = self.comparisons.comparisons if self.comparisons else []
        if any(name in self.runs and self.runs[name].metrics is None for name in (a, b)):
            return None
        return next((pair for pair in found if (pair.a, pair.b) == (a, b)), None)


def read_backbones(sources: Sources, models: Sequence[str], *, force: bool) -> list[Backbone]:
    """Every run of each backbone, the paper's rows first; EscError where a file has another shape.

    Without a run that was tested on what it was trained on, unless ``force`` says otherwise.
    Without the measurements of another split than the one most are of, a test split before any
    other; a run whose split is unknown stays.
    """
    found = []
    for model in models:
        root, renew = Path("runs") / model, sources.make("eval", model, FORCE=1)
        there = sorted(path.parent.name for path in (sources.work / root).glob("*/metrics.json"))
        names = dict.fromkeys([*(kind.name for kind in ALL), *there])
        runs = {name: _run(sources, model, name, renew) for name in names}
        compared = sources.known(root / COMPARISONS, Comparisons, renew)
        found.append(Backbone(model, runs, compared))
    known = Counter(run.split for one in found for run, _ in one.measured if run.split)
    wanted = max(known, key=lambda split: (split.startswith("test "), known[split]), default="")
    for one in found:
        for run, _ in one.measured:
            missing = ""
            if run.split not in ("", wanted):
                missing = f"of another split ({run.measured_on})"
            elif run.leak and not force:
                missing = f"{run.leak}; FORCE=1 shows it"
            if missing:
                gone = replace(run, metrics=None, judged=None, errors=None, missing=missing)
                one.runs[run.name] = gone
    return found


def _run(sources: Sources, model: str, name: str, renew: str) -> Run:
    folder = Path("runs") / model / name
    options = sources.options_of(folder)
    sampling = ""
    if (temperature := options.get("TEMPERATURE")) is not None:
        sampling = f"temperature {temperature:g} and top-p {options.get('top_p', 1):g}"
    for judging in ("judge", "errors"):
        sources.options_of(folder / judging)
    read = (
        sources.known(folder / "metrics.json", Metrics, renew),
        sources.known(folder / "judge" / "judge.json", Judged, renew),
        sources.known(folder / "errors" / "proportions.json", Proportions, renew),
    )
    todo = "" if all(read) or name not in KINDS else _todo(sources, model, folder)
    done = sources.read(folder / DONE)
    seen = done.get("seen") or {"seen": 0}
    leak = leaks.told(seen | {"near": 0, "unknown": []}) if seen["seen"] else ""
    label = next((kind.label for kind in ALL if kind.name == name), name)
    layout = "a row a dialogue: sees the gold strategies so far"
    layout = layout if options.get("LAYOUT") == paths.DIALOGUE else ""
    return Run(model, name, label, *read, todo, done.get("set") or "", sampling, leak, layout)


def _todo(sources: Sources, model: str, folder: Path) -> str:
    """The trainings, predictions and measurements that a run of the paper still needs."""
    steps, kind = [], KINDS[folder.name]
    if not (sources.work / folder / PREDICTIONS).is_file():
        for task in tasks_of(kind.system) if kind.stage != "base" else ():
            if not (sources.work / paths.adapter(model, task, kind.stage, kind.lineage)).is_dir():
                training = f"{kind.stage}-{task}"
                steps.append(sources.make(training, model, **kind.lineage.variables))
        named = {"SYSTEM": kind.system, "STAGE": kind.stage} | kind.lineage.variables
        steps.append(sources.make("predict", model, **named))
    return " && ".join([*steps, sources.make("eval", model)])


def manifest(sources: Sources, models: Sequence[str]) -> Row:
    """Everything behind the numbers that were read so far."""
    built = sources.read(paths.MANIFEST)
    installed = {one.name: one.version for one in distributions()}
    return {
        "commit": _commit(),
        "python": platform.python_version(),
        "packages": {name: installed.get(name, "not installed") for name in PACKAGES},
        "seeds": {
            "requests": "each from its record's id",
            "draws of turns and examples": "by a hash of the id",
            "intervals": f"{SEED}, {RESAMPLES:,} resamples",
            "trainings": "as their options say; 42, LLaMA-Factory's default, where they do not",
            "split": built.get("options", {}).get("SPLIT", "unknown: no sets are built"),
        },
        "options": sources.options,
        "files": dict(sorted(sources.hashes.items())),
        "commands": _commands(sources, models, built),
    }


def _commit() -> str:
    git = shutil.which("git")
    if git is None or not (paths.ROOT / ".git").exists():
        return "unknown: no git"
    asked = [git, "-C", str(paths.ROOT), "describe", "--always", "--abbrev=40", "--exclude=*"]
    dirty = "--dirty= with uncommitted changes"
    told = subprocess.run([*asked, dirty], capture_output=True, text=True, check=False).stdout
    return told.strip() or "unknown: no git"


def _commands(sources: Sources, models: Sequence[str], built: Row) -> list[str]:
    """The commands that make the sets and the runs that were read, in their order.

    Where a judge is and what it costs is known to the user alone.
    """
    origin, given = built.get("corpus", {}).get("origin", "://"), built.get("options", {})
    of_sets = {name: given.get(name) for name in ("SPLIT", "LIMIT", "CONSECUTIVE")}
    of_sets["MAPPING"] = built.get("corpus", {}).get("mapping")
    step = partial(paths.step, work=sources.work)
    # What was downloaded needs no name.
    told = [sources.make("data", ESCONV=None if "://" in origin else origin, **of_sets)]
    told.append(step("data_builders", "stats"))
    for folder, options in sources.options.items():
        model = folder.split("/")[1]
        if "SEEKER" in options:
            of_talk = {name: options.get(name) for name in (*_PREDICTED[:5], *_TALKED)}
            told.append(sources.make("converse", model, **of_talk))
        elif options.get("step") == "rate":
            told.append(step("eval", "rate", model=model, judge=options["JUDGE"]))
        elif "SYSTEM" in options:
            of_run = {name: options.get(name) for name in _PREDICTED}
            told.append(sources.make("predict", model, **of_run))
        elif "JUDGE" in options:
            own = options["JUDGE"] == f"{model} (base)"
            how: Row = {"judge": BASE if own else options["JUDGE"], "n": options.get("JUDGE_N")}
            how["form"] = options.get("JUDGE_FORM")
            asks = ("eval", "judge") if "JUDGE_N" in options else ("mining", "classify")
            told.append(step(*asks, model=model, **how))
    told += [step("eval", name, model=one) for one in models for name in ("metrics", "compare")]
    return [*dict.fromkeys(told), sources.make("report", MODELS=" ".join(models))]
