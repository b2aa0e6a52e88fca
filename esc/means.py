"""A mean with its interval, by a seeded bootstrap that resamples dialogues.

Turns of one dialogue resemble one another, so that an interval by turns would be too narrow. Where
ids name no dialogues every row stands for itself, and what is said of the interval warns of it.
"""

import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from esc.files import Row
from esc.intervals import FEWEST, too_few

RESAMPLES = 1000
SEED = 0
NARROW = "turns of one dialogue resemble one another, so the true interval is wider"
_TURN = re.compile(r"(.+)-\d+")


@dataclass(frozen=True, slots=True)
class Units:
    """What is resampled."""

    by_dialogue: bool

    @classmethod
    def of(cls, ids: Iterable[str]) -> "Units":
        """Dialogues where every id names one, else rows.

        A number names a dialogue, as in this kit's ids (``231-7``); other prefixes do where there
        are `FEWEST` at least: those of a few (``test-0``, ``dev-0`` …) number the rows of files.
        """
        found = [_TURN.fullmatch(one) for one in ids]
        prefixes = {one[1] for one in found if one}
        numbers = all(prefix.isdecimal() for prefix in prefixes)
        return cls(bool(found) and all(found) and (numbers or len(prefixes) >= FEWEST))

    def unit(self, record: str) -> str:
        """The unit that a record belongs to."""
        return record.rpartition("-")[0] if self.by_dialogue else record

    @property
    def said(self) -> str:
        """The kind of interval, in words."""
        what = "dialogues" if self.by_dialogue else f"rows, since the ids name none ({NARROW})"
        return f"95 %, {RESAMPLES} bootstrap resamples of {what}, seed {SEED}"

    @property
    def name(self) -> str:
        """What one of them is."""
        return "dialogue" if self.by_dialogue else "row"


def mean(values: Sequence[tuple[str, float]], units: Units) -> Row:
    """Value, low, high and n of the mean of (record, value); None where there is none.

    The order of the values changes nothing. Fewer than `FEWEST` units have no interval, and then
    ``reason`` says so.
    """
    sums: dict[str, tuple[float, int]] = {}
    for record, value in sorted(values):
        total, count = sums.get(units.unit(record), (0.0, 0))
        sums[units.unit(record)] = total + value, count + 1
    n = len(values)
    told: Row = {"value": None, "low": None, "high": None, "n": n}
    if n:
        told["value"] = sum(total for total, _ in sums.values()) / n
    if len(sums) >= FEWEST:
        told["low"], told["high"] = _interval(list(sums.values()))
    elif n:
        told["reason"] = f"no interval: {too_few(len(sums), units.name)}"
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
