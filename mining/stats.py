"""What a mining has brought, beside the paper: Table 1 (lower half), Figures 9 to 14, rates kept.

Reads ``routed/`` of every task that is mined, writes ``runs/<model>/mining…/stats/``: ``stats.md``,
``examples.md`` (a pair per error type, drawn by its id), ``stats.json``. The report draws Figures 9
and 10.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from data_builders.pairs import DONE, PAIR, PAIRS, ROUTES, Mining
from data_builders.stats import PAPER, page
from esc import cli, files, paths, step
from esc.dialogue import gold_turns
from esc.files import EscError, Row
from esc.paths import EMBEDDED, Lineage, Quadrant
from esc.prompts import TASKS
from esc.psych_errors import PsychError
from esc.records import Routed
from esc.stats import BY_DIALOGUE, FEWEST, share
from esc.strategies import Strategy
from esc.visible import plain
from mining.routing import Fate

PAPER_COLUMNS, PAPER_TABLE_1 = PAPER["TABLE_1_COLUMNS"], PAPER["TABLE_1_PAIRS"]
RG_ERRORS = tuple(name for name in PAPER_TABLE_1 if name in set(PsychError))
_BIN, _LONGEST = 20, 400
"""Characters of a bin of lengths, and those beyond which all are in the last one."""
_KEPT = f"{BY_DIALOGUE}; none below {FEWEST} dialogues"
"""The interval of a share of samples that became pairs."""
_BY = {"error": PsychError, "gold strategy": Strategy}
"""What shares of kept samples are told by."""


def _told(mining: Mining, routed: Routed, pairs: Any) -> Row:
    """What ``stats.json`` says of a task; of a file of others there are no dropped samples."""
    quadrants = pairs["quadrant"].value_counts()
    sides = {"chosen": "gold_strategy", "rejected": "strategy"}
    counts = {side: pairs[column].value_counts() for side, column in sides.items()}
    columns = ["id", "error", "gold_strategy", "fate"]
    ways = pd.DataFrame(files.read_jsonl(mining.routed / ROUTES), columns=columns, dtype=str)
    return {
        **routed.model_dump(include={"samples", "fates"}),
        **{name: routed.provenance[name] for name in ("sampler", "judge")},
        "pairs": len(pairs),
        "strategies": {
            one.value: {side: int(count.get(one, 0)) for side, count in counts.items()}
            for one in Strategy
        },
        "errors": pairs["error"].value_counts(sort=False).to_dict(),
        "quadrants": {q.value: int(quadrants.get(q, 0)) for q in Quadrant if len(quadrants)},
        "characters": {
            side: _spread(pairs[side].str.len()) for side in sides if mining.task != "sp"
        },
        "interval": _KEPT,
        **{f"kept by {what}": _kept(ways, what) for what in _BY},
    }


def _kept(ways: Any, what: str) -> Row:
    """Value to samples, pairs, the share kept (0 to 1) and its 95 % interval (`_KEPT`)."""
    rates: Row = {}
    dialogue = ways["id"].astype(str).str.rpartition("-")[0] if len(ways) else None
    for value, of_value in ways.groupby(what.replace(" ", "_")):
        both = (of_value["fate"] == Fate.PAIR).groupby(dialogue).agg(["sum", "size"])
        rate = share(Counter(both.itertuples(index=False, name=None)))
        rates[value] = {"samples": len(of_value), "pairs": rate.pop("count")} | rate
    return {one.value: rates[one.value] for one in _BY[what] if one.value in rates}


def _spread(lengths: Any) -> Row:
    """Mean, median and counts per bin of `_BIN` characters."""
    bins = (lengths.clip(upper=_LONGEST) // _BIN).value_counts()
    return {
        "n": len(lengths),
        "mean": float(lengths.mean()),
        "median": float(lengths.median()),
        "bins": [int(bins.get(place, 0)) for place in range(_LONGEST // _BIN + 1)],
    }


def _source(routed: Routed) -> str:
    """Who sampled and judged."""
    model, of = routed.model, routed.provenance
    if of.get("file"):
        rows = f"{routed.fates[PAIR]:,} of its {routed.samples:,} rows"
        return f"for {model}, pairs of the file {of['sampler']}, {rows}"
    by = f", judged by {of['judge']}{' (blind)' * of['blind']}" if of["judge"] else ""
    return f"sampled from {model} {of['sampler']}{by}"


def draw(pairs: Iterable[Row], n: int) -> Iterator[Row]:
    """``n`` pairs per error type, by a hash of their ids: a larger ``n`` adds to a smaller one."""

    def place(pair: Row) -> str:
        return hashlib.sha256(f"audit\n{pair['id']}/{pair['sample']}".encode()).hexdigest()

    taken: Counter[str] = Counter()
    for pair in sorted(pairs, key=place):
        taken[pair["error"]] += 1
        if pair["error"] not in (None, PsychError.NONE) and taken[pair["error"]] <= n:
            yield pair


def examples(work: Path, drawn: Mapping[str, tuple[str, Row]], notes: Sequence[str]) -> str:
    """A page of (task, pair) by error, each with its conversation, as in Figures 11 to 14."""
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
        turns={turn.id: turn for turn in gold_turns(work, "train", None)},
    )


def table_1(tasks: Mapping[str, Row]) -> dict[str, float | None]:
    """The lower half of Table 1; None where the task is not mined. ``tasks`` are `_told`'s."""
    here: dict[str, float | None] = dict.fromkeys(PAPER_TABLE_1)
    if sp := tasks.get("sp"):
        here["strategy pairs"] = sp["pairs"]
    if rg := tasks.get("rg"):
        here["response pairs"] = rg["pairs"]
        here |= {f"mean characters of {k}": one["mean"] for k, one in rg["characters"].items()}
        # A file of others may name none.
        here |= {error: rg["errors"].get(error, 0) for error in RG_ERRORS if rg["errors"]}
    return here


def _tables(tasks: Mapping[str, Row]) -> Iterator[tuple[str, Any]]:
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
        for what in _BY:
            if one[f"kept by {what}"]:
                rates = _frame(one[f"kept by {what}"])
                shares = rates[["share", "low", "high"]].astype(float) * 100
                kept = rates[["samples", "pairs"]].join(shares)
                yield f"{of}: samples that became pairs, by {what} (%)", kept
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
    layout: cli.Layout = "turn",
) -> None:
    """What a mining has brought, beside the paper: Table 1 (lower half), Figures 9 to 14."""
    # Of all tasks the entangled one has the most variants.
    Lineage(variant, round).checked("vanilla")
    lineage = Lineage(variant, round, layout).mining
    folder = work / paths.mining(model, lineage) / "stats"
    # Also where nothing is left to count: the report takes what stands there for this mining's.
    (folder / "stats.json").unlink(missing_ok=True)
    tasks: dict[str, Row] = {}
    drawn: dict[str, tuple[str, Row]] = {}
    notes, smoke = [], False
    for mining in (Mining(work, model, task, lineage.of(task)) for task in TASKS):
        if not any(path.is_file() for path in (mining.routed / DONE, mining.no_pairs)):
            notes.append(f"{mining.task}: not mined; {mining.again()} begins")
            continue
        try:
            routed = mining.pairs()
        except EscError as error:
            notes.append(f"{mining.task}: left out, {error}")
            continue
        pairs = pd.DataFrame(files.read_jsonl(mining.routed / PAIRS))
        tasks[mining.task] = _told(mining, routed, pairs)
        for pair in draw(pairs.to_dict("records"), 1):
            drawn.setdefault(pair["error"], (mining.task, pair))
        notes.append(f"{mining.task}: {_source(routed)}")
        smoke |= routed.smoke
    if not tasks:
        raise EscError(f"nothing is mined in {folder.parent}; {'; '.join(notes)}")
    notes = [step.SMOKE] * smoke + notes
    # As objects, whole numbers of a row stay whole beside shares.
    shown = {heading: one.astype(object).map(_cell) for heading, one in _tables(tasks)}
    intervals = f"Intervals of samples that became pairs: {_KEPT}."
    text = page("The mined pairs beside the paper", [*map(plain, notes), intervals], shown)
    lower = {"here": table_1(tasks), "paper": PAPER_TABLE_1, "columns": PAPER_COLUMNS}
    told = {"notes": notes, "smoke": smoke, "table_1": lower, "tasks": tasks}
    with files.exclusive(folder):
        files.write_text(folder / "stats.md", text)
        files.write_text(folder / "examples.md", examples(work, drawn, notes))
        files.write_json(folder / "stats.json", told)
    print(shown["Table 1, lower half"].to_string(), *notes, sep="\n")
    print(f"written     {folder}/stats.json, stats.md, examples.md")
