"""What the numbers of a report come from: code, packages, seeds, options, files, commands."""

import platform
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from esc import paths
from esc.backbones import EMBEDDED
from eval.means import RESAMPLES, SEED
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
    built = sources.raw(Path("data/manifest.json"))
    options = built.get("options") if isinstance(built, dict) else None
    return str(options.get("SPLIT")) if isinstance(options, dict) else "unknown: no sets are built"


def commands_of(sources: Sources, models: Sequence[str]) -> tuple[str, ...]:
    """The commands that make the runs that were read, in their order."""
    told = [sources.make("data"), sources.make("stats")]
    for model in models:
        mine = f"runs/{model}/"
        for folder, options in sources.options.items():
            if folder.startswith(mine) and "SYSTEM" in options:
                shown = {
                    name: options.get(name) for name in ("SYSTEM", "STAGE", "VARIANT", "LIMIT")
                }
                later = options.get("ROUND")
                shown["ROUND"] = later if later != 1 else None
                told.append(sources.make("predict", model, **shown))
        told.append(sources.make("eval", model))
    if len(models) == 1:
        return (*told, sources.make("report", models[0]))
    return (*told, sources.make("report", EMBEDDED, MODELS=" ".join(models)))


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
