"""Strategy metrics, all from one table of counts: how often i was predicted where j was gold.

The headline leaves out turns whose answer names no strategy, as the paper's authors do.
``all_turns`` counts them as predicted ``Others``: wrong, unless that is gold. Fractions ×100; bias
and preference as in the paper; the Jensen–Shannon distance 0 to 1. NaN inside arrays is undefined.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from esc.dialogue import INTERVALS, interval_names
from esc.stats import Floats
from esc.strategies import UNREADABLE, Strategy
from eval.cases import Case

BINS = 10
FLOOR = 5e-7
"""A probability of 0 in a file is less than half of its last digit; its logarithm is this one's."""
METRICS = ("ece", "brier", "nll")
CALIBRATION_WIDTH = 3 * BINS + 3
CALIBRATION_WHY = "no record has a distribution over the strategies"
CALIBRATION_SIGNATURES = {
    "ece": f"ECE of the likeliest strategy|bins:{BINS} of equal width|0 to 1",
    "brier": "Brier score, sum over the strategies|0 to 2",
    "nll": f"mean of -ln p(gold)|p at least {FLOOR:g}",
}
_ORDER = {strategy: place for place, strategy in enumerate(Strategy)}


def calibration_columns(cases: Sequence[Case]) -> Floats:
    """What is summed over turns, shape (n, 33); zeros where a turn has no distribution."""
    found = np.zeros((len(cases), CALIBRATION_WIDTH))
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
    part = np.zeros((len(known), CALIBRATION_WIDTH))
    part[rows, bins] = confidence
    part[rows, BINS + bins] = top == gold
    part[rows, 2 * BINS + bins] = 1
    part[:, -3] = ((spread - np.eye(len(Strategy))[gold]) ** 2).sum(axis=1)
    part[:, -2] = -np.log(np.maximum(spread[rows, gold], FLOOR))
    part[:, -1] = 1
    found[known] = part
    return found


def calibration_numbers(sums: Floats) -> dict[str, Floats]:
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


SWEEPS = 20
"""Of the paper's code."""
MOST_STEPS = 500
TOLERANCE = 1e-10
_LEAST = 1e-14
Mask = NDArray[np.bool_]


def preference(wins: Floats) -> Floats:
    """The preference of each strategy after 20 sweeps of Eq. 7, shape (R, K), sum K.

    In place, from 1, over the geometric mean of the positive ones after each sweep. Where Eq. 7
    divides by nothing it says nothing: a strategy that is confused with no other, in either way,
    stays at that mean, so that a faultless system prefers none (all 1); one that is never missed
    keeps its value, so that a constant system's strategy takes all (K).
    """
    wins = _off_diagonal(wins)
    p = np.ones(wins.shape[:2])
    idle = _idle(wins)
    for _ in range(SWEEPS):
        p = _sweep(wins, p, idle)
    return _of_sum_k(p)


def bias(p: Floats) -> Floats:
    """Population standard deviation of preferences (Eq. 8), shape (R,)."""
    return np.asarray(p.std(axis=-1))


def converged(wins: Floats) -> Floats:
    """The solution of Eq. 7 that more sweeps tend to, shape (R, K); NaN where there is none.

    There is one where, among the strategies that are ever predicted wrongly, each is preferred to
    each other by a chain of confusions (Ford, 1957); the others' preference is 0.
    """
    wins = _off_diagonal(wins)
    idle = _idle(wins)
    rest = _that_win(wins, ~idle)
    solvable = _strongly_connected(wins, rest) & (rest.any(axis=1) | idle.all(axis=1))
    # Newton's method for log p, since sweeps may take tens of thousands where confusions are few.
    # Within a step that changes no log-odds by more than 1, each step raises the likelihood.
    log_p = np.zeros(rest.shape)
    result = np.full(rest.shape, np.nan)
    active = np.flatnonzero(solvable)
    for _ in range(MOST_STEPS):
        if not len(active):
            break
        before = _of_logs(log_p[active], rest[active], idle[active])
        log_p[active] += _step(wins[active], rest[active], log_p[active])
        after = _of_logs(log_p[active], rest[active], idle[active])
        still = np.abs(after - before).max(axis=1) > TOLERANCE
        result[active[~still]] = after[~still]
        active = active[still]
    return result


def _step(wins: Floats, among: Mask, log_p: Floats) -> Floats:
    """What to add to the logarithms of the preferences of ``among``, shape (R, K), mean 0."""
    wins = wins * (among[:, :, None] & among[:, None, :])
    both = wins + wins.swapaxes(1, 2)
    share = 0.5 + 0.5 * np.tanh((log_p[:, :, None] - log_p[:, None, :]) / 2)
    slope = wins.sum(axis=2) - (both * share).sum(axis=2)
    weight = both * share * share.swapaxes(1, 2)
    curve = np.eye(wins.shape[1]) * weight.sum(axis=2)[:, None, :] - weight
    # Only differences of logarithms are bound: their mean is held, and whoever is out stays.
    curve += among[:, :, None] & among[:, None, :]
    # The least part more keeps a matrix that rounding has made singular solvable.
    least = _LEAST * both.max(axis=(1, 2))[:, None, None]
    curve += np.eye(wins.shape[1]) * (~among[:, None, :] + least)
    step = np.linalg.solve(curve, slope[:, :, None])[:, :, 0]
    return np.asarray(step / np.maximum(1, np.ptp(step, axis=1, keepdims=True)))


def _of_logs(log_p: Floats, among: Mask, idle: Mask) -> Floats:
    """Preferences of sum K: of ``among`` as their logarithms say, idle ones at those's mean."""
    highest = log_p.max(axis=1, keepdims=True)
    return _of_sum_k(np.where(among | idle, np.exp(log_p - highest), 0.0))


def _off_diagonal(wins: Floats) -> Floats:
    return wins * (1 - np.eye(wins.shape[-1]))


def _idle(wins: Floats) -> Mask:
    """Which strategies are never confused with another."""
    return np.asarray(~(wins.any(axis=1) | wins.any(axis=2)))


def _sweep(wins: Floats, p: Floats, idle: Mask) -> Floats:
    p = p.copy()
    for i in range(p.shape[1]):
        both = p[:, i, None] + p
        share = np.divide(1, both, out=np.zeros_like(both), where=both > 0)
        won = np.einsum("rj,rj,rj->r", wins[:, i], p, share)
        lost = np.einsum("rj,rj->r", wins[:, :, i], share)
        np.divide(won, lost, out=p[:, i], where=lost > 0)
    counted = (p > 0) & ~idle
    logs = np.log(p, out=np.zeros_like(p), where=counted)
    mean = np.exp(logs.sum(axis=1) / np.maximum(counted.sum(axis=1), 1))
    return np.where(idle, 1.0, p / mean[:, None])


def _of_sum_k(p: Floats) -> Floats:
    return np.asarray(p * p.shape[1] / p.sum(axis=1, keepdims=True))


def _that_win(wins: Floats, among: Mask) -> Mask:
    """What is left of ``among`` when those that beat none of the rest are taken out, repeatedly.

    Who is left alone at the end stays.
    """
    for _ in range(wins.shape[1]):
        beats = among & ((wins > 0) & among[:, None, :]).any(axis=2)
        among = np.where(beats.any(axis=1, keepdims=True), beats, among)
    return among


def _strongly_connected(wins: Floats, among: Mask) -> Mask:
    """Per counts, whether a chain of wins leads from each of ``among`` to each other."""
    size = wins.shape[1]
    inside = among[:, :, None] & among[:, None, :]
    reach = ((wins > 0) & inside) | np.eye(size, dtype=bool)
    for _ in range((size - 1).bit_length()):  # so many doublings of a step reach all there is
        reach = (reach.astype(np.float32) @ reach.astype(np.float32)) > 0
    return np.asarray((reach | ~inside).all(axis=(1, 2)))


SIZE = len(Strategy)
_ORDER_of_strategy_metrics = {strategy: place for place, strategy in enumerate(Strategy)}
_OTHERS = _ORDER_of_strategy_metrics[UNREADABLE]
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
    "bias": f"Eq. 7, {SWEEPS} sweeps in place; Eq. 8, population std",
    "bias_converged": f"Eq. 7 to {TOLERANCE:g}; Eq. 8, population std",
    "weighted_f1": "F1 weighted by gold counts",
    "macro_f1": "mean F1 of the strategies that occur, as gold or as predicted",
    "accuracy": "share of turns with the gold strategy",
    "js_distance": "Jensen-Shannon distance of predicted and gold shares|base:2|0 to 1",
    "invalid_rate": "share of turns whose strategy cannot be read",
    "preference": f"Eq. 7, {SWEEPS} sweeps in place, sum {SIZE}",
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
        gold = _ORDER_of_strategy_metrics[case.gold]
        predicted = (
            _OTHERS if case.predicted is None else _ORDER_of_strategy_metrics[case.predicted]
        )
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
    liked = np.where(n[:, None] > 0, preference(counts), np.nan)
    settled = np.where(n[:, None] > 0, converged(counts), np.nan)
    occurs = (predicted + gold) > 0
    return {
        "bias": bias(liked),
        "bias_converged": bias(settled),
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
            counts[case.stage or 0, 0, _ORDER_of_strategy_metrics[case.predicted]] += 1
            counts[case.stage or 0, 1, _ORDER_of_strategy_metrics[case.gold]] += 1
    told: list[dict[str, object]] = []
    for name, (predicted, gold) in zip(interval_names(), counts, strict=True):
        n = int(gold.sum())
        shares = [
            {
                s.value: 100 * float(part[_ORDER_of_strategy_metrics[s]]) / n if n else None
                for s in Strategy
            }
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
