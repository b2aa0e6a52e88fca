"""Shares, means and agreement: intervals know dialogues, numbers are the published ones."""

import random
from collections import Counter

import numpy as np
import pytest

from esc import stats
from esc.stats import BY_DIALOGUE, BY_TURN, fleiss_kappa, share, shares, wilson


def turns(label, dialogues=20, each=14):
    return [(f"{d}-{t}", label(d, t)) for d in range(dialogues) for t in range(each)]


def ends(one):
    return one["low"], one["high"]


@pytest.mark.parametrize(
    ("ids", "by_dialogue"),
    [
        (["1-0", "1-1", "2-0"], True),
        (["test-0", "test-1", "test-2"], False),
        ([f"talk{k}-0" for k in range(9)], False),
        ([f"talk{k}-0" for k in range(10)], True),
        (["1-0", "2"], False),
        ([], False),
    ],
)
def test_ids_name_dialogues_by_numbers_or_by_ten_prefixes(ids, by_dialogue):
    assert stats.unit_of(ids) == ("dialogue" if by_dialogue else "row")


def test_the_interval_of_a_mean_is_that_of_theory_and_of_dialogues_not_turns():
    values = np.random.default_rng(1).normal(size=400)
    found = stats.mean([(f"{k}-0", one) for k, one in enumerate(values)], "dialogue")
    half = 1.96 * values.std() / 20
    assert ends(found) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.02)
    few, many = (stats.mean(turns(lambda d, _: d % 2, 10, each), "dialogue") for each in (1, 50))
    assert ends(few) == ends(many) == (0.2, 0.8)


def test_an_interval_holds_its_value_and_the_reverse_one_mirrors_the_resamples():
    drawn = np.linspace(0.1, 0.4, 1001)
    found = stats.interval(np.append(0.05, drawn), 50, "dialogue")
    assert ends(found) == pytest.approx((0.05, 0.3925))
    found = stats.interval(np.append(0.2, drawn), 50, "dialogue", reverse=True)
    assert ends(found) == pytest.approx((0.4 - 0.3925, 0.4 - 0.1075))


def test_a_share_is_as_sure_as_its_dialogues_are_many_or_their_turns_independent():
    found, said = shares(turns(lambda d, _: "yes" if d % 2 else "no"), ["yes", "no"])
    assert said == BY_DIALOGUE
    assert ends(found["yes"]) == pytest.approx(wilson(10, 20), abs=0.07)
    rng = random.Random(0)
    labelled = turns(lambda *_: "yes" if rng.random() < 0.3 else "no", dialogues=200)
    found, _ = shares(labelled, ["yes"])
    assert ends(found["yes"]) == pytest.approx(wilson(found["yes"]["count"], 2800), abs=0.005)
    assert shares(labelled[::-1], ["yes"])[0] == found
    # Where all dialogues are alike, every resample is: the width is of dialogues.
    found, _ = shares(turns(lambda *_: "no"), ["yes", "no"])
    assert ends(found["yes"]) == wilson(0, 20) and ends(found["no"]) == wilson(20, 20)
    assert ends(share({(1, 3): 10})) == wilson(10 / 3, 10)


@pytest.mark.parametrize("name", ["{}", "test-{}"], ids=["rows", "one dialogue"])
def test_without_dialogues_a_share_is_of_turns_and_says_so(name):
    labelled = [(name.format(k), "yes" if k < 15 else "no") for k in range(148)]
    found, said = shares(labelled, ["yes"])
    assert said == BY_TURN and "wider" in said
    assert ends(found["yes"]) == wilson(15, 148) == ends(stats.share_of_turns(15, 148))


@pytest.mark.parametrize(("name", "unit"), [("{}-0", "dialogues"), ("{}", "turns")])
def test_fewer_than_ten_have_a_value_and_the_reason_for_no_interval(name, unit):
    found, _ = shares([(name.format(k), "yes") for k in range(9)], ["yes"])
    assert found["yes"]["share"] == 1 and ends(found["yes"]) == (None, None)
    assert f"9 {unit}, and an interval takes 10" in found["yes"]["reason"]
    assert shares([], ["yes"])[0]["yes"]["share"] is None
    mean = stats.mean([(f"{d}-0", d) for d in range(9)], "dialogue")
    assert (mean["value"], *ends(mean), mean["n"]) == (4, None, None, 9)
    assert "no interval" in mean["reason"] and "no interval" in stats.verdict(4, None, None)
    assert stats.mean([], "dialogue") == {"value": None, "low": None, "high": None, "n": 0}


def test_wilson_is_the_published_interval():
    # Newcombe (1998), Table I, method 3 (score without continuity correction).
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)


# Fleiss' kappa as it is commonly taught: 10 subjects, 14 raters, 5 categories.
TABLE = (
    *("0 0 0 0 14", "0 2 6 4 2", "0 0 3 5 6", "0 3 9 2 0", "2 2 8 1 1"),
    *("7 7 0 0 0", "3 2 6 3 0", "2 5 3 2 2", "6 5 2 1 0", "0 2 2 3 7"),
)


def test_fleiss_kappa_is_that_of_a_published_table():
    counts = [dict(zip("abcde", map(int, line.split()), strict=True)) for line in TABLE]
    assert fleiss_kappa(counts) == pytest.approx(0.20993, abs=1e-5)


@pytest.mark.parametrize(
    ("subjects", "told"),
    [([], "nothing"), ([{"a": 1}, {"b": 1}], "takes two"), ([{"a": 3}, {"a": 3}], "chance")],
)
def test_fleiss_kappa_that_is_not_defined_says_why(subjects, told):
    assert told in fleiss_kappa(subjects)


@pytest.mark.parametrize(
    ("cells", "kappa", "note"),
    [
        ((20, 5, 10, 15), 0.4, "1 dialogue, and an interval takes 10"),  # po 35/50, pe 1/2
        ((45, 15, 25, 15), 0.06 / 0.46, "1 dialogue"),  # po 60/100, pe .6*.7 + .4*.3
        ((0, 10, 10, 0), -1.0, "1 dialogue"),
        ((8, 0, 2, 0), 0.0, "1 dialogue"),  # one of them constant: no better than chance
        ((7, 0, 0, 0), None, "chance"),
        ((0, 0, 0, 0), None, "no pair"),
    ],
)
def test_cohens_kappa_by_hand_of_one_dialogue_has_no_interval(cells, kappa, note):
    pairs = [("y", "y"), ("y", "n"), ("n", "y"), ("n", "n")]
    found = stats.agreement([Counter(dict(zip(pairs, cells, strict=True)))])
    assert found["kappa"] == (kappa if kappa is None else pytest.approx(kappa))
    assert found["low"] is None and note in found["note"]
