"""What a report holds. All three forms are written from these objects and from nothing else."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from esc.citation import BIBTEX

NOT_RUN = "not run"
STALE = "out of date"
"""Measured of files that have changed since."""
UNDEFINED = "undefined"
"""Measured, and no number came of it."""
SMOKE = "SMOKE"


@dataclass(frozen=True, slots=True)
class Cell:
    """One number as a reader meets it."""

    value: float | None = None
    low: float | None = None
    """Of the 95 % interval; None where there is none."""
    high: float | None = None
    n: int | None = None
    """How many turns, pairs or votes it is of."""
    paper: tuple[tuple[str, float], ...] = ()
    """``paper``, or the paper's column where several stand here, and its value."""
    form: str = ".2f"
    unit: str = ""
    smoke: bool = False
    """Whether the embedded model, a random judge or the sample corpus is in it."""
    missing: str = ""
    """Why there is no value; empty where the cell is the paper's alone."""
    note: str = ""
    signature: str = ""

    @property
    def shown(self) -> str:
        """The value as text, or why there is none."""
        return self.missing if self.value is None else self._text(self.value) + self.unit

    @property
    def measured(self) -> bool:
        """Whether it was run, with a number or without."""
        return self.value is not None or self.missing == UNDEFINED

    @property
    def interval(self) -> str:
        """``[low, high]``, or nothing."""
        if self.low is None or self.high is None:
            return ""
        return f"[{self._text(self.low)}, {self._text(self.high)}]"

    @property
    def counted(self) -> str:
        """``n 1,792``, or nothing."""
        return "" if self.n is None else f"n {self.n:,}"

    @property
    def beside(self) -> tuple[str, ...]:
        """The paper's values as text, each after its name."""
        return tuple(f"{name} {self._text(value)}{self.unit}" for name, value in self.paper)

    @property
    def marked(self) -> bool:
        """Whether its number is one of a smoke run."""
        return self.smoke and self.value is not None

    @property
    def details(self) -> str:
        """What is told of it on demand."""
        counted = self.counted if self.value is not None else ""
        return "; ".join(part for part in (counted, self.note, self.signature) if part)

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

    @property
    def smoke(self) -> bool:
        """Whether a number in it is marked."""
        return any(cell.marked for cell in self.cells)


@dataclass(frozen=True, slots=True)
class Todo:
    """What was not run, and the commands that would fill it."""

    what: str
    command: str


@dataclass(frozen=True, slots=True)
class Table:
    """A table, or the numbers behind a figure."""

    name: str
    """Such as ``table-3``: an anchor in the page."""
    title: str
    head: str
    """The heading over the row labels."""
    columns: tuple[str, ...]
    rows: tuple[TableRow, ...]
    notes: tuple[str, ...] = ()
    todo: tuple[Todo, ...] = ()

    @property
    def ours(self) -> list[TableRow]:
        """The rows that are not the paper's alone."""
        return [row for row in self.rows if not row.of_paper]

    @property
    def filled(self) -> int:
        """How many rows hold a measurement of ours."""
        return sum(any(cell.measured for cell in row.cells) for row in self.ours)

    @property
    def gap(self) -> str:
        """What stands in place of a picture where there is no number to draw: why there is none."""
        if self.filled:
            return UNDEFINED
        return ", ".join(dict.fromkeys(cell.missing for row in self.ours for cell in row.cells))

    @property
    def smoke(self) -> bool:
        """Whether a number in it is marked."""
        return any(row.smoke for row in self.rows)

    @property
    def mark(self) -> str:
        """``SMOKE`` where a number of ours is one, and of which columns or rows where not all."""
        filled = [
            (row, column, cell.marked)
            for row in self.ours
            for column, cell in zip(self.columns, row.cells, strict=True)
            if cell.value is not None
        ]
        if not self.smoke or all(marked for *_, marked in filled):
            return SMOKE if self.smoke else ""
        columns = dict.fromkeys(column for _, column, marked in filled if marked)
        if any(column not in columns for _, column, _ in filled):
            return f"{SMOKE}: {', '.join(columns)}"
        rows = [f"{row.group} {row.label}".strip() for row in self.ours if row.smoke]
        return f"{SMOKE}: {', '.join(rows)}"

    @property
    def grouped(self) -> bool:
        """Whether its rows stand under headings."""
        return any(row.group for row in self.rows)

    @property
    def details(self) -> list[tuple[str, str]]:
        """What is told on demand: a cell's place and its n, note and signature."""
        return [
            (", ".join(part for part in (row.group, row.label, column) if part), cell.details)
            for row in self.rows
            for column, cell in zip(self.columns, row.cells, strict=True)
            if cell.details
        ]

    @property
    def status(self) -> str:
        """How much of it was run, in words."""
        if not self.filled:
            stale = any(cell.missing == STALE for row in self.ours for cell in row.cells)
            return STALE if stale else NOT_RUN
        partly = any(cell.missing == NOT_RUN for row in self.rows for cell in row.cells)
        return "partly run" if partly or self.todo else "run"


@dataclass(frozen=True, slots=True)
class Figure:
    """A table that is also drawn."""

    table: Table
    drawing: str
    """``stacked``: the cells of a row are parts of a whole; ``points``: values with intervals;
    ``differences``: the same about 0."""
    axis: str


@dataclass(frozen=True, slots=True)
class Said:
    """What one system says to a turn."""

    system: str
    strategy: str
    reply: str
    smoke: bool


@dataclass(frozen=True, slots=True)
class Example:
    """One turn with what everybody says to it."""

    id: str
    model: str
    context: tuple[tuple[str, str], ...]
    """(who speaks, the words), the seeker's last."""
    gold_strategy: str
    gold_reply: str
    said: tuple[Said, ...]

    @property
    def smoke(self) -> bool:
        """Whether a reply in it is marked."""
        return any(one.smoke for one in self.said)


@dataclass(frozen=True, slots=True)
class Manifest:
    """What the numbers come from."""

    commit: str
    python: str
    packages: dict[str, str]
    seeds: dict[str, str]
    options: dict[str, dict[str, object]]
    """Folder to what it was made with."""
    files: dict[str, str]
    """Every file that was read to its SHA-256."""
    commands: tuple[str, ...]
    signatures: dict[str, str]
    """Metric to everything that decides its number."""


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the page under one heading."""

    title: str
    lead: str
    items: tuple[Table | Figure, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """Everything."""

    title: str
    lead: str
    notice: str
    models: tuple[str, ...]
    answers: tuple[Figure, ...]
    """The paper's questions as pictures: differences with intervals, a figure for a metric."""
    sections: tuple[Section, ...]
    examples: tuple[Example, ...]
    examples_todo: tuple[Todo, ...]
    manifest: Manifest
    words: dict[str, str] = field(default_factory=dict)
    """Abbreviation to what it means."""
    citation: str = BIBTEX
    """Of the paper that it stands beside."""

    @property
    def smoke(self) -> bool:
        """Whether anything in it is marked."""
        return any(table.smoke for table in self.tables()) or any(
            one.smoke for one in self.examples
        )

    @property
    def ran(self) -> list[tuple[str, str]]:
        """What was run, in a few words."""
        found = [one for one in self.tables() if one.filled]
        first = next((one for one in found if one.name == "table-3"), None)
        systems = [row for row in first.ours if row.measured_on] if first else []
        said = [("tables and figures", f"{len(found)} of {len([*self.tables()])} have a number")]
        if systems:
            said.append(("systems of Table 3", ", ".join(dict.fromkeys(r.label for r in systems))))
            said.append(("measured on", "; ".join(dict.fromkeys(r.measured_on for r in systems))))
        return said

    @property
    def banner(self) -> str:
        """What a marked report says of itself, else nothing."""
        if not self.smoke:
            return ""
        return (
            f"{SMOKE}: the tables and figures so marked hold numbers of the embedded model, a "
            "random judge or the sample corpus. They show that everything runs, and are no results."
        )

    def tables(self) -> Iterator[Table]:
        """Every table, those behind figures too, in order."""
        for section in self.sections:
            for item in section.items:
                yield item.table if isinstance(item, Figure) else item
