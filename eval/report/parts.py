"""The tables of a report. All three of its forms are written from them and from nothing else."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, ClassVar

import yaml

NOT_RUN, UNDEFINED, SMOKE = "not run", "undefined", "SMOKE"
"""No measurement; a measurement that gave no number; a number that is no result."""
LAYOUT = yaml.safe_load(Path(__file__).with_name("layout.yaml").read_text(encoding="utf-8"))
"""What stands on the page besides numbers: its sections in order, and what is said of a table."""
OF_TABLES = {name: one for part in LAYOUT["sections"] for name, one in part["tables"].items()}
Paper = tuple[tuple[str, float], ...]
"""``paper``, or the paper's column where several stand here, and its value."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One number as a reader meets it."""

    value: float | None = None
    low: float | None = None
    """Of the 95 % interval; None where there is none."""
    high: float | None = None
    n: int | None = None
    """How many turns, pairs or votes it is of."""
    paper: Paper = ()
    form: str = ".2f"
    unit: str = ""
    smoke: bool = False
    """Whether the embedded model, a random judge or the sample corpus is in it."""
    missing: str = ""
    """Why there is no value; empty where the cell is the paper's alone."""
    note: str = ""
    signature: str = ""

    told: ClassVar = ("shown", "interval")

    @property
    def shown(self) -> str:
        """The value as text, or why there is none."""
        return self.missing if self.value is None else self._text(self.value) + self.unit

    @property
    def interval(self) -> str:
        """``[low, high]``, or nothing."""
        if self.low is None or self.high is None:
            return ""
        return f"[{self._text(self.low)}, {self._text(self.high)}]"

    @property
    def beside(self) -> list[str]:
        """The paper's values as text, each after its name."""
        return [f"{name} {self._text(value)}{self.unit}" for name, value in self.paper]

    @property
    def details(self) -> str:
        """What is told of it on demand."""
        counted = "" if self.n is None or self.value is None else f"n {self.n:,}"
        return "; ".join(filter(None, (counted, self.note, self.signature)))

    def _text(self, value: float) -> str:
        # What rounds to nothing has no sign.
        text = format(value, self.form)
        return text.removeprefix("-") if not text.strip("-0.,") else text


@dataclass(frozen=True, slots=True)
class TableRow:
    """A row: what it is of, and a cell for every column."""

    label: str
    cells: tuple[Cell, ...]
    group: str = ""
    """The heading it stands under, where a table has several blocks."""
    of_paper: bool = False
    """Whether its values are the paper's."""
    measured_on: str = ""
    """The split and how many dialogues of it."""


@dataclass(frozen=True, slots=True)
class Todo:
    """What was not run, and the commands that would fill it."""

    what: str
    command: str


@dataclass(frozen=True, slots=True)
class Table:
    """A table, and how it is drawn where it is a figure."""

    name: str
    """Such as ``table-3``: an anchor in the page."""
    columns: tuple[str, ...]
    rows: tuple[TableRow, ...]
    title: str
    head: str
    """The heading over the row labels."""
    notes: tuple[str, ...] = ()
    todo: tuple[Todo, ...] = ()
    drawing: str = ""
    """``stacked``: the cells of a row are parts of a whole; ``points``: values with intervals;
    ``differences``: the same about 0; empty where only the numbers are shown."""
    axis: str = ""

    told: ClassVar = ("smoke", "mark", "status")

    @property
    def ours(self) -> list[TableRow]:
        """The rows that are not the paper's alone."""
        return [row for row in self.rows if not row.of_paper]

    @property
    def filled(self) -> int:
        """How many rows hold a measurement of ours, with a number or without."""
        return sum(
            any(one.value is not None or one.missing == UNDEFINED for one in row.cells)
            for row in self.ours
        )

    @property
    def smoke(self) -> bool:
        """Whether a number in it is marked."""
        return bool(self.mark)

    @property
    def mark(self) -> str:
        """``SMOKE`` where a number of ours is one, and of which columns or rows where not all."""
        filled = [
            (cell.smoke, column, f"{row.group} {row.label}".strip())
            for row in self.ours
            for column, cell in zip(self.columns, row.cells, strict=True)
            if cell.value is not None
        ]
        columns = dict.fromkeys(column for smoke, column, _ in filled if smoke)
        rows = dict.fromkeys(row for smoke, _, row in filled if smoke)
        if not columns or all(smoke for smoke, *_ in filled):
            return SMOKE if columns else ""
        apart = columns if any(column not in columns for _, column, _ in filled) else rows
        return f"{SMOKE}: {', '.join(apart)}"

    @property
    def status(self) -> str:
        """How much of it was run, in words."""
        if not self.filled:
            return NOT_RUN
        gaps = any(cell.missing == NOT_RUN for row in self.rows for cell in row.cells)
        return "partly run" if gaps or self.todo else "run"

    @property
    def details(self) -> list[tuple[str, str]]:
        """What is told on demand: a cell's place and its n, note and signature."""
        return [
            (", ".join(filter(None, (row.group, row.label, column))), cell.details)
            for row in self.rows
            for column, cell in zip(self.columns, row.cells, strict=True)
            if cell.details
        ]


def table(
    name: str,
    rows: Sequence[TableRow],
    notes: Sequence[str] = (),
    todo: Sequence[Todo] = (),
    columns: Sequence[str] = (),
) -> Table:
    """A table under the words and, without ``columns``, the columns that it has on the page.

    ``notes`` follow the notes that it has.
    """
    said = OF_TABLES[name]
    own = {"columns": tuple(columns or said["columns"]), "rows": tuple(rows), "todo": tuple(todo)}
    return Table(name, **said | own | {"notes": (*said.get("notes", ()), *notes)})


def value(one: Any) -> Any:
    """A report, or a part of one, as what ``json`` writes: its fields and what it tells of them."""
    if is_dataclass(one):
        # The mark stands once, with the table or figure.
        names = [field.name for field in fields(one) if (type(one), field.name) != (Cell, "smoke")]
        return {name: value(getattr(one, name)) for name in (*names, *getattr(one, "told", ()))}
    if isinstance(one, dict):
        return {str(key): value(item) for key, item in one.items()}
    return [value(item) for item in one] if isinstance(one, list | tuple) else one
