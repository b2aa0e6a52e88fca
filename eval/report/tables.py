"""What was run, as tables beside the paper's values: its Tables 1 to 6, those behind its figures,
and some that it does not have.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from esc import paths, records
from esc.dialogue import INTERVALS
from esc.prompts import TASKS
from esc.psych_errors import PsychError
from esc.step import OPTIONS
from esc.strategies import Strategy
from eval import paper as printed
from eval.metrics import QUESTIONS
from eval.report import parts
from eval.report.manifest import ALL, Backbone, Run, Sources, marked
from eval.report.parts import CODES, OF_TABLES, Cell, Paper, Table, TableRow, Todo, table

Look = dict[str, Any]
"""How cells are shown: paper, form, unit, smoke of a `Cell`."""
PER_CENT = Look(form=".1f", unit=" %")
ERRORS = {one: "No error" if one is PsychError.NONE else one.value for one in PsychError}
EACH: dict[str, dict[Any, str]] = {
    "each strategy": dict(zip(Strategy, CODES, strict=True)),
    "each error": ERRORS,
}
"""The columns that are one for every strategy or error: what each is of, and its heading."""
SYSTEMS = {
    "table-3": paths.SYSTEMS_OF_TABLE_3,
    "table-4": paths.SYSTEMS_OF_TABLE_4,
    "table-5": paths.SYSTEMS_OF_TABLE_5,
    "figure-2": paths.SYSTEMS_OF_TABLE_3[:6],
    "figure-4": paths.SYSTEMS_OF_FIGURE_4,
    "figure-7": paths.SYSTEMS_OF_TABLE_3[6:],
    "all": ALL,
    "none": (),
}
"""What the page calls the systems that are the rows of a table."""


class Column(NamedTuple):
    """A column of numbers, and where they stand in a `Run`."""

    name: str
    path: tuple[str, ...]
    form: str = ".2f"
    unit: str = ""


def columns_of(name: str) -> list[Column]:
    """The columns of a table of systems."""
    found = []
    for head, (path, *look) in OF_TABLES[name]["columns"].items():
        place = tuple(path.split("."))
        if head in EACH:
            found += [Column(told, (*place, of), *look) for of, told in EACH[head].items()]
        else:
            found.append(Column(head, place, *look))
    return found


COLUMNS, SCORES = columns_of("table-3"), columns_of("table-4")
"""Those of Tables 3 and 5, in the paper's order, and the judge's among them."""


def cell(found: Any, missing: str = parts.NOT_RUN, **shown: Any) -> Cell:
    """What was measured as a reader meets it, or what is missing where nothing was.

    ``found``: a number, a judge's score, a share, a difference, or a plain value. ``shown``: more
    of the `Cell`.
    """
    known: dict[str, Any] = {"value": found}
    if isinstance(found, records.Number):
        known = {name: getattr(found, name) for name in ("value", "low", "high", "n", "signature")}
        # All of a judge's answers may be unscored.
        known["note"] = found.reason or ("none scored" if found.n == 0 else "")
        if found.count is not None:
            ends = {name: known[name] for name in ("value", "low", "high")}
            known |= {name: None if end is None else 100 * end for name, end in ends.items()}
            known["note"] = f"{found.count:,} counted"
    if known["value"] is None:
        known["missing"] = missing if found is None else parts.UNDEFINED
    return Cell(**known | shown)


def reach(found: Any, path: Iterable[str]) -> Any:
    """What stands there in a record, or None where a part of it is missing."""
    for name in path:
        if found is not None:
            found = found.get(name) if isinstance(found, dict) else getattr(found, name)
    return found


def measured(run: Run, column: Column, paper: Paper = ()) -> Cell:
    """What was measured of a run in a column."""
    file, *path = column.path
    source = getattr(run, file)
    found = reach(source, path)
    shown = Look(form=column.form, unit=column.unit, paper=paper, smoke=marked(run.model, source))
    if isinstance(found, records.Number) and file == "judged":
        shown["signature"] = source.signature
    if isinstance(found, records.Number) and found.count is not None:
        shown["n"] = source.n
    return cell(found, "—" if source else run.missing, **shown)


def paper_of(name: str, model: str, row: str, column: Column) -> Paper:
    """What a table of the paper has there: one value, or each backbone's.

    Tables 2 and 4 have the judge's columns alone.
    """
    columns = SCORES if name in ("TABLE_2", "TABLE_4") else COLUMNS
    if not name or column not in columns:
        return ()
    tables = {told: getattr(printed, name)[of] for told, of in printed.columns(model).items()}
    values = [(told, of[row][columns.index(column)]) for told, of in tables.items() if row in of]
    return tuple((told, value) for told, value in values if value is not None)


def systems(sources: Sources, backbones: Sequence[Backbone]) -> list[Table]:
    """What every system chooses and says: Tables 3 to 5, Figures 2 to 4 and 7, and more."""
    path = Path("runs/failed_esconv/errors/proportions.json")
    variables = {"FAILED_ESCONV": "FailedESConv.json"}
    failed = sources.known(path, records.Proportions, sources.make("eval", **variables, FORCE=1))
    todo = "" if failed else sources.make("eval", **variables)
    corpus = Run("", "failed_esconv", "FailedESConv", errors=failed, todo=todo)
    given: dict[str, Any] = {
        "table-3": {"notes": [note for one in backbones for note in _told_of_turns(one)]},
        "figure-2": {"above": [corpus]},
    }
    named = [name for name, said in OF_TABLES.items() if "systems" in said]
    return [of_systems(name, backbones, **given.get(name, {})) for name in named]


def of_systems(
    name: str, backbones: Sequence[Backbone], notes: Sequence[str] = (), above: Sequence[Run] = ()
) -> Table:
    """The table of a name: a row for each of its systems, after those ``above`` of no backbone."""
    said, columns = OF_TABLES[name], columns_of(name)
    classified: dict[str, None] = {}
    rows, todo, whole = [], [], "measured" not in said.get("more", ())
    for run in (*above, *(run for one in backbones for run in _rows(one, said))):
        cells = [
            measured(run, of, paper_of(said.get("paper", ""), run.model, run.name, of))
            for of in columns
        ]
        # A baseline has no name.
        if any(one.value is not None for one in cells) or (whole and run.name):
            on = run.measured_on if SCORES[0] in columns else ""
            rows.append(TableRow(run.label, tuple(cells), run.model, measured_on=on))
        if whole and run.todo:
            todo.append(Todo(f"{run.model} {run.label}".strip(), run.todo))
        if run.errors and "named" in said:
            how = f"classified by {run.errors.judge}; intervals: {run.errors.interval}."
            classified[f"{run.model or run.label}: {how}"] = None
    return table(name, rows, [*notes, *classified], todo, [column.name for column in columns])


def _rows(one: Backbone, said: dict[str, Any]) -> Iterator[Run]:
    """The runs that are the rows of a table; gold and baselines are on the turns of the first."""
    more, named = said.get("more", ()), said.get("named")
    for run, metrics in one.measured[:1] if "gold" in more else ():
        gold = {"distribution": {"predicted": metrics.strategy.distribution["gold"]}}
        strategy = metrics.strategy.model_copy(update=gold)
        yield _baseline(run, metrics, "gold", strategy=strategy)
    for kind in SYSTEMS[said["systems"]]:
        run = one.runs[kind.name]
        if not named or kind.name in named or run.errors:
            yield replace(run, label=kind.label)
    yield from one.others if "others" in more else ()
    for run, metrics in one.measured[:1] if "baselines" in more else ():
        for name, found in metrics.baselines.items():
            update = {"strategy": found.strategy, "text": found.text}
            yield _baseline(run, metrics, f"baseline: {name}", **update)


def _baseline(run: Run, metrics: records.Metrics, label: str, **update: Any) -> Run:
    """What is no system of ours, on the turns of a run."""
    told = metrics.model_copy(update=update)
    nothing: dict[str, Any] = {"judged": None, "errors": None, "todo": "", "missing": "—"}
    return replace(run, name="", label=label, metrics=told, **nothing)


def _told_of_turns(one: Backbone) -> list[str]:
    """What the numbers of a backbone were measured on, and how."""
    told = {
        "measured on": {run.split for run, _ in one.measured},
        "answers drawn by": {run.sampling for run, _ in one.measured},
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


def questions(sources: Sources, backbones: Sequence[Backbone]) -> list[Table]:
    """The paper's questions: differences between systems in every column of Table 3, and RQ4.

    What preference training changes in the shares of errors is RQ4 (section 6.2).
    """
    rows, errors, notes, todo, intervals = [], [], [], [], []
    for one in backbones:
        for gone in one.comparisons.left_out if one.comparisons else ():
            both = f"{gone['a']} and {gone['b']}"
            notes.append(f"{one.model}: {both} are not compared: {gone['reason']}.")
        for label, a, b in QUESTIONS:
            cells = [_difference(one, a, b, column) for column in COLUMNS]
            rows.append(TableRow(label, tuple(cells), one.model))
        pair = one.compared("decoupled_sft", "decoupled_dpo")
        shares = pair.errors.shares if pair else {}
        shown = Look(form="+.1f", unit=" %", smoke=marked(one.model, one.comparisons))
        if pair:
            shown["n"] = pair.errors.n
            intervals.append(f"{one.model}: {pair.errors.reason or pair.errors.interval}.")
        cells = [cell(shares.get(of), paper=_paper(printed.RQ4.get(of)), **shown) for of in ERRORS]
        errors.append(TableRow("Decoupled DPO less SFT", tuple(cells), one.model))
        if not shares:
            todo.append(Todo(f"{one.model} RQ4", sources.make("eval", one.model)))
    return [
        table("table-differences", rows, notes),
        table("table-rq4", errors, intervals, todo, list(ERRORS.values())),
    ]


def _paper(value: float | None) -> Paper:
    return () if value is None else (("paper", value),)


def _difference(one: Backbone, a: str, b: str, column: Column) -> Cell:
    """What run b has more than run a: compared turn by turn, or else one number less the other."""
    runs = [one.runs[name] for name in (a, b)]
    name = "TABLE_4" if a in printed.TABLE_4["Qwen"] else "TABLE_3"
    both = [measured(run, column, paper_of(name, one.model, run.name, column)) for run in runs]
    less, more = (dict(of.paper) for of in both)
    paper = tuple((told, more[told] - less[told]) for told in less if told in more)
    shown = Look(form="+.2f", paper=paper, smoke=any(of.smoke for of in both))
    values = [of.value for of in both if of.value is not None]
    if len(values) < 2:
        return cell(None, next(of.missing for of in both if of.value is None), **shown)
    pair = one.compared(a, b)
    if pair and (found := pair.numbers.get(".".join(column.path[1:]))):
        return cell(found, n=pair.n, **shown)
    # A judge is asked about some of the turns, drawn by their ids.
    drawn = {run.judged.source.get("drawn") for run in runs if run.judged and column in SCORES}
    if len({run.metrics.turns if run.metrics else run.name for run in runs}) > 1 or len(drawn) > 1:
        return cell(None, "of other turns", **shown)
    note = "no interval, so it cannot be told from noise"
    ends = [(of.low, of.high) for of in both if of.low is not None and of.high is not None]
    if len(ends) == 2:
        overlap = max(low for low, _ in ends) <= min(high for _, high in ends)
        note = f"{'inside' if overlap else 'outside'} the noise (overlap)"
    n = min((of.n for of in both if of.n is not None), default=None)
    return cell(values[1] - values[0], n=n, note=note, **shown)


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
    notes, todo = (stats.notes, []) if stats else ([], [Todo("the train set", renew)])
    counted, by_strategy = (stats.table_1, stats.table_6) if stats else ({}, {})
    smoke = bool(built.get("smoke")) or any(note.startswith("SMOKE") for note in notes)
    of_corpus = []
    for name, value in printed.TABLE_1_ESCONV.items():
        shown = Look(paper=_paper(value), form=_form(name), smoke=smoke)
        of_corpus.append(TableRow(name, (cell(counted.get(name), **shown),)))
    total, strategies = sum(by_strategy.values()), []
    for one in Strategy:
        count = by_strategy.get(one, 0) if total else None
        share = None if count is None else 100 * count / total
        # Another list's strategies have no value in the paper.
        papers = (_paper(of.get(one.code)) for of in (printed.TABLE_6, printed.TABLE_6_SHARES))
        number = cell(count, paper=next(papers), smoke=smoke, form=",.0f")
        part = cell(share, paper=next(papers), smoke=smoke, n=total or None, unit=" %")
        strategies.append(TableRow(f"{one} ({one.code})", (number, part)))
    progress = []
    for place, name in enumerate(INTERVALS):
        of = stats.figure_8[place] if stats else {}
        shares = [100 * of[one] if one in of else None for one in Strategy]
        cells = tuple(cell(share, smoke=smoke, **PER_CENT) for share in shares)
        progress.append(TableRow(name, cells))
    return [
        table("table-1-esconv", of_corpus, notes, todo),
        table("table-6", strategies, notes, todo),
        table("figure-8", progress, notes, todo, CODES),
    ]


def _form(name: str) -> str:
    return ",.2f" if "mean" in name or " per " in name else ",.0f"


def mining(sources: Sources, models: Sequence[str]) -> list[Table]:
    """The mined pairs of the first round: the lower half of Table 1, Figures 9 and 10."""
    papers = {
        name: dict(zip(printed.TABLE_1_COLUMNS, values, strict=True))
        for name, values in printed.TABLE_1_PAIRS.items()
    }
    pairs: dict[str, list[Cell]] = {name: [] for name in papers}
    found = [one for one in PsychError if one.value in papers]
    sides, rejected, notes, todo = [], [], [], []
    for model in models:
        path, renew = paths.mining(model) / "stats" / "stats.json", sources.make("mine", model)
        stats = sources.known(path, records.MiningStats, renew)
        smoke = marked(model, stats)
        for name, cells in pairs.items():
            paper = [(word, papers[name][of]) for word, of in printed.columns(model).items()]
            value = stats.table_1.get(name) if stats else None
            cells.append(cell(value, paper=tuple(paper), form=_form(name), smoke=smoke))
        sp, rg = (stats.tasks.get(task) if stats else None for task in ("sp", "rg"))
        for side in ("chosen", "rejected"):
            of = sp.strategies if sp else {}
            count = [of.get(one, {}).get(side, 0) if sp else None for one in Strategy]
            sides.append(TableRow(side, _parts(count, smoke), model))
        count = [rg.errors.get(one, 0) if rg else None for one in found]
        rejected.append(TableRow(model, _parts(count, smoke)))
        notes += [f"{model}: {note}" for note in (stats.notes if stats else ())]
        todo += [] if stats else [Todo(f"{model} mining", renew)]
    for column in printed.TABLE_1_COLUMNS[1:]:
        count = [int(papers[one.value][column]) for one in found]
        rejected.append(TableRow(f"paper, {column}", _parts(count, smoke=False), of_paper=True))
    rows = [
        TableRow(name, (*cells, Cell(paper=(("total", papers[name]["total"]),), form=_form(name))))
        for name, cells in pairs.items()
    ]
    return [
        table("table-1-pairs", rows, notes, todo, [*models, "both of the paper's"]),
        table("figure-9", sides, [], todo, CODES),
        table("figure-10", rejected, [], todo, [one.value for one in found]),
    ]


def _parts(counts: Sequence[int | None], smoke: bool) -> tuple[Cell, ...]:
    """Counts as shares of their sum; not run where they are None."""
    n, no_ends = sum(filter(None, counts)) or None, Look(low=None, high=None)
    shares = [
        one if one is None else records.Number(count=one, value=one / n if n else None, **no_ends)
        for one in counts
    ]
    return tuple(cell(one, n=n, smoke=smoke, **PER_CENT) for one in shares)


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
        for side in ("chosen", "rejected", "improve"):
            cells = []
            for name, column in zip(printed.DIMENSIONS, SCORES, strict=True):
                found = judged.dimensions.get(name) if judged else None
                paper = paper_of("TABLE_2", model, side, column)
                shown = Look(paper=paper, smoke=marked(model, judged))
                if side != "improve":
                    cells.append(cell(getattr(found, side, None), **shown))
                    continue
                shown["unit"] = " %"
                if found:
                    apart = found.difference
                    points = cell(apart, form="+.2f")
                    noise = ", inside the noise" if apart.inside_the_noise else ""
                    note = f"{points.shown} points {points.interval or 'no interval'}{noise}"
                    shown |= {"n": apart.n, "note": note, "signature": apart.signature}
                missing = parts.UNDEFINED if found else parts.NOT_RUN
                cells.append(cell(found.difference.percent if found else None, missing, **shown))
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
            over = f"{len(found.annotators)} annotators; intervals and sign tests are over turns"
            notes.append(f"{model}: {both}, {over}.")
        else:
            todo.append(Todo(f"{model} votes", f"{make}, then --read with the sheets filled in"))
        for name in found.dimensions if found else printed.DIMENSIONS:
            votes = found.dimensions[name] if found else None
            shown = Look(PER_CENT, smoke=marked(model, found), n=votes.n if votes else None)
            cells = (cell(getattr(votes, side, None), **shown) for side in ("win", "tie", "lose"))
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
            cells = [cell(None)] * 4
            if found:
                shown = Look(n=found.tokens, smoke=marked(model, found))
                verdict = "moved" if found.moved else "no further than rounding"
                cells = [
                    cell(found.kl, form=".2e", note=verdict, **shown),
                    cell(found.rounding["kl"], form=".2e", **shown),
                    cell(100 * found.changed, unit=" %", **shown),
                    cell(100 * found.rounding["changed"], unit=" %", **shown),
                ]
            rows.append(TableRow(name, tuple(cells), model))
    return table("table-movement", rows, [], todo)
