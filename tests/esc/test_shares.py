"""Shares of turns: their intervals know that turns of one dialogue resemble one another."""

import random

import pytest

from esc import stats
from esc.stats import BY_DIALOGUE, BY_TURN, share, shares, wilson


def turns(label, dialogues=20, each=14):
    return [(f"{d}-{t}", label(d, t)) for d in range(dialogues) for t in range(each)]


def ends(one):
    return one["low"], one["high"]


def test_where_dialogues_are_of_one_label_the_interval_is_that_of_dialogues():
    found, said = shares(turns(lambda d, _: "yes" if d % 2 else "no"), ["yes", "no"])
    assert said == BY_DIALOGUE
    assert ends(found["yes"]) == pytest.approx(wilson(10, 20), abs=0.07)
    low, high = wilson(140, 280)
    assert found["yes"]["high"] - found["yes"]["low"] > 3 * (high - low)


def test_where_turns_are_independent_it_is_as_wide_as_wilsons():
    rng = random.Random(0)
    labelled = turns(lambda *_: "yes" if rng.random() < 0.3 else "no", dialogues=200)
    found, _ = shares(labelled, ["yes"])
    assert ends(found["yes"]) == pytest.approx(wilson(found["yes"]["count"], 2800), abs=0.005)


def test_it_is_the_interval_of_the_mean_of_ones_and_noughts():
    rng = random.Random(1)
    labelled = turns(lambda d, t: "yes" if rng.random() < d / 20 else "no")
    found, _ = shares(labelled, ["yes"])
    values = [(name, float(label == "yes")) for name, label in labelled]
    of_mean = stats.mean(values, stats.Units.of(name for name, _ in labelled))
    assert found["yes"]["share"] == pytest.approx(of_mean["value"])
    assert ends(found["yes"]) == pytest.approx(ends(of_mean), abs=0.03)


@pytest.mark.parametrize("name", ["{}", "test-{}"], ids=["rows", "one dialogue"])
def test_without_dialogues_it_is_wilsons_over_turns_and_says_so(name):
    labelled = [(name.format(k), "yes" if k < 15 else "no") for k in range(148)]
    found, said = shares(labelled, ["yes"])
    assert said == BY_TURN
    assert ends(found["yes"]) == wilson(15, 148)


def test_what_no_dialogue_has_keeps_a_width_that_is_of_dialogues():
    found, _ = shares(turns(lambda *_: "no"), ["yes", "no"])
    assert ends(found["yes"]) == wilson(0, 20)
    assert ends(found["no"]) == wilson(20, 20)
    assert ends(share({(1, 2): 6, (7, 14): 4})) == wilson(5, 10)


def test_fewer_than_ten_have_a_share_and_the_reason_for_no_interval():
    found, _ = shares(turns(lambda d, _: "yes" if d % 2 else "no", dialogues=9), ["yes"])
    assert found["yes"]["share"] == pytest.approx(4 / 9) and ends(found["yes"]) == (None, None)
    assert "9 dialogues, and an interval takes 10" in found["yes"]["reason"]
    found, _ = shares([(str(k), "yes") for k in range(9)], ["yes"])
    assert ends(found["yes"]) == (None, None) and "9 turns" in found["yes"]["reason"]


def test_the_order_of_the_turns_changes_nothing():
    labelled = turns(lambda d, t: "yes" if (d * t) % 3 else "no")
    assert shares(labelled[::-1], ["yes", "no"]) == shares(labelled, ["yes", "no"])


def test_nothing_counted_has_no_share():
    found, _ = shares([], ["yes"])
    assert found == {"yes": {"count": 0, "share": None, "low": None, "high": None}}
