"""What the numbers of a report come from: code, packages, seeds, options, files, commands."""

import platform
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from esc import backbones, paths
from esc.adapters import BASE
from esc.backbones import EMBEDDED
from esc.files import Row
from esc.judge import NUMBER
from esc.means import RESAMPLES, SEED
from esc.measured_turns import JUDGED, JUDGED_BY_EMBEDDED
from esc.plan_and_speak import TEMPERATURE
from eval.judging import usual_judge
from eval.report.page import Cell, Manifest, Table
from eval.report.sources import Sources

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
