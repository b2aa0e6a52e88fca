"""Tables 1, 2 and 6: the corpus, the mined pairs, and how a judge scores their two sides."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from esc import paths
from esc.backbones import EMBEDDED
from esc.strategies import Strategy
from eval import paper_values
from eval.report.cells import Paper, not_run, of_paper, of_score
from eval.report.data_shapes import CorpusStats, MiningStats
from eval.report.page import NOT_RUN, STALE, UNDEFINED, Cell, Table, TableRow, Todo
from eval.report.shapes import PairsJudged
from eval.report.sources import Sources

COUNT = ",.0f"
CORPUS_STATS = Path("data/stats/stats.json")


@dataclass(frozen=True, slots=True)
class Corpus:
    """The figures of the train set."""

    stats: CorpusStats | None
    smoke: bool
    notes: tuple[str, ...]
    todo: tuple[Todo, ...]
    missing: str = NOT_RUN
    """What stands where there are none: not run, or out of date."""


def read_corpus(sources: Sources) -> Corpus:
    """The train set's statistics; marked where they, or the built sets, are of the sample corpus.

    Those of sets that were built anew with other options since are out of date. Raises EscError
    where the file has another shape.
    """
    renew = sources.make("stats", EMBEDDED, **sources.build_variables())
    stats = sources.known(CORPUS_STATS, CorpusStats, renew)
    built = sources.built()
    stale = bool(stats and built and built.get("options") != stats.options)
    if stats is None or stale:
        missing = STALE if stale else NOT_RUN
        return Corpus(None, False, (), (Todo("the train set", renew),), missing)
    told = any(note.startswith("SMOKE") for note in stats.notes)
    return Corpus(stats, told or bool(built and built.get("smoke")), tuple(stats.notes), ())


def table_1_corpus(corpus: Corpus) -> Table:
    """Table 1, upper half."""
    rows = []
    for name, printed in paper_values.TABLE_1_ESCONV.items():
        form = COUNT if float(printed).is_integer() and "per" not in name else ",.2f"
        value = corpus.stats.here.table_1.get(name) if corpus.stats else None
        cell = not_run((("paper", printed),), corpus.missing, form=form)
        if value is not None:
            cell = Cell(value, paper=(("paper", printed),), form=form, smoke=corpus.smoke)
        rows.append(TableRow(name, (cell,)))
    return Table(
        "table-1-esconv",
        "Table 1, upper half: the train set",
        "",
        ("here",),
        tuple(rows),
        (
            *corpus.notes,
            "Characters of supporter utterances include the strategy's tag, as the paper's do.",
        ),
        corpus.todo,
    )


def table_6(corpus: Corpus) -> Table:
    """Table 6: how often each strategy occurs."""
    rows = []
    counts = corpus.stats.here.table_6 if corpus.stats else {}
    total = sum(counts.values())
    for strategy in Strategy:
        number, share = (
            _printed(values, strategy)
            for values in (paper_values.TABLE_6, paper_values.TABLE_6_SHARES)
        )
        cells = (
            not_run(number, corpus.missing, form=COUNT),
            not_run(share, corpus.missing, unit=" %"),
        )
        if total:
            found = counts.get(strategy, 0)
            cells = (
                Cell(found, paper=number, form=COUNT, smoke=corpus.smoke),
                Cell(100 * found / total, n=total, paper=share, unit=" %", smoke=corpus.smoke),
            )
        rows.append(TableRow(f"{strategy} ({strategy.code})", cells))
    return Table(
        "table-6",
        "Table 6: strategies of the train set",
        "strategy",
        ("number", "proportion"),
        tuple(rows),
        corpus.notes,
        corpus.todo,
    )


def _printed(values: Mapping[str, float], strategy: Strategy) -> Paper:
    """What the paper prints of a strategy; nothing of one that it does not have."""
    return (("paper", values[strategy.code]),) if strategy.code in values else ()


@dataclass(frozen=True, slots=True)
class Mined:
    """What the mining of one backbone brought."""

    model: str
    stats: MiningStats | None
    todo: tuple[Todo, ...]

    @property
    def smoke(self) -> bool:
        """Whether its numbers are marked."""
        return self.model == EMBEDDED or bool(self.stats and self.stats.smoke)


def read_mined(sources: Sources, model: str) -> Mined:
    """The statistics of a backbone's first mining; EscError where they have another shape."""
    renew = sources.make("mine", model)
    stats = sources.known(paths.mining(model) / "stats" / "stats.json", MiningStats, renew)
    todo = () if stats else (Todo(f"{model} mining", renew),)
    return Mined(model, stats, todo)


def table_1_pairs(minings: Sequence[Mined]) -> Table:
    """Table 1, lower half: a column for each backbone."""
    rows = []
    for name, printed in paper_values.TABLE_1_PAIRS.items():
        form = ",.2f" if "mean" in name else COUNT
        by_column = dict(zip(paper_values.TABLE_1_COLUMNS, printed, strict=True))
        cells = []
        for mined in minings:
            paper = tuple(
                (label, by_column[column])
                for label, column in paper_values.columns(mined.model).items()
            )
            value = mined.stats.table_1.here.get(name) if mined.stats else None
            if value is None:
                cells.append(not_run(paper, form=form))
            else:
                cells.append(Cell(value, paper=paper, form=form, smoke=mined.smoke))
        cells.append(of_paper((("total", by_column["total"]),), form=form))
        rows.append(TableRow(name, tuple(cells)))
    notes = [f"{one.model}: {note}" for one in minings if one.stats for note in one.stats.notes]
    return Table(
        "table-1-pairs",
        "Table 1, lower half: the mined pairs",
        "",
        (*(one.model for one in minings), "both of the paper's"),
        tuple(rows),
        tuple(notes),
        tuple(todo for one in minings for todo in one.todo),
    )


def table_2(sources: Sources, models: Sequence[str]) -> Table:
    """Table 2: the judge's scores of chosen and rejected replies, and the difference."""
    rows: list[TableRow] = []
    notes, todo = [], []
    for model in models:
        judged, missing = _pairs_judged(sources, model)
        if judged is None:
            todo.append(Todo(f"{model} pairs", _pairs_commands(sources, model)))
        else:
            notes.append(f"{model}: judged by {judged.judge}")
        smoke = model == EMBEDDED or bool(judged and judged.smoke)
        for side in ("chosen", "rejected", "improve"):
            cells = []
            for place, dimension in enumerate(paper_values.DIMENSIONS):
                paper = tuple(
                    (label, paper_values.TABLE_2[column][side][place])
                    for label, column in paper_values.columns(model).items()
                )
                cells.append(_table_2_cell(judged, side, dimension, paper, missing, smoke))
            what = "improvement" if side == "improve" else side
            rows.append(TableRow(what, tuple(cells), model))
    return Table(
        "table-2",
        "Table 2: a judge's scores of chosen and rejected replies, 0 to 5",
        "",
        ("Flu. ↑", "Pro. ↑", "Emp. ↑", "Hel. ↑"),
        tuple(rows),
        tuple(notes),
        tuple(todo),
    )


def _pairs_judged(sources: Sources, model: str) -> tuple[PairsJudged | None, str]:
    folder = Path("runs") / model / "pairs_judge"
    renew = sources.make("eval", model, FORCE=1)
    judged = sources.known(folder / "judge.json", PairsJudged, renew)
    sources.options_of(folder)
    pairs = Path(paths.preference_file(paths.preference_dataset("rg", model)))
    found = sources.hash_of(pairs)
    if judged and found and judged.source.get("pairs", found) != found:
        return None, STALE
    return judged, NOT_RUN


def _pairs_commands(sources: Sources, model: str) -> str:
    pairs = sources.work / paths.preference_file(paths.preference_dataset("rg", model))
    steps = [] if pairs.is_file() else [sources.make("mine-rg", model)]
    return " && ".join([*steps, sources.make("eval", model)])


def _table_2_cell(
    judged: PairsJudged | None, side: str, dimension: str, paper: Paper, missing: str, smoke: bool
) -> Cell:
    unit = " %" if side == "improve" else ""
    one = judged.dimensions.get(dimension) if judged else None
    if one is None:
        return not_run(paper, missing, unit=unit)
    if side != "improve":
        return of_score(getattr(one, side), smoke=smoke, paper=paper)
    apart = one.difference
    ends = "no interval" if apart.low is None else f"[{apart.low:+.2f}, {apart.high:+.2f}]"
    noise = ", inside the noise" if apart.inside_the_noise else ""
    shown = "—" if apart.value is None else f"{apart.value:+.2f}"
    return Cell(
        apart.percent,
        n=apart.n,
        paper=paper,
        unit=unit,
        smoke=smoke,
        missing="" if apart.percent is not None else UNDEFINED,
        note=f"{shown} points {ends}{noise}",
    )
