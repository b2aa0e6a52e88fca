"""Strategy metrics, all from one table of counts: how often i was predicted where j was gold.

The headline leaves out turns whose answer names no strategy, as the paper's authors do.
``all_turns`` counts them as predicted ``UNREADABLE``: wrong, unless that is gold. Fractions ×100;
bias and preference as in the paper; the Jensen–Shannon distance 0 to 1. NaN in arrays is undefined.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from esc.dialogue import INTERVALS
from esc.files import Row
from esc.stats import Floats
from esc.strategies import HASH, UNREADABLE, Strategy
from eval.cases import Case
from eval.text_metrics import NumberPath, percent

_Mask = NDArray[np.bool_]

SIZE = len(Strategy)
BINS = 10
CONFUSION, INVALID = slice(SIZE * SIZE), slice(SIZE * SIZE, SIZE * SIZE + SIZE)
CALIBRATION = slice(INVALID.stop, INVALID.stop + 3 * BINS)
WIDTH = CALIBRATION.stop + 3
"""Of `columns`, and where its parts stand."""
RAISED_BY_NOISE = ("bias", "bias_converged", "js_distance", "ece")
"""Numbers that cannot be negative, and are the higher the fewer turns there are."""
SWEEPS, TOLERANCE = 20, 1e-10
"""Of the paper's code; of the solution that more sweeps tend to."""
FLOOR = 5e-7
"""What a probability of 0 in a file may be: half of its last digit."""
_SIGNATURES = {
    "bias": f"Eq. 7, {SWEEPS} sweeps in place; Eq. 8, population std",
    "bias_converged": f"Eq. 7 to {TOLERANCE:g}; Eq. 8, population std",
    "weighted_f1": "F1 weighted by gold counts",
    "macro_f1": "mean F1 of the strategies that occur, as gold or as predicted",
    "accuracy": "share of turns with the gold strategy",
    "js_distance": "Jensen-Shannon distance of predicted and gold shares|base:2|0 to 1",
    "invalid_rate": "share of turns whose strategy cannot be read",
    "preference": f"Eq. 7, {SWEEPS} sweeps in place, sum {SIZE}",
    "f1": "F1 of the strategy against all others",
    "distribution": "share of turns",
    "ece": f"ECE of the likeliest strategy|bins:{BINS} of equal width|0 to 1",
    "brier": "Brier score, sum over the strategies|0 to 2",
    "nll": f"mean of -ln p(gold)|p at least {FLOOR:g}",
}
_WHY = {
    "calibration": "no record has a distribution over the strategies",
    "f1": "the strategy is neither gold nor predicted",
    "bias_converged": "the confusions do not bind all strategies into one scale (Eq. 7 has no "
    "finite solution that numbers can hold)",
}
"""Why a number is undefined, where it is, and there are turns with a readable strategy."""
_LIST = f"strategies:{','.join(strategy.code for strategy in Strategy)}#{HASH[:8]}"
_ORDER = {strategy: place for place, strategy in enumerate(Strategy)}
_OTHERS = _ORDER[UNREADABLE]


def about(path: NumberPath, sums: Floats) -> tuple[str, str, int]:
    """(all that decides a number but its interval, why it is undefined where it is, turns)."""
    said = next(_SIGNATURES[part] for part in path if part in _SIGNATURES)
    no_turn = "there is no turn with a readable strategy"
    why = next((_WHY[part] for part in path if part in _WHY), no_turn)
    if "calibration" in path:
        return said, why, int(sums[-1])
    every = "all_turns" in path or "invalid_rate" in path
    n = round(float(_confusion(sums[None], all_turns=every).sum()))
    if "invalid_rate" not in path:
        said += f"|{_LIST}|invalid:{f'as predicted {UNREADABLE}' if every else 'left out'}"
    return said, why, n


def columns(cases: Sequence[Case]) -> Floats:
    """What is summed over turns, shape (n, WIDTH): predicted × gold, invalid by gold, calibration.

    That is, per bin, probability, what is right and the number; then Brier score, loss and number.
    """
    found = np.zeros((len(cases), WIDTH))
    for row, case in zip(found, cases, strict=True):
        gold = _ORDER[case.gold]
        row[(_OTHERS if case.predicted is None else _ORDER[case.predicted]) * SIZE + gold] = 1
        row[INVALID][gold] = case.predicted is None
        if case.spread:
            spread = np.array(case.spread)
            # A probability on a border belongs to the bin below it, as in (0, 0.1], (0.1, 0.2].
            place = min(max(int(np.ceil(spread.max() * BINS)) - 1, 0), BINS - 1)
            bins = row[CALIBRATION].reshape(3, BINS)
            bins[:, place] = spread.max(), spread.argmax() == gold, 1
            brier = ((spread - np.eye(SIZE)[gold]) ** 2).sum()
            row[-3:] = brier, -np.log(max(spread[gold], FLOOR)), 1
    return found


def _confusion(sums: Floats, *, all_turns: bool) -> Floats:
    """Counts [predicted, gold] of rows of summed `columns`, shape (R, SIZE, SIZE)."""
    counts = sums[:, CONFUSION].reshape(-1, SIZE, SIZE).copy()
    if not all_turns:
        counts[:, _OTHERS] -= sums[:, INVALID]
    return counts


def numbers(sums: Floats) -> dict[NumberPath, Floats]:
    """Every number by its place, one value for each row of summed `columns`."""
    invalid = sums[:, INVALID].sum(axis=1)
    found: dict[NumberPath, Floats] = {
        ("strategy", "invalid_rate"): percent(invalid, sums[:, CONFUSION].sum(axis=1))
    }
    for above, all_turns in ((("strategy",), False), (("strategy", "all_turns"), True)):
        for path, values in _of_counts(_confusion(sums, all_turns=all_turns)).items():
            if values.ndim == 1:
                found[*above, *path] = values
                continue
            for strategy, place in _ORDER.items():
                found[*above, *path, strategy.value] = values[:, place]
    bins = sums[:, CALIBRATION].reshape(-1, 3, BINS)
    ece = np.abs(bins[:, 0] - bins[:, 1]).sum(axis=1)
    for name, total in (("ece", ece), ("brier", sums[:, -3]), ("nll", sums[:, -2])):
        found["strategy", "calibration", name] = percent(total, sums[:, -1]) / 100
    return found


def _of_counts(counts: Floats) -> dict[NumberPath, Floats]:
    """Each metric by its place, shape (R,) or, per strategy, (R, SIZE), from their counts."""
    from scipy.spatial.distance import jensenshannon

    n = counts.sum(axis=(1, 2))
    predicted, gold = counts.sum(axis=2), counts.sum(axis=1)
    right = np.diagonal(counts, axis1=1, axis2=2)
    f1 = percent(2 * right, predicted + gold)
    occurs = ((predicted + gold) > 0).sum(axis=1)
    liked, settled = (
        np.where(n[:, None] > 0, solve(counts), np.nan) for solve in (preference, converged)
    )
    shares = [percent(side, n[:, None]) for side in (predicted, gold)]
    with np.errstate(invalid="ignore"):
        # Square root of the divergence in bits (Endres and Schindelin, 2003).
        distance = jensenshannon(*shares, base=2, axis=1)
    # Rounding may leave the divergence of almost equal shares a hair below 0.
    distance[np.isnan(distance) & (n > 0)] = 0.0
    return {
        # Eq. 8: the population standard deviation.
        ("bias",): liked.std(axis=1),
        ("bias_converged",): settled.std(axis=1),
        ("weighted_f1",): percent((np.nan_to_num(f1) * gold).sum(axis=1), n) / 100,
        ("macro_f1",): percent(np.nan_to_num(f1).sum(axis=1), occurs) / 100,
        ("accuracy",): percent(right.sum(axis=1), n),
        ("js_distance",): distance,
        ("preference",): liked,
        ("f1",): f1,
        ("distribution", "predicted"): shares[0],
        ("distribution", "gold"): shares[1],
    }


def facts(sums: Floats) -> Row:
    """What is no number with an interval, from one row of summed `columns`."""
    readable, invalid = _confusion(sums[None], all_turns=False)[0], sums[INVALID].sum()
    bins = []
    for place, (probability, right, k) in enumerate(sums[CALIBRATION].reshape(3, BINS).T):
        shares = {"probability": float(probability / k), "right": float(right / k)} if k else {}
        told: Row = {"upto": (place + 1) / BINS, "n": int(k), "probability": None, "right": None}
        bins.append(told | shares)
    return {
        "n": round(float(readable.sum())),
        "invalid": round(float(invalid)),
        "all_turns": {"n": round(float(readable.sum() + invalid))},
        # The bins are the data of a reliability diagram.
        "calibration": {"n": int(sums[-1]), "bins": bins},
        "confusion": {
            "strategies": [strategy.value for strategy in Strategy],
            "predicted_by_gold": readable.round(3).tolist(),
        },
    }


def by_stage(cases: Sequence[Case]) -> list[Row] | None:
    """Per interval of progress (Figure 8) n and shares ×100; None where a length is unknown."""
    if any(case.stage is None for case in cases):
        return None

    def shares(said: list[Strategy | None]) -> Row:
        return {s.value: 100 * said.count(s) / len(said) if said else None for s in Strategy}

    told = []
    for stage, name in enumerate(INTERVALS):
        here = [case for case in cases if case.stage == stage and case.predicted]
        predicted, gold = shares([one.predicted for one in here]), shares([c.gold for c in here])
        told.append({"stage": name, "n": len(here), "predicted": predicted, "gold": gold})
    return told


def preference(wins: Floats) -> Floats:
    """The preference of each strategy after 20 sweeps of Eq. 7, in place from 1, (R, K), sum K.

    Where Eq. 7 divides by nothing: a strategy that is confused with no other stays at the mean, so
    that a faultless system prefers none; one that is never missed keeps its value, so that a
    constant system's strategy takes all.
    """
    wins, idle = _confused(wins)
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
    return np.asarray(p * p.shape[1] / p.sum(axis=1, keepdims=True))


def converged(wins: Floats) -> Floats:
    """The solution of Eq. 7 that more sweeps tend to, shape (R, K); NaN where there is none.

    There is one where, among the strategies that are ever predicted wrongly, each is preferred to
    each other by a chain of confusions (Ford, 1957); the others' preference is 0.
    """
    from scipy.special import softmax

    wins, idle = _confused(wins)
    size, rest = wins.shape[1], ~idle
    for _ in range(size):
        # Those that beat none of the rest are taken out; who is left alone at the end stays.
        beats = rest & ((wins > 0) & rest[:, None, :]).any(axis=2)
        rest = np.where(beats.any(axis=1, keepdims=True), beats, rest)
    inside = rest[:, :, None] & rest[:, None, :]
    reach = ((wins > 0) & inside) | np.eye(size, dtype=bool)
    for _ in range((size - 1).bit_length()):  # so many doublings of a step reach all there is
        reach = (reach.astype(np.float32) @ reach.astype(np.float32)) > 0
    connected = (reach | ~inside).all(axis=(1, 2))
    active = np.flatnonzero(connected & (rest.any(axis=1) | idle.all(axis=1)))
    # Newton's method for log p, since sweeps may take tens of thousands where confusions are few.
    # Within a step that changes no log-odds by more than 1, each step raises the likelihood.
    log_p, found = np.where(rest | idle, 0.0, -np.inf), np.full(rest.shape, np.nan)
    for _ in range(500):
        before = size * softmax(log_p[active], axis=1)
        log_p[active] += _step(wins[active] * inside[active], rest[active], log_p[active])
        after = size * softmax(log_p[active], axis=1)
        still = np.abs(after - before).max(axis=1) > TOLERANCE
        found[active[~still]] = after[~still]
        active = active[still]
        if not len(active):
            break
    return found


def _step(wins: Floats, among: _Mask, log_p: Floats) -> Floats:
    """What to add to the logarithms of the preferences of ``among``, shape (R, K), mean 0."""
    both = wins + wins.swapaxes(1, 2)
    log_p = np.where(among, log_p, 0.0)
    share = 0.5 + 0.5 * np.tanh((log_p[:, :, None] - log_p[:, None, :]) / 2)
    slope = wins.sum(axis=2) - (both * share).sum(axis=2)
    weight = both * share * share.swapaxes(1, 2)
    # The least part more keeps a matrix that rounding has made singular solvable.
    least = 1e-14 * both.max(axis=(1, 2))[:, None, None]
    own = weight.sum(axis=2)[:, None, :] + ~among[:, None, :] + least
    # Only differences of logarithms are bound: their mean is held, and whoever is out stays.
    curve = np.eye(wins.shape[1]) * own - weight + (among[:, :, None] & among[:, None, :])
    step = np.linalg.solve(curve, slope[:, :, None])[:, :, 0]
    return np.asarray(step / np.maximum(1, np.ptp(step, axis=1, keepdims=True)))


def _confused(wins: Floats) -> tuple[Floats, _Mask]:
    """(the counts without the diagonal, which strategies are never confused with another)."""
    wins = wins * (1 - np.eye(wins.shape[-1]))
    return wins, np.asarray(~(wins.any(axis=1) | wins.any(axis=2)))
