"""The figures of a mining as PNG: Figures 9 and 10, lengths and keep-rates."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from esc import files
from esc.forms import TASKS
from esc.strategies import Strategy
from mining.found import (
    BIN,
    LONGEST,
    PAPER_COLUMNS,
    PAPER_TABLE_1,
    RG_ERRORS,
    SIDES,
    Found,
    spread,
)


def draw_strategies(figure: Any, found: dict[str, Found]) -> None:
    """Figure 9: shares of the strategies in chosen and rejected answers."""
    panels = figure.subplots(1, len(found), squeeze=False, sharey=True)[0]
    for axes, (task, one) in zip(panels, found.items(), strict=True):
        for offset, side in ((0.2, "chosen"), (-0.2, "rejected")):
            count = one.chosen if side == "chosen" else one.rejected
            shares = [100 * count[strategy] / (count.total() or 1) for strategy in Strategy]
            places = [-place + offset for place in range(len(Strategy))]
            bars = axes.barh(places, shares, height=0.38, label=side, color=COLOURS[side])
            axes.bar_label(bars, [f"{share:.1f}" for share in shares], padding=2, fontsize=7)
        axes.set_yticks([-place for place in range(len(Strategy))], [one.value for one in Strategy])
        axes.set_xlabel(f"share of {one.chosen.total():,} {task} pairs (%)")
    figure.legend(*panels[0].get_legend_handles_labels(), **LEGEND)


def draw_errors(figure: Any, found: dict[str, Found]) -> None:
    """Figure 10: errors of the rejected replies, beside the paper's counts (Table 1)."""
    axes = figure.subplots()
    series = {"here": [found["rg"].errors[error] for error in RG_ERRORS]}
    for column in (1, 2):
        name = f"paper, {PAPER_COLUMNS[column]}"
        series[name] = [int(PAPER_TABLE_1[error][column]) for error in RG_ERRORS]
    for place, (name, counts) in enumerate(series.items()):
        total = sum(counts) or 1
        middles = [at + (place - 1) * 0.27 for at in range(len(RG_ERRORS))]
        shares = [100 * count / total for count in counts]
        bars = axes.bar(middles, shares, width=0.25, label=name, color=COLOURS[name])
        labels = [f"{count:,}\n{share:.1f} %" for count, share in zip(counts, shares, strict=True)]
        axes.bar_label(bars, labels, padding=2, fontsize=7)
    axes.set_xticks(range(len(RG_ERRORS)), RG_ERRORS)
    axes.set_ylabel("share of the response pairs (%)")
    axes.margins(y=0.15)
    figure.legend(**LEGEND)


def draw_lengths(figure: Any, found: dict[str, Found]) -> None:
    """Characters of chosen and rejected replies, with their medians."""
    panels = figure.subplots(1, len(found), squeeze=False)[0]
    for axes, (task, one) in zip(panels, found.items(), strict=True):
        for side in SIDES:
            got = spread(one.lengths[side])
            edges = [BIN * place for place in range(len(got["bins"]) + 1)]
            axes.stairs(got["bins"], edges, fill=True, alpha=0.45, color=COLOURS[side], label=side)
            if got["median"] is not None:
                line = "--" if side == "chosen" else ":"
                axes.axvline(got["median"], color=COLOURS[side], linestyle=line, linewidth=2)
        axes.set_xlabel(f"characters of a {task} reply (last bin: {LONGEST} and more)")
        axes.set_ylabel("pairs")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, title="lines: medians", title_fontsize=8, **LEGEND)


def draw_kept(figure: Any, found: dict[str, Found]) -> None:
    """Share of the samples that became pairs, by error and by gold strategy, with intervals."""
    panels = figure.subplots(2, len(found), squeeze=False)
    for column, (task, one) in enumerate(found.items()):
        for axes, what in zip(panels[:, column], ("error", "gold strategy"), strict=True):
            rates = one.keep_rates(what)
            places = [-place for place in range(len(rates))]
            shares = [100 * rate["share"] for rate in rates.values()]
            reach = [
                [_reach(rate["low"], rate["share"]) for rate in rates.values()],
                [_reach(rate["share"], rate["high"]) for rate in rates.values()],
            ]
            axes.barh(places, shares, xerr=reach, color=COLOURS["here"], ecolor="#444")
            axes.set_yticks(places, [f"{k} ({v['samples']:,})" for k, v in rates.items()])
            axes.set_xlim(0, 105)
            axes.set_xlabel("became pairs (%)")
            axes.set_title(f"{task}, by {what}", fontsize=9)


def _reach(begin: float | None, end: float | None) -> float:
    """A side of an interval in per cent; none is drawn where there is no interval."""
    return math.nan if begin is None or end is None else max(0.0, end - begin) * 100


LEGEND: Any = {"loc": "outside lower center", "ncols": 3, "frameon": False, "fontsize": 8}
COLOURS = {
    "chosen": "#2a7f8e",
    "rejected": "#d9822b",
    "here": "#2a7f8e",
    "paper, Qwen": "#b9a7d6",
    "paper, Llama": "#8b8f98",
}
FIGURES: dict[str, tuple[str, Callable[[Any, dict[str, Found]], None], tuple[str, ...]]] = {
    "strategies": (
        "Strategies of chosen and rejected answers (Figure 9)",
        draw_strategies,
        ("sp", "vanilla"),
    ),
    "errors": ("Errors of the rejected replies (Figure 10)", draw_errors, ("rg",)),
    "lengths": ("Length of chosen and rejected replies", draw_lengths, ("rg", "vanilla")),
    "kept": ("Samples that became pairs (95 % intervals, by dialogue)", draw_kept, TASKS),
}
"""File's name to title, drawing, and the tasks that are in it; without one of them it is absent."""


def draw(name: str, found: dict[str, Found], notes: Sequence[str], path: Path) -> None:
    """One of `FIGURES` as a PNG, where a task of it is mined; a smoke run's is marked across."""
    # Slow to import, and drawn by this step alone.
    from matplotlib.figure import Figure

    title, drawn, tasks = FIGURES[name]
    found = {task: found[task] for task in tasks if task in found}
    if name in ("kept", "errors"):
        # A file of others has no samples that were dropped, and may name no errors.
        found = {task: one for task, one in found.items() if getattr(one, name)}
    path.unlink(missing_ok=True)
    if not found:
        return
    wide, high = (4.6 * max(len(found), 2), 7.5) if name == "kept" else (9.2, 5)
    figure = Figure(figsize=(wide, high), layout="constrained")
    drawn(figure, found)
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
        axes.xaxis.label.set_fontsize(9)
        axes.yaxis.label.set_fontsize(9)
    told = [notes[0], *("; ".join(notes[1:][at : at + 2]) for at in range(0, len(notes) - 1, 2))]
    figure.suptitle("\n".join([title, *told]), fontsize=9)
    if notes[0].startswith("SMOKE"):
        mark = figure.text(0.5, 0.45, "SMOKE", ha="center", va="center", fontsize=80, rotation=25)
        mark.set(color="#b00020", alpha=0.13, zorder=10)
    with files.atomic_writer(path) as stream:
        figure.savefig(stream, format="png", dpi=150)
