r"""People's choice between two systems' replies: a blinded sheet, and what the votes on it say.

    python -m eval human --a runs/llama3.1-8b/decoupled_dpo/predictions.jsonl \
        --b runs/llama3.1-8b/vanilla_dpo/predictions.jsonl --out runs/llama3.1-8b/human
    python -m eval human --out runs/llama3.1-8b/human --read votes_anna.csv votes_ben.csv

Draws N turns by their ids and shuffles sides; writes to FOLDER ``sheet.csv`` for a spreadsheet and
``sheet.html`` for a browser, a phone or paper (with ``--annotators``, one of each per name), and
last ``key.json``, which says whose reply is where: keep it from the annotators. A sheet with votes
in it is never overwritten, nor is a file that is none of these. ``--read`` writes ``human.json``:
win, tie and lose per dimension, sign test and Fleiss' kappa (Figure 6). Research software: replies
on it are no counselling.
"""

import argparse
import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from esc import cli, files, sheets
from esc.exceptions import EscError
from esc.files import Row
from esc.stats import fleiss_kappa
from eval.cases import Matched, Pair, matched
from eval.judge import Dimension
from eval.pairwise import OUTCOMES, line, shares_by_turn

TEMPLATE = Path(__file__).parent / "pages" / "human.html.j2"
CHOICES = ("A", "B", "tie")
ASKED = tuple(dimension.casefold() for dimension in Dimension)
"""The columns to fill in."""
COLUMNS = ("record", "conversation", "seeker", "A", "B", *ASKED, "comment")
SILENT = "(says nothing)"


def stamp_of(found: Matched) -> str:
    """What tells the sheets of two comparisons apart, and tells an annotator nothing."""
    files_compared = [found.source[side]["predictions"] for side in ("a", "b")]
    return hashlib.sha256("\n".join(files_compared).encode()).hexdigest()[:6]


def record_of(pair: Pair, stamp: str) -> str:
    """What names a turn on the sheet; no spreadsheet takes it for a date."""
    # As its cell on the sheet says it: it is read back from there.
    return sheets.guarded(f"turn {pair.id} ({stamp})")


def sides_of(pair: Pair) -> dict[str, str]:
    """Side of the sheet to the system whose reply stands there, ``a`` or ``b``."""
    return {"A": "a", "B": "b"} if pair.a_is_left else {"A": "b", "B": "a"}


def shown(pair: Pair) -> dict[str, str]:
    """Side of the sheet to the reply that stands there."""
    replies = {"a": str(pair.a), "b": str(pair.b)}
    return {side: replies[system] for side, system in sides_of(pair).items()}


def csv_text(pairs: Sequence[Pair], stamp: str) -> str:
    """The sheet as CSV, its answers still blank."""
    rows = []
    for pair in pairs:
        said = [f"seeker: {seeker}\nsupporter: {reply}" for seeker, reply in pair.history]
        told = {
            "record": record_of(pair, stamp),
            "conversation": "\n".join(said),
            "seeker": pair.seeker if pair.seeker.strip() else SILENT,
        }
        rows.append(dict.fromkeys(COLUMNS, "") | told | shown(pair))
    return sheets.csv_text(COLUMNS, rows)


def html(pairs: Sequence[Pair], stamp: str, votes: str, *, smoke: bool) -> str:
    """The sheet as one page that needs nothing else; it saves its answers as ``votes``."""
    records = [record_of(pair, stamp) for pair in pairs]
    return sheets.page(
        TEMPLATE,
        sheet=sheets.hash_of([votes, *records]),
        cards=[(name, pair, shown(pair)) for name, pair in zip(records, pairs, strict=True)],
        dimensions=list(Dimension),
        choices=CHOICES,
        columns=" ".join((*ASKED, "comment")),
        file=votes,
        silent=SILENT,
        smoke=smoke,
    )


def is_sheet(path: Path) -> bool:
    """Whether a CSV file has the columns of a sheet, or of the votes that its page saves."""
    with path.open(encoding="utf-8-sig", errors="replace") as stream:
        return {"record", *ASKED} <= set(re.findall(r"\w+", stream.readline().casefold()))


def answers(path: Path) -> Iterator[tuple[int, Row]]:
    """(row as a spreadsheet counts it, record, votes and comment) of every row that is not blank.

    Raises EscError where it is no sheet that can be read.
    """
    columns = ("record", *ASKED, "comment")
    return sheets.read_csv(path, columns, needed=columns[:-1])


Sides = Mapping[str, Mapping[str, str]]
"""Record to (side of the sheet to the system that stands there)."""


@dataclass(frozen=True, slots=True)
class Votes:
    """What one annotator says."""

    annotator: str
    outcomes: Mapping[tuple[str, Dimension], str]
    """(record, dimension) to win, tie or lose of system A; absent where left blank."""


def votes_of(annotator: str, found: Iterable[tuple[int, Row]], sides: Sides) -> Votes:
    """One annotator's votes, with the sides of the sheet turned back to the systems.

    Raises EscError, naming the row, for an unknown record, one given twice, and another word.
    """
    outcomes: dict[tuple[str, Dimension], str] = {}
    seen = set()
    words = {choice.casefold(): choice for choice in CHOICES}
    for number, row in found:
        record = row["record"]
        if record not in sides:
            raise EscError(f"row {number}: record {record!r} is not on the sheet of this folder")
        if record in seen:
            raise EscError(f"row {number}: record {record!r} is there twice")
        seen.add(record)
        for dimension in Dimension:
            said = row[dimension.casefold()]
            if not said:
                continue
            choice = words.get(said.casefold())
            if choice is None:
                raise EscError(
                    f"row {number} ({record}): {dimension.casefold()} {said!r} is none of "
                    f"{', '.join(CHOICES)}"
                )
            system = sides[record].get(choice)
            outcomes[record, dimension] = {"a": "win", "b": "lose"}.get(system or "", "tie")
    return Votes(annotator, outcomes)


def result(votes: Iterable[Votes], records: Iterable[str]) -> Row:
    """Per dimension win, tie and lose of system A, their intervals, sign test, and agreement.

    The shares are of turns, each with the outcome that most annotators gave it, a tie where none
    has most votes: votes on one turn are no independent trials. ``votes`` counts them all the same.
    """
    votes, records = list(votes), list(records)
    return {dimension.value: _dimension(votes, records, dimension) for dimension in Dimension}


def _dimension(votes: list[Votes], records: list[str], dimension: Dimension) -> Row:
    by_turn = {
        record: Counter(
            one.outcomes[record, dimension] for one in votes if (record, dimension) in one.outcomes
        )
        for record in records
    }
    turns = Counter(majority(count) for count in by_turn.values() if count)
    every = sum(by_turn.values(), Counter[str]())
    whole = [count for count in by_turn.values() if count.total() == len(votes)]
    kappa = fleiss_kappa(whole)
    defined = isinstance(kappa, float)
    # By turn: a sheet is a small draw of turns, hardly two of them of one dialogue.
    return shares_by_turn(turns) | {
        "votes": {outcome: every[outcome] for outcome in OUTCOMES}
        | {"blank": len(votes) * len(records) - every.total()},
        "kappa": {
            "value": kappa if defined else None,
            "n": len(whole),
            "said": "over the turns that all annotators voted on" if defined else kappa,
        },
    }


def majority(count: Counter[str]) -> str:
    """The outcome with most votes; a tie where two have equally many."""
    first, *more = count.most_common()
    return "tie" if more and more[0][1] == first[1] else first[0]


KEY, RESULT = "key.json", "human.json"


def make(found: Matched, out: Path, n: int, annotators: Sequence[str]) -> Row:
    """Write a sheet for everybody named, or one without a name; what ``key.json`` says.

    Raises EscError where there is a sheet with votes in it, or no pair of replies to compare.
    """
    able = [pair for pair in found.pairs if pair.is_whole and not pair.is_alike]
    if not able:
        raise EscError(
            f"none of the {len(found.pairs)} shared turns has two replies that differ; there is "
            "nothing to compare"
        )
    drawn, stamp = able[:n], stamp_of(found)
    with files.exclusive(out):
        if (out / RESULT).is_file():
            raise EscError(f"{out / RESULT} is of the sheet of this folder; take another --out")
        suffixes = [f"_{name}" for name in annotators] or [""]
        for path in _former(out, suffixes):
            path.unlink()
        for suffix in suffixes:
            page = html(drawn, stamp, f"votes{suffix}.csv", smoke=found.smoke)
            files.write_text(out / f"sheet{suffix}.csv", csv_text(drawn, stamp))
            files.write_text(out / f"sheet{suffix}.html", page)
        key: Row = {
            **found.source,
            "n": len(drawn),
            "left_out": {
                "no reply": sum(not pair.is_whole for pair in found.pairs),
                "equal replies": sum(pair.is_alike for pair in found.pairs),
            },
            "annotators": list(annotators),
            "smoke": found.smoke,
            "records": {record_of(pair, stamp): sides_of(pair) for pair in drawn},
        }
        files.write_json(out / KEY, key)
    return key


def _former(out: Path, suffixes: Sequence[str]) -> list[Path]:
    """The key and the blank sheets that an earlier call left in the folder.

    Raises EscError where a sheet has votes, or a file that is to be written is there and is none of
    these: it is a user's own.
    """
    key = out / KEY
    told = files.read_json(key) if key.is_file() else {}
    # The key is written last: a sheet without one is of a call that was killed.
    former = [key] if "records" in told else []
    for path in sorted(out.glob("*.csv")):
        if is_sheet(path):
            _check_blank(path)
            if path.name.startswith("sheet"):
                page = path.with_suffix(".html")
                former += [path, page] if page.is_file() else [path]
    sheets = [out / f"sheet{suffix}.{kind}" for suffix in suffixes for kind in ("csv", "html")]
    for path in [key, *sheets]:
        if path.exists() and path not in former:
            raise EscError(f"{path} is no file of this step; name a folder of its own in --out")
    return former


def _check_blank(path: Path) -> None:
    voted = sum(
        any(cell for name, cell in row.items() if name != "record") for _, row in answers(path)
    )
    if voted:
        raise EscError(
            f"{path} has {voted} rows with votes; read it with --read, and move it away for a new "
            "sheet"
        )


def read(out: Path, paths: Sequence[Path]) -> Row:
    """Write ``human.json`` from sheets with votes, one file an annotator; what it says.

    Raises EscError, with file and row, where a vote cannot be read, or there is none at all.
    """
    key: Row = files.read_json(out / KEY, made_by="python -m eval human --a FILE --b FILE")
    cast, names = [], [re.sub(r"^(votes|sheet)_", "", path.stem) for path in paths]
    for path, name in zip(paths, names, strict=True):
        if names.count(name) > 1:
            raise EscError(f"two files are of annotator {name!r}; name one file for each")
        try:
            cast.append(votes_of(name, answers(path), key["records"]))
        except EscError as error:
            told = str(error)
            raise EscError(told if str(path) in told else f"{path}: {told}") from error
        if not cast[-1].outcomes:
            raise EscError(f"{path} has no vote in it; leave it out, or have it filled in")
    kept = {name: key[name] for name in ("a", "b", "n", "left_out", "smoke")}
    done: Row = kept | {
        "annotators": {
            name: {"sha256": files.sha256(path), "votes": len(one.outcomes)}
            for name, path, one in zip(names, paths, cast, strict=True)
        },
        "interval": "95 %, Wilson, over turns; each has the outcome most annotators gave it",
        "dimensions": result(cast, key["records"]),
    }
    with files.exclusive(out):
        files.write_json(out / RESULT, done)
    return done


def report(out: Path, done: Row) -> str:
    """The result of the votes, with what was left open."""
    told = ", ".join(f"{name} {one['votes']}" for name, one in done["annotators"].items())
    lines = [
        f"human       {out / RESULT}: {done['a']['name']} against {done['b']['name']}, "
        f"{done['n']} turns",
        f"votes       {told}",
    ]
    for name in Dimension:
        one = done["dimensions"][name]
        kappa = one["kappa"]
        agreed = kappa["said"] if kappa["value"] is None else f"{kappa['value']:.2f}"
        lines.append(f"{name:<16} {line(one)}")
        lines.append(f"{'':<16} Fleiss' kappa: {agreed}; {one['votes']['blank']} votes left blank")
    if done["smoke"]:
        lines.append("SMOKE       embedded model or sample corpus: no result")
    return "\n".join(lines)


def main(argv: list[str]) -> None:
    """Command line of the step."""
    given = _parser().parse_args(argv)
    if given.read:
        print(report(given.out, read(given.out, given.read)))
        return
    if not (given.a and given.b):
        raise EscError("a sheet takes --a FILE and --b FILE; votes are read with --read")
    names = list(dict.fromkeys(given.annotators))
    for name in names:
        if not re.fullmatch(r"[A-Za-z0-9.-]+", name):
            raise EscError(f"annotator {name!r}: letters, digits, dots and dashes make file names")
    key = make(matched(given.a, given.b), given.out, given.n or 20, names)
    told = " and ".join(f"{count} with {why}" for why, count in key["left_out"].items())
    sheets = "sheet.csv and sheet.html" if not names else f"a sheet each for {', '.join(names)}"
    print(f"sheet       {given.out}: {sheets}, {key['n']} of {key['shared']} shared turns")
    print(f"left out    {told}")
    print(f"key         {given.out / KEY}: whose reply is where; not for the annotators")
    if key["smoke"]:
        print("SMOKE       embedded model or sample corpus: no result")


def _parser() -> argparse.ArgumentParser:
    parser = cli.parser(
        prog="python -m eval human",
        description=__doc__,
        examples=(
            "  python -m eval human --a a.jsonl --b b.jsonl --out human --n 20\n"
            "  python -m eval human --a a.jsonl --b b.jsonl --out human --annotators anna ben\n"
            "  python -m eval human --out human --read votes_anna.csv votes_ben.csv"
        ),
    )
    parser.add_argument("--a", type=Path, metavar="FILE", help="predictions of a system")
    parser.add_argument("--b", type=Path, metavar="FILE", help="predictions of another")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--n", type=cli.optional_count, help="turns on the sheet (default: 20)")
    parser.add_argument(
        "--annotators", nargs="+", default=[], metavar="NAME", help="a sheet for each of them"
    )
    parser.add_argument(
        "--read", type=Path, nargs="+", metavar="VOTES", help="sheets with votes, one a person"
    )
    return parser
