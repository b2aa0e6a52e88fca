"""Shares of turns with their intervals, which resample dialogues where dialogues are known.

Turns of one dialogue resemble one another, so that an interval that takes them for independent, as
Wilson's does, would be too narrow.
"""

import math
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from esc.files import Row


def kappa(cells: Mapping[tuple[str, str], int]) -> float | None:
    """Cohen's kappa (1960), or None where both sides are constant, which tells nothing.

    ``cells`` maps (what the first says, what the second says) to how often.
    """
    n = sum(cells.values())
    first, second = Counter[str](), Counter[str]()
    for (one, other), count in cells.items():
        first[one] += count
        second[other] += count
    if len(+first) < 2 and len(+second) < 2:
        return None
    observed = sum(count for (one, other), count in cells.items() if one == other) / n
    chance = sum(first[label] * second[label] for label in first) / n**2
    return (observed - chance) / (1 - chance)


def fleiss_kappa(subjects: Sequence[Mapping[str, int]]) -> float | str:
    """Fleiss' kappa (1971) for any number of raters, or in words why there is none.

    ``subjects`` holds, per thing rated, how many raters chose each category. Every one must have
    the same number of raters. Raises ValueError where one has not.
    """
    raters = {sum(one.values()) for one in subjects}
    if not subjects:
        return "nothing is rated by all annotators"
    if len(raters) > 1:
        raise ValueError(f"subjects with {sorted(raters)} raters")
    (m,) = raters
    if m < 2:
        return "one annotator agrees with nobody; it takes two"
    n = len(subjects)
    total: Counter[str] = Counter()
    for one in subjects:
        total.update(one)
    if len(+total) < 2:
        return "all annotators give one answer throughout, so it cannot be told from chance"
    alike = sum(count * (count - 1) for one in subjects for count in one.values())
    observed = alike / (n * m * (m - 1))
    chance = sum(count**2 for count in total.values()) / (n * m) ** 2
    return (observed - chance) / (1 - chance)


def sign_test(wins: int, losses: int) -> float | None:
    """Two-sided p of the exact sign test (Dixon and Mood, 1946); None where there are ties alone.

    The chance, were wins and losses equally likely, of a split at least as uneven as this one.
    Raises ValueError for negative counts.
    """
    if wins < 0 or losses < 0:
        raise ValueError(f"{wins} wins, {losses} losses")
    n = wins + losses
    if n == 0:
        return None
    tail = sum(math.comb(n, k) for k in range(min(wins, losses) + 1))
    return min(1.0, 2 * tail / (1 << n))


def spearman(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Spearman's rank correlation (1904), -1 to 1, with mean ranks where values are tied.

    None where one side is constant, or there are fewer than two pairs. Raises ValueError for sides
    of different length.
    """
    if len(first) != len(second):
        raise ValueError(f"{len(first)} values beside {len(second)}")
    # Twice the rank is a whole number, so that all sums below are exact.
    one, other = _doubled_ranks(first), _doubled_ranks(second)
    n = len(one)
    mean = n + 1
    covariance = sum((a - mean) * (b - mean) for a, b in zip(one, other, strict=True))
    spread = sum((a - mean) ** 2 for a in one) * sum((b - mean) ** 2 for b in other)
    return covariance / math.sqrt(spread) if spread else None


def _doubled_ranks(values: Sequence[float]) -> list[int]:
    """Twice the rank of each value, from 2; equal values share the mean of their places."""
    below: dict[float, int] = {}
    counts = Counter(values)
    before = 0
    for value in sorted(counts):
        below[value] = 2 * before + counts[value] + 1
        before += counts[value]
    return [below[value] for value in values]


Z95 = 1.959963984540054
"""Two-sided 95 % quantile of the normal distribution."""
FEWEST = 10
"""Dialogues, or rows where no dialogues are known, that an interval or a verdict takes: of 5
dialogues an interval of "95 %" holds the truth in 82 % of cases, of 2 in 53 %."""


def too_few(units: int, unit: str) -> str:
    """Why so few units have no interval: one sentence."""
    return f"{units} {unit}{'' if units == 1 else 's'}, and an interval takes {FEWEST} at least"


def wilson(successes: float, n: int) -> tuple[float, float] | None:
    """(low, high) of a share's 95 % interval, 0 to 1; None where ``n`` is 0.

    The score interval of Wilson (1927): unlike p ± 1.96·se it never leaves 0..1, and it is not of
    width 0 where all or none succeeded. Raises ValueError for impossible counts.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} of {n}")
    if n == 0:
        return None
    share, spread = successes / n, Z95 * Z95 / n
    centre = (share + spread / 2) / (1 + spread)
    half = Z95 / (1 + spread) * math.sqrt(share * (1 - share) / n + spread / (4 * n))
    # At 0 and n the ends are exactly 0 and 1; rounding must not put them beside.
    return (
        0.0 if successes == 0 else centre - half,
        1.0 if successes == n else centre + half,
    )


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


Floats = NDArray[np.float64]
LEVEL = 0.95
_AT_ONCE = 2_000_000
"""Draws held in memory at a time."""
_MOST_UNDEFINED = 0.05
"""Share of resamples without a value beyond which their percentiles say nothing."""
OFTEN_UNDEFINED = "more than 5 % of the resamples have no value"


@dataclass(frozen=True, slots=True)
class Interval:
    """Ends of a 95 % interval, or why there is none."""

    low: float | None
    high: float | None
    reason: str | None = None


def unit_sums(columns: Floats, units: NDArray[np.int64]) -> Floats:
    """What each unit adds: ``columns`` (n, k) summed over equal, ascending numbers in ``units``."""
    begins = np.flatnonzero(np.diff(units, prepend=-1))
    return np.asarray(np.add.reduceat(columns, begins, axis=0))


def resampled(sums: Floats) -> Floats:
    """The sums of 1,000 seeded resamples of the units, shape (1000, k) from (units, k).

    Columns side by side share their draws: two systems' columns make a paired comparison.
    """
    units = len(sums)
    rng = np.random.default_rng(SEED)
    found = np.empty((RESAMPLES, sums.shape[1]))
    block = max(1, _AT_ONCE // units)
    for begin in range(0, RESAMPLES, block):
        size = min(block, RESAMPLES - begin)
        drawn = rng.integers(units, size=(size, units))
        drawn += np.arange(size)[:, None] * units
        times = np.bincount(drawn.ravel(), minlength=size * units).reshape(size, units)
        found[begin : begin + size] = times.astype(np.float64) @ sums
    return found


def interval(
    value: float, drawn: Floats, units: int, unit: str, *, reverse: bool = False
) -> Interval:
    """The percentile interval (Efron, 1979) of resampled values; NaN among them is undefined.

    ``reverse`` is for what noise alone raises, like a bias: as far as the resamples lie above the
    value, so far the value lies above the truth. Then the interval is the percentile one mirrored
    at the value (the basic bootstrap of Davison and Hinkley, 1997). Either is widened to hold the
    value itself. There is none of fewer than `FEWEST` units.
    """
    if np.isnan(value):
        return Interval(None, None)
    if units < FEWEST:
        return Interval(None, None, too_few(units, unit))
    known = drawn[~np.isnan(drawn)]
    if len(known) < (1 - _MOST_UNDEFINED) * len(drawn):
        return Interval(None, None, OFTEN_UNDEFINED)
    low, high = np.quantile(known, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    if reverse:
        low, high = 2 * value - high, 2 * value - low
    return Interval(min(float(low), value), max(float(high), value))


def said(unit: str, *, reverse: bool = False) -> str:
    """How the intervals were made, for a signature."""
    kind = "reverse percentile" if reverse else "percentile"
    by = f"{unit} ({NARROW})" if unit == "row" else unit
    return f"ci:95 % {kind} bootstrap, {RESAMPLES} resamples by {by}, seed {SEED}"


def verdict(difference: float | None, low: float | None, high: float | None) -> str:
    """A difference in words: inside or outside the noise."""
    if difference is None:
        return "undefined"
    if low is None or high is None:
        return "no interval, so it cannot be told from noise"
    if low <= 0 <= high:
        return "inside the noise"
    return "higher, outside the noise" if difference > 0 else "lower, outside the noise"


BY_DIALOGUE = (
    f"{Units(by_dialogue=True).said}; Wilson's score interval over dialogues where all have one "
    "share"
)
BY_TURN = f"95 %, Wilson's score interval over turns, since the ids name no dialogues ({NARROW})"
"""The kinds of interval, in words."""


def shares(turns: Iterable[tuple[str, str]], labels: Iterable[str]) -> tuple[dict[str, Row], str]:
    """(label to what `share` says of it; the kind of interval in words).

    ``turns`` are (id, label).
    """
    turns = list(turns)
    units = Units.of(name for name, _ in turns)
    if not units.by_dialogue:
        count = Counter(label for _, label in turns)
        return {label: share_of_turns(count[label], len(turns)) for label in labels}, BY_TURN
    by_unit: dict[str, Counter[str]] = defaultdict(Counter)
    for name, label in turns:
        by_unit[units.unit(name)][label] += 1
    found = {
        label: share(Counter((counts[label], counts.total()) for counts in by_unit.values()))
        for label in labels
    }
    return found, BY_DIALOGUE


def share(dialogues: Mapping[tuple[int, int], int]) -> Row:
    """Count, share, and low and high of its 95 % interval; shares are 0 to 1, and None of nothing.

    ``dialogues`` maps (successes, n) of a dialogue to how many dialogues have them. The interval is
    the percentile bootstrap of dialogues. Where all have the same share, as where none or all of
    the turns succeeded, every resample has it too: then it is Wilson's over as many trials as there
    are dialogues. Fewer than `FEWEST` have none, and then ``reason`` says so.
    """
    count, n = (sum(one[side] * times for one, times in dialogues.items()) for side in (0, 1))
    units = sum(dialogues.values())
    ends = _interval_of_shares(dialogues, count, n) if units >= FEWEST else None
    return _told(count, n, ends, units, "dialogue")


def share_of_turns(count: int, n: int) -> Row:
    """The same of turns each of which stands for itself; the interval is Wilson's."""
    return _told(count, n, wilson(count, n) if n >= FEWEST else None, n, "turn")


def _told(
    count: int, n: int, ends: tuple[float | None, float | None] | None, units: int, unit: str
) -> Row:
    low, high = ends or (None, None)
    told: Row = {"count": count, "share": count / n if n else None, "low": low, "high": high}
    if n and units < FEWEST:
        told["reason"] = f"no interval: {too_few(units, unit)}"
    return told


def _interval_of_shares(
    dialogues: Mapping[tuple[int, int], int], count: int, n: int
) -> tuple[float | None, float | None] | None:
    units = sum(dialogues.values())
    if all(successes * n == count * trials for successes, trials in dialogues):
        return wilson(units * count / n, units)
    # Equal dialogues stand for one another, so it is enough to draw how often each kind occurs.
    kinds, times = (np.array(side) for side in zip(*sorted(dialogues.items()), strict=True))
    rng = np.random.default_rng(SEED)
    drawn = rng.multinomial(units, times / units, size=RESAMPLES) @ kinds
    ends = interval(count / n, drawn[:, 0] / drawn[:, 1], units, "dialogue")
    return ends.low, ends.high
