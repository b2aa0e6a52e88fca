"""Strategy metrics, all from one table of counts: how often i was predicted where j was gold.

The headline leaves out turns whose answer names no strategy, as the paper's authors do.
``all_turns`` counts them as predicted ``Others``: wrong, unless that is gold. Fractions ×100; bias
and preference as in the paper; the Jensen–Shannon distance 0 to 1. NaN inside arrays is undefined.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from esc.dialogue import INTERVALS
from esc.files import Row
from esc.stats import Floats
from esc.strategies import UNREADABLE, Strategy
from eval.cases import Case

NumberPath = tuple[str, ...]
"""Where a number stands in ``metrics.json``, such as ``("strategy", "all_turns", "bias")``."""

SIZE = len(Strategy)
BINS = 10
WIDTH = SIZE * SIZE + SIZE + 3 * BINS + 3
ALL_TURNS = "all_turns"
"""The numbers that leave out no turn."""
HEADLINE = ("bias", "bias_converged", "weighted_f1", "macro_f1", "accuracy", "js_distance")
"""Single numbers, in both columns."""
RAISED_BY_NOISE = ("bias", "bias_converged", "js_distance", "ece")
"""Numbers that cannot be negative, and are the higher the fewer turns there are."""
SWEEPS = 20
"""Of the paper's code."""
TOLERANCE = 1e-10
FLOOR = 5e-7
"""A probability of 0 in a file is less than half of its last digit; its logarithm is this one's."""
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
    "ece": f"ECE of the likeliest strategy|bins:{BINS} of equal width|0 to 1",
    "brier": "Brier score, sum over the strategies|0 to 2",
    "nll": f"mean of -ln p(gold)|p at least {FLOOR:g}",
}
_LIST = f"strategies:{','.join(strategy.code for strategy in Strategy)}"
_ORDER = {strategy: place for place, strategy in enumerate(Strategy)}
_OTHERS = _ORDER[UNREADABLE]
_MOST_STEPS = 500
_LEAST = 1e-14
Mask = NDArray[np.bool_]


def signature(path: NumberPath) -> str:
    """Everything that decides the number at ``path``, but for its interval."""
    said = SIGNATURES[path[-1] if path[-1] in SIGNATURES else path[-2]]
    if path[-1] == "invalid_rate" or "calibration" in path:
        return said
    counted = f"as predicted {UNREADABLE}" if ALL_TURNS in path else "left out"
    return f"{said}|{_LIST}|invalid:{counted}"


def why(path: NumberPath) -> str:
    """Why the number at ``path`` is undefined, where it is."""
    if "calibration" in path:
        return "no record has a distribution over the strategies"
    if "f1" in path:
        return "the strategy is neither gold nor predicted"
    if path[-1] == "bias_converged":
        return (
            "the confusions do not bind all strategies into one scale (Eq. 7 has no finite "
            "solution that numbers can hold)"
        )
    return "there is no turn with a readable strategy"


def columns(cases: Sequence[Case]) -> Floats:
    """What is summed over turns, shape (n, 105): predicted × gold, invalid by gold, calibration.

    Calibration is, per bin, the mean probability, what is right and the number; then Brier score,
    loss and number: zeros where a turn has no distribution.
    """
    found = np.zeros((len(cases), WIDTH))
    for row, case in zip(found, cases, strict=True):
        gold = _ORDER[case.gold]
        row[(_OTHERS if case.predicted is None else _ORDER[case.predicted]) * SIZE + gold] = 1
        row[SIZE * SIZE + gold] = case.predicted is None
        if case.spread:
            spread = np.array(case.spread)
            # A probability on a border belongs to the bin below it, as in (0, 0.1], (0.1, 0.2].
            place = min(max(int(np.ceil(spread.max() * BINS)) - 1, 0), BINS - 1)
            bins = row[SIZE * SIZE + SIZE : -3].reshape(3, BINS)
            bins[:, place] = spread.max(), spread.argmax() == gold, 1
            brier = ((spread - np.eye(SIZE)[gold]) ** 2).sum()
            row[-3:] = brier, -np.log(max(spread[gold], FLOOR)), 1
    return found


def n_of(path: NumberPath, sums: Floats) -> int:
    """How many turns the number at ``path`` is of, from one row of summed `columns`."""
    if "calibration" in path:
        return int(sums[-1])
    every = ALL_TURNS in path or path[-1:] == ("invalid_rate",)
    return round(float(confusion(sums[None], all_turns=every).sum()))


def confusion(sums: Floats, *, all_turns: bool) -> Floats:
    """Counts [predicted, gold] for each row of summed `columns`, shape (R, 8, 8)."""
    counts = sums[:, : SIZE * SIZE].reshape(-1, SIZE, SIZE).copy()
    if not all_turns:
        counts[:, _OTHERS] -= sums[:, SIZE * SIZE : SIZE * SIZE + SIZE]
    return counts


def numbers(sums: Floats) -> dict[NumberPath, Floats]:
    """Every number by its place, one value for each row of summed `columns`."""
    invalid, every = sums[:, SIZE * SIZE :][:, :SIZE], sums[:, : SIZE * SIZE].sum(axis=1)
    found: dict[NumberPath, Floats] = {
        ("strategy", "invalid_rate"): 100 * _share(invalid.sum(axis=1), every)
    }
    for above, all_turns in ((("strategy",), False), (("strategy", ALL_TURNS), True)):
        for name, values in of_counts(confusion(sums, all_turns=all_turns)).items():
            if name in HEADLINE:
                found[*above, name] = values
                continue
            where = ("distribution", name) if name in ("predicted", "gold") else (name,)
            for place, strategy in enumerate(Strategy):
                found[*above, *where, strategy.value] = values[:, place]
    bins = sums[:, SIZE * SIZE + SIZE : -3].reshape(-1, 3, BINS)
    ece = np.abs(bins[:, 0] - bins[:, 1]).sum(axis=1)
    for name, total in (("ece", ece), ("brier", sums[:, -3]), ("nll", sums[:, -2])):
        found["strategy", "calibration", name] = _share(total, sums[:, -1])
    return found


def of_counts(counts: Floats) -> dict[str, Floats]:
    """Each metric of `HEADLINE`, shape (R,), and per strategy shape (R, 8), from (R, 8, 8)."""
    n = counts.sum(axis=(1, 2))
    predicted, gold = counts.sum(axis=2), counts.sum(axis=1)
    right = np.diagonal(counts, axis1=1, axis2=2)
    f1 = _share(2 * right, predicted + gold)
    liked = np.where(n[:, None] > 0, preference(counts), np.nan)
    settled = np.where(n[:, None] > 0, converged(counts), np.nan)
    occurs = ((predicted + gold) > 0).sum(axis=1)
    shares = [_share(side, n[:, None]) for side in (predicted, gold)]
    return {
        "bias": bias(liked),
        "bias_converged": bias(settled),
        "weighted_f1": 100 * _share((np.nan_to_num(f1) * gold).sum(axis=1), n),
        "macro_f1": 100 * _share(np.nan_to_num(f1).sum(axis=1), occurs),
        "accuracy": 100 * _share(right.sum(axis=1), n),
        "js_distance": _js_distance(*shares),
        "preference": liked,
        "f1": 100 * f1,
        "predicted": 100 * shares[0],
        "gold": 100 * shares[1],
    }


def _share(part: Floats, whole: NDArray[Any]) -> Floats:
    part, whole = np.broadcast_arrays(part, whole)
    return np.asarray(np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0))


def _js_distance(one: Floats, other: Floats) -> Floats:
    """Square root of the Jensen–Shannon divergence in bits (Endres and Schindelin, 2003)."""
    from scipy.spatial.distance import jensenshannon

    with np.errstate(invalid="ignore"):
        found = jensenshannon(one, other, base=2, axis=1)
    # Rounding may leave the divergence of almost equal shares a hair below 0.
    return np.where(np.isnan(found) & ~np.isnan(one + other).any(axis=1), 0.0, found)


def facts(sums: Floats) -> Row:
    """What is no number with an interval, from one row of summed `columns`."""
    counts, n = confusion(sums[None], all_turns=False)[0], n_of((), sums)
    every = n_of((ALL_TURNS,), sums)
    probability, right, count = sums[SIZE * SIZE + SIZE : -3].reshape(3, BINS)
    # The data of a reliability diagram.
    bins = [
        {
            "upto": (place + 1) / BINS,
            "n": int(k),
            "probability": float(probability[place] / k) if k else None,
            "right": float(right[place] / k) if k else None,
        }
        for place, k in enumerate(count)
    ]
    return {
        "n": n,
        "invalid": every - n,
        ALL_TURNS: {"n": every},
        "calibration": {"n": int(sums[-1]), "bins": bins},
        "confusion": {
            "strategies": [strategy.value for strategy in Strategy],
            "predicted_by_gold": counts.round(3).tolist(),
        },
    }


def by_stage(cases: Sequence[Case]) -> list[Row] | None:
    """Per interval of progress (Figure 8) n and shares ×100; None where a length is unknown.

    Of the turns with a readable strategy. Shares are None in an interval without any. They have no
    intervals of their own.
    """
    if any(case.stage is None for case in cases):
        return None
    told = []
    for stage, name in enumerate(INTERVALS):
        said = [(case.predicted, case.gold) for case in cases if case.stage == stage]
        said = [both for both in said if both[0] is not None]
        shares = [
            {s.value: 100 * side.count(s) / len(said) if said else None for s in Strategy}
            for side in ([one for one, _ in said], [gold for _, gold in said])
        ]
        told.append({"stage": name, "n": len(said), "predicted": shares[0], "gold": shares[1]})
    return told


def preference(wins: Floats) -> Floats:
    """The preference of each strategy after 20 sweeps of Eq. 7, shape (R, K), sum K.

    In place, from 1, over the geometric mean of the positive ones after each sweep. Where Eq. 7
    divides by nothing it says nothing: a strategy that is confused with no other, in either way,
    stays at that mean, so that a faultless system prefers none (all 1); one that is never missed
    keeps its value, so that a constant system's strategy takes all (K).
    """
    wins = _off_diagonal(wins)
    idle = _idle(wins)
    p: Floats = np.ones(idle.shape)
    for _ in range(SWEEPS):
        for i in range(p.shape[1]):
            both = p[:, i, None] + p
            share = np.divide(1, both, out=np.zeros_like(both), where=both > 0)
            won = np.einsum("rj,rj,rj->r", wins[:, i], p, share)
            lost = np.einsum("rj,rj->r", wins[:, :, i], share)
            np.divide(won, lost, out=p[:, i], where=lost > 0)
        counted = (p > 0) & ~idle
        logs = np.log(p, out=np.zeros_like(p), where=counted)
        mean = np.exp(logs.sum(axis=1) / np.maximum(counted.sum(axis=1), 1))
        p = np.where(idle, 1.0, p / mean[:, None])
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
    for _ in range(_MOST_STEPS):
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


def _of_sum_k(p: Floats) -> Floats:
    return np.asarray(p * p.shape[1] / p.sum(axis=1, keepdims=True))


def _off_diagonal(wins: Floats) -> Floats:
    return wins * (1 - np.eye(wins.shape[-1]))


def _idle(wins: Floats) -> Mask:
    """Which strategies are never confused with another."""
    return np.asarray(~(wins.any(axis=1) | wins.any(axis=2)))


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
