"""How much a system prefers each strategy (Eq. 7), and its bias (Eq. 8), for many counts at once.

``wins[…, i, j]`` is how often strategy i was predicted where j was gold. Eq. 7 is Newman's (2023)
iteration for the model of Bradley and Terry, in which i wins against j when it is predicted in j's
place; what is predicted rightly says nothing. Every function takes counts of shape (R, K, K)
for K strategies, which are 8 in the paper.
"""

import numpy as np
from numpy.typing import NDArray

from esc.bootstrap import Floats

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
