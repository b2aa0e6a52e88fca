"""Distinct-1/2 and EAD of all responses together, with an interval by the jackknife.

A resample with replacement repeats dialogues, so it always holds fewer different words than the
real set, and its interval would lie below the number it is of. Leaving out one dialogue at a time
(Tukey, 1958) has no such fault, needs no draws, and is exact arithmetic on how many n-grams occur
in one dialogue alone.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from esc.bootstrap import Floats
from esc.intervals import Z95
from eval.text_statistics import Tokens, ngrams

VOCABULARY = 30_522
"""V of EAD: the size of BERT's vocabulary. Compare values of one V only."""
METRICS = ("distinct1", "distinct2", "ead")


@dataclass(frozen=True, slots=True)
class Diversity:
    """One metric ×100; NaN where undefined."""

    value: float
    left_out: Floats
    """Its value without each unit."""

    @property
    def half_width(self) -> float:
        """Half of the 95 % interval; NaN where there are fewer than two units."""
        return half_width(self.left_out)


def half_width(left_out: Floats) -> float:
    """Half of the 95 % interval of what has these values with one unit left out."""
    d = len(left_out)
    if d < 2:
        return np.nan
    squares = float(((left_out - left_out.mean()) ** 2).sum())
    return Z95 * math.sqrt((d - 1) / d * squares)


def diversity(responses: Sequence[Tokens], units: NDArray[np.int64]) -> dict[str, Diversity]:
    """Per metric of `METRICS`, for responses whose resampling units are numbered from 0.

    Distinct-n: Li et al. (2016). EAD: Liu et al. (2022), N / (V (1 − ((V−1)/V)^C)) with N different
    words among C.
    """
    count = int(units[-1]) + 1 if len(units) else 0
    found: dict[str, Diversity] = {}
    for order in (1, 2):
        total, alone, types = _occurrences(responses, units, count, order)
        rest, kept = total.sum() - total, types - alone
        found[f"distinct{order}"] = Diversity(
            _distinct(np.array([types]), np.array([total.sum()]))[0], _distinct(kept, rest)
        )
        if order == 1:
            found["ead"] = Diversity(
                _ead(np.array([types]), np.array([total.sum()]))[0], _ead(kept, rest)
            )
    return found


def _occurrences(
    responses: Sequence[Tokens], units: NDArray[np.int64], count: int, order: int
) -> tuple[Floats, Floats, float]:
    """(n-grams of each unit, different n-grams that only it has, different ones in all)."""
    total, alone = np.zeros(count), np.zeros(count)
    owner: dict[object, int] = {}
    for tokens, unit in zip(responses, units.tolist(), strict=True):
        total[unit] += max(0, len(tokens) - order + 1)
        for gram in ngrams(tokens, order):
            if owner.setdefault(gram, unit) != unit:
                owner[gram] = -1
    for unit in owner.values():
        if unit >= 0:
            alone[unit] += 1
    return total, alone, float(len(owner))


def _distinct(types: Floats, total: Floats) -> Floats:
    undefined = np.full(total.shape, np.nan)
    return np.asarray(100 * np.divide(types, total, out=undefined, where=total > 0))


def _ead(types: Floats, total: Floats) -> Floats:
    expected = VOCABULARY * -np.expm1(total * np.log1p(-1 / VOCABULARY))
    undefined = np.full(total.shape, np.nan)
    return np.asarray(100 * np.divide(types, expected, out=undefined, where=total > 0))


def signature(metric: str) -> str:
    """Everything that decides the number, but for the words."""
    if metric == "ead":
        return f"family:corpus|EAD of words|V:{VOCABULARY}"
    return f"family:corpus|distinct {metric[-1]}-grams of all responses"
