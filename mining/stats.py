"""What a mining has brought, beside the paper: Table 1 (lower half), Figures 9 to 14, keep-rates.

    python -m mining stats --model smollm2-135m

Reads ``routed/`` of every task that is mined, and for the examples the train set and the kept
corpus; writes ``runs/<model>/mining…/stats/``: ``stats.md``, ``examples.md`` (one pair per error
type, drawn by its id), four figures as PNG, and last ``stats.json``. The paper prints no numbers
for its Figure 9; those of Figure 10 are Table 1's.
"""

import argparse
from collections.abc import Iterator, Sequence

from esc import backbones, cli, files, paths
from esc.forms import TASKS
from esc.lineage import Lineage
from esc.markdown import plain
from esc.strategies import Strategy
from mining.examples import examples
from mining.figures import FIGURES, draw
from mining.folders import Mining
from mining.found import (
    KEPT,
    PAPER_COLUMNS,
    PAPER_TABLE_1,
    SIDES,
    Found,
    collect,
    notes_on,
    spread,
    table_1,
)
from mining.options import add_lineage
from mining.routed import PAIRS


def markdown(found: dict[str, Found], notes: Sequence[str]) -> str:
    """All tables, beside the paper's values where it has some."""
    lines = ["# The mined pairs beside the paper", *(f"\n{plain(note)}" for note in notes)]
    lines += ["", "## Table 1, lower half", ""]
    lines += ["| | here | " + " | ".join(f"paper, {name}" for name in PAPER_COLUMNS) + " |"]
    lines += ["|---|---:|---:|---:|---:|"]
    for name, cells in _table_1_rows(found):
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    for task, one in found.items():
        lines += ["", f"## {task}: {one.routed[PAIRS]['rows']:,} pairs", ""]
        # The generator answers under the gold strategy: both sides of its pairs have the same.
        lines += _length_table(one) if task == "rg" else _strategy_table(one)
        if task == "vanilla":
            lines += ["", *_length_table(one)]
        # Pairs of a file of others have no samples that were dropped.
        for what in ("error", "gold strategy") if one.kept else ():
            lines += ["", *_keep_table(one, what)]
        if one.quadrants:
            told = ", ".join(f"{name} {one.quadrants[name]:,}" for name in sorted(one.quadrants))
            lines += ["", f"Quadrants: {told}."]
    return "\n".join(lines) + "\n"


def _table_1_rows(found: dict[str, Found]) -> Iterator[tuple[str, list[str]]]:
    """(name, here and the paper's values as text) of every row of Table 1's lower half."""
    for name, value in table_1(found).items():
        digits = 2 if "mean" in name else 0
        shown = [value, *PAPER_TABLE_1[name]]
        yield name, ["—" if one is None else f"{one:,.{digits}f}" for one in shown]


def report(found: dict[str, Found], notes: Sequence[str]) -> Iterator[str]:
    """The numbers one should see."""
    yield f"{'Table 1, lower half':<30}" + "".join(
        f"{name:>14}" for name in ("here", *(f"paper, {column}" for column in PAPER_COLUMNS))
    )
    for name, cells in _table_1_rows(found):
        yield f"  {name:<28}" + "".join(f"{cell:>14}" for cell in cells)
    yield from notes


def _strategy_table(one: Found) -> Iterator[str]:
    yield "Strategies of the pairs (Figure 9):"
    yield from ("", "| strategy | chosen | share | rejected | share |", "|---|---:|---:|---:|---:|")
    for strategy in Strategy:
        cells = (
            f"{count[strategy]:,} | {_percent(count[strategy], count.total())}"
            for count in (one.chosen, one.rejected)
        )
        yield f"| {strategy} ({strategy.code}) | " + " | ".join(cells) + " |"


def _length_table(one: Found) -> Iterator[str]:
    yield "Characters of the replies:"
    yield from ("", "| | mean | median |", "|---|---:|---:|")
    for side in SIDES:
        got = spread(one.lengths[side])
        cells = ("—" if got[name] is None else f"{got[name]:,.2f}" for name in ("mean", "median"))
        yield f"| {side} | " + " | ".join(cells) + " |"


def _keep_table(one: Found, what: str) -> Iterator[str]:
    yield f"Samples that became pairs, by {what} (interval: {KEPT}):"
    yield from ("", f"| {what} | samples | pairs | share | 95 % |", "|---|---:|---:|---:|---:|")
    for value, rate in one.keep_rates(what).items():
        known = rate["low"] is not None
        interval = f"{rate['low']:.1%} to {rate['high']:.1%}" if known else "—"
        cells = f"{rate['samples']:,} | {rate['pairs']:,} | {rate['share']:.1%} | {interval}"
        yield f"| {value} | {cells} |"


def _percent(count: int, total: int) -> str:
    return f"{count / total:.1%}" if total else "—"


def main(argv: list[str]) -> None:
    """Command line of the step."""
    given = _parser().parse_args(argv)
    # Of all tasks the entangled one has the most variants.
    lineage = Lineage(given.variant, given.round or 1).checked("vanilla").mining
    folder = given.work / paths.mining(given.model, lineage) / "stats"
    # Also where nothing is left to count: the report takes what stands there for this mining's.
    (folder / "stats.json").unlink(missing_ok=True)
    found, left_out = collect([Mining(given.work, given.model, task, lineage) for task in TASKS])
    notes = [*notes_on(found), *left_out]
    text = markdown(found, notes)
    with files.exclusive(folder):
        files.write_text(folder / "stats.md", text)
        files.write_text(folder / "examples.md", examples(given.work, found, notes))
        for name in FIGURES:
            draw(name, found, notes, folder / f"{name}.png")
        told = {
            "notes": notes,
            "smoke": any(one.routed["smoke"] for one in found.values()),
            "table_1": {"here": table_1(found), "paper": PAPER_TABLE_1, "columns": PAPER_COLUMNS},
            "tasks": {task: one.row() for task, one in found.items()},
        }
        files.write_json(folder / "stats.json", told)
    print("\n".join(report(found, notes)))
    drawn = ", ".join(path.name for path in sorted(folder.glob("*.png")))
    print(f"written     {folder}/stats.json, stats.md, examples.md, {drawn}")


def _parser() -> argparse.ArgumentParser:
    parser = cli.parser(
        prog="python -m mining stats",
        description=__doc__,
        examples="  python -m mining stats\n  python -m mining stats --model qwen2.5-7b --round 2",
    )
    backbones.add_model(parser)
    cli.add_work(parser)
    add_lineage(parser)
    return parser
