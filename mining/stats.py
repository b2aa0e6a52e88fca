"""What a mining has brought, beside the paper: Table 1 (lower half), Figures 9 to 14, rates kept.

Reads ``routed/`` of every task that is mined, and for the examples the train set and the kept
corpus; writes ``runs/<model>/mining…/stats/``: ``stats.md``, ``examples.md`` (one pair per error
type, drawn by its id), and last ``stats.json``. The paper prints no numbers for its Figure 9; those
of Figure 10 are Table 1's. Both are drawn on the report's page.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from data_builders import corpus, split
from data_builders.published import DONE, PAIRS, ROUTES
from data_builders.stats import page
from esc import cli, files, paths, step
from esc.dialogue import gold_turns
from esc.files import EscError, Row
from esc.paths import EMBEDDED, Lineage, Quadrant
from esc.prompts import TASKS
from esc.psych_errors import PsychError
from esc.stats import BY_DIALOGUE, FEWEST, share
from esc.strategies import Strategy
from esc.visible import plain
from mining.routing import Fate
from mining.sample import Mining

PAPER_COLUMNS = ("total", "Qwen", "Llama")
# Table 1 of the paper, lower half; its columns are PAPER_COLUMNS.
PAPER_TABLE_1: dict[str, tuple[float, float, float]] = {
    "strategy pairs": (21370, 10651, 10719),
    "response pairs": (11887, 6041, 5846),
    "mean characters of chosen": (124.89, 124.72, 125.06),
    "mean characters of rejected": (83.82, 81.04, 86.59),
    PsychError.LACK_OF_EMPATHY.value: (4371, 2288, 2083),
    PsychError.EARLY_EMOTION_SHIFT.value: (3600, 1814, 1786),
    PsychError.TEMPLATE_RESPONSE.value: (3916, 1939, 1977),
}
RG_ERRORS = tuple(name for name in PAPER_TABLE_1 if name in set(PsychError))
BIN, LONGEST = 20, 400
"""Characters of a bin of lengths, and those beyond which all are in the last one."""
KEPT = f"{BY_DIALOGUE}; none below {FEWEST} dialogues"
"""The interval of a share of samples that became pairs."""
BY = {"error": PsychError, "gold strategy": Strategy}
"""What shares of kept samples are told by."""


@dataclass(frozen=True, slots=True)
class Found:
    """What is mined of one task."""

    smoke: bool
    pairs: Any
    """A frame of pandas."""
    told: Row
    """Its part of ``stats.json``."""


def told_of(task: str, routed: Row, pairs: Any, ways: Any) -> Row:
    """What ``stats.json`` says of a task, from frames of its pairs and of the ways of all samples.

    There are no ways of a file of others, whose pairs have no samples that were dropped.
    """
    of, quadrants = routed["provenance"], pairs["quadrant"].value_counts()
    sides = {"chosen": "gold_strategy", "rejected": "strategy"}
    counts = {side: pairs[column].value_counts() for side, column in sides.items()}
    return {
        "samples": routed["samples"],
        "pairs": len(pairs),
        "fates": routed["fates"],
        "sampler": of["sampler"],
        "judge": of["judge"],
        "strategies": {
            one.value: {side: int(count.get(one, 0)) for side, count in counts.items()}
            for one in Strategy
        },
        "errors": pairs["error"].value_counts(sort=False).to_dict(),
        "quadrants": {q.value: int(quadrants.get(q, 0)) for q in Quadrant if len(quadrants)},
        "characters": {side: spread(pairs[side].str.len()) for side in sides}
        if task != "sp"
        else None,
        "interval": KEPT,
        **{f"kept by {what}": kept(ways, what) for what in BY},
    }


def kept(ways: Any, what: str) -> Row:
    """Value to samples, pairs, the share kept (0 to 1) and its 95 % interval (`KEPT`)."""
    rates: Row = {}
    for value, of_value in ways.groupby(what.replace(" ", "_")):
        both = of_value.groupby("dialogue")["pair"].agg(["sum", "size"])
        rate = share(Counter(both.itertuples(index=False, name=None)))
        rates[value] = {"samples": len(of_value), "pairs": rate.pop("count")} | rate
    return {one.value: rates[one.value] for one in BY[what] if one.value in rates}


def spread(lengths: Any) -> Row:
    """Mean, median and counts per bin of `BIN` characters."""
    bins = (lengths.clip(upper=LONGEST) // BIN).value_counts()
    return {
        "n": len(lengths),
        "mean": float(lengths.mean()),
        "median": float(lengths.median()),
        "bins": [int(bins.get(place, 0)) for place in range(LONGEST // BIN + 1)],
    }


def finished_route(mining: Mining) -> Row:
    """What ``route.json`` says of a mining, as `step.routed_pairs`."""
    return step.routed_pairs(mining.work, mining.model, mining.task, mining.lineage, mining.again())


def collect(minings: Sequence[Mining]) -> tuple[dict[str, Found], list[str]]:
    """(what every task that is mined holds, by task; what a reader must know of the numbers).

    Raises EscError where none is left.
    """
    found: dict[str, Found] = {}
    notes, left_out = [], []
    for mining in minings:
        if not any(path.is_file() for path in (mining.routed / DONE, mining.no_pairs)):
            notes.append(f"{mining.task}: not mined")
            continue
        try:
            routed = finished_route(mining)
        except EscError as error:
            left_out.append(f"{mining.task}: left out, {error}")
            continue
        pairs = pd.DataFrame(files.read_jsonl(mining.routed / PAIRS))
        rows = files.read_jsonl(mining.routed / ROUTES)
        ways = pd.DataFrame(rows, columns=["id", "error", "gold_strategy", "fate"], dtype=str)
        ways["dialogue"] = ways["id"].str.rpartition("-")[0] if len(ways) else ""
        ways["pair"] = ways["fate"] == Fate.PAIR
        told = told_of(mining.task, routed, pairs, ways)
        found[mining.task] = Found(routed["smoke"], pairs, told)
        notes.append(f"{mining.task}: {_source(routed)}")
    if not found:
        first = minings[0]
        why = "; ".join(left_out) or f"{first.again()} begins"
        raise EscError(f"nothing is mined in {first.folder.parent}; {why}")
    if any(one.smoke for one in found.values()):
        notes.insert(0, "SMOKE: embedded model, sample corpus or random judge; no result")
    return found, notes + left_out


def _source(routed: Row) -> str:
    """Who sampled and judged."""
    model, of = routed["model"], routed["provenance"]
    if of.get("file"):
        rows = f"{routed['fates']['pair']:,} of its {routed['samples']:,} rows"
        return f"for {model}, pairs of the file {of['sampler']}, {rows}"
    by = f", judged by {of['judge']}{' (blind)' * of['blind']}" if of["judge"] else ""
    return f"sampled from {model} {of['sampler']}{by}"


def examples(work: Path, found: dict[str, Found], notes: Sequence[str]) -> str:
    """One pair per error type with its whole conversation, as in Figures 11 to 14.

    Which pair is drawn by its id, not by what it says.
    """
    drawn: dict[str, tuple[str, Row]] = {}
    for task, one in found.items():
        for error, pairs in one.pairs.groupby("error"):
            drawn.setdefault(error, (task, min(pairs.to_dict("records"), key=_place)))
    wanted = {pair["id"] for _, pair in drawn.values()}
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "pages"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        finalize=lambda value: plain(value) if isinstance(value, str) else value,
    )
    return environment.get_template("examples.md.j2").render(
        notes=notes,
        # An entangled pair without an error in its reply is one of a wrong strategy.
        errors=[one.value for one in PsychError if one is not PsychError.NONE],
        drawn=drawn,
        turns={turn.id: turn for turn in gold_turns(work, "train", None) if turn.id in wanted},
        seekers=seekers(work),
    )


def _place(pair: Row) -> str:
    return hashlib.sha256(f"example\n{pair['id']}/{pair['sample']}".encode()).hexdigest()


def seekers(work: Path) -> dict[str, dict[str, str]]:
    """Dialogue to what the kept corpus says of its seeker, by name; empty where none is kept."""
    there = [work / paths.CORPUS / name for name in step.manifest(work)["corpus"]["files"]]
    if not all(path.is_file() for path in there):
        return {}
    names = ("situation", "experience_type", "emotion_type", "problem_type")
    return {
        one.id: {n.removesuffix("_type").title(): getattr(one, n) for n in names if getattr(one, n)}
        for one in split.Survey(list(corpus.read(there)[1])).dialogues
    }


def table_1(tasks: Mapping[str, Row]) -> dict[str, float | None]:
    """The lower half of Table 1; None where the task is not mined. ``tasks`` are `told_of`'s."""
    sp, rg = tasks.get("sp"), tasks.get("rg")
    here: dict[str, float | None] = dict.fromkeys(PAPER_TABLE_1)
    here["strategy pairs"] = sp["pairs"] if sp else None
    if rg:
        here["response pairs"] = rg["pairs"]
        here |= {f"mean characters of {k}": one["mean"] for k, one in rg["characters"].items()}
        # A file of others may name none.
        here |= {error: rg["errors"].get(error, 0) for error in RG_ERRORS if rg["errors"]}
    return here


def tables(tasks: Mapping[str, Row]) -> Iterator[tuple[str, Any]]:
    """Heading and frame of what ``stats.md`` shows, Table 1 first, with the paper's values."""
    table = _frame(PAPER_TABLE_1)
    table.columns = [f"paper, {column}" for column in PAPER_COLUMNS]
    table.insert(0, "here", pd.Series(table_1(tasks), dtype=float))
    shown = table.map(lambda n: f"{n:,.2f}".removesuffix(".00"))
    yield "Table 1, lower half", shown.replace("nan", "—")
    for task, one in tasks.items():
        of = f"{task}, {one['pairs']:,} pairs"
        # The generator answers under the gold strategy: both sides of its pairs have the same.
        if task != "rg":
            counts = _frame(one["strategies"])
            shares = counts * 100 / one["pairs"]
            yield f"{of}: their strategies (Figure 9)", counts.join(shares, rsuffix=", %")
        if one["characters"]:
            yield f"{of}: characters of the replies", _frame(one["characters"])[["mean", "median"]]
        for what in BY:
            if one[f"kept by {what}"]:
                rates = _frame(one[f"kept by {what}"])[["samples", "pairs", "share", "low", "high"]]
                rates = rates.astype(dict.fromkeys(("share", "low", "high"), float))
                rates[["share", "low", "high"]] *= 100
                yield f"{of}: samples that became pairs, by {what} (%)", rates
        if one["quadrants"]:
            yield f"{of}: their quadrants", _frame({"pairs": one["quadrants"]})


def _frame(rows: Mapping[str, Any]) -> Any:
    """A frame of pandas from row names to cells by column."""
    return pd.DataFrame.from_dict(rows, orient="index")


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return "—" if math.isnan(value) else f"{value:,.1f}"
    return value if isinstance(value, str) else f"{value:,}"


@cli.command(
    examples="  python -m mining stats\n  python -m mining stats --model qwen2.5-7b --round 2"
)
def main(
    model: cli.Model = EMBEDDED,
    work: cli.Work = Path(),
    variant: cli.Variant = None,
    round: cli.Round = 1,  # noqa: A002
) -> None:
    """What a mining has brought, beside the paper: Table 1 (lower half), Figures 9 to 14."""
    # Of all tasks the entangled one has the most variants.
    lineage = Lineage(variant, round).checked("vanilla").mining
    folder = work / paths.mining(model, lineage) / "stats"
    # Also where nothing is left to count: the report takes what stands there for this mining's.
    (folder / "stats.json").unlink(missing_ok=True)
    found, notes = collect([Mining(work, model, task, lineage) for task in TASKS])
    tasks = {task: one.told for task, one in found.items()}
    # As objects, whole numbers of a row stay whole beside shares.
    shown = {heading: one.astype(object).map(_cell) for heading, one in tables(tasks)}
    intervals = f"Intervals of samples that became pairs: {KEPT}."
    text = page("The mined pairs beside the paper", [*map(plain, notes), intervals], shown)
    told = {
        "notes": notes,
        "smoke": any(one.smoke for one in found.values()),
        "table_1": {"here": table_1(tasks), "paper": PAPER_TABLE_1, "columns": PAPER_COLUMNS},
        "tasks": tasks,
    }
    with files.exclusive(folder):
        files.write_text(folder / "stats.md", text)
        files.write_text(folder / "examples.md", examples(work, found, notes))
        files.write_json(folder / "stats.json", told)
    print(shown["Table 1, lower half"].to_string(), *notes, sep="\n")
    print(f"written     {folder}/stats.json, stats.md, examples.md")
