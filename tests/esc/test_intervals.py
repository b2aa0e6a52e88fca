import pytest

from esc.stats import wilson


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        # Newcombe (1998), Table I, method 3 (score without continuity correction).
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_known_values(successes, n, low, high):
    assert wilson(successes, n) == pytest.approx((low, high), abs=5e-5)


def test_all_and_none_mirror_each_other_and_keep_a_width():
    low, high = wilson(0, 10)
    assert low == 0 and high > 0.2
    assert wilson(10, 10) == pytest.approx((1 - high, 1.0))


def test_nothing_counted_has_no_interval():
    assert wilson(0, 0) is None


@pytest.mark.parametrize(("successes", "n"), [(3, 2), (-1, 2)])
def test_impossible_counts_are_refused(successes, n):
    with pytest.raises(ValueError, match="of 2"):
        wilson(successes, n)
