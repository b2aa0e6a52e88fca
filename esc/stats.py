"""Intervals, shares, means and agreement: one bootstrap of dialogues for every step.

Turns of one dialogue resemble one another, so that an interval that takes them for independent, as
Wilson's does, would be too narrow: dialogues are resampled where the ids name them, else rows.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from esc.files import Row

# scipy and NLTK take a second to import, which a finished step need not wait for.

Floats = NDArray[np.float64]
LEVEL, Z95 = 0.95, 1.959963984540054
RESAMPLES, SEED = 1000, 0
FEWEST = 10
"""Dialogues (or rows) an interval takes: of 5 a "95 %" one holds the truth in 82 % of cases."""
NARROW = "turns of one dialogue resemble one another, so the true interval is wider"
_AT_ONCE = 2_000_000  # draws held in memory
_TURN = re.compile(r"(.+)-\d+")


def said(unit: str, *, reverse: bool = False) -> str:
    """How the intervals were made, in words."""
    of = f"rows, since the ids name none ({NARROW})" if unit == "row" else f"{unit}s"
    kind = "reverse percentile" if reverse else "percentile"
    return f"95 % {kind} bootstrap, {RESAMPLES} resamples of {of}, seed {SEED}"


def unit_of(ids: Iterable[str]) -> str:
    """What is resampled: ``dialogue`` where every id names one, else ``row``.

    A number names a dialogue (``231-7``); other prefixes do where there are `FEWEST` at least:
    those of a few (``test-0``, ``dev-0`` …) number the rows of files.
    """
    found = [_TURN.fullmatch(one) for one in ids]
    prefixes = {one[1] for one in found if one}
    numbers = all(prefix.isdecimal() for prefix in prefixes)
    named = found and all(found) and (numbers or len(prefixes) >= FEWEST)
    return "dialogue" if named else "row"


def name_of(record: str, unit: str) -> str:
    """The name of the unit that a record belongs to."""
    return record.rpartition("-")[0] if unit == "dialogue" else record


def unit_sums(columns: Floats, units: Sequence[str]) -> Floats:
    """``columns`` (n, k) summed over equal names in ``units``, ordered by the sums alone."""
    names, places = np.unique(np.asarray(units), return_inverse=True)
    sums = np.zeros((len(names), columns.shape[1]))
    np.add.at(sums, places, columns)
    # Neither rows' order nor units' names decide what a resample draws.
    return np.asarray(sums[np.lexsort(sums.round(9).T[::-1])])


def resampled(sums: Floats) -> Floats:
    """The units' total and that of 1,000 seeded resamples of them, (1 + 1000, k) from (units, k).

    Columns side by side share their draws: two systems' columns make a paired comparison.
    """
    units, rng = len(sums), np.random.default_rng(SEED)
    found, block = [sums.sum(axis=0, keepdims=True)], max(1, _AT_ONCE // units)
    for begin in range(0, RESAMPLES, block):
        size = min(block, RESAMPLES - begin)
        drawn = rng.integers(units, size=(size, units)) + np.arange(size)[:, None] * units
        times = np.bincount(drawn.ravel(), minlength=size * units).reshape(size, units)
        found.append(times.astype(np.float64) @ sums)
    return np.concatenate(found)


def too_few(units: int, unit: str) -> str:
    """Why so few units have no interval."""
    some = f"{units} {unit}{'' if units == 1 else 's'}"
    return f"no interval: {some}, and an interval takes {FEWEST} at least"


def interval(numbers: Floats, units: int, unit: str, *, reverse: bool = False) -> Row:
    """Value, low, high of the 95 % percentile interval (Efron, 1979), or the ``reason`` for none.

    Of a value and, after it, what it is in resamples; NaN is undefined. ``reverse`` mirrors it at
    the value (Davison and Hinkley, 1997), for what noise alone raises. It holds the value itself.
    """
    value, known = float(numbers[0]), numbers[1:][~np.isnan(numbers[1:])]
    told: Row = {"value": None if np.isnan(value) else value, "low": None, "high": None}
    if units < FEWEST:
        told["reason"] = too_few(units, unit)
    elif len(known) < LEVEL * (len(numbers) - 1):
        told["reason"] = "no interval: more than 5 % of the resamples have no value"
    elif not np.isnan(value):
        low, high = np.quantile(known, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
        if reverse:
            low, high = 2 * value - high, 2 * value - low
        told |= {"low": min(float(low), value), "high": max(float(high), value)}
    return told


def verdict(difference: float | None, low: float | None, high: float | None) -> str:
    """A difference in words: inside or outside the noise."""
    if difference is None:
        return "undefined"
    if low is None or high is None:
        return "no interval, so it cannot be told from noise"
    if low <= 0 <= high:
        return "inside the noise"
    return f"{'higher' if difference > 0 else 'lower'}, outside the noise"


def mean(values: Sequence[tuple[str, float]], unit: str) -> Row:
    """Value, low, high and n of the mean of (record, value), as `interval` says it."""
    if not values:
        return {"value": None, "low": None, "high": None, "n": 0}
    by_unit: dict[str, list[float]] = defaultdict(list)
    for record, value in sorted(values):
        by_unit[name_of(record, unit)].append(value)
    sums = np.array([(sum(one), len(one)) for one in by_unit.values()], dtype=np.float64)
    total, n = resampled(sums).T
    return interval(total / n, len(sums), unit) | {"n": len(values)}


BY_DIALOGUE = f"{said('dialogue')}; Wilson's score interval over dialogues where all have one share"
BY_TURN = f"95 %, Wilson's score interval over turns, since the ids name no dialogues ({NARROW})"
"""The kinds of interval of a share, in words."""


def shares(turns: Iterable[tuple[str, str]], labels: Iterable[str]) -> tuple[dict[str, Row], str]:
    """(label to what `share` says of it; the kind of interval in words) of (id, label)s."""
    turns = list(turns)
    unit = unit_of(name for name, _ in turns)
    by_unit: dict[str, Counter[str]] = defaultdict(Counter)
    for name, label in turns:
        by_unit[name_of(name, unit)][label] += 1
    unit, how = ("dialogue", BY_DIALOGUE) if unit == "dialogue" else ("turn", BY_TURN)
    return {
        label: share(Counter((one[label], one.total()) for one in by_unit.values()), unit)
        for label in labels
    }, how


def share_of_turns(count: int, n: int) -> Row:
    """`share` of turns each of which stands for itself."""
    return share({(1, 1): count, (0, 1): n - count}, "turn")


def share(counted: Mapping[tuple[int, int], int], unit: str = "dialogue") -> Row:
    """Count, share, low and high of its 95 % interval, of {(successes, n): units that have it}.

    The bootstrap of dialogues; Wilson's of turns and cards, and over as many trials as there are
    dialogues where all have one share, since every resample has it too.
    """
    count, n = (sum(one[side] * times for one, times in counted.items()) for side in (0, 1))
    units = sum(counted.values())
    if n == 0:
        return {"count": 0, "share": None, "low": None, "high": None}
    # Equal dialogues stand for one another, so it is enough to draw how often each kind occurs.
    kinds, times = (np.array(side) for side in zip(*sorted(counted.items()), strict=True))
    drawn = np.random.default_rng(SEED).multinomial(units, times / units, size=RESAMPLES)
    successes, trials = (np.vstack([times, drawn]) @ kinds).T
    told = interval(successes / trials, units, unit)
    same = all(part * n == count * whole for part, whole in counted)
    if units >= FEWEST and (same or unit != "dialogue"):
        told["low"], told["high"] = wilson(units * count / n, units)
    return {"count": count, "share": told.pop("value"), **told}


def wilson(successes: float, n: int) -> tuple[float, float]:
    """(low, high) of a share's 95 % score interval (Wilson, 1927); scipy's takes no fractions."""
    p, z = successes / n, Z95 * Z95 / n
    half = math.sqrt(p * (1 - p) * z + z * z / 4)
    # At 0 and n the ends are exactly 0 and 1; rounding must not put them beside.
    low = 0.0 if successes == 0 else (p + z / 2 - half) / (1 + z)
    return low, 1.0 if successes == n else (p + z / 2 + half) / (1 + z)


def agreement(by_dialogue: Sequence[Mapping[tuple[str, str], int]]) -> Row:
    """Two raters' ``kappa`` (Cohen, 1960), low, high, ``agreed``, ``n``; ``note`` on a None.

    Each mapping is a dialogue's, from (what the first says, what the second says) to how often.
    """
    labels = sorted({label for one in by_dialogue for cell in one for label in cell})
    cells = [(first, second) for first in labels for second in labels]
    counts = np.array([[one.get(cell, 0) for cell in cells] for one in by_dialogue], dtype=float)
    n = int(counts.sum())
    agreed = sum(
        one[first, second] for one in by_dialogue for first, second in one if first == second
    )
    told: Row = {"kappa": None, "low": None, "high": None, "agreed": agreed, "n": n, "note": None}
    if not n:
        return told | {"note": "no pair is scored by both"}
    found = _kappa(resampled(counts).reshape(-1, len(labels), len(labels)))
    if np.isnan(found[0]):
        why = "both judges give one label throughout, so agreement cannot be told from chance"
        return told | {"note": why}
    ends = interval(found, len(by_dialogue), "dialogue")
    return told | {"kappa": ends.pop("value"), "note": ends.pop("reason", None)} | ends


def _kappa(counts: Floats) -> Floats:
    """Cohen's kappa of (R, K, K) counts; NaN where both sides are constant."""
    first, second, n = counts.sum(axis=2), counts.sum(axis=1), counts.sum(axis=(1, 2))
    observed = np.trace(counts, axis1=1, axis2=2) / n
    chance = (first * second).sum(axis=1) / n**2
    told = ((first > 0).sum(axis=1) > 1) | ((second > 0).sum(axis=1) > 1)
    undefined = np.full(len(n), np.nan)
    return np.asarray(np.divide(observed - chance, 1 - chance, out=undefined, where=told))


def fleiss_kappa(subjects: Sequence[Mapping[str, int]]) -> float | str:
    """Fleiss' kappa (1971) of {category: raters} of each thing, or in words why not."""
    from nltk.metrics.agreement import AnnotationTask

    answers = [list(Counter(one).elements()) for one in subjects]
    if not answers:
        return "nothing is rated by all annotators"
    if len(answers[0]) < 2:
        return "one annotator agrees with nobody; it takes two"
    if len(set().union(*answers)) < 2:
        return "all annotators give one answer throughout, so it cannot be told from chance"
    # NLTK's pi of many raters is Fleiss' kappa; its multi_kappa is Davies and Fleiss' (1982).
    told = [(rater, k, label) for k, one in enumerate(answers) for rater, label in enumerate(one)]
    return float(AnnotationTask(told).pi())
