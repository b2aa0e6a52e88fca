"""What a training or a paradigm changes, and whether that is more than noise.

Where ``runs/<model>/comparisons.json`` holds the paired comparison of two systems' predictions of
now, its interval decides; else two intervals that overlap count as inside the noise, which the
cell says.
"""

from collections.abc import Sequence
from pathlib import Path

from esc.backbones import EMBEDDED
from esc.psych_errors import PsychError
from eval import paper_values
from eval.comparisons import COMPARISONS, QUESTIONS
from eval.report.cells import Paper, judge_cells, not_run, paper_of, strategy_cells, text_cells
from eval.report.data_shapes import Comparison, Comparisons, ErrorDifferences
from eval.report.page import NOT_RUN, STALE, UNDEFINED, Cell, Table, TableRow, Todo
from eval.report.runs import PREDICTIONS, Backbone, Run
from eval.report.sources import Sources
from eval.report.system_tables import COLUMNS

NOISE, CLEAR = "inside the noise", "outside the noise"
OVERLAP = "(overlap)"
OTHER_TURNS = "of other turns"
_PATHS = (
    *("text.paper.distinct1", "text.paper.bleu1", "text.paper.f1", "text.paper.rouge_l"),
    *(None,) * 4,  # a judge's scores are compared by their intervals
    *("strategy.bias", "strategy.weighted_f1", "strategy.macro_f1"),
)


def differences(sources: Sources, backbones: Sequence[Backbone]) -> Table:
    """Differences between systems in every column of Table 3, beside the paper's own.

    Raises EscError where a file of comparisons has another shape.
    """
    rows, notes, todo = [], [], []
    for one in backbones:
        path = Path("runs") / one.model / COMPARISONS
        renew = sources.make("eval", one.model, FORCE=1)
        stored = sources.known(path, Comparisons, renew)
        paired = {(pair.a, pair.b): pair for pair in stored.comparisons} if stored else {}
        for gone in stored.left_out if stored else ():
            notes.append(f"{one.model}: {gone.a} and {gone.b} are not compared: {gone.reason}.")
        if stored and (stale := _stale(sources, one.model, stored)):
            told = ", ".join(f"{a} and {b}" for a, b in stale)
            notes.append(
                f"{one.model}: the paired comparison of {told} is {STALE}, and left out: it is of "
                "other predictions."
            )
            todo.append(Todo(f"{one.model} paired comparisons", sources.make("eval", one.model)))
            paired = {pair: found for pair, found in paired.items() if pair not in stale}
        for label, a, b in QUESTIONS:
            cells = _cells(one, a, b, paired.get((a, b)), smoke=bool(stored and stored.smoke))
            rows.append(TableRow(label, tuple(cells), one.model))
    return Table(
        "table-differences",
        "Differences, and which of them are noise",
        "question",
        COLUMNS,
        tuple(rows),
        (
            "A difference is the second system's number less the first's. It is inside the noise "
            "where the 95 % interval of the paired comparison holds 0; without such a comparison, "
            f"where the two systems' own intervals overlap, marked {OVERLAP}: a coarser rule "
            "that calls too much noise. Numbers of other turns are not subtracted.",
            *notes,
        ),
        tuple(todo),
    )


def _stale(sources: Sources, model: str, stored: Comparisons) -> list[tuple[str, str]]:
    """The pairs that were compared on predictions which are there no more."""
    of = stored.made_with.predictions
    now = {
        run: sources.hash_of(Path("runs") / model / run / PREDICTIONS)
        for pair in stored.comparisons
        for run in (pair.a, pair.b)
    }
    changed = {run for run, found in now.items() if found not in (None, of.get(run))}
    return [(pair.a, pair.b) for pair in stored.comparisons if {pair.a, pair.b} & changed]


def _cells(
    backbone: Backbone, a: str, b: str, paired: Comparison | None, *, smoke: bool
) -> list[Cell]:
    first, second = (_row(backbone.runs[name]) for name in (a, b))
    cells = []
    for place, (one, other) in enumerate(zip(first, second, strict=True)):
        paper = _paper(backbone.model, a, b, place)
        path = _PATHS[place]
        if one.value is None or other.value is None:
            gap = one if one.value is None else other
            cells.append(not_run(paper, gap.missing or NOT_RUN, form="+.2f"))
        elif paired and path in paired.numbers:
            found = paired.numbers[path]
            marked = smoke or one.smoke or other.smoke
            cells.append(
                Cell(
                    found.difference,
                    found.low,
                    found.high,
                    paired.n,
                    paper,
                    "+.2f",
                    smoke=marked,
                    missing="" if found.difference is not None else UNDEFINED,
                    note=found.verdict,
                )
            )
        elif _same_turns(backbone.runs[a], backbone.runs[b], judged=path is None):
            cells.append(_apart(one, other, paper))
        else:
            cells.append(not_run(paper, OTHER_TURNS, form="+.2f"))
    return cells


def _same_turns(one: Run, other: Run, *, judged: bool) -> bool:
    """Whether numbers of both may be subtracted; judges draw some of the turns, by their ids."""
    drawn = [run.judged.source.get("drawn") if run.judged else None for run in (one, other)]
    return one.same_turns(other) and (not judged or drawn[0] == drawn[1])


def _apart(one: Cell, other: Cell, paper: Paper) -> Cell:
    assert one.value is not None
    assert other.value is not None
    note = "no interval, so it cannot be told from noise"
    if None not in (one.low, one.high, other.low, other.high):
        assert one.low is not None
        assert one.high is not None
        assert other.low is not None
        assert other.high is not None
        overlap = one.low <= other.high and other.low <= one.high
        note = f"{NOISE if overlap else CLEAR} {OVERLAP}"
    return Cell(
        other.value - one.value,
        n=min((cell.n for cell in (one, other) if cell.n is not None), default=None),
        paper=paper,
        form="+.2f",
        smoke=one.smoke or other.smoke,
        note=note,
    )


def _row(run: Run) -> list[Cell]:
    return [
        *text_cells(run, [()] * 4),
        *judge_cells(run, [()] * 4),
        *strategy_cells(run, [()] * 3),
    ]


def _paper(model: str, a: str, b: str, place: int) -> Paper:
    """The paper's own difference: of Table 3, or for the gold strategy of Table 4."""
    found = []
    if a in paper_values.TABLE_4["Qwen"]:
        if place not in range(4, 8):
            return ()
        sides = [dict(paper_of(paper_values.TABLE_4, model, name, place - 4)) for name in (a, b)]
    else:
        sides = [dict(paper_of(paper_values.TABLE_3, model, name, place)) for name in (a, b)]
    for name in paper_values.columns(model):
        if name in sides[0] and name in sides[1]:
            found.append((name, sides[1][name] - sides[0][name]))
    return tuple(found)


def rq4(sources: Sources, backbones: Sequence[Backbone]) -> Table:
    """RQ4 (section 6.2): what preference training changes in the shares of errors.

    Raises EscError where a file of comparisons has another shape.
    """
    rows, notes, todo = [], [], []
    for one in backbones:
        path = Path("runs") / one.model / COMPARISONS
        stored = sources.known(path, Comparisons, sources.make("eval", one.model, FORCE=1))
        found = _of_rq4(sources, one.model, stored) if stored else None
        smoke = one.model == EMBEDDED or bool(stored and stored.smoke)
        cells = [_points(one.model, error, found, smoke=smoke) for error in PsychError]
        rows.append(TableRow("Decoupled DPO less SFT", tuple(cells), one.model))
        if found:
            notes.append(f"{one.model}: {found.reason or found.interval}.")
        if not any(cell.measured for cell in cells):
            todo.append(Todo(f"{one.model} RQ4", sources.make("eval", one.model)))
    return Table(
        "table-rq4",
        "RQ4: errors under the decoupled framework, DPO less SFT",
        "question",
        tuple("No error" if one is PsychError.NONE else one.value for one in PsychError),
        tuple(rows),
        (
            "Points of 100, paired by turn. The paper: 27 % of Decoupled DPO's replies hold no "
            "error, 7 points more than SFT's on the average of both backbones.",
            *notes,
        ),
        tuple(todo),
    )


def _of_rq4(sources: Sources, model: str, stored: Comparisons) -> ErrorDifferences | None:
    asked = ("decoupled_sft", "decoupled_dpo")
    if asked in _stale(sources, model, stored):
        return None
    return next((pair.errors for pair in stored.comparisons if (pair.a, pair.b) == asked), None)


def _points(model: str, error: PsychError, found: ErrorDifferences | None, *, smoke: bool) -> Cell:
    paper: Paper = ()
    if error in paper_values.RQ4:
        paper = (("paper", paper_values.RQ4[error]),)
    share = found.shares.get(error) if found else None
    if found is None or share is None:
        return not_run(paper, form="+.1f", unit=" %")
    return Cell(
        share.difference,
        share.low,
        share.high,
        found.n,
        paper,
        "+.1f",
        " %",
        smoke=smoke,
        note=share.verdict,
    )
