"""People's choice between two systems' replies: a blinded sheet, and what the votes on it say.

Draws N turns by their ids and shuffles sides; writes to FOLDER ``sheet.csv`` for a spreadsheet and
``sheet.html`` for a browser, a phone or paper (with ``--annotators``, one of each per name), and
last ``key.json``, which says whose reply is where: keep it from the annotators. A sheet with votes
in it is never overwritten, nor is a file that is none of these. ``--read`` writes ``human.json``:
win, tie and lose per dimension, sign test and Fleiss' kappa (Figure 6). Research software: replies
on it are no counselling.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from esc import cli, files, sheets, step
from esc.files import EscError, Row
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
KEY, RESULT = "key.json", "human.json"
Votes = Mapping[tuple[str, Dimension], str]
"""(record, dimension) to win, tie or lose of system A; absent where left blank."""


def sides_of(pair: Pair) -> dict[str, str]:
    """Side of the sheet to the system whose reply stands there, ``a`` or ``b``."""
    return {"A": "a", "B": "b"} if pair.a_is_left else {"A": "b", "B": "a"}


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
    # Tells the sheets of two comparisons apart, and tells an annotator nothing.
    compared = "\n".join(found.source[side]["predictions"] for side in ("a", "b"))
    stamp = hashlib.sha256(compared.encode()).hexdigest()[:6]
    # No spreadsheet takes a record for a date, and it is as its cell says it: it is read back.
    drawn = {sheets.guarded(f"turn {pair.id} ({stamp})"): pair for pair in able[:n]}
    key: Row = {
        **found.source,
        "n": len(drawn),
        "left_out": {
            "no reply": sum(not pair.is_whole for pair in found.pairs),
            "equal replies": sum(pair.is_alike for pair in found.pairs),
        },
        "annotators": list(annotators),
        "smoke": found.smoke,
        "records": {record: sides_of(pair) for record, pair in drawn.items()},
    }
    with files.exclusive(out):
        names = [f"_{name}" for name in annotators] or [""]
        _clear(out, [out / f"sheet{name}.{kind}" for name in names for kind in ("csv", "html")])
        for name in names:
            write_sheet(out, name, drawn, smoke=found.smoke)
        files.write_json(out / KEY, key)
    return key


def write_sheet(out: Path, name: str, drawn: Mapping[str, Pair], *, smoke: bool) -> None:
    """Write one annotator's table and page, the answers still blank; ``drawn`` is by record."""
    shown: dict[str, dict[str, str]] = {}
    for record, pair in drawn.items():
        replies = {"a": str(pair.a), "b": str(pair.b)}
        shown[record] = {side: replies[system] for side, system in sides_of(pair).items()}
    rows = [
        {
            "record": record,
            "conversation": sheets.conversation(pair.history),
            "seeker": pair.seeker if pair.seeker.strip() else SILENT,
            **shown[record],
        }
        for record, pair in drawn.items()
    ]
    files.write_text(out / f"sheet{name}.csv", sheets.csv_text(COLUMNS, rows))
    votes = f"votes{name}.csv"
    page = sheets.page(
        TEMPLATE,
        sheet=[votes, *drawn],
        cards=[(record, pair, shown[record]) for record, pair in drawn.items()],
        dimensions=list(Dimension),
        choices=CHOICES,
        columns=" ".join((*ASKED, "comment")),
        file=votes,
        silent=SILENT,
        smoke=smoke,
    )
    files.write_text(out / f"sheet{name}.html", page)


def _clear(out: Path, wanted: Sequence[Path]) -> None:
    """Delete the key and the blank sheets that an earlier call left in the folder.

    Raises EscError where a sheet has votes or a result, or a file that is to be written is there
    and is none of these: it is a user's own.
    """
    key = out / KEY
    if (out / RESULT).is_file():
        raise EscError(f"{out / RESULT} is of the sheet of this folder; take another --out")
    # The key is written last: a sheet without one is of a call that was killed.
    former = [key] if key.is_file() and "records" in files.read_json(key) else []
    for path in sorted(out.glob("*.csv")):
        with path.open(encoding="utf-8-sig", errors="replace") as stream:
            head = set(re.findall(r"\w+", stream.readline().casefold()))
        if {"record", *ASKED} <= head:
            sheets.check_blank(path, ASKED)
            if path.name.startswith("sheet"):
                former += [path, path.with_suffix(".html")]
    for path in (key, *wanted):
        if path.exists() and path not in former:
            raise EscError(f"{path} is no file of this step; name a folder of its own in --out")
    for path in former:
        path.unlink(missing_ok=True)


def read(out: Path, paths: Sequence[Path]) -> Row:
    """Write ``human.json`` from sheets with votes, one file an annotator; what it says.

    Raises EscError, with file and row, where a vote cannot be read, or there is none at all.
    """
    key: Row = files.read_json(out / KEY, made_by="python -m eval human --a FILE --b FILE")
    cast: dict[str, Votes] = {}
    for path in paths:
        name = re.sub(r"^(votes|sheet)_", "", path.stem)
        if name in cast:
            raise EscError(f"two files are of annotator {name!r}; name one file for each")
        cast[name] = votes_of(path, key["records"])
        if not cast[name]:
            raise EscError(f"{path} has no vote in it; leave it out, or have it filled in")
    kept = {name: key[name] for name in ("a", "b", "n", "left_out", "smoke")}
    done: Row = kept | {
        "annotators": {
            name: {"sha256": files.sha256(path), "votes": len(cast[name])}
            for name, path in zip(cast, paths, strict=True)
        },
        "interval": "95 %, Wilson, over turns; each has the outcome most annotators gave it",
        "dimensions": {
            dimension.value: outcomes_of(list(cast.values()), list(key["records"]), dimension)
            for dimension in Dimension
        },
    }
    with files.exclusive(out):
        files.write_json(out / RESULT, done)
    return done


def votes_of(path: Path, sides: Mapping[str, Mapping[str, str]]) -> Votes:
    """One annotator's votes, with the sides of the sheet turned back to the systems."""
    said = sheets.answers(path, ASKED, CHOICES, sides)
    outcome = {"a": "win", "b": "lose", None: "tie"}
    return {
        (record, dimension): outcome[sides[record].get(choice)]
        for record, row in said.items()
        for dimension in Dimension
        if (choice := row[dimension.casefold()])
    }


def outcomes_of(votes: Sequence[Votes], records: Sequence[str], dimension: Dimension) -> Row:
    """Win, tie and lose of system A on one dimension, their intervals, sign test, and agreement.

    The shares are of turns, each with the outcome that most annotators gave it, a tie where none
    has most votes: votes on one turn are no independent trials. ``votes`` counts them all the same.
    """
    by_turn = [
        Counter(one[record, dimension] for one in votes if (record, dimension) in one)
        for record in records
    ]
    every = sum(by_turn, Counter[str]())
    whole = [count for count in by_turn if count.total() == len(votes)]
    kappa = fleiss_kappa(whole)
    defined = isinstance(kappa, float)
    # By turn: a sheet is a small draw of turns, hardly two of them of one dialogue.
    return shares_by_turn(Counter(majority(count) for count in by_turn if count)) | {
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


def report(out: Path, done: Row) -> str:
    """The result of the votes, with what was left open."""
    told = ", ".join(f"{name} {one['votes']}" for name, one in done["annotators"].items())
    lines = [
        f"human       {out / RESULT}: {done['a']['name']} against {done['b']['name']}, "
        f"{done['n']} turns",
        f"votes       {told}",
    ]
    for name, one in done["dimensions"].items():
        kappa = one["kappa"]
        agreed = kappa["said"] if kappa["value"] is None else f"{kappa['value']:.2f}"
        lines.append(f"{name:<16} {line(one)}")
        lines.append(f"{'':<16} Fleiss' kappa: {agreed}; {one['votes']['blank']} votes left blank")
    return "\n".join([*lines, *[step.SMOKE] * done["smoke"]])


@cli.command(
    examples="  python -m eval human --a a.jsonl --b b.jsonl --out human --n 20\n"
    "  python -m eval human --a a.jsonl --b b.jsonl --out human --annotators anna ben\n"
    "  python -m eval human --out human --read votes_anna.csv votes_ben.csv"
)
def main(
    out: Annotated[Path, typer.Option(metavar="FOLDER")],
    a: Annotated[Path | None, typer.Option(help="predictions of a system")] = None,
    b: Annotated[Path | None, typer.Option(help="predictions of another")] = None,
    n: Annotated[int, typer.Option(min=1, help="turns on the sheet")] = 20,
    annotators: Annotated[list[str] | None, typer.Option(help="a sheet for each of them")] = None,
    votes: Annotated[
        list[Path] | None, typer.Option("--read", help="sheets with votes, one a person")
    ] = None,
) -> None:
    """People's choice between two systems' replies: a blinded sheet, and what the votes on it say.

    A sheet of N turns, its sides shuffled, for a spreadsheet and for a browser; key.json says whose
    reply is where. With --read, win, tie and lose of A, sign test and Fleiss' kappa (Figure 6).
    """
    if votes:
        print(report(out, read(out, votes)))
        return
    if not (a and b):
        raise EscError("a sheet takes --a FILE and --b FILE; votes are read with --read")
    names = list(dict.fromkeys(annotators or ()))
    for name in names:
        if not re.fullmatch(r"[A-Za-z0-9.-]+", name):
            raise EscError(f"annotator {name!r}: letters, digits, dots and dashes make file names")
    key = make(matched(a, b), out, n, names)
    made = "sheet.csv and sheet.html" if not names else f"a sheet each for {', '.join(names)}"
    left_out = " and ".join(f"{count} with {why}" for why, count in key["left_out"].items())
    print(f"sheet       {out}: {made}, {key['n']} of {key['shared']} shared turns")
    print(f"left out    {left_out}")
    print(f"key         {out / KEY}: whose reply is where; not for the annotators")
    if key["smoke"]:
        print(step.SMOKE)
