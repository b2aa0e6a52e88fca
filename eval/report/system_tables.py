"""Tables 3, 4 and 5, and what the paper leaves out of them: baselines, other metrics, counts."""

from collections.abc import Sequence

from esc.paper_systems import TABLE_3, TABLE_4, TABLE_5, Kind
from eval import paper_values
from eval.report.cells import (
    Paper,
    judge_cells,
    of_number,
    paper_of,
    strategy_cells,
    text_cells,
)
from eval.report.page import Cell, Table, TableRow
from eval.report.runs import Backbone, Run
from eval.report.shapes import Baseline, Number

COLUMNS = (
    *("D-1 ↑", "B-1 ↑", "F1 ↑", "R-L ↑"),
    *("Flu. ↑", "Pro. ↑", "Emp. ↑", "Hel. ↑"),
    *("bias ↓", "Q_w ↑", "Q ↑"),
)
NO_SKILL = (
    "Bias alone shows no skill: strategies drawn at random as often as gold has them "
    "(gold-marginal-random) know nothing of the conversation and have a small bias all the same; "
    "the paper's best is 0.15 (Table 3, Llama, Decoupled DPO). Read it beside Q_w and Q."
)
LENGTH = (
    "D-1 of this family is within one reply, near 90, and mostly follows length: the corpus's own "
    "replies are the row gold."
)


def table_3(backbones: Sequence[Backbone]) -> Table:
    """Table 3, with the baselines under every backbone."""
    rows = []
    for one in backbones:
        rows += [_full_row(one, kind, run, paper_values.TABLE_3) for kind, run in one.of(TABLE_3)]
        rows += _baseline_rows(one)
    return Table(
        "table-3",
        "Table 3: systems under both paradigms",
        "system",
        COLUMNS,
        tuple(rows),
        (NO_SKILL, LENGTH, *_turns_notes(backbones)),
        tuple(todo for one in backbones for todo in one.todo(TABLE_3)),
    )


def table_4(backbones: Sequence[Backbone]) -> Table:
    """Table 4: the generator under the gold strategy."""
    rows = []
    for one in backbones:
        for kind, run in one.of(TABLE_4):
            papers = _papers(paper_values.TABLE_4, one.model, kind.name, 4)
            cells = tuple(judge_cells(run, papers))
            rows.append(TableRow(kind.label, cells, one.model, measured_on=run.measured_on))
    return Table(
        "table-4",
        "Table 4: the response generator under the gold strategy",
        "training",
        COLUMNS[4:8],
        tuple(rows),
        (),
        tuple(todo for one in backbones for todo in one.todo(TABLE_4)),
    )


def table_5(backbones: Sequence[Backbone]) -> Table:
    """Table 5: the entangled model on four mixes of pairs."""
    rows = [
        _full_row(one, kind, run, paper_values.TABLE_5)
        for one in backbones
        for kind, run in one.of(TABLE_5)
    ]
    note = (
        "P is positive, N negative, s the strategy, r the response; chosen > rejected. The last "
        "row is Table 3's Vanilla DPO."
    )
    return Table(
        "table-5",
        "Table 5: vanilla DPO on different mixes of pairs",
        "pairs",
        COLUMNS,
        tuple(rows),
        (note,),
        tuple(todo for one in backbones for todo in one.todo(TABLE_5)),
    )


def other_runs(backbones: Sequence[Backbone]) -> Table | None:
    """Runs that are no row of the paper: other losses, later rounds, other systems."""
    rows = [_full_row(one, None, run, {}) for one in backbones for run in one.others if run.metrics]
    if not rows:
        return None
    note = "No rows of the paper: other losses, later rounds, and systems measured like ours."
    return Table("table-others", "Further systems", "run", COLUMNS, tuple(rows), (note,))


def _papers(
    table: dict[str, dict[str, tuple[float | None, ...]]] | dict[str, dict[str, tuple[float, ...]]],
    model: str,
    row: str,
    width: int,
) -> list[Paper]:
    return [paper_of(table, model, row, place) if table else () for place in range(width)]


def _full_row(
    backbone: Backbone,
    kind: Kind | None,
    run: Run,
    table: dict[str, dict[str, tuple[float | None, ...]]],
) -> TableRow:
    papers = _papers(table, backbone.model, run.name, len(COLUMNS))
    cells = (
        *text_cells(run, papers[:4]),
        *judge_cells(run, papers[4:8]),
        *strategy_cells(run, papers[8:]),
    )
    label = kind.label if kind else run.label
    return TableRow(label, cells, backbone.model, measured_on=run.measured_on)


def _baseline_rows(backbone: Backbone) -> list[TableRow]:
    """Baselines on the turns of the first run that was measured: they depend on gold alone."""
    rows = []
    for run, metrics in backbone.measured[:1]:
        for name, one in metrics.baselines.items():
            rows.append(_baseline_row(name, one, backbone.model, run.smoke(metrics)))
    return rows


def _baseline_row(name: str, one: Baseline, model: str, smoke: bool) -> TableRow:
    strategy = one.strategy
    text: list[Number | None] = [None] * 4
    if one.text:
        paper = one.text.paper
        text = [paper.distinct1, paper.bleu1, paper.f1, paper.rouge_l]
    numbers = [*text, *[None] * 4, strategy.bias, strategy.weighted_f1, strategy.macro_f1]
    return TableRow(
        f"baseline: {name}",
        tuple(_or_dash(number, smoke) for number in numbers),
        model,
    )


def _or_dash(number: Number | None, smoke: bool) -> Cell:
    if number is None or number.value is None:
        return Cell(missing="—")
    return of_number(number, smoke=smoke)


def _turns_notes(backbones: Sequence[Backbone]) -> list[str]:
    notes = []
    for one in backbones:
        if len({metrics.turns for _, metrics in one.measured}) > 1:
            notes.append(
                f"{one.model}: its systems were not all measured on the same turns, as their rows "
                "say; such numbers are not subtracted. Baselines are on those of the first."
            )
        splits = {run.split for run, _ in one.measured if run.split}
        if splits:
            notes.append(f"{one.model}: measured on {' and '.join(sorted(splits))}.")
        if drawn := {run.sampling for run, _ in one.measured if run.sampling}:
            notes.append(f"{one.model}: answers drawn by {' or '.join(sorted(drawn))}.")
        by = {metrics.resampled_by for _, metrics in one.measured}
        if by:
            notes.append(
                f"{one.model}: intervals are of 95 %, resampled by {' or '.join(sorted(by))}."
            )
        judges = {run.judged.judge for run in one.runs.values() if run.judged}
        if judges:
            notes.append(f"{one.model}: judged by {', '.join(sorted(judges))}.")
    return notes
