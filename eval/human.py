"""People's choice between two systems' replies: a blinded sheet, and what the votes on it say.

Draws N turns by their ids and shuffles sides; writes to FOLDER ``sheet.csv`` for a spreadsheet and
``sheet.html`` for a browser, a phone or paper (with ``--annotators``, one of each per name), and
last ``key.json``, which says whose reply is where: keep it from the annotators. No file that is
there is replaced by another. ``--read`` writes ``human.json``: win, tie and lose per dimension,
sign test and Fleiss' kappa (Figure 6). Research software: replies on it are no counselling.
"""

import hashlib
import json
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from esc import cli, files, sheets, step
from esc.files import EscError, Row
from esc.stats import fleiss_kappa
from eval.cases import Matched, matched
from eval.judge import Dimension
from eval.pairwise import OUTCOMES, line, shares_by_turn

TEMPLATE = Path(__file__).parent / "pages" / "human.html.j2"
CHOICES = ("A", "B", "tie")
ASKED = tuple(dimension.casefold() for dimension in Dimension)
"""The columns to fill in."""
COLUMNS = ("record", "conversation", "seeker", "A", "B", *ASKED, "comment")
SILENT = "(says nothing)"
KEY, RESULT = "key.json", "human.json"


def make(found: Matched, out: Path, n: int, annotators: Sequence[str]) -> Row:
    """Write a sheet for everybody named, or one without a name; what ``key.json`` says.

    Raises EscError where a file of the folder would be replaced by another, as a sheet that holds
    votes, or there is no pair of replies to compare.
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
    sides, shown = {}, {}
    for record, pair in drawn.items():
        # Shuffled by the turn's id.
        is_left = hashlib.sha256(f"left\n{pair.id}".encode()).digest()[0] % 2
        sides[record] = {"A": "a", "B": "b"} if is_left else {"A": "b", "B": "a"}
        shown[record] = {side: str(getattr(pair, of)) for side, of in sides[record].items()}
    key: Row = {
        **found.source,
        "n": len(drawn),
        "left_out": {
            "no reply": sum(not pair.is_whole for pair in found.pairs),
            "equal replies": sum(pair.is_alike for pair in found.pairs),
        },
        "annotators": list(annotators),
        "smoke": found.smoke,
        "records": sides,
    }
    rows = [
        {
            "record": record,
            "conversation": sheets.conversation(pair.history),
            "seeker": pair.seeker if pair.seeker.strip() else SILENT,
            **shown[record],
        }
        for record, pair in drawn.items()
    ]
    made = {}
    for name in [f"_{name}" for name in annotators] or [""]:
        made[f"sheet{name}.csv"] = sheets.csv_text(COLUMNS, rows)
        made[f"sheet{name}.html"] = sheets.page(
            TEMPLATE,
            sheet=[f"votes{name}.csv", *drawn],
            cards=[(record, pair, shown[record]) for record, pair in drawn.items()],
            dimensions=list(Dimension),
            choices=CHOICES,
            columns=" ".join((*ASKED, "comment")),
            file=f"votes{name}.csv",
            silent=SILENT,
            smoke=found.smoke,
        )
    made[KEY] = json.dumps(key, ensure_ascii=False, indent=2) + "\n"
    with files.exclusive(out):
        for name, text in made.items():
            path = out / name
            if path.exists() and path.read_bytes() != text.encode():
                raise EscError(f"{path} is there, and another; name another folder in --out")
        for name, text in made.items():
            files.write_text(out / name, text)
    return key


def read(out: Path, paths: Sequence[Path]) -> Row:
    """Write ``human.json`` from sheets with votes, one file an annotator; what it says.

    Raises EscError, with file and row, where a vote cannot be read, or there is none at all.
    """
    key: Row = files.read_json(out / KEY, made_by="python -m eval human --a FILE --b FILE")
    sides, outcome = key["records"], {"a": "win", "b": "lose", None: "tie"}
    annotators: Row = {}
    votes: list[tuple[str, str, str]] = []
    for path in paths:
        name = re.sub(r"^(votes|sheet)_", "", path.stem)
        if name in annotators:
            raise EscError(f"two files are of annotator {name!r}; name one file for each")
        said = sheets.answers(path, ASKED, CHOICES, sides)
        theirs = [
            (record, column, outcome[sides[record].get(choice)])
            for record, row in said.items()
            for column, choice in row.items()
            if choice
        ]
        if not theirs:
            raise EscError(f"{path} has no vote in it; leave it out, or have it filled in")
        annotators[name] = {"sha256": files.sha256(path), "votes": len(theirs)}
        votes += theirs
    done: Row = {name: key[name] for name in ("a", "b", "n", "left_out", "smoke")} | {
        "annotators": annotators,
        "interval": "95 %, Wilson, over turns; each has the outcome most annotators gave it",
        "dimensions": {
            dimension.value: outcomes_of(
                [(record, said) for record, of, said in votes if of == dimension.casefold()],
                asked=len(sides) * len(paths),
                annotators=len(paths),
            )
            for dimension in Dimension
        },
    }
    with files.exclusive(out):
        files.write_json(out / RESULT, done)
    return done


def outcomes_of(votes: Sequence[tuple[str, str]], *, asked: int, annotators: int) -> Row:
    """Win, tie and lose of system A on one dimension, their intervals, sign test, and agreement.

    The shares are of turns, each with the outcome that most annotators gave it, a tie where none
    has most votes: votes on one turn are no independent trials. ``votes``, of (record, outcome),
    are counted all the same.
    """
    every = Counter(outcome for _, outcome in votes)
    by_turn: dict[str, Counter[str]] = defaultdict(Counter)
    for record, outcome in votes:
        by_turn[record][outcome] += 1
    most: Counter[str] = Counter()
    for count in by_turn.values():
        first = [outcome for outcome in OUTCOMES if count[outcome] == max(count.values())]
        most[first[0] if len(first) == 1 else "tie"] += 1
    whole = [count for count in by_turn.values() if count.total() == annotators]
    kappa = fleiss_kappa(whole)
    said = kappa if isinstance(kappa, str) else "over the turns that all annotators voted on"
    # By turn: a sheet is a small draw of turns, hardly two of them of one dialogue.
    return shares_by_turn(most) | {
        "votes": {outcome: every[outcome] for outcome in OUTCOMES} | {"blank": asked - len(votes)},
        "kappa": {"value": None if said == kappa else kappa, "n": len(whole), "said": said},
    }


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
    sheet = f"a sheet each for {', '.join(names)}" if names else "sheet.csv and sheet.html"
    left_out = " and ".join(f"{count} with {why}" for why, count in key["left_out"].items())
    print(f"sheet       {out}: {sheet}, {key['n']} of {key['shared']} shared turns")
    print(f"left out    {left_out}")
    print(f"key         {out / KEY}: whose reply is where; not for the annotators")
    if key["smoke"]:
        print(step.SMOKE)
