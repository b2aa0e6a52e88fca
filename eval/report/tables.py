"""What was run, as tables beside the paper's values: its Tables 1 to 6, those behind its figures,
and some that it does not have.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from esc import paths, records
from esc.dialogue import INTERVALS
from esc.files import Row
from esc.paths import Lineage
from esc.prompts import TASKS
from esc.psych_errors import PsychError
from esc.step import OPTIONS
from esc.strategies import Strategy
from eval import paper as printed
from eval.metrics import QUESTIONS
from eval.report import parts
from eval.report.manifest import ALL, Backbone, Run, Sources, marked
from eval.report.parts import CODES, OF_TABLES, Paper, cell, row, table, todo

PER_CENT: dict[str, Any] = {"form": ".1f", "unit": " %"}
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


def _columns_of(name: str) -> Iterator[Column]:
    for head, (path, *look) in OF_TABLES[name]["columns"].items():
        place = tuple(path.split("."))
        if head not in EACH:
            yield Column(head, place, *look)
        for of, told in EACH.get(head, {}).items():
            yield Column(told, (*place, of), *look)


COLUMNS, SCORES = ([*_columns_of(name)] for name in ("table-3", "table-4"))
"""Those of Tables 3 and 5, in the paper's order, and the judge's among them."""


def reach(found: Any, path: Iterable[Any]) -> Any:
    """What stands there in a record, or None where a part of it is missing."""
    for name in path:
        if isinstance(found, list):
            found = found[name]
        elif found is not None:
            found = found.get(name) if isinstance(found, dict) else getattr(found, name, None)
    return found


def _measured(run: Run, column: Column, paper: Paper) -> Row:
    file, *path = column.path
    source = getattr(run, file)
    found = reach(source, path)
    look: Row = {"form": column.form, "unit": column.unit, "paper": paper}
    if isinstance(found, records.Number):
        look |= {"signature": source.signature} if file == "judged" else {}
        look |= {} if found.count is None else {"n": source.n}
    return cell(found, "—" if source else run.missing, smoke=marked(run.model, source), **look)


def _paper_of(name: str, model: str, label: str, column: Column) -> Paper:
    """What a table of the paper has there: one value, or each backbone's.

    Tables 2 and 4 have the judge's columns alone.
    """
    columns = SCORES if name in ("TABLE_2", "TABLE_4") else COLUMNS
    if not name or column not in columns:
        return []
    place = columns.index(column)
    tables = {told: getattr(printed, name)[of] for told, of in printed.columns(model).items()}
    return [(told, of[label][place]) for told, of in tables.items() if label in of]


def systems(sources: Sources, backbones: Sequence[Backbone]) -> list[Row]:
    """What every system chooses and says: Tables 3 to 5, Figures 2 to 4 and 7, and more."""
    path = Path("runs/failed_esconv/errors/proportions.json")
    variables = {"FAILED_ESCONV": "FailedESConv.json"}
    failed = sources.known(path, records.Proportions, sources.make("eval", **variables, FORCE=1))
    fill = "" if failed else sources.make("eval", **variables)
    corpus = Run("", "failed_esconv", "FailedESConv", errors=failed, todo=fill)
    given: dict[str, Any] = {
        "table-3": {"notes": [note for one in backbones for note in _told_of_turns(one)]},
        "figure-2": {"above": [corpus]},
    }
    named = [name for name, said in OF_TABLES.items() if "systems" in said]
    return [_of_systems(name, backbones, **given.get(name, {})) for name in named]


def _of_systems(
    name: str, backbones: Sequence[Backbone], notes: Sequence[str] = (), above: Sequence[Run] = ()
) -> Row:
    """A row for each of the table's systems, after those ``above`` of no backbone."""
    said, columns = OF_TABLES[name], list(_columns_of(name))
    paper, whole = said.get("paper", ""), "measured" not in said.get("more", ())
    classified: dict[str, None] = {}
    rows, missing = [], []
    for run in (*above, *(run for one in backbones for run in _runs(one, said))):
        cells = [_measured(run, of, _paper_of(paper, run.model, run.name, of)) for of in columns]
        # A baseline has no name.
        if any(one["value"] is not None for one in cells) or (whole and run.name):
            on = run.measured_on if SCORES[0] in columns else ""
            rows.append(row(run.label, cells, run.model) | {"measured_on": on})
        if whole and run.todo:
            missing.append(todo(f"{run.model} {run.label}".strip(), run.todo))
        if run.errors and "named" in said:
            how = f"classified by {run.errors.judge}; intervals: {run.errors.interval}."
            classified[f"{run.model or run.label}: {how}"] = None
    return table(name, rows, [*notes, *classified], missing, [column.name for column in columns])


def _runs(one: Backbone, said: Row) -> Iterator[Run]:
    """The rows of a table; gold and baselines are on the turns of the first measured run."""
    more, named, first = said.get("more", ()), said.get("named"), one.measured[:1]
    nothing: dict[str, Any] = {"name": "", "judged": None, "errors": None, "todo": ""}
    nothing["missing"] = "—"
    for run, metrics in first if "gold" in more else ():
        gold = {"distribution": {"predicted": metrics.strategy["distribution"]["gold"]}}
        told = metrics.model_copy(update={"strategy": gold})
        yield replace(run, label="gold", metrics=told, **nothing)
    for kind in SYSTEMS[said["systems"]]:
        run = one.runs[kind.name]
        if not named or kind.name in named or run.errors:
            yield replace(run, label=kind.label)
    if "others" in more:
        # No rows of the paper: other losses, rounds, other systems.
        yield from (run for run, _ in one.measured if run.name not in paths.KINDS)
    for run, metrics in first if "baselines" in more else ():
        for name, found in metrics.baselines.items():
            told = metrics.model_copy(update=found)
            yield replace(run, label=f"baseline: {name}", metrics=told, **nothing)


def _told_of_turns(one: Backbone) -> Iterator[str]:
    """What the numbers of a backbone were measured on, and how."""
    if len({found.turns for _, found in one.measured}) > 1:
        yield (
            f"{one.model}: its systems were not all measured on the same turns, as their rows say; "
            "such numbers are not subtracted. Baselines are on those of the first."
        )
    for what, said in {
        "measured on": {run.split for run, _ in one.measured},
        "answers drawn by": {run.sampling for run, _ in one.measured},
        "intervals are of 95 %, resampled by": {found.resampled_by for _, found in one.measured},
        "judged by": {run.judged.judge for run in one.runs.values() if run.judged},
    }.items():
        if names := " or ".join(sorted(said - {""})):
            yield f"{one.model}: {what} {names}."


def questions(sources: Sources, backbones: Sequence[Backbone]) -> list[Row]:
    """The paper's questions: differences between systems in every column of Table 3, and RQ4.

    What preference training changes in the shares of errors is RQ4 (section 6.2).
    """
    rows, errors, notes, missing, intervals = [], [], [], [], []
    for one in backbones:
        for gone in one.comparisons.left_out if one.comparisons else ():
            both = f"{gone['a']} and {gone['b']}"
            notes.append(f"{one.model}: {both} are not compared: {gone['reason']}.")
        for label, a, b in QUESTIONS:
            cells = [_difference(one, a, b, column) for column in COLUMNS]
            rows.append(row(label, cells, one.model))
        pair = one.compared("decoupled_sft", "decoupled_dpo")
        found = pair.errors if pair else {}
        shares = found.get("shares", {})
        look: Row = {"form": "+.1f", "unit": " %", "smoke": marked(one.model, one.comparisons)}
        if pair:
            look["n"] = found["n"]
            intervals.append(f"{one.model}: {found['reason'] or found['interval']}.")
        each = [shares.get(of) for of in ERRORS]
        papers = map(printed.RQ4.get, ERRORS)
        errors.append(row("Decoupled DPO less SFT", each, one.model, papers, **look))
        if not shares:
            missing.append(todo(f"{one.model} RQ4", sources.make("eval", one.model)))
    return [
        table("table-differences", rows, notes),
        table("table-rq4", errors, intervals, missing, list(ERRORS.values())),
    ]


def _difference(one: Backbone, a: str, b: str, column: Column) -> Row:
    """What run b has more than run a: compared turn by turn, or else one number less the other."""
    runs = [one.runs[name] for name in (a, b)]
    name = "TABLE_4" if a in printed.TABLE_4["Qwen"] else "TABLE_3"
    both = [_measured(run, column, _paper_of(name, one.model, run.name, column)) for run in runs]
    less, more = (dict(of["paper"]) for of in both)
    paper = [(told, more[told] - less[told]) for told in less if told in more]
    look: Row = {"form": "+.2f", "paper": paper}
    look["smoke"] = any(of["smoke"] for of in both)
    if gaps := [of["missing"] for of in both if of["value"] is None]:
        return cell(None, gaps[0], **look)
    pair = one.compared(a, b)
    if pair and (found := pair.numbers.get(".".join(column.path[1:]))):
        return cell(found, n=pair.n, **look)
    # A judge is asked about some of the turns, drawn by their ids.
    drawn = {run.judged.source.get("drawn") for run in runs if run.judged and column in SCORES}
    if len({run.metrics.turns if run.metrics else run.name for run in runs}) > 1 or len(drawn) > 1:
        return cell(None, "of other turns", **look)
    note = "no interval, so it cannot be told from noise"
    if all(of["interval"] for of in both):
        overlap = max(of["low"] for of in both) <= min(of["high"] for of in both)
        note = f"{'inside' if overlap else 'outside'} the noise (overlap)"
    n = min((of["n"] for of in both if of["n"] is not None), default=None)
    return cell(both[1]["value"] - both[0]["value"], n=n, note=note, **look)


def answers(found: dict[str, Row]) -> Iterator[Row]:
    """The paper's questions as pictures: one for a metric, a row for a question."""
    for name, said in parts.LAYOUT["answers"].items():
        of = found["table-rq4" if said["column"] in ERRORS.values() else "table-differences"]
        place = of["columns"].index(said["column"])
        rows = [
            row(one["label"].replace(" less ", " − "), [one["cells"][place]], one["group"])
            for one in of["rows"]
        ]
        words = {"title": said["title"], "head": of["head"], "axis": "difference"}
        yield table(name, rows, columns=[said["column"]], drawing="differences", **words)


def corpus(sources: Sources) -> list[Row]:
    """The train set: the upper half of Table 1, Table 6 and Figure 8."""
    built = sources.read(paths.MANIFEST)
    # The target would build the default's sets in the place of those that are there.
    counting = paths.step("data_builders", "stats", work=sources.work)
    renew = counting if built else sources.make("stats")
    stats = sources.known(paths.STATS, records.CorpusStats, renew)
    notes, missing = (stats.notes, []) if stats else ([], [todo("the train set", renew)])
    smoke = bool(built.get("smoke")) or any(note.startswith("SMOKE") for note in notes)
    look: Row = {"smoke": smoke}
    by_strategy = reach(stats, ["here", "table_6"])
    counts = [by_strategy and by_strategy.get(one, 0) for one in Strategy]
    # Another list's strategies have no value in the paper.
    of, parts_of = (map(known.get, CODES) for known in (printed.TABLE_6, printed.TABLE_6_SHARES))
    table_1 = [
        row(name, [reach(stats, ["here", "table_1", name])], papers=[paper], **_form(name), **look)
        for name, paper in printed.TABLE_1_ESCONV.items()
    ]
    table_6 = [
        row(
            f"{one} ({one.code})",
            [
                cell(count, form=",.0f", paper=number, **look),
                cell(share, unit=" %", paper=part, **look),
            ],
        )
        for one, count, number, share, part in zip(
            Strategy, counts, of, _shares(counts), parts_of, strict=True
        )
    ]
    figure_8 = []
    for place, name in enumerate(INTERVALS):
        shares = [reach(stats, ["here", "figure_8", place, one]) for one in Strategy]
        shares = [one and 100 * one for one in shares]
        figure_8.append(row(name, shares, **look, **PER_CENT))
    return [
        table("table-1-esconv", table_1, notes, missing),
        table("table-6", table_6, notes, missing),
        table("figure-8", figure_8, notes, missing, CODES),
    ]


def _form(name: str) -> Row:
    return {"form": ",.2f" if "mean" in name or " per " in name else ",.0f"}


def _shares(counts: Sequence[Any]) -> list[records.Number | None]:
    """Counts as shares of their sum; None where they are."""
    n = sum(filter(None, counts)) or None
    gap: Row = {"low": None, "high": None}
    return [
        one if one is None else records.Number(count=one, value=one / n if n else None, n=n, **gap)
        for one in counts
    ]


def mining(sources: Sources, models: Sequence[str]) -> list[Row]:
    """The mined pairs of the first round: the lower half of Table 1, Figures 9 and 10."""
    errors = [one for one in PsychError if one.feeds == "rg"]
    found, sides, rejected, notes, missing = {}, [], [], [], []
    for model in models:
        # The paper's layout, where both were mined.
        both = [Lineage(layout=layout) for layout in paths.LAYOUTS]
        stored = {of: paths.mining(model, of) / "stats" / "stats.json" for of in both}
        of = next((one for one in both if (sources.work / stored[one]).is_file()), both[0])
        renew = sources.make("mine", model, **of.variables)
        stats = found[model] = sources.known(stored[of], records.MiningStats, renew)
        whose = f"{model}, LAYOUT={of.layout}" if of.suffix else model
        notes += [f"{whose}: {note}" for note in (stats.notes if stats else ())]
        missing += [] if stats else [todo(f"{model} mining", renew)]
        look: Row = PER_CENT | {"smoke": marked(model, stats)}
        sp, rg = (reach(stats, ["tasks", task]) for task in ("sp", "rg"))
        for side in ("chosen", "rejected"):
            count = [sp and (reach(sp, ["strategies", one, side]) or 0) for one in Strategy]
            sides.append(row(side, _shares(count), model, **look))
        count = [rg and (reach(rg, ["errors", one]) or 0) for one in errors]
        rejected.append(row(model, _shares(count), **look))
    pairs = []
    for name, values in printed.TABLE_1_PAIRS.items():
        known, cells = dict(zip(printed.TABLE_1_COLUMNS, values, strict=True)), []
        for model, stats in found.items():
            look = _form(name) | {"smoke": marked(model, stats)}
            paper = [(told, known[of]) for told, of in printed.columns(model).items()]
            cells.append(cell(reach(stats, ["table_1", name]), paper=paper, **look))
        total = cell(None, "", paper=[("total", known["total"])], **_form(name))
        pairs.append(row(name, [*cells, total]))
    of_paper = [printed.TABLE_1_PAIRS.get(one.value) for one in errors]
    for place, column in enumerate(printed.TABLE_1_COLUMNS[1:], start=1):
        count = [one and int(one[place]) for one in of_paper]
        rejected.append(row(f"paper, {column}", _shares(count), **PER_CENT) | {"of_paper": True})
    return [
        table("table-1-pairs", pairs, notes, missing, [*models, "both of the paper's"]),
        table("figure-9", sides, [], missing, CODES),
        table("figure-10", rejected, [], missing, [one.value for one in errors]),
    ]


def pairs(sources: Sources, models: Sequence[str]) -> Row:
    """Table 2: the judge's scores of chosen and rejected replies, and the difference."""
    rows, notes, missing = [], [], []
    for model in models:
        folder = Path("runs") / model / "pairs_judge"
        renew = sources.make("eval", model, FORCE=1)
        judged = sources.known(folder / "judge.json", records.Judged, renew)
        sources.options_of(folder)
        if judged:
            notes.append(f"{model}: judged by {judged.judge}")
        else:
            file = paths.preference_file(paths.preference_dataset("rg", model))
            mine = [] if (sources.work / file).is_file() else [sources.make("mine-rg", model)]
            fill = " && ".join([*mine, sources.make("eval", model)])
            missing.append(todo(f"{model} pairs", fill))
        look: Row = {"smoke": marked(model, judged)}
        for side in ("chosen", "rejected", "difference"):
            papers = [_paper_of("TABLE_2", model, side, column) for column in SCORES]
            found = [reach(judged, ["dimensions", name, side]) for name in printed.DIMENSIONS]
            if side == "difference":
                side, look["unit"] = "improvement", " %"
                found = [one and one.model_copy(update=_in_per_cent(one)) for one in found]
            rows.append(row(side, found, model, papers, **look))
    return table("table-2", rows, notes, missing)


def _in_per_cent(apart: records.Number) -> Row:
    """What a difference is in per cent of the rejected replies' score, told in points too."""
    points, inside = cell(apart, form="+.2f"), apart.low is not None and apart.low <= 0
    noise = ", inside the noise" if inside and (apart.high or 0) >= 0 else ""
    told = f"{points['shown']} points {points['interval'] or 'no interval'}{noise}"
    return {"value": apart.percent, "low": None, "high": None, "reason": told}


def human(sources: Sources, models: Sequence[str]) -> Row:
    """Figure 6: people's choice between two systems."""
    rows, notes, missing = [], [], []
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
            fill = f"{make}, then --read with the sheets filled in"
            missing.append(todo(f"{model} votes", fill))
        for name in found.dimensions if found else printed.DIMENSIONS:
            votes = reach(found, ["dimensions", name])
            look: Row = PER_CENT | {"smoke": marked(model, found), "n": reach(votes, ["n"])}
            shares = [reach(votes, [side]) for side in ("win", "tie", "lose")]
            rows.append(row(name, shares, model, **look))
            if said := reach(votes, ["sign_test", "said"]):
                notes.append(f"{model}, {name}: {said}.")
    return table("figure-6", rows, notes, missing)


def movement(sources: Sources, models: Sequence[str]) -> Row:
    """How far each preference training moved its policy, beside what rounding alone does."""
    rows, missing = [], []
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
            missing += [] if found else [todo(f"{model} {name}", again)]
            look: Row = {"smoke": marked(model, found)}
            if found:
                verdict = "moved" if found.moved else "no further than rounding"
                look |= {"n": found.tokens, "note": verdict}
            both = (found, reach(found, ["rounding"]))
            divergences = [reach(one, ["kl"]) for one in both]
            changed = [one and 100 * reach(one, ["changed"]) for one in both]
            cells = [cell(one, form=".2e", **look) for one in divergences]
            cells += [cell(one, unit=" %", **look) for one in changed]
            rows.append(row(name, cells, model))
    return table("table-movement", rows, [], missing)
