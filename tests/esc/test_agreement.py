"""Agreement, the sign test and rank correlation against published values and values by hand."""

import math

import pytest

from esc.stats import fleiss_kappa, sign_test, spearman

# Fleiss' kappa as it is commonly taught: 10 subjects, 14 raters, 5 categories.
TABLE = """
0 0 0 0 14
0 2 6 4 2
0 0 3 5 6
0 3 9 2 0
2 2 8 1 1
7 7 0 0 0
3 2 6 3 0
2 5 3 2 2
6 5 2 1 0
0 2 2 3 7
"""


def counts(*rows):
    return [dict(zip("abcde", row, strict=False)) for row in rows]


def test_fleiss_kappa_of_a_published_table():
    rows = [[int(cell) for cell in line.split()] for line in TABLE.split("\n") if line]
    assert fleiss_kappa(counts(*rows)) == pytest.approx(0.20993, abs=1e-5)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([(3, 0), (0, 3)], 1.0),
        ([(1, 1), (1, 1)], -1.0),
        # observed (1 + 1/3) / 2, chance (4/6)**2 + (2/6)**2
        ([(3, 0), (1, 2)], (2 / 3 - 5 / 9) / (4 / 9)),
    ],
)
def test_fleiss_kappa_by_hand(rows, expected):
    assert fleiss_kappa(counts(*rows)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("rows", "told"), [([], "nothing"), ([(1, 0), (0, 1)], "takes two"), ([(3,), (3,)], "chance")]
)
def test_fleiss_kappa_that_is_not_defined_says_why(rows, told):
    assert told in fleiss_kappa(counts(*rows))


def test_fleiss_kappa_of_unequal_raters_is_refused():
    with pytest.raises(ValueError, match="raters"):
        fleiss_kappa(counts((2, 0), (1, 0)))


@pytest.mark.parametrize(
    ("wins", "losses", "p"),
    [
        (8, 2, 112 / 1024),
        (2, 8, 112 / 1024),
        (5, 0, 2 / 32),
        (1, 0, 1.0),
        (7, 7, 1.0),
        (0, 0, None),
        (14, 6, 0.1153183),  # R: binom.test(14, 20)
        (1100, 900, 8.449e-06),
    ],
)
def test_the_sign_test_is_exact(wins, losses, p):
    assert sign_test(wins, losses) == (None if p is None else pytest.approx(p, rel=1e-3))


def test_the_sign_test_of_impossible_counts_is_refused():
    with pytest.raises(ValueError):
        sign_test(-1, 3)


IQ = [106, 100, 86, 101, 99, 103, 97, 113, 112, 110]
TELEVISION = [7, 27, 2, 50, 28, 29, 20, 12, 6, 17]


@pytest.mark.parametrize(
    ("first", "second", "rho"),
    [
        (IQ, TELEVISION, -29 / 165),
        ([1, 2, 2, 3], [1, 2, 3, 4], 4.5 / math.sqrt(22.5)),
        ([1, 2, 3], [10, 200, 3000], 1.0),
        ([1, 2, 3], [3, 2, 1], -1.0),
        ([4, 4, 4], [1, 2, 3], None),
        ([1], [2], None),
        ([], [], None),
    ],
)
def test_spearman_of_ranks_with_ties(first, second, rho):
    assert spearman(first, second) == (None if rho is None else pytest.approx(rho))


def test_spearman_of_sides_of_different_length_is_refused():
    with pytest.raises(ValueError):
        spearman([1, 2], [1])
