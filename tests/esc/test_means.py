"""Means: their intervals resample dialogues, or rows where the ids name none."""

import pytest

from esc import stats


@pytest.mark.parametrize(
    ("ids", "by_dialogue"),
    [
        (["1-0", "1-1", "2-0"], True),
        (["test-0", "test-1", "test-2"], False),
        ([f"{'ab'[k % 2]}-{k}" for k in range(200)], False),
        ([f"talk{k}-0" for k in range(9)], False),
        ([f"talk{k}-0" for k in range(10)], True),
        ([f"talk{k}-0" for k in range(9)] + ["7-0"], True),
        (["7-0", "7-1"], True),
        (["1-0", "2"], False),
        ([], False),
    ],
)
def test_ids_name_dialogues_by_numbers_or_by_ten_prefixes(ids, by_dialogue):
    assert stats.Units.of(ids).by_dialogue is by_dialogue


def test_an_interval_is_of_dialogues():
    units = stats.Units(by_dialogue=True)
    # Dialogues that are alike within: as wide as so many rows, however many turns they have.
    few = stats.mean([(f"{d}-0", d % 2) for d in range(10)], units)
    many = stats.mean([(f"{d}-{t}", d % 2) for d in range(10) for t in range(50)], units)
    assert (few["low"], few["high"]) == (many["low"], many["high"]) == (0.2, 0.8)


@pytest.mark.parametrize("by_dialogue", [True, False])
def test_fewer_than_ten_have_a_mean_and_the_reason_for_no_interval(by_dialogue):
    units = stats.Units(by_dialogue)
    found = stats.mean([(f"{d}-0", d) for d in range(9)], units)
    assert (found["value"], found["low"], found["high"], found["n"]) == (4, None, None, 9)
    assert f"9 {units.name}s, and an interval takes 10" in found["reason"]
    assert stats.inside_the_noise(found) is None
    assert stats.mean([(f"{d}-0", d) for d in range(10)], units)["low"] is not None
    assert stats.mean([], units) == {"value": None, "low": None, "high": None, "n": 0}
