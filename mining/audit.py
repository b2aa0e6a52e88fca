"""A sheet on which people say whether the errors the judge named are really there, and its result.

    python -m mining audit --task rg --n 20
    python -m mining audit --task rg --read runs/smollm2-135m/mining/audit/rg/sheet.csv

Draws N pairs per error type by their ids, writes ``runs/<model>/mining…/audit/<task>/``:
``sheet.csv`` for a spreadsheet, ``sheet.html`` for a browser, a phone or paper (its ticks are saved
as a CSV file that is read in the same way), and last ``audit.json``. A sheet with ticks in it is
never overwritten. ``--read`` writes ``precision.json`` beside them: of the answers yes and no, the
share of yes, per error type and over all.
"""

import argparse
import bisect
import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from operator import itemgetter
from pathlib import Path

from esc import cli, files, sheets
from esc.dialogue import GoldTurn, gold_turns
from esc.exceptions import EscError
from esc.files import Row
from esc.psych_errors import PsychError
from esc.stats import FEWEST, wilson
from esc.strategies import Strategy, tag
from mining.route import PAIRS
from mining.sample import Mining, add_mining, minings_of
from mining.stats import finished_route

TEMPLATE = Path(__file__).parent / "pages" / "audit.html.j2"
ANSWERS = ("yes", "no", "unsure")
COLUMNS = (
    *("record", "error", "conversation", "seeker", "strategy", "gold", "rejected", "explanation"),
    *("answer", "comment", "sheet"),
)


def record_of(pair: Row) -> str:
    """What names a pair on the sheet; no spreadsheet takes it for a date."""
    return f"{pair['id']} sample {pair['sample']}"


def sheet_of(made: Row) -> str:
    """What tells the sheet of an audit from another's; ``made`` is as in ``audit.json``."""
    return sheets.hash_of([made["pairs"], *made["records"]])


def sheet_row(made: Row, pair: Row, turn: GoldTurn) -> dict[str, str]:
    """A pair as a row of the sheet, its answer and comment still blank."""
    sides = {"gold": pair["chosen"], "rejected": pair["rejected"]}
    if made["task"] == "vanilla":
        # The strategy is part of an entangled answer, and its two sides need not share it.
        strategies = Strategy(pair["gold_strategy"]), Strategy(pair["strategy"])
        sides = {
            side: tag(strategy, text)
            for (side, text), strategy in zip(sides.items(), strategies, strict=True)
        }
    said = [f"seeker: {seeker}\nsupporter: {reply}" for seeker, reply in turn.history]
    return dict.fromkeys(COLUMNS, "") | {
        "record": record_of(pair),
        "error": pair["error"],
        "conversation": "\n".join(said),
        "seeker": turn.seeker,
        "strategy": pair["gold_strategy"],
        "explanation": pair["explanation"] or "",
        "sheet": sheet_of(made),
        **sides,
    }


def answers(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """(row as a spreadsheet counts it, record, answer, comment and sheet) of every row not blank.

    Raises EscError where it is no sheet that can be read.
    """
    columns = ("record", "answer", "comment", "sheet")
    return sheets.read_csv(path, columns, needed=columns[:2])


def html(rows: list[dict[str, str]], turns: list[GoldTurn], made: Row, command: str) -> str:
    """The sheet as one page that needs nothing else; ``command`` makes it."""
    return sheets.page(
        TEMPLATE,
        sheet=sheet_of(made),
        command=command,
        cards=list(zip(rows, turns, strict=True)),
        made=made,
        errors={error.value: error.definition for error in PsychError},
        answers=ANSWERS,
    )


CSV, HTML, DONE, PRECISION = "sheet.csv", "sheet.html", "audit.json", "precision.json"


def draw(pairs: Iterable[Row], n: int) -> list[Row]:
    """``n`` pairs per error type, or all where there are fewer, in an order that mixes the types.

    By a hash of turn and sample: a larger ``n`` adds to what a smaller one draws.
    """
    drawn: dict[str, list[tuple[str, Row]]] = {}
    for pair in pairs:
        if pair["error"] in (None, PsychError.NONE):
            continue
        place = hashlib.sha256(f"audit\n{pair['id']}/{pair['sample']}".encode()).hexdigest()
        first = drawn.setdefault(pair["error"], [])
        bisect.insort(first, (place, pair), key=itemgetter(0))
        del first[n:]
    return [pair for _, pair in sorted((x for y in drawn.values() for x in y), key=itemgetter(0))]


def precision(
    found: Iterable[tuple[int, dict[str, str]]], errors: Mapping[str, str], sheet: str
) -> Row:
    """Per error type and over all: yes, no, unsure, blank, and the share of yes with its interval.

    ``errors`` maps a record of the sheet to its error; one that has no row counts as blank. Raises
    EscError, naming the row, for one of another sheet than ``sheet``, an unknown record, one given
    twice, and another word.
    """
    said: dict[str, str] = {}
    for number, row in found:
        record, answer = row["record"], row["answer"].casefold()
        if row["sheet"] != sheet:
            raise EscError(
                f"row {number}: it is of another sheet than this audit's (column 'sheet'); name "
                "the model, round and variant that it was made for"
            )
        if record not in errors:
            raise EscError(f"row {number}: record {record!r} is not on the sheet")
        if record in said:
            raise EscError(f"row {number}: record {record!r} is there twice")
        if answer and answer not in ANSWERS:
            raise EscError(
                f"row {number} ({record}): answer {row['answer']!r} is none of {', '.join(ANSWERS)}"
            )
        said[record] = answer
    counts: dict[str, Counter[str]] = {}
    for record, error in errors.items():
        counts.setdefault(error, Counter())[said.get(record) or "blank"] += 1
    by_type = {error.value: counts[error] for error in PsychError if error in counts}
    return {
        "all": _precise(sum(by_type.values(), Counter())),
        "errors": {error: _precise(count) for error, count in by_type.items()},
    }


def _precise(count: Counter[str]) -> Row:
    n = count["yes"] + count["no"]
    low, high = (wilson(count["yes"], n) if n >= FEWEST else None) or (None, None)
    share = count["yes"] / n if n else None
    told = {answer: count[answer] for answer in (*ANSWERS, "blank")}
    return {"precision": share, "low": low, "high": high, "n": n, **told}


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
            ticked = sum(bool(row["answer"] or row["comment"]) for _, row in answers(folder / CSV))
            if ticked:
                raise EscError(
                    f"{folder / CSV} has {ticked} rows with answers; read it with --read, and move "
                    "it away for a new one"
                )
        drawn = draw(files.read_jsonl(mining.routed / PAIRS), n)
        if not drawn:
            raise EscError(f"{mining.routed / PAIRS} holds no pair with an error to audit")
        wanted = {pair["id"] for pair in drawn}
        turns = {t.id: t for t in gold_turns(mining.work, "train", None) if t.id in wanted}
        (folder / DONE).unlink(missing_ok=True)
        done: Row = {
            "task": mining.task,
            "model": mining.model,
            "n": n,
            "sampler": routed["provenance"]["sampler"],
            "judge": routed["provenance"]["judge"],
            "pairs": routed[PAIRS]["sha256"],
            "smoke": routed["smoke"],
            "records": {record_of(pair): pair["error"] for pair in drawn},
        }
        rows = [sheet_row(done, pair, turns[pair["id"]]) for pair in drawn]
        files.write_text(folder / CSV, sheets.csv_text(COLUMNS, rows))
        shown = html(rows, [turns[pair["id"]] for pair in drawn], done, mining.step("audit"))
        files.write_text(folder / HTML, shown)
        files.write_json(folder / DONE, done)
    return done


def read(mining: Mining, path: Path) -> Row:
    """Write ``precision.json`` from a ticked sheet; what it says.

    Raises EscError where no sheet was made, or as `answers` and `precision`.
    """
    folder = folder_of(mining)
    made: Row = files.read_json(folder / DONE, made_by=mining.step("audit"))
    try:
        found = precision(answers(path), made["records"], sheet_of(made))
    except EscError as error:
        raise EscError(f"{path}: {error}" if str(path) not in str(error) else str(error)) from error
    kept = {name: made[name] for name in ("task", "model", "sampler", "judge", "pairs", "smoke")}
    done = kept | {"sheet": files.sha256(path)} | found
    with files.exclusive(folder):
        files.write_json(folder / PRECISION, done)
    return done


def report(done: Row) -> str:
    """The result of a ticked sheet, with what was left open."""
    lines = [f"precision   {done['task']} pairs of {done['model']}, judge {done['judge']}"]
    for name, one in [*done["errors"].items(), ("all", done["all"])]:
        share = "—" if one["precision"] is None else f"{one['precision']:.1%}"
        interval = "" if one["low"] is None else f"[{one['low']:.1%}, {one['high']:.1%}]"
        lines.append(
            f"            {name:<20}{share:>7} {interval:<16} {one['yes']} yes, {one['no']} no, "
            f"{one['unsure']} unsure, {one['blank']} blank"
        )
    lines.append("            'all' is of the sheet, where error types are equally frequent")
    if done["smoke"]:
        lines.append("SMOKE       embedded model, sample corpus or random judge: no result")
    return "\n".join(lines)


def main(argv: list[str]) -> None:
    """Command line of the step."""
    given = _parser().parse_args(argv)
    if given.read and len(given.task) > 1:
        raise EscError("a sheet is of one task; name that one alone with --read")
    without = []
    for mining in minings_of(given):
        if given.read:
            print(report(read(mining, given.read)))
            print(f"written     {folder_of(mining) / PRECISION}")
            continue
        try:
            done = make(mining, given.n or 20)
        except EscError as error:
            # One task's mining is none of another's.
            without.append(str(error))
            continue
        told = ", ".join(f"{n} {error}" for error, n in Counter(done["records"].values()).items())
        print(f"sheet       {folder_of(mining)}/{CSV} and {HTML}: {len(done['records'])} ({told})")
        if done["smoke"]:
            print("SMOKE       embedded model, sample corpus or random judge: no result")
    if without:
        raise EscError("; ".join(without))


def _parser() -> argparse.ArgumentParser:
    parser = cli.parser(
        prog="python -m mining audit",
        description=__doc__,
        examples=(
            "  python -m mining audit --task rg --n 20\n"
            "  python -m mining audit --task rg --read sheet.csv"
        ),
    )
    add_mining(parser)
    parser.add_argument("--n", type=cli.optional_count, help="pairs per error type (default: 20)")
    parser.add_argument("--read", type=Path, metavar="SHEET", help="a sheet with answers in it")
    return parser
