"""Intervals: drawn by dialogue, the same whatever the order, and said in words."""

import numpy as np
import pytest

from esc import stats


def test_sums_are_those_of_each_unit():
    columns = np.arange(10, dtype=float).reshape(5, 2)
    found = stats.unit_sums(columns, np.array([0, 0, 1, 2, 2]))
    np.testing.assert_array_equal(found, [[2, 4], [4, 5], [14, 16]])


def test_a_resample_is_a_draw_of_as_many_units():
    found = stats.resampled(np.eye(7))
    assert found.shape == (1000, 7)
    np.testing.assert_array_equal(found.sum(axis=1), 7)
    assert found.mean(axis=0) == pytest.approx(np.ones(7), abs=0.15)


def test_blocks_of_memory_change_nothing(monkeypatch):
    sums = np.random.default_rng(0).integers(9, size=(40, 3)).astype(float)
    whole = stats.resampled(sums)
    monkeypatch.setattr(stats, "_AT_ONCE", 200)
    np.testing.assert_array_equal(stats.resampled(sums), whole)


def test_the_interval_of_a_mean_is_that_of_theory():
    values = np.random.default_rng(1).normal(size=(400, 1))
    sums = np.hstack([values, np.ones_like(values)])
    drawn = stats.resampled(sums)
    found = stats.interval(values.mean(), drawn[:, 0] / drawn[:, 1], 400, "row")
    half = 1.96 * values.std() / 20
    assert found.low == pytest.approx(values.mean() - half, abs=0.02)
    assert found.high == pytest.approx(values.mean() + half, abs=0.02)


def test_an_interval_holds_its_value():
    found = stats.interval(0.1, np.linspace(0.2, 0.4, 1000), 50, "dialogue")
    assert found.low == 0.1 and found.high == pytest.approx(0.395)


def test_fewer_than_ten_units_have_no_interval_and_no_verdict():
    found = stats.interval(0.5, np.full(1000, 0.5), 9, "dialogue")
    assert (found.low, found.high) == (None, None) and "9 dialogues" in found.reason
    assert "no interval" in stats.verdict(0.5, found.low, found.high)
    assert stats.interval(0.5, np.full(1000, 0.5), 10, "dialogue").low == 0.5


def test_the_reverse_interval_mirrors_the_resamples_and_holds_its_value():
    drawn = np.linspace(0.1, 0.4, 1001)
    found = stats.interval(0.2, drawn, 50, "dialogue", reverse=True)
    assert (found.low, found.high) == pytest.approx((0.4 - 0.3925, 0.4 - 0.1075))
    above = stats.interval(0.1, drawn + 0.1, 50, "dialogue", reverse=True)
    assert above.high == 0.1


def test_an_interval_by_rows_says_that_the_true_one_is_wider():
    assert "the true interval is wider" in stats.said("row")
    assert "wider" not in stats.said("dialogue")


def test_resamples_without_a_value_leave_no_interval_where_they_are_many():
    drawn = np.where(np.arange(1000) < 60, np.nan, 1.0)
    assert stats.interval(1.0, drawn, 10, "row").reason == stats.OFTEN_UNDEFINED
    assert stats.interval(1.0, drawn[20:], 10, "row").low == 1.0


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
    assert stats.verdict(0.5, low, high) == told


def test_a_difference_below_0_is_lower():
    assert stats.verdict(-1, -2, -0.5) == "lower, outside the noise"
    assert stats.verdict(None, None, None) == "undefined"
