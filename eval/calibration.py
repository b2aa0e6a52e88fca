"""Whether a planner's probabilities can be believed: ECE, Brier score and log loss.

Over the turns that have a distribution. ECE (Naeini et al., 2015) compares, in ten bins of equal
width, the mean probability of the likeliest strategy with how often that one is gold.
"""

from collections.abc import Sequence

import numpy as np

from esc.bootstrap import Floats
from esc.strategies import Strategy
from eval.cases import Case

BINS = 10
FLOOR = 5e-7
"""A probability of 0 in a file is less than half of its last digit; its logarithm is this one's."""
METRICS = ("ece", "brier", "nll")
WIDTH = 3 * BINS + 3
WHY = "no record has a distribution over the strategies"
SIGNATURES = {
    "ece": f"ECE of the likeliest strategy|bins:{BINS} of equal width|0 to 1",
    "brier": "Brier score, sum over the strategies|0 to 2",
    "nll": f"mean of -ln p(gold)|p at least {FLOOR:g}",
}
_ORDER = {strategy: place for place, strategy in enumerate(Strategy)}


def columns(cases: Sequence[Case]) -> Floats:
    """What is summed over turns, shape (n, 33); zeros where a turn has no distribution."""
    found = np.zeros((len(cases), WIDTH))
    known = [place for place, case in enumerate(cases) if case.spread]
    if not known:
        return found
    spread = np.array([cases[place].spread for place in known])
    gold = np.array([_ORDER[cases[place].gold] for place in known])
    rows = np.arange(len(known))
    top = spread.argmax(axis=1)
    confidence = spread[rows, top]
    # A probability on a border belongs to the bin below it, as in (0, 0.1], (0.1, 0.2].
    bins = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    part = np.zeros((len(known), WIDTH))
    part[rows, bins] = confidence
    part[rows, BINS + bins] = top == gold
    part[rows, 2 * BINS + bins] = 1
    part[:, -3] = ((spread - np.eye(len(Strategy))[gold]) ** 2).sum(axis=1)
    part[:, -2] = -np.log(np.maximum(spread[rows, gold], FLOOR))
    part[:, -1] = 1
    found[known] = part
    return found


def numbers(sums: Floats) -> dict[str, Floats]:
    """Per metric, one value for each row of summed `columns`; NaN where there is none."""
    confidence, right, _ = np.split(sums[:, : 3 * BINS], 3, axis=1)
    n = sums[:, -1]
    above = {
        "ece": np.abs(confidence - right).sum(axis=1),
        "brier": sums[:, -3],
        "nll": sums[:, -2],
    }
    undefined = np.full(n.shape, np.nan)
    return {
        name: np.divide(total, n, out=undefined.copy(), where=n > 0)
        for name, total in above.items()
    }


def bins(sums: Floats) -> list[dict[str, float | int | None]]:
    """The ten bins of one row of sums: n, mean probability, share that is gold; None where n is 0.

    The data of a reliability diagram.
    """
    confidence, right, count = np.split(sums[: 3 * BINS], 3)
    return [
        {
            "upto": (place + 1) / BINS,
            "n": int(n),
            "probability": float(confidence[place] / n) if n else None,
            "right": float(right[place] / n) if n else None,
        }
        for place, n in enumerate(count)
    ]
