"""What was run, as tables beside the paper's values: its Tables 1 to 6, those behind its figures,
and some that it does not have.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import repeat
from pathlib import Path
from typing import Any, NamedTuple

from esc import paths, records
from esc.dialogue import interval_names
from esc.paths import EMBEDDED, Kind
from esc.prompts import TASKS
from esc.psych_errors import PsychError
from esc.step import OPTIONS
from esc.strategies import Strategy
from eval import paper as printed
from eval.metrics import QUESTIONS
from eval.report import parts
from eval.report.manifest import Backbone, Run, Sources
from eval.report.parts import Cell, Paper, Table, TableRow, Todo, table

NEVER = "—"
"""Stands where there can be no number."""
Look = dict[str, Any]
"""How cells are shown: paper, form, unit, smoke of a `Cell`."""
COUNT, PER_CENT = ",.0f", Look(form=".1f", unit=" %")
CODES = [strategy.code for strategy in Strategy]
STRATEGIES = "; ".join(f"{one.code} {one.value}" for one in Strategy) + "."
ERRORS = {one: "No error" if one is PsychError.NONE else one.value for one in PsychError}
Values = Mapping[str, Mapping[str, tuple[float | None, ...]]]
"""A table of the paper: its column to its row to the values."""


class Column(NamedTuple):
    """A column of numbers, and where they stand in a `Run`."""

    name: str
    path: tuple[str, ...]
    form: str = ".2f"
    unit: str = ""


def columns_of(name: str) -> list[Column]:
    """The columns of a table of systems."""
    columns = parts.OF_TABLES[name]["columns"].items()
    return [Column(head, tuple(path.split(".")), *look) for head, (path, *look) in columns]


COLUMNS, SCORES = columns_of("table-3"), columns_of("table-4")
"""Those of Tables 3 and 5, in the paper's order, and the judge's among them."""
ALL = (
    *paths.SYSTEMS_OF_TABLE_3,
    *paths.SYSTEMS_OF_TABLE_4,
    *(
        replace(kind, label=f"Vanilla DPO, {kind.label}")
        for kind in (*paths.SYSTEMS_OF_TABLE_5[:3], paths.SYSTEMS_OF_FIGURE_4[0])
    ),
)
"""Every run of the paper once."""


def cell(found: Any, missing: str = parts.NOT_RUN, *, n: int | None = None, **shown: Any) -> Cell:
    """What was measured as a reader meets it, or what is missing where nothing was.

    ``found``: a number, a judge's score, a share, a difference, or a plain value; of the others
    than a number, ``n`` is how many it is of. ``shown``: more of the `Cell`.
    """
    if found is None:
        return Cell(missing=missing, **shown)
    if isinstance(found, records.Share):
        value, low, high = (
            None if end is None else 100 * end for end in (found.share, found.low, found.high)
        )
        known = Look(value=value, low=low, high=high, n=n, note=f"{found.count:,} counted")
    elif isinstance(found, records.Difference):
        known = Look(value=found.difference, low=found.low, high=found.high, n=n)
        known["note"] = found.verdict
    elif isinstance(found, records.Number):
        known = Look(value=found.value, low=found.low, high=found.high, n=found.n)
        # All of a judge's answers may be unscored.
        reason = found.reason or ("none scored" if found.n == 0 else "")
        known |= {"note": reason, "signature": found.signature}
    else:
        known = Look(value=found, n=n)
    return Cell(missing=parts.UNDEFINED if known["value"] is None else "", **known | shown)


def reach(found: Any, path: Iterable[str]) -> Any:
    """What stands there in a record, or None where a part of it is missing."""
    for name in path:
        if found is not None:
            found = found.get(name) if isinstance(found, dict) else getattr(found, name)
    return found


def measured(
    run: Run, column: Column, paper: Paper = (), of: records.Baseline | None = None
) -> Cell:
    """What was measured of a run in a column, or ``of`` a baseline on its turns."""
    file, *path = column.path
    source = getattr(run, file)
    shown = Look(form=column.form, unit=column.unit, paper=paper, smoke=run.smoke(source))
    if of:
        found = reach(of, path) if file == "metrics" else None
        return cell(found if found and found.value is not None else None, NEVER, **shown)
    found = reach(source, path)
    if run.judged and column in SCORES:
        shown["signature"] = run.judged.signature
    n = run.errors.n if run.errors and isinstance(found, records.Share) else None
    return cell(found, NEVER if source else run.missing, n=n, **shown)


def paper_of(values: Values | None, model: str, row: str, column: Column) -> Paper:
    """The paper's values that a cell stands beside: one column of it, or both.

    Tables 2 and 4 have the judge's columns alone.
    """
    columns = SCORES if values in (printed.TABLE_2, printed.TABLE_4) else COLUMNS
    if not values or column not in columns:
        return ()
    found = [(name, values[of].get(row)) for name, of in printed.columns(model).items()]
    known = [(name, one[columns.index(column)]) for name, one in found if one]
    return tuple((name, one) for name, one in known if one is not None)


def of_systems(
    name: str,
    backbones: Sequence[Backbone],
    kinds: Sequence[Kind],
    columns: Sequence[Column] = (),
    *,
    values: Values | None = None,
    notes: Sequence[str] = (),
    gold: Sequence[Column] = (),
    baselines: bool = False,
    others: bool = False,
) -> Table:
    """A row for each of ``kinds`` of each backbone, beside the ``values`` of the paper.

    A row ``gold`` and the baselines are on the turns of the first run that was measured.
    """
    rows, columns = [], columns or columns_of(name)
    for one in backbones:
        first = one.measured[:1]
        for run, _ in first if gold else ():
            rows.append(TableRow("gold", tuple(measured(run, of) for of in gold), one.model))
        named = [(kind.label, one.runs[kind.name]) for kind in kinds]
        for label, run in named + [(run.label, run) for run in one.others if others]:
            cells = [measured(run, of, paper_of(values, run.model, run.name, of)) for of in columns]
            measured_on = run.measured_on if SCORES[0] in columns else ""
            rows.append(TableRow(label, tuple(cells), one.model, measured_on=measured_on))
        for run, metrics in first if baselines else ():
            for label, baseline in metrics.baselines.items():
                cells = [measured(run, column, of=baseline) for column in columns]
                if any(known.value is not None for known in cells):
                    rows.append(TableRow(f"baseline: {label}", tuple(cells), one.model))
    todo = [todo for one in backbones for todo in one.todo(kinds)]
    return table(name, rows, notes, todo, [column.name for column in columns])


def systems(backbones: Sequence[Backbone]) -> list[Table]:
    """What every system chooses and says: Tables 3 to 5, Figures 3 and 4, and more."""
    root = ("metrics", "strategy")
    liked = [Column(one.code, (*root, "preference", one)) for one in Strategy]
    predicted, gold = (
        [Column(one.code, (*root, "distribution", side, one), **PER_CENT) for one in Strategy]
        for side in ("predicted", "gold")
    )
    notes = [note for one in backbones for note in _told_of_turns(one)]
    third, third_table = paths.SYSTEMS_OF_TABLE_3, Look(values=printed.TABLE_3, baselines=True)
    mixes, every = paths.SYSTEMS_OF_FIGURE_4, Look(baselines=True, others=True)
    counts = of_systems("table-counts", backbones, ALL, others=True)
    filled = [row for row in counts.rows if any(one.value is not None for one in row.cells)]
    return [
        of_systems("table-3", backbones, third, notes=notes, **third_table),
        of_systems("figure-bias", backbones, third, **third_table),
        of_systems("table-4", backbones, paths.SYSTEMS_OF_TABLE_4, values=printed.TABLE_4),
        of_systems("table-5", backbones, paths.SYSTEMS_OF_TABLE_5, values=printed.TABLE_5),
        of_systems("table-others", backbones, (), others=True),
        of_systems("figure-3", backbones, third, predicted, notes=[STRATEGIES], gold=gold),
        of_systems("figure-4a", backbones, mixes),
        of_systems("figure-4b", backbones, mixes, liked, notes=[STRATEGIES]),
        of_systems("table-strategies", backbones, ALL, **every),
        of_systems("table-corpus", backbones, ALL, **every),
        replace(counts, rows=tuple(filled), todo=()),
    ]


def _told_of_turns(one: Backbone) -> list[str]:
    """What the numbers of a backbone were measured on, and how."""
    runs = [run for run, _ in one.measured]
    told = {
        "measured on": {run.split for run in runs},
        "answers drawn by": {run.sampling for run in runs},
        "intervals are of 95 %, resampled by": {found.resampled_by for _, found in one.measured},
        "judged by": {run.judged.judge for run in one.runs.values() if run.judged},
    }
    notes = []
    if len({found.turns for _, found in one.measured}) > 1:
        notes.append(
            "its systems were not all measured on the same turns, as their rows say; such numbers "
            "are not subtracted. Baselines are on those of the first"
        )
    for what, said in told.items():
        if names := " or ".join(sorted(said - {""})):
            notes.append(f"{what} {names}")
    return [f"{one.model}: {note}." for note in notes]


def errors(sources: Sources, backbones: Sequence[Backbone]) -> list[Table]:
    """Figures 2 and 7: errors of FailedESConv, of the entangled and of the decoupled systems.

    Of the runs that were classified; the paper's own are named anyway.
    """
    path = Path("runs/failed_esconv/errors/proportions.json")
    variables = {"FAILED_ESCONV": "FailedESConv.json"}
    failed = sources.known(path, records.Proportions, sources.make("eval", **variables, FORCE=1))
    corpus = Run("", "failed_esconv", "FailedESConv", None, None, failed, "", "", "")
    columns = [Column(told, ("errors", "errors", of), **PER_CENT) for of, told in ERRORS.items()]
    tables = []
    for name, every, named, above in (
        ("figure-2", paths.SYSTEMS_OF_TABLE_3[:6], ("vanilla_sft",), [corpus]),
        ("figure-7", paths.SYSTEMS_OF_TABLE_3[6:], ("decoupled_sft", "decoupled_dpo"), []),
    ):
        classified = {run.name for one in backbones for run in one.runs.values() if run.errors}
        kinds = [kind for kind in every if kind.name in {*named, *classified}]
        notes = {
            f"{run.model or run.label}: classified by {run.errors.judge}; intervals: "
            f"{run.errors.interval}.": None
            for run in (*above, *(one.runs[kind.name] for one in backbones for kind in kinds))
            if run.errors
        }
        found = of_systems(name, backbones, kinds, columns, notes=list(notes))
        rows = [TableRow(run.label, tuple(measured(run, of) for of in columns)) for run in above]
        todo = [Todo(one.label, sources.make("eval", **variables)) for one in above if not failed]
        tables.append(replace(found, rows=(*rows, *found.rows), todo=(*todo, *found.todo)))
    return tables


def questions(sources: Sources, backbones: Sequence[Backbone]) -> list[Table]:
    """The paper's questions: differences between systems in every column of Table 3, and RQ4.

    What preference training changes in the shares of errors is RQ4 (section 6.2).
    """
    rows, errors, notes, todo, intervals = [], [], [], [], []
    for one in backbones:
        for gone in one.comparisons.left_out if one.comparisons else ():
            notes.append(
                f"{one.model}: {gone['a']} and {gone['b']} are not compared: {gone['reason']}."
            )
        for label, a, b in QUESTIONS:
            cells = (_difference(one, a, b, column) for column in COLUMNS)
            rows.append(TableRow(label, tuple(cells), one.model))
        pair = _compared(one, "decoupled_sft", "decoupled_dpo")
        shares = pair.errors.shares if pair else {}
        smoke = one.model == EMBEDDED or bool(one.comparisons and one.comparisons.smoke)
        shown = Look(form="+.1f", unit=" %", smoke=smoke, n=pair.errors.n if pair else None)
        papers = {error: (("paper", value),) for error, value in printed.RQ4.items()}
        cells = (cell(shares.get(of), paper=papers.get(of, ()), **shown) for of in ERRORS)
        errors.append(TableRow("Decoupled DPO less SFT", tuple(cells), one.model))
        if pair:
            intervals.append(f"{one.model}: {pair.errors.reason or pair.errors.interval}.")
        if not shares:
            todo.append(Todo(f"{one.model} RQ4", sources.make("eval", one.model)))
    return [
        table("table-differences", rows, notes),
        table("table-rq4", errors, intervals, todo, list(ERRORS.values())),
    ]


def _difference(backbone: Backbone, a: str, b: str, column: Column) -> Cell:
    """What run b has more than run a: compared turn by turn, or else one number less the other."""
    runs = [backbone.runs[name] for name in (a, b)]
    both = [measured(run, column) for run in runs]
    values = printed.TABLE_4 if a in printed.TABLE_4["Qwen"] else printed.TABLE_3
    first, second = (dict(paper_of(values, backbone.model, name, column)) for name in (a, b))
    paper = tuple((name, second[name] - first[name]) for name in first if name in second)
    shown = Look(form="+.2f", paper=paper, smoke=any(of.smoke for of in both))
    found = [of.value for of in both if of.value is not None]
    if len(found) < 2:
        return cell(None, next(of.missing for of in both if of.value is None), **shown)
    pair = _compared(backbone, a, b)
    path = ".".join(column.path[1:])
    if pair and path in pair.numbers:
        return cell(pair.numbers[path], n=pair.n, **shown)
    # A judge is asked about some of the turns, drawn by their ids.
    drawn = {run.judged.source.get("drawn") for run in runs if run.judged and column in SCORES}
    turns = {run.metrics.turns if run.metrics else run.name for run in runs}
    if len(turns) > 1 or len(drawn) > 1:
        return cell(None, "of other turns", **shown)
    ends = [(of.low, of.high) for of in both if of.low is not None and of.high is not None]
    note = "no interval, so it cannot be told from noise"
    if len(ends) == 2:
        overlap = max(low for low, _ in ends) <= min(high for _, high in ends)
        note = f"{'inside' if overlap else 'outside'} the noise (overlap)"
    n = min((of.n for of in both if of.n is not None), default=None)
    return cell(found[1] - found[0], n=n, note=note, **shown)


def _compared(backbone: Backbone, a: str, b: str) -> records.Comparison | None:
    """The comparison of two runs turn by turn."""
    found = backbone.comparisons.comparisons if backbone.comparisons else []
    return next((pair for pair in found if (pair.a, pair.b) == (a, b)), None)


def answers(differences: Table, rq4: Table) -> list[Table]:
    """The paper's questions as pictures: one for a metric, a row for a question."""
    found = []
    for name, said in parts.LAYOUT["answers"].items():
        of = rq4 if said["column"] in rq4.columns else differences
        place = of.columns.index(said["column"])
        rows = [
            TableRow(row.label.replace(" less ", " − "), (row.cells[place],), row.group)
            for row in of.rows
        ]
        drawn = Look(drawing="differences", axis="difference")
        found.append(Table(name, (said["column"],), tuple(rows), said["title"], of.head, **drawn))
    return found


def corpus(sources: Sources) -> list[Table]:
    """The train set: the upper half of Table 1, Table 6 and Figure 8."""
    built = sources.built()
    # The target would build the default's sets in the place of those that are there.
    counting = paths.step("data_builders", "stats", work=sources.work)
    renew = counting if built else sources.make("stats")
    stats = sources.known(paths.STATS, records.CorpusStats, renew)
    counted, by_strategy = (stats.table_1, stats.table_6) if stats else ({}, {})
    notes = stats.notes if stats else []
    marked = bool(built.get("smoke")) or any(note.startswith("SMOKE") for note in notes)
    of_corpus, of_strategies = [], []
    for name, value in printed.TABLE_1_ESCONV.items():
        form = COUNT if float(value).is_integer() and "per" not in name else ",.2f"
        shown = Look(paper=(("paper", value),), form=form, smoke=marked)
        of_corpus.append(TableRow(name, (cell(counted.get(name), **shown),)))
    total = sum(by_strategy.values())
    for one in Strategy:
        # Another list's strategies have no value in the paper.
        number, part = (
            (("paper", values[one.code]),) if one.code in values else ()
            for values in (printed.TABLE_6, printed.TABLE_6_SHARES)
        )
        count = by_strategy.get(one, 0) if total else None
        share = None if count is None else 100 * count / total
        cells = (
            cell(count, paper=number, form=COUNT, smoke=marked),
            cell(share, n=total, paper=part, unit=" %", smoke=marked),
        )
        of_strategies.append(TableRow(f"{one} ({one.code})", cells))
    progress = [
        TableRow(
            name,
            tuple(
                cell(100 * part[one] if one in part else None, **PER_CENT, smoke=marked)
                for one in Strategy
            ),
        )
        for name, part in zip(
            interval_names(), stats.figure_8 if stats else repeat({}), strict=False
        )
    ]
    todo = [] if stats else [Todo("the train set", renew)]
    return [
        table("table-1-esconv", of_corpus, notes, todo),
        table("table-6", of_strategies, notes, todo),
        table("figure-8", progress, [*notes, STRATEGIES], todo, CODES),
    ]


def mining(sources: Sources, models: Sequence[str]) -> list[Table]:
    """The mined pairs of the first round: the lower half of Table 1, Figures 9 and 10."""
    pairs: dict[str, list[Cell]] = {name: [] for name in printed.TABLE_1_PAIRS}
    papers = {
        name: dict(zip(printed.TABLE_1_COLUMNS, values, strict=True))
        for name, values in printed.TABLE_1_PAIRS.items()
    }
    found = [one for one in PsychError if one.value in papers]
    sides, rejected, notes, todo = [], [], [], []
    for model in models:
        renew = sources.make("mine", model)
        stats = sources.known(
            paths.mining(model) / "stats" / "stats.json", records.MiningStats, renew
        )
        marked = model == EMBEDDED or bool(stats and stats.smoke)
        for name, cells in pairs.items():
            paper = [(word, papers[name][of]) for word, of in printed.columns(model).items()]
            value = stats.table_1.get(name) if stats else None
            shown = Look(paper=tuple(paper), form=_form(name), smoke=marked)
            cells.append(cell(value, **shown))
        sp, rg = (stats.tasks.get(task) if stats else None for task in ("sp", "rg"))
        for side in ("chosen", "rejected"):
            of = sp.strategies if sp else {}
            count = [of[one][side] if one in of else 0 for one in Strategy]
            sides.append(TableRow(side, _parts(count, of=sp, smoke=marked), model))
        count = [rg.errors.get(one, 0) if rg else 0 for one in found]
        rejected.append(TableRow(model, _parts(count, of=rg, smoke=marked)))
        notes += [f"{model}: {note}" for note in (stats.notes if stats else ())]
        todo += [] if stats else [Todo(f"{model} mining", renew)]
    for column in printed.TABLE_1_COLUMNS[1:]:
        count = [int(papers[one.value][column]) for one in found]
        parts = _parts(count, of=papers, smoke=False)
        rejected.append(TableRow(f"paper, {column}", parts, of_paper=True))
    rows = [
        TableRow(name, (*cells, Cell(paper=(("total", papers[name]["total"]),), form=_form(name))))
        for name, cells in pairs.items()
    ]
    return [
        table("table-1-pairs", rows, notes, todo, [*models, "both of the paper's"]),
        table("figure-9", sides, [STRATEGIES], todo, CODES),
        table("figure-10", rejected, [], todo, [one.value for one in found]),
    ]


def _form(name: str) -> str:
    return ",.2f" if "mean" in name else COUNT


def _parts(count: Sequence[int], *, of: object, smoke: bool) -> tuple[Cell, ...]:
    """Counts as shares of their sum; not run where they are ``of`` nothing."""
    n = sum(count)
    shares = [
        records.Share(count=one, share=one / n if n else None, low=None, high=None) for one in count
    ]
    return tuple(cell(one if of else None, n=n, smoke=smoke, **PER_CENT) for one in shares)


def pairs(sources: Sources, models: Sequence[str]) -> Table:
    """Table 2: the judge's scores of chosen and rejected replies, and the difference."""
    rows, notes, todo = [], [], []
    for model in models:
        folder = Path("runs") / model / "pairs_judge"
        renew = sources.make("eval", model, FORCE=1)
        judged = sources.known(folder / "judge.json", records.PairsJudged, renew)
        sources.options_of(folder)
        if judged:
            notes.append(f"{model}: judged by {judged.judge}")
        else:
            file = paths.preference_file(paths.preference_dataset("rg", model))
            mine = [] if (sources.work / file).is_file() else [sources.make("mine-rg", model)]
            todo.append(Todo(f"{model} pairs", " && ".join([*mine, sources.make("eval", model)])))
        smoke = model == EMBEDDED or bool(judged and judged.smoke)
        for side in ("chosen", "rejected", "improve"):
            cells = []
            for name, column in zip(printed.DIMENSIONS, SCORES, strict=True):
                found = judged.dimensions.get(name) if judged else None
                shown = Look(paper=paper_of(printed.TABLE_2, model, side, column), smoke=smoke)
                shown["unit"] = " %" if side == "improve" else ""
                value = getattr(found, side, None)
                if found and side == "improve":
                    noise = ", inside the noise" if found.difference.inside_the_noise else ""
                    points = cell(found.difference, form="+.2f")
                    note = f"{points.shown} points {points.interval or 'no interval'}{noise}"
                    ends = {"value": found.difference.percent, "low": None, "high": None}
                    value = found.difference.model_copy(update=ends | {"reason": note})
                cells.append(cell(value, **shown))
            label = "improvement" if side == "improve" else side
            rows.append(TableRow(label, tuple(cells), model))
    return table("table-2", rows, notes, todo)


def human(sources: Sources, models: Sequence[str]) -> Table:
    """Figure 6: people's choice between two systems."""
    rows, notes, todo = [], [], []
    for model in models:
        folder = sources.work / "runs" / model
        a, b = (f"{folder / name}/predictions.jsonl" for name in ("decoupled_dpo", "vanilla_dpo"))
        make = f"python -m eval human --a {a} --b {b} --out {folder / 'human'}"
        path = Path("runs") / model / "human" / "human.json"
        found = sources.known(path, records.Voted, f"{make} --read FILES")
        if found:
            both = f"{found.a.get('name', 'a')} against {found.b.get('name', 'b')}"
            notes.append(
                f"{model}: {both}, {len(found.annotators)} annotators; intervals and sign tests "
                "are over turns."
            )
        else:
            todo.append(Todo(f"{model} votes", f"{make}, then --read with the sheets filled in"))
        shown = Look(PER_CENT, smoke=model == EMBEDDED or bool(found and found.smoke))
        for name in found.dimensions if found else printed.DIMENSIONS:
            votes = found.dimensions[name] if found else None
            n, sides = votes.n if votes else None, ("win", "tie", "lose")
            cells = (cell(getattr(votes, side, None), n=n, **shown) for side in sides)
            rows.append(TableRow(name, tuple(cells), model))
            if votes and (said := votes.sign_test.get("said")):
                notes.append(f"{model}, {name}: {said}.")
    return table("figure-6", rows, notes, todo)


def movement(sources: Sources, models: Sequence[str]) -> Table:
    """How far each preference training moved its policy, beside what rounding alone does."""
    rows, todo = [], []
    for model in models:
        root = paths.adapters(model)
        # All trainings stand in the manifest with what they were made with.
        for path in sorted((sources.work / root).glob(f"*/{OPTIONS}")):
            sources.options_of(root / path.parent.name)
        wanted = [paths.adapter(model, task, "dpo").name for task in TASKS]
        moved = sorted((sources.work / root).glob("*_dpo*/drift.json"))
        for name in dict.fromkeys([*wanted, *(path.parent.name for path in moved)]):
            again = sources.make(f"dpo-{name.partition('_')[0]}", model)
            found = sources.known(root / name / "drift.json", records.Drift, again)
            todo += [] if found else [Todo(f"{model} {name}", again)]
            rows.append(TableRow(name, _moved(found, model), model))
    return table("table-movement", rows, [], todo)


def _moved(found: records.Drift | None, model: str) -> tuple[Cell, ...]:
    if found is None:
        return (cell(None),) * 4
    shown = Look(n=found.tokens, smoke=found.smoke or model == EMBEDDED)
    verdict = "moved" if found.moved else "no further than rounding"
    return (
        cell(found.kl, form=".2e", note=verdict, **shown),
        cell(found.rounding["kl"], form=".2e", **shown),
        cell(100 * found.changed, unit=" %", **shown),
        cell(100 * found.rounding["changed"], unit=" %", **shown),
    )
