"""Tables that the paper does not have: the other text metrics, more of the strategies, counts."""

from collections.abc import Callable, Sequence

from esc.paper_systems import FIGURE_4, TABLE_3, TABLE_4, TABLE_5, Kind
from eval.report.cells import not_run, of_number
from eval.report.page import Cell, Table, TableRow
from eval.report.runs import Backbone, Run
from eval.report.shapes import Baseline, Metrics

ALL_KINDS = (*TABLE_3, *TABLE_4, *TABLE_5[:3], FIGURE_4[0])
"""Every run of the paper once."""


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
        rest, every = strategy.invalid_rate, strategy.all_turns
        numbers = [
            of_number(rest, smoke=smoke, unit=" %"),
            of_number(strategy.bias_converged, smoke=smoke),
            of_number(strategy.js_distance, smoke=smoke, form=".3f"),
            of_number(strategy.calibration.ece, smoke=smoke, form=".3f"),
        ]
        for one in (every.bias, every.weighted_f1, every.macro_f1):
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
            "bias, all turns ↓",
            "Q_w, all turns ↑",
            "Q, all turns ↑",
        ),
        cells,
        "Invalid: no strategy can be read; the headline leaves it out, as the paper's authors do, "
        "all turns count it as predicted Others. JS: Jensen-Shannon distance to gold. ECE: "
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
            rows.append(
                TableRow(_label(kind), tuple(found), one.model, measured_on=run.measured_on)
            )
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
