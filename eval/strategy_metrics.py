"""Strategy metrics, all from one table of counts: how often i was predicted where j was gold.

The headline leaves out turns whose answer names no strategy, as the paper's authors do.
``all_turns`` counts them as predicted ``Others``: wrong, unless that is gold. Fractions ×100; bias
and preference as in the paper; the Jensen–Shannon distance 0 to 1. NaN inside arrays is undefined.
"""

from collections.abc import Sequence

import numpy as np

from esc.bootstrap import Floats
from esc.progress import INTERVALS, interval_names
from esc.strategies import UNREADABLE, Strategy
from eval import preference
from eval.cases import Case

SIZE = len(Strategy)
_ORDER = {strategy: place for place, strategy in enumerate(Strategy)}
_OTHERS = _ORDER[UNREADABLE]
WIDTH = SIZE * SIZE + SIZE
HEADLINE = ("bias", "bias_converged", "weighted_f1", "macro_f1", "accuracy", "js_distance")
"""Single numbers, in both columns."""
LIST = f"strategies:{','.join(strategy.code for strategy in Strategy)}"
"""Which they are, for a signature."""
_NO_TURN = "there is no turn with a readable strategy"
WHY = {
    "bias_converged": "the confusions do not bind all strategies into one scale (Eq. 7 has no "
    "finite solution that numbers can hold)",
}
"""Why a number is undefined, where it is not for want of turns."""
SIGNATURES = {
    "bias": f"Eq. 7, {preference.SWEEPS} sweeps in place; Eq. 8, population std",
    "bias_converged": f"Eq. 7 to {preference.TOLERANCE:g}; Eq. 8, population std",
    "weighted_f1": "F1 weighted by gold counts",
    "macro_f1": "mean F1 of the strategies that occur, as gold or as predicted",
    "accuracy": "share of turns with the gold strategy",
    "js_distance": "Jensen-Shannon distance of predicted and gold shares|base:2|0 to 1",
    "invalid_rate": "share of turns whose strategy cannot be read",
    "preference": f"Eq. 7, {preference.SWEEPS} sweeps in place, sum {SIZE}",
    "f1": "F1 of the strategy against all others",
    "predicted": "share of turns",
    "gold": "share of turns",
}


def why(metric: str) -> str:
    """Why the metric is undefined, where it is."""
    return WHY.get(metric, _NO_TURN)


def columns(cases: Sequence[Case]) -> Floats:
    """What is summed over turns, shape (n, 64 + 8): predicted × gold, then the invalid by gold."""
    found = np.zeros((len(cases), WIDTH))
    for row, case in enumerate(cases):
        gold = _ORDER[case.gold]
        predicted = _OTHERS if case.predicted is None else _ORDER[case.predicted]
        found[row, predicted * SIZE + gold] = 1
        if case.predicted is None:
            found[row, SIZE * SIZE + gold] = 1
    return found


def confusion(sums: Floats, *, all_turns: bool) -> Floats:
    """Counts [predicted, gold] for each row of summed `columns`, shape (R, 8, 8)."""
    counts = sums[:, : SIZE * SIZE].reshape(-1, SIZE, SIZE).copy()
    if not all_turns:
        counts[:, _OTHERS] -= sums[:, SIZE * SIZE :]
    return counts


def numbers(counts: Floats) -> dict[str, Floats]:
    """Each metric of `HEADLINE`, shape (R,), and per strategy shape (R, 8), from (R, 8, 8)."""
    n = counts.sum(axis=(1, 2))
    predicted, gold = counts.sum(axis=2), counts.sum(axis=1)
    right = np.diagonal(counts, axis1=1, axis2=2)
    f1 = _share(2 * right, predicted + gold)
    liked = np.where(n[:, None] > 0, preference.preference(counts), np.nan)
    settled = np.where(n[:, None] > 0, preference.converged(counts), np.nan)
    occurs = (predicted + gold) > 0
    return {
        "bias": preference.bias(liked),
        "bias_converged": preference.bias(settled),
        "weighted_f1": 100 * _share((np.nan_to_num(f1) * gold).sum(axis=1), n),
        "macro_f1": 100 * _share(np.nan_to_num(f1).sum(axis=1), occurs.sum(axis=1).astype(float)),
        "accuracy": 100 * _share(right.sum(axis=1), n),
        "js_distance": _js_distance(_share(predicted, n[:, None]), _share(gold, n[:, None])),
        "preference": liked,
        "f1": 100 * f1,
        "predicted": 100 * _share(predicted, n[:, None]),
        "gold": 100 * _share(gold, n[:, None]),
    }


def invalid_rate(sums: Floats) -> Floats:
    """The share ×100 of turns without a readable strategy, for each row of summed `columns`."""
    invalid, turns = sums[:, SIZE * SIZE :].sum(axis=1), sums[:, : SIZE * SIZE].sum(axis=1)
    return np.asarray(100 * _share(invalid, turns))


def by_stage(cases: Sequence[Case]) -> list[dict[str, object]] | None:
    """Per interval of progress (Figure 8) n and shares ×100; None where a length is unknown.

    Of the turns with a readable strategy. Shares are None in an interval without any. They have no
    intervals of their own.
    """
    if not cases or any(case.stage is None for case in cases):
        return None
    counts = np.zeros((INTERVALS, 2, SIZE))
    for case in cases:
        if case.predicted is not None:
            counts[case.stage or 0, 0, _ORDER[case.predicted]] += 1
            counts[case.stage or 0, 1, _ORDER[case.gold]] += 1
    told: list[dict[str, object]] = []
    for name, (predicted, gold) in zip(interval_names(), counts, strict=True):
        n = int(gold.sum())
        shares = [
            {s.value: 100 * float(part[_ORDER[s]]) / n if n else None for s in Strategy}
            for part in (predicted, gold)
        ]
        told.append({"stage": name, "n": n, "predicted": shares[0], "gold": shares[1]})
    return told


def _share(part: Floats, whole: Floats) -> Floats:
    part, whole = np.broadcast_arrays(part, whole)
    return np.asarray(np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0))


def _js_distance(one: Floats, other: Floats) -> Floats:
    """Square root of the Jensen–Shannon divergence in bits (Endres and Schindelin, 2003)."""
    middle = (one + other) / 2

    def divergence(share: Floats) -> Floats:
        ratio = np.divide(share, middle, out=np.ones_like(share), where=share > 0)
        return np.asarray((share * np.log2(ratio)).sum(axis=1))

    # Rounding may leave equal shares a hair below 0.
    return np.asarray(np.sqrt(np.maximum((divergence(one) + divergence(other)) / 2, 0)))
