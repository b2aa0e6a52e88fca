"""Means: their intervals resample dialogues, or rows where there are no two dialogues."""

import pytest

from esc import means


@pytest.mark.parametrize(
    ("ids", "by_dialogue"),
    [
        (["1-0", "1-1", "2-0"], True),
        (["test-0", "test-1", "test-2"], False),
        (["1-0", "2"], False),
        ([], False),
    ],
)
def test_dialogues_are_resampled_where_all_ids_name_one_and_there_are_two(ids, by_dialogue):
    assert means.Units.of(ids).by_dialogue is by_dialogue


def test_an_interval_is_of_dialogues_and_one_dialogue_has_none():
    units = means.Units.of(["1-0", "1-1", "2-0"])
    assert means.mean([("1-0", 1), ("1-1", 3)], units) == {
        "value": 2.0,
        "low": None,
        "high": None,
        "n": 2,
    }
    assert means.mean([], units) == {"value": None, "low": None, "high": None, "n": 0}
    # Two dialogues that are alike within: as wide as two rows, however many turns they have.
    few = means.mean([("1-0", 1), ("2-0", 5)], units)
    many = means.mean([(f"{d}-{t}", 1 if d == 1 else 5) for d in (1, 2) for t in range(50)], units)
    assert (few["low"], few["high"]) == (many["low"], many["high"]) == (1.0, 5.0)
