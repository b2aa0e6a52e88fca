"""A sheet on which people say whether the errors the judge named are really there, and its result.

Draws N pairs per error type by their ids, writes ``runs/<model>/mining…/audit/<task>/``:
``sheet.csv`` for a spreadsheet, ``sheet.html`` for a browser, a phone or paper (its ticks are saved
as a CSV file that is read in the same way), and last ``audit.json``. A sheet with ticks in it is
never overwritten. ``--read`` writes ``precision.json`` beside them: of the answers yes and no, the
share of yes, per error type and over all.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated

import typer

from data_builders.published import PAIRS
from esc import cli, files, sheets, step
from esc.dialogue import gold_turns
from esc.files import EscError, Row
from esc.paths import EMBEDDED
from esc.psych_errors import PsychError
from esc.stats import share_of_turns
from esc.strategies import Strategy, tag
from mining.sample import Mining, Wanted
from mining.stats import finished_route

TEMPLATE = Path(__file__).parent / "pages" / "audit.html.j2"
ANSWERS = ("yes", "no", "unsure")
COLUMNS = (
    *("record", "error", "conversation", "seeker", "strategy", "gold", "rejected", "explanation"),
    *("answer", "comment"),
)
CSV, HTML, DONE, PRECISION = "sheet.csv", "sheet.html", "audit.json", "precision.json"


def draw(pairs: Iterable[Row], n: int) -> list[Row]:
    """``n`` pairs per error type, or all where there are fewer, in an order that mixes the types.

    By a hash of turn and sample: a larger ``n`` adds to what a smaller one draws.
    """
    of_type: dict[str, list[Row]] = defaultdict(list)
    for pair in sorted(pairs, key=_place):
        if pair["error"] not in (None, PsychError.NONE):
            of_type[pair["error"]].append(pair)
    return sorted((pair for found in of_type.values() for pair in found[:n]), key=_place)


def _place(pair: Row) -> str:
    return hashlib.sha256(f"audit\n{pair['id']}/{pair['sample']}".encode()).hexdigest()


def folder_of(mining: Mining) -> Path:
    """Where the sheet of a mining is."""
    return mining.folder.parent / "audit" / mining.task


def make(mining: Mining, n: int) -> Row:
    """Write the sheet; what ``audit.json`` says.

    Raises EscError where there is one with ticks in it, or no pair to audit.
    """
    routed = finished_route(mining)
    folder = folder_of(mining)
    with files.exclusive(folder):
        if (folder / CSV).is_file():
            sheets.check_blank(folder / CSV, ["answer"])
        drawn = draw(files.read_jsonl(mining.routed / PAIRS), n)
        if not drawn:
            raise EscError(f"{mining.routed / PAIRS} holds no pair with an error to audit")
        (folder / DONE).unlink(missing_ok=True)
        of = routed[PAIRS]["sha256"]
        # A record names the pairs it is of, and no spreadsheet takes it for a date.
        records = {f"{pair['id']} sample {pair['sample']} ({of[:6]})": pair for pair in drawn}
        done: Row = {
            "task": mining.task,
            "model": mining.model,
            "n": n,
            "sampler": routed["provenance"]["sampler"],
            "judge": routed["provenance"]["judge"],
            "pairs": of,
            "smoke": routed["smoke"],
            "records": {record: pair["error"] for record, pair in records.items()},
        }
        turns = {turn.id: turn for turn in gold_turns(mining.work, "train", None)}
        rows = [
            {
                "record": record,
                "error": pair["error"],
                "conversation": sheets.conversation(turns[pair["id"]].history),
                "seeker": turns[pair["id"]].seeker,
                "strategy": pair["gold_strategy"],
                "explanation": pair["explanation"] or "",
                **sides_of(mining.task, pair),
            }
            for record, pair in records.items()
        ]
        page = sheets.page(
            TEMPLATE,
            sheet=[of, *records],
            command=mining.step("audit"),
            cards=[(row, turns[pair["id"]]) for row, pair in zip(rows, drawn, strict=True)],
            made=done,
            errors={error.value: error.definition for error in PsychError},
            answers=ANSWERS,
        )
        files.write_text(folder / CSV, sheets.csv_text(COLUMNS, rows))
        files.write_text(folder / HTML, page)
        files.write_json(folder / DONE, done)
    return done


def sides_of(task: str, pair: Row) -> dict[str, str]:
    """The gold and the rejected answer of a pair, as the sheet shows them."""
    sides = {"gold": pair["chosen"], "rejected": pair["rejected"]}
    if task == "vanilla":
        # The strategy is part of an entangled answer, and its two sides need not share it.
        strategies = Strategy(pair["gold_strategy"]), Strategy(pair["strategy"])
        return {n: tag(s, text) for (n, text), s in zip(sides.items(), strategies, strict=True)}
    return sides


def read(mining: Mining, path: Path) -> Row:
    """Write ``precision.json`` from a ticked sheet; what it says.

    A record without a row counts as blank. Raises EscError where no sheet was made, or, naming file
    and row, where one cannot be read.
    """
    folder = folder_of(mining)
    made: Row = files.read_json(folder / DONE, made_by=mining.step("audit"))
    said = sheets.answers(path, ["answer"], ANSWERS, made["records"])
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for record, error in made["records"].items():
        answer = said[record]["answer"] if record in said else ""
        counts[error][answer or "blank"] += 1
    kept = {name: made[name] for name in ("task", "model", "sampler", "judge", "pairs", "smoke")}
    done: Row = kept | {
        "sheet": files.sha256(path),
        "all": precision(sum(counts.values(), Counter())),
        "errors": {one.value: precision(counts[one]) for one in PsychError if one in counts},
    }
    with files.exclusive(folder):
        files.write_json(folder / PRECISION, done)
    return done


def precision(count: Mapping[str, int]) -> Row:
    """The share of yes among yes and no with its interval, 0 to 1, and how often each was said."""
    told = {answer: count.get(answer, 0) for answer in (*ANSWERS, "blank")}
    n = told["yes"] + told["no"]
    share = share_of_turns(told["yes"], n)
    return {"precision": share["share"], "low": share["low"], "high": share["high"], "n": n} | told


def report(done: Row) -> str:
    """The result of a ticked sheet, with what was left open."""
    lines = [f"precision   {done['task']} pairs of {done['model']}, judge {done['judge']}"]
    for name, one in [*done["errors"].items(), ("all", done["all"])]:
        share = "—" if one["precision"] is None else f"{one['precision']:.1%}"
        interval = "" if one["low"] is None else f"[{one['low']:.1%}, {one['high']:.1%}]"
        counts = ", ".join(f"{one[answer]} {answer}" for answer in (*ANSWERS, "blank"))
        lines.append(f"            {name:<20}{share:>7} {interval:<16} {counts}")
    lines.append("            'all' is of the sheet, where error types are equally frequent")
    return "\n".join([*lines, *[step.SMOKE] * done["smoke"]])


@cli.command(
    examples="  python -m mining audit --task rg --n 20\n"
    "  python -m mining audit --task rg --read sheet.csv"
)
def main(
    wanted: Wanted,
    model: cli.Model = EMBEDDED,
    work: cli.Work = Path(),
    n: Annotated[int, typer.Option(min=1, help="pairs per error type")] = 20,
    sheet: Annotated[Path | None, typer.Option("--read", help="a sheet with answers")] = None,
) -> None:
    """A sheet on which people say whether the errors the judge named are really there, or with
    --read the share of the named errors that are.
    """
    minings = wanted.minings(model, work)
    if sheet and len(minings) > 1:
        raise EscError("a sheet is of one task; name that one alone with --read")
    without = []
    for mining in minings:
        if sheet:
            print(report(read(mining, sheet)))
            print(f"written     {folder_of(mining) / PRECISION}")
            continue
        try:
            done = make(mining, n)
        except EscError as error:
            # One task's mining is none of another's.
            without.append(str(error))
            continue
        told = ", ".join(f"{k} {error}" for error, k in Counter(done["records"].values()).items())
        print(f"sheet       {folder_of(mining)}/{CSV} and {HTML}: {len(done['records'])} ({told})")
        if done["smoke"]:
            print(step.SMOKE)
    if without:
        raise EscError("; ".join(without))
