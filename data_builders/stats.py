"""What the training set holds, beside the paper: Table 1 (upper half), Table 6 and Figure 8.

    python -m data_builders stats

Reads ``data/rg_sft_train.jsonl``; writes ``data/stats/stats.json``, ``stats.md`` and
``strategies_by_progress.png``. The lower half of Table 1 belongs to ``mining``.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

from esc import cli, files, paths
from esc.dialogue import INTERVALS, interval, interval_names
from esc.exceptions import EscError
from esc.files import Row
from esc.strategies import Strategy, tag

# Table 1, upper half, and Table 6 of the paper.
PAPER_TABLE_1 = {
    "dialogues": 1040.0,
    "utterances": 29526.0,
    "supporter utterances": 14763.0,
    "seeker utterances": 14763.0,
    "utterances per dialogue": 28.40,
    "turns per dialogue": 14.20,
    "characters per utterance": 95.85,
    "characters per supporter utterance": 112.17,
    "characters per seeker utterance": 79.54,
}
# By the paper's short names: a strategy that it does not have has no number there.
PAPER_TABLE_6 = {
    **{"Qu": 3060, "RP": 857, "RF": 1146, "Sd": 1387},
    **{"AR": 2288, "PS": 2373, "In": 989, "Ot": 2663},
}


@dataclass(frozen=True, slots=True)
class Statistics:
    """The figures of one training set."""

    table_1: dict[str, float]
    """Counts, and characters with the strategy's tag for the supporter."""
    table_6: dict[str, int]
    """Supporter turns per strategy."""
    figure_8: list[dict[str, float]]
    """Per interval of progress, the share of each strategy (0 to 1); empty intervals hold 0."""


def statistics(rows: Iterable[Row]) -> Statistics:
    """The figures of RG rows of one split; EscError if there are none."""
    dialogues: set[int] = set()
    seeker = supporter = 0
    per_strategy: Counter[Strategy] = Counter()
    by_progress = [Counter[Strategy]() for _ in range(INTERVALS)]
    for row in rows:
        strategy = Strategy(row["strategy"])
        dialogues.add(row["provenance"]["dialogue"])
        seeker += len(row["instruction"])
        supporter += len(tag(strategy, row["output"]))
        per_strategy[strategy] += 1
        by_progress[interval(row["provenance"]["turn"], row["provenance"]["turns"])][strategy] += 1
    turns = per_strategy.total()
    if not turns:
        raise EscError("the training set is empty; run 'make data' first")
    return Statistics(
        table_1=dict(
            zip(
                PAPER_TABLE_1,
                (
                    len(dialogues),
                    2 * turns,
                    turns,
                    turns,
                    2 * turns / len(dialogues),
                    turns / len(dialogues),
                    (seeker + supporter) / (2 * turns),
                    supporter / turns,
                    seeker / turns,
                ),
                strict=True,
            )
        ),
        table_6={strategy.value: per_strategy[strategy] for strategy in Strategy},
        figure_8=[
            {s.value: counts[s] / (counts.total() or 1) for s in Strategy} for counts in by_progress
        ],
    )


def markdown(found: Statistics, notes: list[str]) -> str:
    """Both tables and the figure's numbers, each beside the paper's."""
    total = sum(found.table_6.values())
    paper_total = sum(PAPER_TABLE_6.values())
    lines = ["# The training set beside the paper", *(f"\n{note}" for note in notes)]
    lines += ["", "## Table 1, upper half", "", "| | here | paper |", "|---|---:|---:|"]
    for name, value in found.table_1.items():
        digits = 0 if float(PAPER_TABLE_1[name]).is_integer() else 2
        lines.append(f"| {name} | {value:,.{digits}f} | {PAPER_TABLE_1[name]:,.{digits}f} |")
    lines += ["", "## Table 6", "", "| strategy | here | share | paper | share |"]
    lines += ["|---|---:|---:|---:|---:|"]
    for strategy in Strategy:
        mine, theirs = found.table_6[strategy], PAPER_TABLE_6.get(strategy.code)
        paper = f"{theirs:,} | {theirs / paper_total:.2%}" if theirs else "not in it |"
        lines.append(f"| {strategy} ({strategy.code}) | {mine:,} | {mine / total:.2%} | {paper} |")
    lines += ["", "## Figure 8", "", "Share of each strategy over the progress of a dialogue "]
    lines[-1] += "(the paper prints no numbers):"
    lines += ["", "| progress | " + " | ".join(s.code for s in Strategy) + " |"]
    lines += ["|---|" + "---:|" * len(Strategy)]
    for name, shares in zip(interval_names(), found.figure_8, strict=True):
        lines.append(f"| {name} | " + " | ".join(f"{shares[s]:.1%}" for s in Strategy) + " |")
    return "\n".join(lines) + "\n"


def draw(found: Statistics, notes: list[str], path: Path) -> None:
    """Figure 8 as a stacked bar chart in a PNG."""
    # Slow to import, and drawn by this step alone.
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    bottom = [0.0] * INTERVALS
    for strategy, colour in zip(Strategy, cycle(colormaps["tab10"].colors), strict=False):  # type: ignore[attr-defined]
        shares = [interval_shares[strategy] * 100 for interval_shares in found.figure_8]
        axes.bar(interval_names(), shares, bottom=bottom, label=strategy.value, color=colour)
        for position, (base, share) in enumerate(zip(bottom, shares, strict=True)):
            if share >= 6:
                middle = base + share / 2
                axes.text(position, middle, f"{share:.0f}", ha="center", va="center", color="white")
        bottom = [base + share for base, share in zip(bottom, shares, strict=True)]
    axes.set_ylim(0, 100)
    axes.set_xlabel("progress of the dialogue")
    axes.set_ylabel("share of supporter turns (%)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title("\n".join(["Strategies over the dialogue (Figure 8)", *notes]), fontsize=10)
    handles, labels = axes.get_legend_handles_labels()
    # Reversed, so that the legend reads in the order of the bars.
    axes.legend(handles[::-1], labels[::-1], bbox_to_anchor=(1.01, 0.5), loc="center left")
    with files.atomic_writer(path) as stream:
        figure.savefig(stream, format="png", dpi=150)


def notes_on(manifest: dict[str, Any]) -> list[str]:
    """What a reader must know of the numbers: the smoke mark, options that are not the paper's."""
    options, kind = manifest["options"], manifest["corpus"]["kind"]
    notes = []
    if manifest["smoke"]:
        notes.append("SMOKE: the numbers here are of the sample corpus, no result")
    elif kind != "esconv":
        notes.append(f"the numbers here are of another corpus ({manifest['corpus']['origin']})")
    if options["LIMIT"] is not None:
        notes.append(f"a subset: LIMIT={options['LIMIT']} dialogues per split")
    if options["SPLIT"] != "paper":
        notes.append(f"split {options['SPLIT']}, not the paper's")
    if options["CONSECUTIVE"] != "separate":
        notes.append(f"consecutive supporter utterances: {options['CONSECUTIVE']}")
    return notes


def main(argv: list[str]) -> None:
    """Command line of the step."""
    parser = cli.parser(
        prog="python -m data_builders stats",
        description=__doc__,
        examples="  python -m data_builders stats\n  python -m data_builders stats --work demo",
    )
    cli.add_work(parser)
    work = parser.parse_args(argv).work
    manifest = files.read_json(paths.data_manifest(work), made_by="make data")
    notes = notes_on(manifest)
    found = statistics(files.read_jsonl(work / paths.sft_file("rg", "train")))
    written = paths.data_stats(work)
    folder = written.parent
    text = markdown(found, notes)
    draw(found, notes, folder / "strategies_by_progress.png")
    files.write_text(folder / "stats.md", text)
    table_6 = {s.value: PAPER_TABLE_6[s.code] for s in Strategy if s.code in PAPER_TABLE_6}
    paper = {"table_1": PAPER_TABLE_1, "table_6": table_6, "figure_8": None}
    files.write_json(
        written,
        {"notes": notes, "options": manifest["options"], "here": asdict(found), "paper": paper},
    )
    print(text)
    print(f"written  {written}, stats.md, strategies_by_progress.png")
