"""Figures of the data: 8 (strategies over a dialogue), 9 and 10 (the mined pairs)."""

from collections.abc import Sequence

from esc.progress import interval_names
from esc.psych_errors import PsychError
from esc.strategies import Strategy
from eval import paper_values
from eval.report.cells import not_run
from eval.report.data_tables import Corpus, Mined
from eval.report.figures import CODES, NO_NUMBERS, STACKED, STRATEGY_WORDS, gap
from eval.report.page import Cell, Figure, Table, TableRow


def figure_8(corpus: Corpus) -> Figure:
    """Figure 8: strategies over the course of a dialogue."""
    shares = corpus.stats.here.figure_8 if corpus.stats else [{}] * len(interval_names())
    rows = tuple(
        TableRow(
            name,
            tuple(
                Cell(100 * part[one], form=".1f", unit=" %", smoke=corpus.smoke)
                if one in part
                else not_run(missing=corpus.missing)
                for one in Strategy
            ),
        )
        for name, part in zip(interval_names(), shares, strict=False)
    )
    table = Table(
        "figure-8",
        "Figure 8: strategies over the course of a dialogue, train set",
        "progress",
        CODES,
        rows,
        (*corpus.notes, STRATEGY_WORDS, NO_NUMBERS),
        corpus.todo,
    )
    return Figure(table, STACKED, "share of the supporter's turns (%)")


def figure_9(minings: Sequence[Mined]) -> Figure:
    """Figure 9: strategies of chosen and rejected answers."""
    rows = []
    for mined in minings:
        task = mined.stats.tasks.get("sp") if mined.stats else None
        for side in ("chosen", "rejected"):
            cells = gap(len(CODES))
            if task:
                count = [
                    getattr(task.strategies[one], side) if one in task.strategies else 0
                    for one in Strategy
                ]
                cells = _counted(count, smoke=mined.smoke)
            rows.append(TableRow(side, cells, mined.model))
    table = Table(
        "figure-9",
        "Figure 9: strategies of the planner's pairs",
        "side",
        CODES,
        tuple(rows),
        (STRATEGY_WORDS, NO_NUMBERS),
        tuple(todo for mined in minings for todo in mined.todo),
    )
    return Figure(table, STACKED, "share of the pairs (%)")


def figure_10(minings: Sequence[Mined]) -> Figure:
    """Figure 10: errors of the rejected replies, beside the counts of the paper's Table 1."""
    errors = [one for one in PsychError if one.value in paper_values.TABLE_1_PAIRS]
    rows = []
    for mined in minings:
        task = mined.stats.tasks.get("rg") if mined.stats else None
        cells = gap(len(errors))
        if task:
            cells = _counted([task.errors.get(one, 0) for one in errors], smoke=mined.smoke)
        rows.append(TableRow(mined.model, cells))
    for place, column in enumerate(paper_values.TABLE_1_COLUMNS[1:], start=1):
        count = [int(paper_values.TABLE_1_PAIRS[one.value][place]) for one in errors]
        rows.append(TableRow(f"paper, {column}", _counted(count, smoke=False), of_paper=True))
    table = Table(
        "figure-10",
        "Figure 10: psychological errors of the rejected replies",
        "pairs of",
        tuple(one.value for one in errors),
        tuple(rows),
        ("The paper's counts are those of its Table 1.",),
        tuple(todo for mined in minings for todo in mined.todo),
    )
    return Figure(table, STACKED, "share of the response pairs (%)")


def _counted(count: Sequence[int], *, smoke: bool) -> tuple[Cell, ...]:
    """Counts as shares of their sum."""
    total = sum(count)
    return tuple(
        Cell(
            100 * one / total if total else None,
            n=total,
            form=".1f",
            unit=" %",
            smoke=smoke,
            missing="" if total else "no pair",
            note=f"{one:,} counted",
        )
        for one in count
    )
