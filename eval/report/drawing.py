"""Figures as SVG inside the page: no reference to anything outside, text in the page's own colour.

Matplotlib lays them out; what it writes is then cut down to one ``svg`` element whose ids are the
figure's own and whose styles are attributes, so that the page needs no inline style.
"""

import html
import io
import re
from typing import Any

from esc.visible import visible
from eval.report.page import SMOKE, Cell, Figure, TableRow

INK = "#010203"
"""Stands for the page's text colour until the SVG is written."""
COLOURS = (
    *("#2f6bbf", "#b8651b", "#2f7f55", "#b84645"),
    *("#7a5fb5", "#85644f", "#a94e86", "#667080"),
)
"""Readable on white and on black, with white words on them."""
WIDTH, ROW, LINE, BOTTOM, LETTER = 5.0, 0.34, 0.21, 0.55, 0.074
"""Inches: of a figure, of each row, of a line of the legend, of the axis, of a label's letter."""
LEAST_NAMED = 8.5
"""Per cent of the axis: a smaller part has no room for its number."""


def svg(figure: Figure) -> str:
    """The figure as one SVG element; empty where it holds no number of ours."""
    rows = [row for row in figure.table.rows if any(map(_known, row.cells))]
    if all(row.of_paper for row in rows):
        return ""
    # Slow to import, and drawn by this step alone.
    import matplotlib as mpl
    from matplotlib.figure import Figure as Drawn

    labels = _labels(rows)
    lines = -(-len(figure.table.columns) // _in_a_line(figure))
    high = 0.2 + LINE * lines + ROW * len(rows) + BOTTOM
    with mpl.rc_context(_SETTINGS | {"svg.hashsalt": figure.table.name}):
        drawn = Drawn(figsize=(WIDTH, high))
        # Laid out by hand: measuring text takes most of the time, and the browser has other fonts.
        left = 0.15 + LETTER * max(map(len, labels))
        axes = drawn.add_axes((left / WIDTH, BOTTOM / high, *_size(left, high, len(rows))))
        _DRAWINGS[figure.drawing](axes, figure, rows)
        axes.set_yticks([-place for place in range(len(rows))], labels)
        axes.set_ylim(0.5 - len(rows), 0.5)
        axes.set_xlabel(figure.axis)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
        if figure.table.smoke:
            mark = drawn.text(0.5, 0.5, SMOKE, ha="center", va="center", fontsize=54, rotation=18)
            mark.set(color="#c8504f", alpha=0.2, zorder=10)
        stream = io.StringIO()
        drawn.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    return _inline(stream.getvalue(), figure)


def _size(left: float, high: float, rows: int) -> tuple[float, float]:
    """(width, height) of the axes, as shares of the figure's."""
    return (WIDTH - left - 0.2) / WIDTH, ROW * rows / high


_SETTINGS: dict[str, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}


def _known(cell: Cell) -> bool:
    return cell.value is not None


def _labels(rows: list[TableRow]) -> list[str]:
    """What stands beside each row: its backbone only where there are several."""
    several = len({row.group for row in rows if row.group}) > 1
    return [
        (f"{row.group}: " if several and row.group else "")
        + row.label
        + (f" · {SMOKE}" if row.smoke else "")
        for row in rows
    ]


def _in_a_line(figure: Figure) -> int:
    """How many names a line of the legend holds."""
    return 4 if max(map(len, figure.table.columns)) < 7 else 2


def _stacked(axes: Any, figure: Figure, rows: list[TableRow]) -> None:
    """A bar for each row, whose parts are its cells."""
    sums = [sum(cell.value or 0.0 for cell in row.cells) for row in rows]
    whole = max(sums) or 1.0
    left = [0.0] * len(rows)
    places = [-place for place in range(len(rows))]
    for column, name in enumerate(figure.table.columns):
        values = [row.cells[column].value or 0.0 for row in rows]
        colour = COLOURS[column % len(COLOURS)]
        axes.barh(places, values, 0.72, left=left, label=name, color=colour, linewidth=0)
        for place, value, begin in zip(places, values, left, strict=True):
            if 100 * value / whole >= LEAST_NAMED:
                form = ".0f" if whole > 50 else ".1f"
                middle = begin + value / 2
                axes.text(middle, place, f"{value:{form}}", ha="center", va="center", color="#fff")
        left = [begin + value for begin, value in zip(left, values, strict=True)]
    axes.set_xlim(0, whole)
    columns = _in_a_line(figure)
    axes.figure.legend(loc="upper center", ncols=columns, frameon=False, handlelength=1)


def _points(axes: Any, figure: Figure, rows: list[TableRow]) -> None:
    """A mark with its interval for each row; hollow ones are the paper's."""
    del figure
    shown = set()
    for place, row in enumerate(rows):
        cell = row.cells[0]
        assert cell.value is not None
        if cell.low is not None and cell.high is not None:
            axes.plot([cell.low, cell.high], [-place] * 2, color=COLOURS[0], linewidth=2)
        axes.plot(cell.value, -place, "o", color=COLOURS[0], markersize=6, clip_on=False)
        for name, value in cell.paper:
            words = name if name == "paper" else f"paper, {name}"
            label = None if name in shown else words
            shown.add(name)
            colour, mark = (COLOURS[1], "s") if name != "Llama" else (COLOURS[4], "D")
            axes.plot(
                *(value, -place, mark),
                color=colour,
                markerfacecolor="none",
                markersize=6,
                label=label,
            )
    axes.set_xlim(left=0)
    axes.grid(axis="x", color="#888888", alpha=0.35, linewidth=0.6)
    axes.set_axisbelow(True)
    if shown:
        axes.figure.legend(loc="upper center", ncols=2, frameon=False)


_DRAWINGS = {"stacked": _stacked, "points": _points}


def _inline(text: str, figure: Figure) -> str:
    """The drawing as an element of a page: named, with ids of its own, and without styles."""
    name = figure.table.name
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", text, flags=re.S)
    box = re.search(r'viewBox="[^"]*"', text)
    assert box, "matplotlib names a view box"
    words = html.escape(f"{figure.table.title}; its numbers are in the table below", quote=True)
    head = f'<svg {box[0]} role="img" aria-label="{words}">'
    text = head + text[text.index(">") + 1 :]
    text = re.sub(r' style="([^"]*)"', lambda match: _attributes(match[1]), text)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = text.replace('xlink:href="#', f'href="#{name}-').replace("url(#", f"url(#{name}-")
    return visible(re.sub(r"\s*\n\s*", "\n", text.replace(INK, "currentColor")).strip())


def _attributes(style: str) -> str:
    """A style as presentation attributes; the font's family is the page's."""
    found = []
    for part in html.unescape(style).split(";"):
        name, _, value = part.partition(":")
        name, value = name.strip(), value.strip()
        if name == "font":
            size = re.search(r"([\d.]+)px", value)
            name, value = "font-size", size[1] if size else "9"
        if (name and not name.startswith("font-")) or name == "font-size":
            found.append(f' {name}="{html.escape(value, quote=True)}"')
    return "".join(found)
