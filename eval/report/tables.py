"""How far each preference training moved its policy, beside what rounding alone does."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from esc import paths
from esc.paths import (
    EMBEDDED,
    SYSTEMS_OF_FIGURE_4,
    SYSTEMS_OF_TABLE_3,
    SYSTEMS_OF_TABLE_4,
    SYSTEMS_OF_TABLE_5,
    Kind,
)
from esc.prompts import TASKS
from esc.psych_errors import PsychError
from esc.records import (
    Baseline,
    Comparison,
    Comparisons,
    CorpusStats,
    Drift,
    ErrorDifferences,
    Metrics,
    MiningStats,
    Number,
    PairsJudged,
    Share,
)
from esc.strategies import Strategy
from eval import paper as paper_values
from eval.metrics import COMPARISONS, QUESTIONS
from eval.report.manifest import PREDICTIONS, Backbone, Run, Sources
from eval.report.parts import NOT_RUN, STALE, UNDEFINED, Cell, Table, TableRow, Todo

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
        rows += [
            _full_row(one, kind, run, paper_values.TABLE_3)
            for kind, run in one.of(SYSTEMS_OF_TABLE_3)
        ]
        rows += _baseline_rows(one)
    return Table(
        "table-3",
        "Table 3: systems under both paradigms",
        "system",
        COLUMNS,
        tuple(rows),
        (NO_SKILL, LENGTH, *_turns_notes(backbones)),
        tuple(todo for one in backbones for todo in one.todo(SYSTEMS_OF_TABLE_3)),
    )


def table_4(backbones: Sequence[Backbone]) -> Table:
    """Table 4: the generator under the gold strategy."""
    rows = []
    for one in backbones:
        for kind, run in one.of(SYSTEMS_OF_TABLE_4):
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
        tuple(todo for one in backbones for todo in one.todo(SYSTEMS_OF_TABLE_4)),
    )


def table_5(backbones: Sequence[Backbone]) -> Table:
    """Table 5: the entangled model on four mixes of pairs."""
    rows = [
        _full_row(one, kind, run, paper_values.TABLE_5)
        for one in backbones
        for kind, run in one.of(SYSTEMS_OF_TABLE_5)
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
        tuple(todo for one in backbones for todo in one.todo(SYSTEMS_OF_TABLE_5)),
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


ALL_KINDS = (
    *SYSTEMS_OF_TABLE_3,
    *SYSTEMS_OF_TABLE_4,
    *SYSTEMS_OF_TABLE_5[:3],
    SYSTEMS_OF_FIGURE_4[0],
)
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


def movement(sources: Sources, models: Sequence[str]) -> Table:
    """A row for every preference training; EscError where a file has another shape."""
    rows: list[TableRow] = []
    todo = []
    for model in models:
        root = sources.work / paths.adapters(model)
        wanted = [paths.adapter(model, task, "dpo").name for task in TASKS]
        wanted += sorted(path.parent.name for path in root.glob("*_dpo*/drift.json"))
        for name in dict.fromkeys(wanted):
            task = name.partition("_")[0]
            again = sources.make(f"dpo-{task}", model)
            path = paths.adapters(model) / name / "drift.json"
            found = sources.known(path, Drift, again)
            if found is None:
                todo.append(Todo(f"{model} {name}", again))
            rows.append(TableRow(name, _cells_of_movement(found, model), model))
    return Table(
        "table-movement",
        "How the preference trainings moved the policies",
        "adapter",
        ("KL, nats a token", "KL by rounding", "other top token", "other top token by rounding"),
        tuple(rows),
        (
            "Over the gold answers of validation turns, in the precision that is served. A policy "
            "that moved no further than rounding does is the one before the training, whatever "
            "its other numbers say.",
        ),
        tuple(todo),
    )


def _cells_of_movement(found: Drift | None, model: str) -> tuple[Cell, ...]:
    if found is None:
        return tuple(not_run() for _ in range(4))
    smoke = found.smoke or model == EMBEDDED
    verdict = "moved" if found.moved else "no further than rounding"
    numbers = (
        (found.kl, ".2e", "", verdict),
        (found.rounding.kl, ".2e", "", ""),
        (100 * found.changed, ".2f", " %", ""),
        (100 * found.rounding.changed, ".2f", " %", ""),
    )
    return tuple(
        Cell(value, n=found.tokens, form=form, unit=unit, smoke=smoke, note=note)
        for value, form, unit, note in numbers
    )


def trainings(sources: Sources, model: str) -> None:
    """Keep what every training of a backbone was made with, for the manifest."""
    folder = paths.adapters(model)
    for path in sorted((sources.work / folder).glob("*/options.json")):
        sources.options_of(Path(folder) / path.parent.name)
