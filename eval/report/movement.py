"""How far each preference training moved its policy, beside what rounding alone does."""

from collections.abc import Sequence
from pathlib import Path

from esc import paths
from esc.backbones import EMBEDDED
from esc.forms import TASKS
from eval.report.cells import not_run
from eval.report.data_shapes import Drift
from eval.report.page import Cell, Table, TableRow, Todo
from eval.report.sources import Sources


def movement(sources: Sources, models: Sequence[str]) -> Table:
    """A row for every preference training; EscError where a file has another shape."""
    rows: list[TableRow] = []
    todo = []
    for model in models:
        root = sources.work / paths.adapters(model)
        wanted = [paths.adapter(model, task, "dpo").name for task in TASKS]
        wanted += sorted(path.parent.name for path in root.glob("*_dpo*/drift.json"))
        for name in dict.fromkeys(wanted):
            task = name.partition("_")[0]
            again = sources.make(f"dpo-{task}", model)
            path = paths.adapters(model) / name / "drift.json"
            found = sources.known(path, Drift, again)
            if found is None:
                todo.append(Todo(f"{model} {name}", again))
            rows.append(TableRow(name, _cells(found, model), model))
    return Table(
        "table-movement",
        "How the preference trainings moved the policies",
        "adapter",
        ("KL, nats a token", "KL by rounding", "other top token", "other top token by rounding"),
        tuple(rows),
        (
            "Over the gold answers of validation turns, in the precision that is served. A policy "
            "that moved no further than rounding does is the one before the training, whatever "
            "its other numbers say.",
        ),
        tuple(todo),
    )


def _cells(found: Drift | None, model: str) -> tuple[Cell, ...]:
    if found is None:
        return tuple(not_run() for _ in range(4))
    smoke = found.smoke or model == EMBEDDED
    verdict = "moved" if found.moved else "no further than rounding"
    numbers = (
        (found.kl, ".2e", "", verdict),
        (found.rounding.kl, ".2e", "", ""),
        (100 * found.changed, ".2f", " %", ""),
        (100 * found.rounding.changed, ".2f", " %", ""),
    )
    return tuple(
        Cell(value, n=found.tokens, form=form, unit=unit, smoke=smoke, note=note)
        for value, form, unit, note in numbers
    )


def trainings(sources: Sources, model: str) -> None:
    """Keep what every training of a backbone was made with, for the manifest."""
    folder = paths.adapters(model)
    for path in sorted((sources.work / folder).glob("*/options.json")):
        sources.options_of(Path(folder) / path.parent.name)
