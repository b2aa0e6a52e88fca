"""The drawing of tables: bars of parts, and marks with their intervals."""

import base64
import io
import warnings
from collections.abc import Sequence
from itertools import islice
from typing import Any

import numpy as np

from esc.files import Row
from esc.visible import visible

INKS = {"light": "#1d2433", "dark": "#e7eaf1"}
"""Colour of the words, on a light and on a dark page."""
_HATCHES = ("", "///", "...", "xxx")
"""Of more parts than there are colours: of the next eight, and the next."""
COLOURS = (
    *("#2f6bbf", "#b8651b", "#2f7f55", "#b84645"),
    *("#7a5fb5", "#85644f", "#a94e86", "#667080"),
)
"""Readable on white and on black, with white words on them."""


def pictures(table: Row) -> dict[str, str]:
    """The drawing for a light and a dark page, each the address of an SVG image that it holds.

    Empty where it holds no number of ours. As an image a drawing runs and loads nothing.
    """
    rows = [row for row in table["rows"] if any(one["value"] is not None for one in row["cells"])]
    if all(row["of_paper"] for row in rows):
        return {}
    drawn = _drawn(table, rows)
    inked = {name: drawn.replace(INKS["light"], ink).encode() for name, ink in INKS.items()}
    head = "data:image/svg+xml;base64,"
    return {name: head + base64.b64encode(one).decode() for name, one in inked.items()}


def _drawn(table: Row, rows: list[Row]) -> str:
    # Slow to import, and drawn by this step alone.
    import matplotlib as mpl
    from matplotlib.figure import Figure

    # Beside a question's picture stand others, so it is narrow, and its labels have several lines.
    asked, stacked = (table["drawing"] == kind for kind in ("differences", "stacked"))
    several = len({row["group"] for row in rows}) > 1
    groups = [f"{row['group']}{chr(10) if asked else ': '}" * several for row in rows]
    labels = [visible(of + row["label"]) for of, row in zip(groups, rows, strict=True)]
    labels = [label.replace(" − ", "\n− ") for label in labels] if asked else labels
    lines = max(label.count("\n") for label in labels) + 1
    in_a_line = 4 if max(map(len, table["columns"])) < 7 else 2
    legend = -(-len(table["columns"]) // in_a_line) if stacked else 1
    high = 0.75 + 0.21 * legend + max(0.34, 0.1 + 0.17 * lines) * len(rows)
    inked = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
    settings: dict[str, Any] = dict.fromkeys(inked, INKS["light"]) | {
        "svg.fonttype": "none",
        "svg.hashsalt": table["name"],
        "text.parse_math": False,
        "font.family": _fonts([*labels, *table["columns"], table["axis"]]),
        "axes.axisbelow": True,
    }
    with mpl.rc_context(settings), warnings.catch_warnings():
        # The letters stand in the drawing as text: a browser takes a font of its own for them.
        warnings.filterwarnings("ignore", "Glyph .* missing")
        drawn = Figure(figsize=(3.7 if asked else 5.0, high), layout="constrained")
        axes = drawn.add_subplot()
        places = -np.arange(len(rows))
        (_stacked if stacked else _points)(axes, table, rows, places)
        if axes.get_legend_handles_labels()[0]:
            look: Row = {"frameon": False, "handlelength": 1, "ncols": in_a_line}
            drawn.legend(loc="outside upper center", **look)
        axes.set_yticks(places, labels)
        axes.set_ylim(0.5 - len(rows), 0.5)
        axes.set_xlabel(table["axis"])
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
        stream = io.StringIO()
        drawn.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    return stream.getvalue()


def _fonts(texts: Sequence[str]) -> list[str]:
    """The page's font, and where it lacks letters one of this machine that has them, if any."""
    from matplotlib import font_manager, ft2font

    wanted = {ord(letter) for text in texts for letter in text if not letter.isspace()}

    def has_them(path: str) -> bool:
        return wanted <= ft2font.FT2Font(path).get_charmap().keys()

    if has_them(font_manager.findfont(font_manager.FontProperties(family=["sans-serif"]))):
        return ["sans-serif"]
    # Matplotlib's own last resort has a box for every letter.
    fonts = (one for one in font_manager.fontManager.ttflist if "Last Resort" not in one.name)
    return ["sans-serif", *islice((one.name for one in fonts if has_them(one.fname)), 1)]


def _stacked(axes: Any, table: Row, rows: list[Row], places: Any) -> None:
    """A bar for each row, whose parts are its cells."""
    parts = np.array([[one["value"] or 0.0 for one in row["cells"]] for row in rows]).T
    whole, left = parts.sum(axis=0).max() or 1.0, np.zeros(len(rows))
    for place, (name, values) in enumerate(zip(table["columns"], parts, strict=True)):
        again, colour = divmod(place, len(COLOURS))
        look = {"color": COLOURS[colour], "hatch": _HATCHES[again], "edgecolor": "#fff"}
        bars = axes.barh(places, values, 0.72, left, label=name, linewidth=0, **look)
        # A smaller part has no room for its number.
        form = ".0f" if whole > 50 else ".1f"
        told = [f"{one:{form}}" if one >= 0.085 * whole else "" for one in values]
        axes.bar_label(bars, told, label_type="center", color="#fff")
        left += values
    axes.set_xlim(0, whole)


def _points(axes: Any, table: Row, rows: list[Row], places: Any) -> None:
    """A mark with its interval for each row; hollow ones are the paper's."""
    for place, row in zip(places, rows, strict=True):
        one = row["cells"][0]
        of_people = table["drawing"] == "relief" and row["label"].startswith("people")
        colour = COLOURS[2] if of_people else COLOURS[0]
        if of_people:
            axes.axvline(one["value"], color=colour, linewidth=1.2, linestyle="--")
        if one["interval"]:
            axes.plot([one["low"], one["high"]], [place] * 2, color=colour, linewidth=2)
        axes.plot(one["value"], place, "o", color=colour, markersize=6, clip_on=False)
        for name, value in one["paper"]:
            colour, mark = (COLOURS[4], "D") if name == "Llama" else (COLOURS[1], "s")
            label = name if name == "paper" else f"paper, {name}"
            shown = label in axes.get_legend_handles_labels()[1]
            look = {"markerfacecolor": "none", "label": None if shown else label}
            axes.plot(value, place, mark, color=colour, markersize=6, **look)
    if table["drawing"] in ("differences", "relief"):
        axes.axvline(0, color="#888888", linewidth=1.2)
    else:
        axes.set_xlim(left=0)
    axes.grid(axis="x", color="#888888", alpha=0.35, linewidth=0.6)
