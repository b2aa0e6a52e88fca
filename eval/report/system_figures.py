"""Figures of the systems: 2 and 7 (errors), 3 (strategies), 4 (mixes of pairs), and bias."""

from collections.abc import Sequence
from pathlib import Path

from esc.paper_systems import FIGURE_4, TABLE_3, Kind
from esc.psych_errors import PsychError
from esc.strategies import Strategy
from eval import paper_values
from eval.report.cells import not_run, of_number, of_share, paper_of
from eval.report.figures import CODES, NO_NUMBERS, POINTS, STACKED, STRATEGY_WORDS, gap
from eval.report.page import Cell, Figure, Table, TableRow, Todo
from eval.report.runs import Backbone, Run
from eval.report.shapes import Number, Proportions
from eval.report.sources import Sources

ERRORS = tuple("No error" if one is PsychError.NONE else one.value for one in PsychError)
VANILLA, DECOUPLED = TABLE_3[:6], TABLE_3[6:]


def figure_2(sources: Sources, backbones: Sequence[Backbone], failed: Proportions | None) -> Figure:
    """Figure 2: errors of FailedESConv and of the entangled systems."""
    rows = []
    todo: tuple[Todo, ...] = ()
    notes = []
    if failed:
        rows.append(TableRow("FailedESConv", _error_cells(failed, smoke=failed.smoke)))
        notes.append(_made_by("FailedESConv", failed))
    else:
        rows.append(TableRow("FailedESConv", gap(len(ERRORS))))
        command = sources.make("eval", FAILED_ESCONV="FailedESConv.json")
        todo = (Todo("FailedESConv", command),)
    return _errors(
        "figure-2",
        "Figure 2: psychological errors of FailedESConv and of vanilla systems",
        rows,
        todo,
        backbones,
        (VANILLA, ("vanilla_sft",)),
        *notes,
    )


def figure_7(backbones: Sequence[Backbone]) -> Figure:
    """Figure 7: errors under the decoupled framework."""
    return _errors(
        "figure-7",
        "Figure 7: psychological errors under the decoupled framework",
        [],
        (),
        backbones,
        (DECOUPLED, ("decoupled_sft", "decoupled_dpo")),
        "The paper's text names one number: 27 % without an error for Decoupled DPO (6.2).",
    )


def read_failed(sources: Sources) -> Proportions | None:
    """The errors of FailedESConv; EscError where the file has another shape."""
    path = Path("runs/failed_esconv/errors/proportions.json")
    renew = sources.make("eval", FAILED_ESCONV="FailedESConv.json", FORCE=1)
    return sources.known(path, Proportions, renew)


def _errors(
    name: str,
    title: str,
    rows: list[TableRow],
    todo: tuple[Todo, ...],
    backbones: Sequence[Backbone],
    wanted: tuple[tuple[Kind, ...], tuple[str, ...]],
    *notes: str,
) -> Figure:
    """Errors of every run of ``wanted`` that was classified; the paper's own are named anyway."""
    kinds, of_paper = wanted
    judges = set()
    for one in backbones:
        for kind, run in one.of(kinds):
            if run.errors:
                judges.add(_made_by(one.model, run.errors))
                cells = _error_cells(run.errors, smoke=run.smoke(run.errors))
                rows.append(TableRow(kind.label, cells, one.model))
            elif kind.name in of_paper:
                rows.append(TableRow(kind.label, gap(len(ERRORS), run.missing), one.model))
                todo += (Todo(f"{one.model} {kind.label}", run.todo),)
    table = Table(
        name, title, "replies of", ERRORS, tuple(rows), (*notes, NO_NUMBERS, *sorted(judges)), todo
    )
    return Figure(table, STACKED, "share of the replies (%)")


def _made_by(what: str, found: Proportions) -> str:
    return f"{what}: classified by {found.judge}; intervals: {found.interval}."


def _error_cells(found: Proportions, *, smoke: bool) -> tuple[Cell, ...]:
    return tuple(
        of_share(found.errors[error], found.n, smoke=smoke)
        if error in found.errors
        else Cell(missing="—")
        for error in PsychError
    )


def figure_3(backbones: Sequence[Backbone]) -> Figure:
    """Figure 3: strategies of the systems beside gold."""
    rows = []
    for one in backbones:
        for run, metrics in one.measured[:1]:
            gold = metrics.strategy.distribution.gold
            rows.append(TableRow("gold", _shares(gold, run.smoke(metrics)), one.model))
        for kind, run in one.of(TABLE_3):
            cells = gap(len(CODES), run.missing)
            if run.metrics:
                shares = run.metrics.strategy.distribution.predicted
                cells = _shares(shares, run.smoke(run.metrics))
            rows.append(TableRow(kind.label, cells, one.model))
    todo = tuple(todo for one in backbones for todo in one.todo(TABLE_3))
    table = Table(
        "figure-3",
        "Figure 3: strategies of the systems beside gold",
        "strategies of",
        CODES,
        tuple(rows),
        (STRATEGY_WORDS, NO_NUMBERS),
        todo,
    )
    return Figure(table, STACKED, "share of the turns (%)")


def _shares(found: dict[Strategy, Number], smoke: bool) -> tuple[Cell, ...]:
    return tuple(
        of_number(found[strategy], smoke=smoke, form=".1f", unit=" %")
        if strategy in found
        else Cell(missing="—")
        for strategy in Strategy
    )


def figure_4(backbones: Sequence[Backbone]) -> tuple[Figure, Figure]:
    """Figure 4: (a) bias and (b) preference of vanilla DPO on two mixes of pairs."""
    bias, liked = [], []
    for one in backbones:
        for kind, run in one.of(FIGURE_4):
            bias.append(TableRow(kind.label, (_bias(run),), one.model))
            cells = gap(len(CODES), run.missing)
            if run.metrics:
                smoke, found = run.smoke(run.metrics), run.metrics.strategy.preference
                cells = tuple(
                    of_number(found[strategy], smoke=smoke)
                    if strategy in found
                    else Cell(missing="—")
                    for strategy in Strategy
                )
            liked.append(TableRow(kind.label, cells, one.model))
    todo = tuple(todo for one in backbones for todo in one.todo(FIGURE_4))
    title = "vanilla DPO on (PsPr, PsNr) and on (PsPr, NsNr)"
    first = Table(
        "figure-4a",
        f"Figure 4 (a): preference bias of {title}",
        "pairs",
        ("bias ↓",),
        tuple(bias),
        ("The bias of the second mix is printed in Table 5.",),
        todo,
    )
    second = Table(
        "figure-4b",
        f"Figure 4 (b): strategy preference of {title}",
        "pairs",
        CODES,
        tuple(liked),
        (STRATEGY_WORDS, "1 is no preference; the eight sum to 8.", NO_NUMBERS),
        todo,
    )
    return Figure(first, POINTS, "bias"), Figure(second, STACKED, "preference (sum 8)")


def _bias(run: Run) -> Cell:
    if run.metrics is None:
        return not_run(missing=run.missing)
    return of_number(run.metrics.strategy.bias, smoke=run.smoke(run.metrics))


def figure_bias(backbones: Sequence[Backbone]) -> Figure:
    """Bias with intervals over all systems, beside the paper's and the baselines'."""
    rows = []
    place = paper_values.METRICS.index("bias")
    for one in backbones:
        for kind, run in one.of(TABLE_3):
            paper = paper_of(paper_values.TABLE_3, one.model, kind.name, place)
            cell = not_run(paper, run.missing)
            if run.metrics:
                number = run.metrics.strategy.bias
                cell = of_number(number, smoke=run.smoke(run.metrics), paper=paper)
            rows.append(TableRow(kind.label, (cell,), one.model))
        for run, metrics in one.measured[:1]:
            for name, baseline in metrics.baselines.items():
                cell = of_number(baseline.strategy.bias, smoke=run.smoke(metrics))
                rows.append(TableRow(f"baseline: {name}", (cell,), one.model))
    table = Table(
        "figure-bias",
        "Preference bias with 95 % intervals",
        "system",
        ("bias ↓",),
        tuple(rows),
        ("Hollow marks are the paper's values (Table 3).",),
        tuple(todo for one in backbones for todo in one.todo(TABLE_3)),
    )
    return Figure(table, POINTS, "preference bias")
