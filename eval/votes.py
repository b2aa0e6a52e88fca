"""Votes of several people on the same pairs, counted: win, tie and lose, and how far they agree."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from esc.agreement import fleiss_kappa
from esc.exceptions import EscError
from esc.files import Row
from eval.ballot import CHOICES
from eval.ratings import Dimension
from eval.shares import OUTCOMES, shares_by_turn

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
