"""The drawing of tables: bars of parts, and marks with their intervals."""

import base64
import io
from itertools import cycle
from typing import Any

from esc.visible import visible
from eval.report.parts import Table, TableRow

INKS = {"light": "#1d2433", "dark": "#e7eaf1"}
"""Colour of the words, on a light and on a dark page."""
COLOURS = (
    *("#2f6bbf", "#b8651b", "#2f7f55", "#b84645"),
    *("#7a5fb5", "#85644f", "#a94e86", "#667080"),
)
"""Readable on white and on black, with white words on them."""
WIDTH, NARROW, ROW, LINE, BOTTOM = 5.0, 3.7, 0.34, 0.21, 0.55
"""Inches: of a figure and a narrow one, of each row, of a line of the legend, of the axis."""
LETTER, LETTER_HEIGHT = 0.08, 0.17
"""Inches: of a label's letter."""
LEAST_NAMED = 8.5
"""Per cent of the axis: a smaller part has no room for its number."""


def pictures(table: Table) -> dict[str, str]:
    """The drawing for a light and a dark page, each the address of an SVG image that it holds.

    Empty where it holds no number of ours. As an image a drawing runs and loads nothing.
    """
    rows = [row for row in table.rows if any(one.value is not None for one in row.cells)]
    if all(row.of_paper for row in rows):
        return {}
    drawn = _drawn(table, rows)
    inked = {name: drawn.replace(INKS["light"], ink).encode() for name, ink in INKS.items()}
    head = "data:image/svg+xml;base64,"
    return {name: head + base64.b64encode(one).decode() for name, one in inked.items()}


def _drawn(table: Table, rows: list[TableRow]) -> str:
    """The SVG, for a light page."""
    # Slow to import, and drawn by this step alone.
    import matplotlib as mpl
    from matplotlib.figure import Figure

    # Beside a question's picture stand others, so it is narrow, and its labels have several lines.
    asked = table.drawing == "differences"
    width, between = (NARROW, "\n") if asked else (WIDTH, ": ")
    several = len({row.group for row in rows}) > 1
    labels = [
        visible(row.group + between if several and row.group else "") + visible(row.label)
        for row in rows
    ]
    labels = [label.replace(" − ", "\n− ") for label in labels] if asked else labels
    lines = [label.splitlines() for label in labels]
    row_height = max(ROW, 0.1 + LETTER_HEIGHT * max(map(len, lines)))
    in_a_line = 4 if max(map(len, table.columns)) < 7 else 2
    legend = -(-len(table.columns) // in_a_line) if table.drawing == "stacked" else 1
    high = 0.2 + LINE * legend + row_height * len(rows) + BOTTOM
    inked = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
    settings: dict[str, Any] = dict.fromkeys(inked, INKS["light"]) | {
        "svg.fonttype": "none",
        "svg.hashsalt": table.name,
        "text.parse_math": False,
        "font.family": "sans-serif",
        "font.size": 10,
    }
    with mpl.rc_context(settings):
        drawn = Figure(figsize=(width, high))
        # Laid out by hand: measuring text takes most of the time, and the browser has other fonts.
        left = 0.15 + LETTER * max(len(line) for label in lines for line in label)
        size = (width - left - 0.2) / width, row_height * len(rows) / high
        axes = drawn.add_axes((left / width, BOTTOM / high, *size))
        (_stacked if table.drawing == "stacked" else _points)(axes, table, rows)
        if axes.get_legend_handles_labels()[0]:
            drawn.legend(loc="upper center", ncols=in_a_line, frameon=False, handlelength=1)
        axes.set_yticks([-place for place in range(len(rows))], labels)
        axes.set_ylim(0.5 - len(rows), 0.5)
        axes.set_xlabel(table.axis)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
        stream = io.StringIO()
        drawn.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    return stream.getvalue()


def _stacked(axes: Any, table: Table, rows: list[TableRow]) -> None:
    """A bar for each row, whose parts are its cells."""
    numbers = [[one.value or 0.0 for one in row.cells] for row in rows]
    whole = max(map(sum, numbers)) or 1.0
    left = [0.0] * len(rows)
    for name, colour, values in zip(
        table.columns, cycle(COLOURS), zip(*numbers, strict=True), strict=False
    ):
        bars = axes.barh(
            [-place for place in range(len(rows))], values, 0.72, left, label=name, color=colour
        )
        form = ".0f" if whole > 50 else ".1f"
        told = [f"{one:{form}}" if 100 * one >= LEAST_NAMED * whole else "" for one in values]
        axes.bar_label(bars, told, label_type="center", color="#fff")
        left = [sum(both) for both in zip(left, values, strict=True)]
    axes.set_xlim(0, whole)


def _points(axes: Any, table: Table, rows: list[TableRow]) -> None:
    """A mark with its interval for each row; hollow ones are the paper's."""
    for place, row in enumerate(rows):
        one = row.cells[0]
        if one.interval:
            axes.plot([one.low, one.high], [-place] * 2, color=COLOURS[0], linewidth=2)
        axes.plot(one.value, -place, "o", color=COLOURS[0], markersize=6, clip_on=False)
        for name, value in one.paper:
            colour, mark = (COLOURS[4], "D") if name == "Llama" else (COLOURS[1], "s")
            label = name if name == "paper" else f"paper, {name}"
            shown = label in axes.get_legend_handles_labels()[1]
            look = {"markerfacecolor": "none", "markersize": 6, "label": None if shown else label}
            axes.plot(value, -place, mark, color=colour, **look)
    if table.drawing == "differences":
        axes.axvline(0, color="#888888", linewidth=1.2)
    else:
        axes.set_xlim(left=0)
    axes.grid(axis="x", color="#888888", alpha=0.35, linewidth=0.6)
    axes.set_axisbelow(True)
