"""The tables of a report. All three of its forms are written from them and from nothing else."""

from collections.abc import Sequence
from pathlib import Path

import yaml
from pydantic import Field, computed_field
from pydantic.dataclasses import dataclass

from esc.strategies import Strategy

NOT_RUN, UNDEFINED, SMOKE = "not run", "undefined", "SMOKE"
"""No measurement; a measurement that gave no number; a number that is no result."""
LAYOUT = yaml.safe_load(Path(__file__).with_name("layout.yaml").read_text(encoding="utf-8"))
"""What stands on the page besides numbers: its sections in order, and what is said of a table."""
OF_TABLES = {name: one for part in LAYOUT["sections"] for name, one in part["tables"].items()}
CODES = [one.code for one in Strategy]
STRATEGIES = "; ".join(f"{one.code} {one.value}" for one in Strategy) + "."
Paper = tuple[tuple[str, int | float], ...]
"""``paper``, or the paper's column where several stand here, and its value."""


@dataclass(frozen=True)
class Cell:
    """One number as a reader meets it."""

    value: int | float | None = None
    low: float | None = None
    """Of the 95 % interval; None where there is none."""
    high: float | None = None
    n: int | None = None
    """How many turns, pairs or votes it is of."""
    paper: Paper = ()
    form: str = ".2f"
    unit: str = ""
    # The mark stands once, with the table or figure.
    smoke: bool = Field(default=False, exclude=True)
    """Whether the embedded model, a random judge or the sample corpus is in it."""
    missing: str = ""
    """Why there is no value; empty where the cell is the paper's alone."""
    note: str = ""
    signature: str = ""

    @computed_field  # type: ignore[prop-decorator]
    @property
    def shown(self) -> str:
        """The value as text, or why there is none."""
        return self.missing if self.value is None else self._text(self.value) + self.unit

    @computed_field  # type: ignore[prop-decorator]
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


@dataclass(frozen=True)
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


@dataclass(frozen=True)
class Todo:
    """What was not run, and the commands that would fill it."""

    what: str
    command: str


@dataclass(frozen=True)
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

    @property
    def ours(self) -> list[TableRow]:
        """The rows that are not the paper's alone."""
        return [row for row in self.rows if not row.of_paper]

    @property
    def filled(self) -> int:
        """How many rows hold a measurement of ours, with a number or without."""
        there = [
            [c.value is not None or c.missing == UNDEFINED for c in r.cells] for r in self.ours
        ]
        return sum(map(any, there))

    @computed_field  # type: ignore[prop-decorator]
    @property
    def smoke(self) -> bool:
        """Whether a number in it is marked."""
        return any(one.smoke and one.value is not None for row in self.ours for one in row.cells)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def mark(self) -> str:
        """``SMOKE`` where a number of ours is one, and of which columns or rows where not all."""
        marked, real = (
            [
                (column, f"{row.group} {row.label}".strip())
                for row in self.ours
                for column, cell in zip(self.columns, row.cells, strict=True)
                if cell.value is not None and cell.smoke is smoke
            ]
            for smoke in (True, False)
        )
        if not marked or not real:
            return SMOKE if marked else ""
        of_columns = {column for column, _ in marked}.isdisjoint(column for column, _ in real)
        apart = dict.fromkeys(column if of_columns else row for column, row in marked)
        return f"{SMOKE}: {', '.join(apart)}"

    @computed_field  # type: ignore[prop-decorator]
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
    said, columns = OF_TABLES[name], columns or OF_TABLES[name]["columns"]
    legend = [STRATEGIES] if list(columns) == CODES else []
    words = {word: said[word] for word in ("title", "head", "drawing", "axis") if word in said}
    told = (*said.get("notes", ()), *notes, *legend)
    return Table(name, tuple(columns), tuple(rows), **words, notes=told, todo=tuple(todo))
