"""A mean with its interval, by a seeded bootstrap that resamples dialogues.

Turns of one dialogue resemble one another, so that an interval by turns would be too narrow. Where
an id names no dialogue (``231-7`` does), or all name the same, every row stands for itself.
"""

import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from esc.files import Row

RESAMPLES = 1000
SEED = 0
_TURN = re.compile(r"(.+)-\d+")


@dataclass(frozen=True, slots=True)
class Units:
    """What is resampled."""

    by_dialogue: bool

    @classmethod
    def of(cls, ids: Iterable[str]) -> "Units":
        """Dialogues where every id names one and there are two at least, else rows.

        Ids of one prefix (``test-0``, ``test-1`` …) are numbers of rows, and name no dialogue.
        """
        found = [_TURN.fullmatch(one) for one in ids]
        return cls(all(found) and len({one[1] for one in found if one}) > 1)

    def unit(self, record: str) -> str:
        """The unit that a record belongs to."""
        return record.rpartition("-")[0] if self.by_dialogue else record

    @property
    def said(self) -> str:
        """The kind of interval, in words."""
        what = "dialogues" if self.by_dialogue else "rows, since the ids name no two dialogues"
        return f"95 %, {RESAMPLES} bootstrap resamples of {what}, seed {SEED}"


def mean(values: Sequence[tuple[str, float]], units: Units) -> Row:
    """Value, low, high and n of the mean of (record, value); None where there is none.

    The order of the values changes nothing. One unit alone has no interval.
    """
    sums: dict[str, tuple[float, int]] = {}
    for record, value in sorted(values):
        total, count = sums.get(units.unit(record), (0.0, 0))
        sums[units.unit(record)] = total + value, count + 1
    n = len(values)
    told: Row = {"value": None, "low": None, "high": None, "n": n}
    if n:
        told["value"] = sum(total for total, _ in sums.values()) / n
    if len(sums) > 1:
        told["low"], told["high"] = _interval(list(sums.values()))
    return told


def _interval(sums: Sequence[tuple[float, int]]) -> tuple[float, float]:
    rng = random.Random(SEED)
    drawn = []
    for _ in range(RESAMPLES):
        chosen = rng.choices(sums, k=len(sums))
        drawn.append(sum(total for total, _ in chosen) / sum(count for _, count in chosen))
    drawn.sort()
    low, high = (drawn[round(share * (RESAMPLES - 1))] for share in (0.025, 0.975))
    return low, high


def inside_the_noise(difference: Row) -> bool | None:
    """Whether an interval of a difference holds 0; None where there is no interval."""
    if difference["low"] is None:
        return None
    return bool(difference["low"] <= 0 <= difference["high"])
