"""A sampled answer, the record that goes from sampling to the judge and the router."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from pathlib import Path

from esc import files
from esc.chat.request import derived_seed
from esc.exceptions import EscError
from esc.files import Row
from esc.strategies import Strategy

SAMPLES = "samples.jsonl"
Key = tuple[str, int]
"""(id of the turn, 0-based index of the sample)."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One sampled answer to one train turn."""

    id: str
    sample: int
    gold_strategy: Strategy
    gold_response: str
    strategy: Strategy | None
    """Sampled, or for the generator the gold one it was given; None where it does not parse."""
    response: str | None
    """None for the planner, and where sampling failed."""
    failed: bool
    """Whether the request had no answer; the text of a failed one is empty."""
    text: str
    """The answer as it came."""
    truncated: bool

    @property
    def key(self) -> Key:
        """What a verdict on it is found by."""
        return self.id, self.sample

    @property
    def seed(self) -> int:
        """The seed it was sampled with; also its place in its turn's order."""
        return _seed(self.id, self.sample)


@lru_cache(maxsize=1024)
def _seed(turn: str, sample: int) -> int:
    # Asked for each time that the candidates of the turn in hand are put in order.
    return derived_seed(turn, sample)


def of_row(row: Row) -> Candidate:
    """The candidate in a row of ``samples.jsonl``; KeyError or ValueError where it is none."""
    return Candidate(
        id=row["id"],
        sample=row["sample"],
        gold_strategy=Strategy(row["gold_strategy"]),
        gold_response=row["gold_response"],
        strategy=Strategy(row["strategy"]) if row["strategy"] else None,
        response=row["response"],
        failed=row["status"] == "failed",
        text=row["text"],
        truncated=row["truncated"],
    )


def read_turns(path: Path) -> Iterator[list[Candidate]]:
    """The candidates of one turn after the other, in the order of the train set.

    Raises EscError for a row that is no candidate, a sample given twice, or a turn out of order.
    """
    before = (-1, -1)
    for turn, group in groupby(_read(path), key=lambda candidate: candidate.id):
        found = list(group)
        place = _place(turn, path)
        # By the order alone, so that the ids of all turns need not be held.
        if place <= before or len({candidate.sample for candidate in found}) < len(found):
            raise EscError(
                f"{path}: turn {turn} is there twice, or not in the train set's order; sample again"
            )
        before = place
        yield found


def _place(turn: str, path: Path) -> tuple[int, int]:
    """(dialogue, turn in it) of a turn's id: both ascend in every set."""
    dialogue, _, number = turn.partition("-")
    if not (dialogue.isdecimal() and number.isdecimal()):
        raise EscError(f"{path}: {turn!r} is no id of a turn, such as 231-7; sample again")
    return int(dialogue), int(number)


def _read(path: Path) -> Iterator[Candidate]:
    for number, row in enumerate(files.read_jsonl(path), start=1):
        try:
            yield of_row(row)
        except (KeyError, ValueError, TypeError) as error:
            raise EscError(
                f"{path}, line {number}: no sample of this kit ({type(error).__name__} {error})"
            ) from error
