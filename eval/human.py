"""People's choice between two systems' replies: a blinded sheet, and what the votes on it say.

Writes to FOLDER ``sheet.csv`` for a spreadsheet and ``sheet.html`` for a browser, a phone or paper,
and last ``key.json``, which says whose reply is where: keep it from the annotators. No file that is
there is replaced by another. ``--read`` writes ``human.json``: win, tie and lose per dimension,
sign test and Fleiss' kappa (Figure 6). Research software: replies on it are no counselling.
"""

import hashlib
import json
import re
from collections import Counter, defaultdict
from collections.abc import Container, Sequence
from pathlib import Path
from typing import Annotated

import typer

from esc import cli, files, sheets, step
from esc.files import EscError, Row
from esc.stats import fleiss_kappa, share_of_turns
from eval.cases import matched
from eval.judge import Dimension
from eval.pairwise import OUTCOMES, line, tested

ASKED = tuple(dimension.casefold() for dimension in Dimension)
"""The columns to fill in."""
OVERALL = "overall"
"""One more, of the page of `eval.ui`."""
MEANINGS = {
    "fluency": "Which reply reads more naturally, and is easier to follow?",
    "professionalism": "Which shows more of sound, responsible practice?",
    "empathy": "Which understands and meets the other's feelings better?",
    "helpfulness": "Which offers more that the other can use?",
    OVERALL: "Which is better on the whole?",
}
"""What is asked, by column."""
_TEMPLATE = Path(__file__).parent / "pages" / "human.html.j2"
CHOICES = ("A", "B", "tie")
_COLUMNS = ("record", "conversation", "seeker", "A", "B", *ASKED, "comment")
_SILENT = "(says nothing)"
KEY, _RESULT = "key.json", "human.json"


def make(a: Path, b: Path, out: Path, n: int, annotators: Sequence[str]) -> Row:
    """Write a sheet for everybody named, or one without a name; what ``key.json`` says."""
    pairs, source = matched(a, b)
    able = [pair for pair in pairs if not pair.lacking and not pair.is_alike]
    if not able:
        raise EscError(
            f"none of the {len(pairs)} shared turns has two replies that differ; there is nothing "
            "to compare"
        )
    # Tells the sheets of two comparisons apart, and tells an annotator nothing.
    compared = "\n".join(source[side]["predictions"] for side in ("a", "b"))
    stamp = hashlib.sha256(compared.encode()).hexdigest()[:6]
    sides, cards, rows = {}, [], []
    for pair in able[:n]:
        # No spreadsheet takes it for a date, and it is as its cell says it: it is read back.
        record = sheets.guarded(f"turn {pair.a.id} ({stamp})")
        # Shuffled by the turn's id, in each comparison anew.
        is_left = hashlib.sha256(f"left\n{stamp}\n{pair.a.id}".encode()).digest()[0] % 2
        sides[record] = {"A": "a", "B": "b"} if is_left else {"A": "b", "B": "a"}
        shown = {side: str(getattr(pair, of).reply) for side, of in sides[record].items()}
        cards.append((record, pair.told, shown))
        seeker = pair.told.seeker if pair.told.seeker.strip() else _SILENT
        said = {"conversation": sheets.conversation(pair.told.history), "seeker": seeker}
        rows.append({"record": record} | said | shown)
    key: Row = {
        **source,
        "n": len(sides),
        "left_out": {
            "no reply": sum(bool(pair.lacking) for pair in pairs),
            "equal replies": sum(pair.is_alike for pair in pairs),
        },
        "annotators": list(annotators),
        "records": sides,
    }
    made = {}
    for name in [f"_{name}" for name in annotators] or [""]:
        made[f"sheet{name}.csv"] = sheets.csv_text(_COLUMNS, rows)
        made[f"sheet{name}.html"] = sheets.page(
            _TEMPLATE,
            sheet=[f"votes{name}.csv", *sides],
            cards=cards,
            dimensions=list(Dimension),
            choices=CHOICES,
            meanings=MEANINGS,
            columns=" ".join((*ASKED, "comment")),
            file=f"votes{name}.csv",
            silent=_SILENT,
            smoke=source["smoke"],
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


def votes_of(path: Path, records: Container[str]) -> dict[str, dict[str, str]]:
    """Record to its answers by column, blank where nothing is said; raises as `sheets.answers`."""
    has_overall = OVERALL in [name.strip().casefold() for name in (sheets.table(path) or [[]])[0]]
    asked = (*ASKED, *[OVERALL] * has_overall)
    said = sheets.answers(path, asked, CHOICES, records)
    blank = dict.fromkeys((*ASKED, OVERALL), "")
    return {record: blank | row for record, row in said.items()}


def _read(out: Path, paths: Sequence[Path]) -> Row:
    """Write ``human.json`` from sheets with votes, one file an annotator; what it says."""
    key: Row = files.read_json(out / KEY, made_by="python -m eval human --a FILE --b FILE")
    sides, outcome = key["records"], {"a": "win", "b": "lose", None: "tie"}
    annotators: Row = {}
    votes: dict[str, dict[str, Counter[str]]] = {
        one.title(): defaultdict(Counter) for one in (*ASKED, OVERALL)
    }
    for path in paths:
        name = re.sub(r"^(votes|sheet)_", "", path.stem)
        if name in annotators:
            raise EscError(f"two files are of annotator {name!r}; name one file for each")
        given = 0
        for record, row in votes_of(path, sides).items():
            for dimension in votes:
                if choice := row[dimension.casefold()]:
                    votes[dimension][record][outcome[sides[record].get(choice)]] += 1
                    given += 1
        if not given:
            raise EscError(f"{path} has no vote in it; leave it out, or have it filled in")
        annotators[name] = {"sha256": files.sha256(path), "votes": given}
    done: Row = {name: key[name] for name in ("a", "b", "n", "left_out", "smoke")} | {
        "annotators": annotators,
        "interval": "95 %, Wilson, over turns; each has the outcome most annotators gave it",
        "dimensions": {
            dimension: _outcomes([*of.values()], len(sides), len(paths))
            for dimension, of in votes.items()
            if of or dimension != OVERALL.title()
        },
    }
    with files.exclusive(out):
        files.write_json(out / _RESULT, done)
    return done


def _outcomes(by_turn: Sequence[Counter[str]], turns: int, annotators: int) -> Row:
    """Win, tie and lose of system A on one dimension, their intervals, sign test, and agreement.

    The shares are of turns, each with the outcome that most annotators gave it, a tie where none
    has most votes: votes on one turn are no independent trials. The votes are counted all the same.
    """
    every = sum(by_turn, Counter[str]())
    most: Counter[str] = Counter()
    for count in by_turn:
        first = [outcome for outcome in OUTCOMES if count[outcome] == max(count.values())]
        most[first[0] if len(first) == 1 else "tie"] += 1
    whole = [count for count in by_turn if count.total() == annotators]
    kappa = fleiss_kappa(whole)
    said = kappa if isinstance(kappa, str) else "over the turns that all annotators voted on"
    blank = turns * annotators - every.total()
    # By turn: a sheet is a small draw of turns, hardly two of them of one dialogue.
    return tested({one: share_of_turns(most[one], most.total()) for one in OUTCOMES}) | {
        "votes": {outcome: every[outcome] for outcome in OUTCOMES} | {"blank": blank},
        "kappa": {"value": None if said == kappa else kappa, "n": len(whole), "said": said},
    }


@cli.command(
    examples="  python -m eval human --a a.jsonl --b b.jsonl --out human --annotators anna ben\n"
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

    key.json says whose reply is where. With --read, win, tie and lose of A, and agreement.
    """
    if votes:
        found = _read(out, votes)
        told = ", ".join(f"{name} {one['votes']}" for name, one in found["annotators"].items())
        print(f"human       {out / _RESULT}: {found['a']['name']} against {found['b']['name']}")
        print(f"votes       on {found['n']} turns: {told}")
        for name, one in found["dimensions"].items():
            kappa, blank = one["kappa"], one["votes"]["blank"]
            agreed = kappa["said"] if kappa["value"] is None else f"{kappa['value']:.2f}"
            print(f"{name:<16} {line(one)}")
            print(f"{'':<16} Fleiss' kappa: {agreed}; {blank} votes left blank")
    elif a and b:
        names = list(dict.fromkeys(annotators or ()))
        if odd := [name for name in names if not re.fullmatch(r"[A-Za-z0-9.-]+", name)]:
            raise EscError(
                f"annotator {odd[0]!r}: letters, digits, dots and dashes make file names"
            )
        found = make(a, b, out, n, names)
        left_out = " and ".join(f"{count} with {why}" for why, count in found["left_out"].items())
        print(f"sheet       {out}: {found['n']} of {found['shared']} shared turns")
        print(f"left out    {left_out}")
        print(f"key         {out / KEY}: whose reply is where; not for the annotators")
    else:
        raise EscError("a sheet takes --a FILE and --b FILE; votes are read with --read")
    if found["smoke"]:
        print(step.SMOKE)
