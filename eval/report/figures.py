"""What the paper's figures, as the tables they are drawn from, have in common."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from esc.dialogue import interval_names
from esc.paths import EMBEDDED, SYSTEMS_OF_FIGURE_4, SYSTEMS_OF_TABLE_3, Kind
from esc.psych_errors import PsychError
from esc.records import Number, Proportions, Voted
from esc.strategies import Strategy
from esc.visible import visible
from eval import paper as paper_values
from eval.paper import DIMENSIONS, TABLE_1_COLUMNS, TABLE_1_PAIRS
from eval.report.manifest import Backbone, Run, Sources
from eval.report.parts import NOT_RUN, Cell, Figure, Table, TableRow, Todo
from eval.report.tables import Corpus, Mined, not_run, of_number, of_share, paper_of

NO_NUMBERS = "The paper prints no numbers for this figure."
CODES = tuple(strategy.code for strategy in Strategy)
STRATEGY_WORDS = "; ".join(f"{one.code} {one.value}" for one in Strategy) + "."
STACKED, POINTS, DIFFERENCES = "stacked", "points", "differences"


def gap(width: int, missing: str = NOT_RUN) -> tuple[Cell, ...]:
    """Cells that nothing fills yet."""
    return tuple(not_run(missing=missing) for _ in range(width))


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
    errors = [one for one in PsychError if one.value in TABLE_1_PAIRS]
    rows = []
    for mined in minings:
        task = mined.stats.tasks.get("rg") if mined.stats else None
        cells = gap(len(errors))
        if task:
            cells = _counted([task.errors.get(one, 0) for one in errors], smoke=mined.smoke)
        rows.append(TableRow(mined.model, cells))
    for place, column in enumerate(TABLE_1_COLUMNS[1:], start=1):
        count = [int(TABLE_1_PAIRS[one.value][place]) for one in errors]
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


INKS = {"light": "#1d2433", "dark": "#e7eaf1"}
"""Colour of the words, on a light and on a dark page."""
COLOURS = (
    *("#2f6bbf", "#b8651b", "#2f7f55", "#b84645"),
    *("#7a5fb5", "#85644f", "#a94e86", "#667080"),
)
"""Readable on white and on black, with white words on them."""
WIDTH, ROW, LINE, BOTTOM, LETTER = 5.0, 0.34, 0.21, 0.55, 0.08
"""Inches: of a figure, of each row, of a line of the legend, of the axis, of a label's letter."""
LEAST_NAMED = 8.5
"""Per cent of the axis: a smaller part has no room for its number."""


def pictures(figure: Figure) -> dict[str, str]:
    """The figure for a light and a dark page, each the address of an SVG image that it holds.

    Empty where it holds no number of ours. As an image a drawing runs and loads nothing.
    """
    rows = [row for row in figure.table.rows if any(map(_known, row.cells))]
    if all(row.of_paper for row in rows):
        return {}
    return {name: _drawn(figure, rows, ink) for name, ink in INKS.items()}


def _drawn(figure: Figure, rows: list[TableRow], ink: str) -> str:
    # Slow to import, and drawn by this step alone.
    import matplotlib as mpl
    from matplotlib.figure import Figure as Drawn

    # Questions are long: the backbone stands above each.
    between = "\n" if figure.drawing == DIFFERENCES else ": "
    labels = _labels(rows, between)
    lines = 1 if figure.drawing != STACKED else -(-len(figure.table.columns) // _in_a_line(figure))
    high = 0.2 + LINE * lines + ROW * len(rows) + BOTTOM
    coloured = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
    settings: dict[str, Any] = dict.fromkeys(coloured, ink) | {
        "svg.fonttype": "none",
        "svg.hashsalt": figure.table.name,
        "text.parse_math": False,
        "font.family": "sans-serif",
        "font.size": 10,
    }
    with mpl.rc_context(settings):
        drawn = Drawn(figsize=(WIDTH, high))
        # Laid out by hand: measuring text takes most of the time, and the browser has other fonts.
        lines_of = [line for label in labels for line in label.splitlines()]
        left = 0.15 + LETTER * max(map(len, lines_of))
        size = (WIDTH - left - 0.2) / WIDTH, ROW * len(rows) / high
        axes = drawn.add_axes((left / WIDTH, BOTTOM / high, *size))
        _DRAWINGS[figure.drawing](axes, figure, rows)
        axes.set_yticks([-place for place in range(len(rows))], labels)
        axes.set_ylim(0.5 - len(rows), 0.5)
        axes.set_xlabel(figure.axis)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
        stream = io.BytesIO()
        drawn.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(stream.getvalue()).decode()


def _known(cell: Cell) -> bool:
    return cell.value is not None


def _labels(rows: list[TableRow], between: str) -> list[str]:
    """What stands beside each row: its backbone only where there are several."""
    several = len({row.group for row in rows if row.group}) > 1
    return [
        (visible(row.group) + between if several and row.group else "") + visible(row.label)
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
    if figure.drawing == DIFFERENCES:
        axes.axvline(0, color="#888888", linewidth=1.2)
    else:
        axes.set_xlim(left=0)
    axes.grid(axis="x", color="#888888", alpha=0.35, linewidth=0.6)
    axes.set_axisbelow(True)
    if shown:
        axes.figure.legend(loc="upper center", ncols=2, frameon=False)


_DRAWINGS = {STACKED: _stacked, POINTS: _points, DIFFERENCES: _points}

ASKED = {
    "F1 ↑": "How near to the gold reply: F1",
    "Emp. ↑": "Empathy, a judge's, 0 to 5",
    "bias ↓": "Preference bias, lower is better",
    "Q_w ↑": "Strategy: weighted F1",
}
"""What the questions are answered by first, of the columns of Table 3."""


def answers(differences: Table, rq4: Table) -> tuple[Figure, ...]:
    """The paper's questions as pictures: one for a metric, a row for a question."""
    found = [
        _answer(f"answer-{place}", title, differences, differences.columns.index(column))
        for place, (column, title) in enumerate(ASKED.items(), start=1)
    ]
    return (*found, _answer("answer-rq4", "Replies without an error (%)", rq4, -1))


def _answer(name: str, title: str, of: Table, place: int) -> Figure:
    rows = tuple(
        TableRow(row.label.replace(" less ", " − "), (row.cells[place],), row.group)
        for row in of.rows
    )
    return Figure(
        Table(name, title, of.head, (of.columns[place],), rows), DIFFERENCES, "difference"
    )


_VOTED = ("decoupled_dpo", "vanilla_dpo")


def figure_6(sources: Sources, models: Sequence[str]) -> Figure:
    """Figure 6: people's choice between two systems; EscError where a file has another shape."""
    rows, notes, todo = [], [], []
    for model in models:
        path = Path("runs") / model / "human" / "human.json"
        a, b = (f"{sources.work / 'runs' / model / name}/predictions.jsonl" for name in _VOTED)
        make = f"python -m eval human --a {a} --b {b} --out {(sources.work / path).parent}"
        found = sources.known(path, Voted, f"{make} --read FILES")
        if found is None:
            rows += [TableRow(name, gap(3), model) for name in DIMENSIONS]
            todo.append(Todo(f"{model} votes", f"{make}, then --read with the sheets filled in"))
            continue
        first, second = found.a.get("name", "a"), found.b.get("name", "b")
        notes.append(
            f"{model}: {first} against {second}, {len(found.annotators)} annotators; intervals and "
            "sign tests are over turns."
        )
        for name, votes in found.dimensions.items():
            shares = (votes.win, votes.tie, votes.lose)
            cells = tuple(
                of_share(one, votes.n, smoke=found.smoke or model == EMBEDDED) for one in shares
            )
            rows.append(TableRow(name, cells, model))
            if said := votes.sign_test.get("said"):
                notes.append(f"{model}, {name}: {said}.")
    table = Table(
        "figure-6",
        "Figure 6: people's choice, Decoupled DPO against Vanilla DPO",
        "dimension",
        ("win", "tie", "lose"),
        tuple(rows),
        (*notes, NO_NUMBERS),
        tuple(todo),
    )
    return Figure(table, STACKED, "share of the turns (%)")


ERRORS = tuple("No error" if one is PsychError.NONE else one.value for one in PsychError)
VANILLA, DECOUPLED = SYSTEMS_OF_TABLE_3[:6], SYSTEMS_OF_TABLE_3[6:]


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
        for kind, run in one.of(SYSTEMS_OF_TABLE_3):
            cells = gap(len(CODES), run.missing)
            if run.metrics:
                shares = run.metrics.strategy.distribution.predicted
                cells = _shares(shares, run.smoke(run.metrics))
            rows.append(TableRow(kind.label, cells, one.model))
    todo = tuple(todo for one in backbones for todo in one.todo(SYSTEMS_OF_TABLE_3))
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
        for kind, run in one.of(SYSTEMS_OF_FIGURE_4):
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
    todo = tuple(todo for one in backbones for todo in one.todo(SYSTEMS_OF_FIGURE_4))
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
        for kind, run in one.of(SYSTEMS_OF_TABLE_3):
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
        tuple(todo for one in backbones for todo in one.todo(SYSTEMS_OF_TABLE_3)),
    )
    return Figure(table, POINTS, "preference bias")
