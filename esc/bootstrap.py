"""Intervals by the bootstrap: whole dialogues are drawn again, and their sums added up.

Every metric is arithmetic on sums over turns. So a resample is one product: how often each dialogue
was drawn, times what each dialogue adds. Time and memory grow linearly with the number of turns.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from esc.intervals import FEWEST, too_few
from esc.means import NARROW, RESAMPLES, SEED

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
