"""Tables 3, 4 and 5, and what the paper leaves out of them: baselines, other metrics, counts."""

from collections.abc import Callable, Sequence

from esc.paper_systems import FIGURE_4, TABLE_3, TABLE_4, TABLE_5, Kind
from eval import paper_values
from eval.report.cells import (
    Paper,
    judge_cells,
    not_run,
    of_number,
    paper_of,
    strategy_cells,
    text_cells,
)
from eval.report.page import Cell, Table, TableRow
from eval.report.runs import Backbone, Run
from eval.report.shapes import Baseline, Metrics, Number

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
ALL_KINDS = (*TABLE_3, *TABLE_4, *TABLE_5[:3], FIGURE_4[0])
"""Every run of the paper once."""


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
            rows.append(TableRow(kind.label, tuple(judge_cells(run, papers)), one.model))
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


def corpus_family(backbones: Sequence[Backbone]) -> Table:
    """Text metrics whose counts are summed over all replies first."""

    def cells(metrics: Metrics | Baseline, smoke: bool) -> list[Cell]:
        if metrics.text is None:
            return []
        text = metrics.text.corpus
        numbers = (text.bleu, text.distinct1, text.distinct2, text.ead, text.rouge_l)
        return [of_number(one, smoke=smoke) for one in numbers]

    return _measured(
        backbones,
        "table-corpus",
        "Text metrics over the whole corpus",
        ("BLEU ↑", "D-1 ↑", "D-2 ↑", "EAD ↑", "R-L ↑"),
        cells,
        "The other family, never mixed with the paper's: sacreBLEU, Distinct of all replies "
        "together, EAD, ROUGE-L with beta 1. The paper has no numbers of it.",
    )


def strategy_extras(backbones: Sequence[Backbone]) -> Table:
    """What bias and F1 leave open: unreadable strategies, distance, calibration."""

    def cells(metrics: Metrics | Baseline, smoke: bool) -> list[Cell]:
        strategy = metrics.strategy
        rest, valid = strategy.invalid_rate, strategy.without_invalid
        numbers = [
            of_number(rest, smoke=smoke, unit=" %"),
            of_number(strategy.bias_converged, smoke=smoke),
            of_number(strategy.js_distance, smoke=smoke, form=".3f"),
            of_number(strategy.calibration.ece, smoke=smoke, form=".3f"),
        ]
        for one in (valid.bias, valid.weighted_f1, valid.macro_f1):
            numbers.append(of_number(one, smoke=smoke))
        return numbers

    return _measured(
        backbones,
        "table-strategies",
        "Strategies, beyond bias and F1",
        (
            "invalid ↓",
            "bias, converged ↓",
            "JS distance ↓",
            "ECE ↓",
            "bias, valid only ↓",
            "Q_w, valid only ↑",
            "Q, valid only ↑",
        ),
        cells,
        "Invalid: no strategy can be read; the headline counts it as predicted Others, valid only "
        "leaves it out, as the paper's authors do. JS: Jensen-Shannon distance to gold. ECE: "
        "calibration of the planner's eight probabilities; systems without them have none.",
    )


def counts(backbones: Sequence[Backbone]) -> Table:
    """What is behind every number: how many turns, and how many have no reply or no score."""
    columns = (
        "turns",
        "strategy unreadable",
        "reply empty",
        "request failed",
        "unscored by the judge",
        "unscored error types",
    )
    rows = []
    for one in backbones:
        for kind in ALL_KINDS:
            run = one.runs[kind.name]
            cells = _counts(run)
            if any(cell.value is not None for cell in cells):
                rows.append(TableRow(_label(kind), cells, one.model))
        rows += [TableRow(run.label, _counts(run), one.model) for run in one.others if run.metrics]
    note = "Systems that were not run are left out here; Tables 3 to 5 name them."
    return Table("table-counts", "What was counted", "system", columns, tuple(rows), (note,))


def _counts(run: Run) -> tuple[Cell, ...]:
    found: list[int | None] = [None] * 6
    smoke = [False] * 6
    if run.metrics:
        one = run.metrics
        found[:4] = [one.n, one.strategy.invalid, one.empty, one.failed]
        smoke[:4] = [run.smoke(one)] * 4
    if run.judged:
        found[4] = sum(one.unscored.total for one in run.judged.dimensions.all())
        smoke[4] = run.smoke(run.judged)
    if run.errors:
        found[5], smoke[5] = run.errors.unscored.total, run.smoke(run.errors)
    return tuple(
        not_run(missing=run.missing) if value is None else Cell(value, form=",.0f", smoke=marked)
        for value, marked in zip(found, smoke, strict=True)
    )


def _label(kind: Kind) -> str:
    return f"Vanilla DPO, {kind.label}" if kind.lineage.variant else kind.label


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
    return TableRow(kind.label if kind else run.label, cells, backbone.model)


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


def _measured(
    backbones: Sequence[Backbone],
    name: str,
    title: str,
    columns: tuple[str, ...],
    cells: Callable[[Metrics | Baseline, bool], list[Cell]],
    note: str,
) -> Table:
    """A table of automatic metrics that the paper does not have."""
    rows = []
    for one in backbones:
        for kind in ALL_KINDS:
            run = one.runs[kind.name]
            empty = [not_run(missing=run.missing)] * len(columns)
            found = cells(run.metrics, run.smoke(run.metrics)) if run.metrics else empty
            rows.append(TableRow(_label(kind), tuple(found), one.model))
        for run in one.others:
            if run.metrics:
                found = cells(run.metrics, run.smoke(run.metrics))
                rows.append(TableRow(run.label, tuple(found), one.model))
        for run, metrics in one.measured[:1]:
            for baseline, of_baseline in metrics.baselines.items():
                found = cells(of_baseline, run.smoke(metrics))
                if found and any(cell.value is not None for cell in found):
                    rows.append(TableRow(f"baseline: {baseline}", tuple(found), one.model))
    todo = tuple(todo for one in backbones for todo in one.todo(ALL_KINDS))
    return Table(name, title, "system", columns, tuple(rows), (note,), todo)


def _turns_notes(backbones: Sequence[Backbone]) -> list[str]:
    notes = []
    for one in backbones:
        sizes = {metrics.n for _, metrics in one.measured}
        if len(sizes) > 1:
            told = ", ".join(f"{size:,}" for size in sorted(sizes))
            notes.append(
                f"{one.model}: its systems were measured on different numbers of turns ({told}); "
                "compare them with care. Baselines are on those of the first."
            )
        by = {metrics.resampled_by for _, metrics in one.measured}
        if by:
            notes.append(
                f"{one.model}: intervals are of 95 %, resampled by {' or '.join(sorted(by))}."
            )
        judges = {run.judged.judge for run in one.runs.values() if run.judged}
        if judges:
            notes.append(f"{one.model}: judged by {', '.join(sorted(judges))}.")
    return notes
