"""Strategy metrics: hand-computed cases, planted preferences, and inputs that leave nothing."""

import math

import numpy as np
import pytest

from esc import stats
from esc.strategies import Strategy
from eval import strategy_metrics
from eval.cases import Case

ALL = list(Strategy)
Q, R, O = Strategy.QUESTION, Strategy.RESTATEMENT_PARAPHRASING, Strategy.OTHERS  # noqa: E741


def case(gold, predicted, **other):
    return Case("x", gold, "", predicted, "", **other)


def numbers(cases):
    """By dotted name without ``strategy``; a pair is (gold, predicted)."""
    cases = [one if isinstance(one, Case) else case(*one) for one in cases]
    sums = strategy_metrics.columns(cases).sum(axis=0, keepdims=True)
    found = strategy_metrics.numbers(sums).items()
    return {".".join(path[1:]): float(value) for path, (value,) in found}


def preferences(found):
    return np.array([found[f"preference.{strategy}"] for strategy in Strategy])


def by_hand(wins, sweeps=20):
    """Eq. 7 as it is written, where no denominator is 0."""
    p = [1.0] * 8
    for _ in range(sweeps):
        for i in range(8):
            won = sum(wins[i][j] * p[j] / (p[i] + p[j]) for j in range(8) if j != i)
            lost = sum(wins[j][i] / (p[i] + p[j]) for j in range(8) if j != i)
            p[i] = won / lost
        mean = math.prod(p) ** (1 / 8)
        p = [x / mean for x in p]
    return np.array(p) * 8 / sum(p)


def test_the_sweeps_are_those_of_the_equation_whatever_the_diagonal():
    wins = np.random.default_rng(0).integers(1, 40, size=(8, 8)).astype(float)
    for diagonal in (0, 1000):
        found = strategy_metrics.preference((wins + diagonal * np.eye(8))[None])
        np.testing.assert_allclose(found[0], by_hand(wins))


@pytest.mark.parametrize("size", [5, 8, 18])
def test_sparse_confusions_are_solved_wherever_they_bind_all_strategies(size):
    from scipy.sparse.csgraph import connected_components

    rng = np.random.default_rng(size)
    occurs = rng.random((200, size, size)) < 2.5 / size
    wins = occurs * ~np.eye(size, dtype=bool) * rng.integers(1, 300, size=occurs.shape) * 1.0
    # Of a strategy that never wins, or is never confused, other tests tell.
    wins = wins[wins.any(axis=2).all(axis=1)]
    found = strategy_metrics.converged(wins)
    bound = np.array([connected_components(one, connection="strong")[0] == 1 for one in wins])
    np.testing.assert_array_equal(~np.isnan(found).any(axis=1), bound)
    assert bound.any() and not bound.all()
    # Every strategy is predicted wrongly as often as Eq. 7 expects.
    wins, p = wins[bound], found[bound]
    both = wins + wins.swapaxes(1, 2)
    expected = (both * p[:, :, None] / (p[:, :, None] + p[:, None, :])).sum(axis=2)
    np.testing.assert_allclose(expected, wins.sum(axis=2), rtol=1e-5)


def test_a_faultless_system_prefers_nothing_and_a_constant_one_a_strategy_alone():
    found = numbers([(s, s) for s in ALL])
    assert (found["bias"], found["bias_converged"], found["js_distance"]) == (0, 0, 0)
    assert (found["weighted_f1"], found["macro_f1"]) == (100, 100)
    found = numbers([(s, Q) for s in ALL])
    np.testing.assert_array_equal(preferences(found), [8, 0, 0, 0, 0, 0, 0, 0])
    # Eq. 8 is the population standard deviation.
    assert found["bias"] == found["bias_converged"] == pytest.approx(math.sqrt(7))
    # Question: 1 right of 8 predicted and 1 gold, F1 2/9; the seven others 0.
    assert found["macro_f1"] == pytest.approx(100 * 2 / 9 / 8)


@pytest.mark.parametrize(
    "pairs",
    [
        # Restatement is predicted wrongly but never missed: its preference has no bound.
        [(Q, R), (O, R), (Q, O), (O, Q)],
        # Two pairs of strategies that are confused among themselves alone.
        [(Q, R), (R, Q), (O, ALL[3]), (ALL[3], O)],
    ],
)
def test_confusions_that_bind_nothing_together_have_no_converged_solution(pairs):
    found = numbers(pairs)
    assert not math.isnan(found["bias"]) and math.isnan(found["bias_converged"])


@pytest.mark.parametrize("pairs", [[], [(Q, None), (R, None)]])
def test_nothing_readable_is_undefined_and_never_a_number(pairs):
    found = numbers(pairs)
    names = ("bias", "bias_converged", "weighted_f1", "macro_f1", "accuracy", "js_distance")
    assert all(math.isnan(found[name]) for name in names)
    assert np.isnan(preferences(found)).all()


def test_f1_by_hand_and_the_unreadable_are_left_out_or_others():
    # Question: 2 right, 3 gold, 2 predicted: 4/5. Restatement: 1 right, 1 gold, 2 predicted: 2/3.
    found = numbers([(Q, Q), (Q, Q), (Q, R), (R, R)])
    assert found["weighted_f1"] == pytest.approx(100 * (3 * 4 / 5 + 2 / 3) / 4)
    assert found["macro_f1"] == pytest.approx(100 * (4 / 5 + 2 / 3) / 2)
    assert math.isnan(found["f1.Others"])
    found = numbers([(Q, None), (O, None), (Q, Q)])
    assert found["accuracy"] == found["distribution.predicted.Question"] == 100
    assert found["all_turns.accuracy"] == found["invalid_rate"] == pytest.approx(100 * 2 / 3)


def test_stages_hold_their_shares_and_none_where_empty():
    told = strategy_metrics.by_stage([case(Q, R, stage=0), case(Q, Q, stage=0)])
    assert told[0]["n"] == 2 and told[0]["predicted"][R.value] == 50 and told[0]["gold"][Q] == 100
    assert told[5]["n"] == 0 and set(told[5]["gold"].values()) == {None}
    assert strategy_metrics.by_stage([case(Q, R)]) is None


def test_calibration_by_hand_leaves_out_turns_without_a_distribution():
    def told(cases):
        found = numbers(cases)
        return [found[f"calibration.{name}"] for name in ("ece", "brier", "nll")]

    def sure(share):
        return tuple(share if s is Q else (1 - share) / 7 for s in ALL)

    # Both say Question with 0.65, one rightly: the bin's mean is 0.65, its share 0.5.
    found = told([*(case(s, Q, spread=sure(0.65)) for s in (Q, R)), case(R, Q)])
    rest = 0.35 / 7
    brier = (0.35**2 + 7 * rest**2) + (0.65**2 + (1 - rest) ** 2 + 6 * rest**2)
    nll = -(math.log(0.65) + math.log(rest))
    assert found == pytest.approx([0.15, brier / 2, nll / 2])
    floor = -math.log(strategy_metrics.FLOOR)
    assert told([case(R, Q, spread=sure(1.0))]) == pytest.approx([1, 2, floor])
    assert all(math.isnan(value) for value in told([case(Q, Q)]))


def test_the_interval_of_a_bias_holds_the_true_one(monkeypatch):
    """A planner of known bias: its interval is right in 88 of 100 experiments at least."""
    monkeypatch.setattr(stats, "RESAMPLES", 300)
    gold = np.array([21, 6, 8, 9, 15, 16, 7, 18]) / 100
    liked = gold * np.exp([0.6, -0.6, 0.3, -0.3, 0.5, -0.1, -0.5, 0.2])
    # Right in 30 % of turns, else one of its favourites.
    joint = 0.7 * np.outer(liked / liked.sum(), gold) + 0.3 * np.diag(gold)
    rng = np.random.default_rng(0)

    def biases(sums):
        return strategy_metrics.preference(sums.reshape(-1, 8, 8)).std(axis=1)

    (true,) = biases(joint)
    held = 0
    for _ in range(100):
        sums = rng.multinomial(14, joint.ravel(), size=10).astype(float)
        found = biases(stats.resampled(sums))
        ends = stats.interval(found, 10, "dialogue", reverse=True)
        held += ends["low"] <= true <= ends["high"]
    assert 0.3 < true < 0.5 and held >= 88
