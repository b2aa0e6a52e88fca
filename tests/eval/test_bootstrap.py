"""Intervals: drawn by dialogue, the same whatever the order, and said in words."""

import numpy as np
import pytest

from esc.strategies import Strategy
from eval import bootstrap
from eval.cases import Case, arranged
from eval.compare import compare

Q, R = Strategy.QUESTION, Strategy.RESTATEMENT


def test_sums_are_those_of_each_unit():
    columns = np.arange(10, dtype=float).reshape(5, 2)
    found = bootstrap.unit_sums(columns, np.array([0, 0, 1, 2, 2]))
    np.testing.assert_array_equal(found, [[2, 4], [4, 5], [14, 16]])


def test_a_resample_is_a_draw_of_as_many_units():
    found = bootstrap.resampled(np.eye(7))
    assert found.shape == (1000, 7)
    np.testing.assert_array_equal(found.sum(axis=1), 7)
    assert found.mean(axis=0) == pytest.approx(np.ones(7), abs=0.15)


def test_blocks_of_memory_change_nothing(monkeypatch):
    sums = np.random.default_rng(0).integers(9, size=(40, 3)).astype(float)
    whole = bootstrap.resampled(sums)
    monkeypatch.setattr(bootstrap, "_AT_ONCE", 200)
    np.testing.assert_array_equal(bootstrap.resampled(sums), whole)


def test_the_interval_of_a_mean_is_that_of_theory():
    values = np.random.default_rng(1).normal(size=(400, 1))
    sums = np.hstack([values, np.ones_like(values)])
    drawn = bootstrap.resampled(sums)
    found = bootstrap.interval(values.mean(), drawn[:, 0] / drawn[:, 1], 400, "row")
    half = 1.96 * values.std() / 20
    assert found.low == pytest.approx(values.mean() - half, abs=0.02)
    assert found.high == pytest.approx(values.mean() + half, abs=0.02)


def test_an_interval_holds_its_value():
    found = bootstrap.interval(0.1, np.linspace(0.2, 0.4, 1000), 50, "dialogue")
    assert found.low == 0.1 and found.high == pytest.approx(0.395)


def test_one_unit_has_no_interval():
    found = bootstrap.interval(0.5, np.full(1000, 0.5), 1, "row")
    assert (found.low, found.high) == (None, None) and "one row alone" in found.reason


def test_resamples_without_a_value_leave_no_interval_where_they_are_many():
    drawn = np.where(np.arange(1000) < 60, np.nan, 1.0)
    assert bootstrap.interval(1.0, drawn, 9, "row").reason == bootstrap.OFTEN_UNDEFINED
    assert bootstrap.interval(1.0, drawn[20:], 9, "row").low == 1.0


@pytest.mark.parametrize(
    ("low", "high", "told"),
    [
        (-1, 2, "inside the noise"),
        (0, 2, "inside the noise"),
        (0.1, 2, "higher, outside the noise"),
        (None, None, "no interval, so it cannot be told from noise"),
    ],
)
def test_a_difference_is_said_in_words(low, high, told):
    assert bootstrap.verdict(0.5, low, high) == told


def test_a_difference_below_0_is_lower():
    assert bootstrap.verdict(-1, -2, -0.5) == "lower, outside the noise"
    assert bootstrap.verdict(None, None, None) == "undefined"


def system(share, ids=lambda d, t: f"{d}-{t}", dialogues=12):
    """A system that names the gold strategy in ``share`` of ten turns."""
    cases = [
        Case(
            ids(d, t), Q if t % 2 else R, f"gold words {d} {t}",
            (Q if t % 2 else R) if t < share else (R if t % 2 else Q),
            f"gold {'words' if t < share else 'noise'} {d}",
        )
        for d in range(dialogues)
        for t in range(10)
    ]  # fmt: skip
    return arranged(cases, ids=[case.id for case in cases])


def test_a_system_is_not_told_from_itself():
    found = compare(system(5), system(5))
    assert found["n"] == 120 and found["resampled_by"] == "dialogue"
    one = found["numbers"]["strategy.accuracy"]
    assert (one["difference"], one["low"], one["high"]) == (0, 0, 0)
    assert one["verdict"] == "inside the noise"


def test_a_better_system_is_told_by_every_number_that_knows():
    found = compare(system(3), system(7))["numbers"]
    for name in ("strategy.accuracy", "text.paper.f1", "text.corpus.bleu1"):
        assert found[name]["verdict"] == "higher, outside the noise", name
    assert compare(system(7), system(3))["numbers"]["strategy.accuracy"]["difference"] == -40


def test_pairing_is_sharper_than_two_intervals():
    """Where both systems share what is hard, their difference is certain though neither is."""
    rng = np.random.default_rng(2)
    hard = rng.random(40) < 0.5

    def one(extra):
        cases = [
            Case(
                f"{d}-{t}",
                Q,
                "",
                Q if (not hard[d] or t == 0 or (extra and t == 1)) else R,
                "",
            )
            for d in range(40)
            for t in range(5)
        ]
        return arranged(cases, ids=[case.id for case in cases])

    found = compare(one(False), one(True))["numbers"]["strategy.accuracy"]
    assert found["low"] > 0 and found["high"] - found["low"] < 10


def test_the_order_and_the_ids_change_no_comparison():
    wanted = compare(system(3), system(7))
    backwards = arranged(system(7).rows[::-1], ids=[c.id for c in system(7).rows])
    assert compare(system(3), backwards) == wanted

    def other(d, t):
        return f"talk{99 - d}-{t}"

    assert compare(system(3, other), system(7, other)) == wanted


def test_turns_that_only_one_has_are_counted():
    found = compare(system(3, dialogues=12), system(7, dialogues=10))
    assert found["n"] == 100 and found["alone"] == {"a": 20, "b": 0}
