"""Numbers of the sources to cells of the page."""

from collections.abc import Sequence

from eval import paper_values
from eval.report.page import NOT_RUN, UNDEFINED, Cell
from eval.report.runs import Run
from eval.report.shapes import Number, Share

Paper = tuple[tuple[str, float], ...]


def paper_of(
    table: dict[str, dict[str, tuple[float | None, ...]]] | dict[str, dict[str, tuple[float, ...]]],
    model: str,
    row: str,
    place: int,
) -> Paper:
    """The paper's values that a cell stands beside: one column of it, or both."""
    found = []
    for name, column in paper_values.columns(model).items():
        values = table[column].get(row, ())
        value = values[place] if place < len(values) else None
        if value is not None:
            found.append((name, value))
    return tuple(found)


def of_number(
    number: Number,
    *,
    smoke: bool,
    paper: Paper = (),
    form: str = ".2f",
    unit: str = "",
) -> Cell:
    """A number with its interval; one that is undefined says why."""
    reason = number.reason or ""
    return Cell(
        value=number.value,
        low=number.low,
        high=number.high,
        n=number.n,
        paper=paper,
        form=form,
        unit=unit,
        smoke=smoke,
        missing=UNDEFINED if number.value is None else "",
        note=reason,
        signature=number.signature,
    )


def of_score(number: Number, *, smoke: bool, paper: Paper, signature: str = "") -> Cell:
    """A judge's mean; where all of its answers are unscored, it says so."""
    reason = number.reason or ("" if number.n else "none scored")
    known = number.model_copy(update={"signature": signature, "reason": reason})
    return of_number(known, smoke=smoke, paper=paper)


def of_share(share: Share, n: int, *, smoke: bool) -> Cell:
    """A share in per cent, with its count."""
    low, high = (None if end is None else 100 * end for end in (share.low, share.high))
    return Cell(
        value=None if share.share is None else 100 * share.share,
        low=low,
        high=high,
        n=n,
        form=".1f",
        unit=" %",
        smoke=smoke,
        missing=UNDEFINED if share.share is None else "",
        note=f"{share.count:,} counted",
    )


def not_run(
    paper: Paper = (), missing: str = NOT_RUN, *, form: str = ".2f", unit: str = ""
) -> Cell:
    """A cell that nothing fills yet, beside the paper's value."""
    return Cell(paper=paper, missing=missing, form=form, unit=unit)


def of_paper(paper: Paper, *, form: str = ".2f", unit: str = "") -> Cell:
    """A cell that is the paper's alone."""
    return Cell(paper=paper, form=form, unit=unit)


def text_cells(run: Run, papers: Sequence[Paper]) -> list[Cell]:
    """D-1, B-1, F1 and R-L of the family ``paper``."""
    if run.metrics is None:
        return [not_run(paper, run.missing) for paper in papers]
    text = run.metrics.text.paper
    numbers = (text.distinct1, text.bleu1, text.f1, text.rouge_l)
    smoke = run.smoke(run.metrics)
    return [
        of_number(one, smoke=smoke, paper=paper) for one, paper in zip(numbers, papers, strict=True)
    ]


def judge_cells(run: Run, papers: Sequence[Paper]) -> list[Cell]:
    """Fluency, Professionalism, Empathy and Helpfulness."""
    if run.judged is None:
        return [not_run(paper, run.missing) for paper in papers]
    cells = []
    for score, paper in zip(run.judged.dimensions.all(), papers, strict=True):
        marked, signature = run.smoke(run.judged), run.judged.signature
        cells.append(of_score(score, smoke=marked, paper=paper, signature=signature))
    return cells


def strategy_cells(run: Run, papers: Sequence[Paper]) -> list[Cell]:
    """Bias, weighted and macro F1."""
    if run.metrics is None:
        return [not_run(paper, run.missing) for paper in papers]
    strategy = run.metrics.strategy
    numbers = (strategy.bias, strategy.weighted_f1, strategy.macro_f1)
    smoke = run.smoke(run.metrics)
    return [
        of_number(one, smoke=smoke, paper=paper) for one, paper in zip(numbers, papers, strict=True)
    ]
