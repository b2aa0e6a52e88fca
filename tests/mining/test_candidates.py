"""Samples are read turn by turn, and what is out of order is found without the ids of all."""

import json
import tracemalloc

import pytest

from esc.exceptions import EscError
from esc.records import read_turns


def row(turn, sample=0):
    said = {"gold_response": "yes", "response": "no", "text": "no"}
    known = {"gold_strategy": "Others", "strategy": "Others", "status": "ok", "truncated": False}
    return {"id": turn, "sample": sample} | known | said


def samples(path, rows):
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    return path


def test_turns_come_whole_and_in_order(tmp_path):
    ids = ["0-0", "0-1", "2-0", "2-9", "2-10", "10-0"]
    path = samples(tmp_path / "s.jsonl", (row(turn, n) for turn in ids for n in (1, 0)))
    found = [[one.key for one in turn] for turn in read_turns(path)]
    assert found == [[(turn, 1), (turn, 0)] for turn in ids]


@pytest.mark.parametrize(
    ("ids", "told"),
    [
        (["0-0", "0-1", "0-0"], "turn 0-0 is there twice"),
        (["2-0", "10-0", "9-0"], "turn 9-0 is there twice, or not in the train set's order"),
        (["0-10", "0-9"], "turn 0-9 is there twice, or not in the train set's order"),
        (["0"], "'0' is no id of a turn"),
        (["0-x"], "'0-x' is no id of a turn"),
    ],
)
def test_a_turn_out_of_order_is_named(tmp_path, ids, told):
    path = samples(tmp_path / "s.jsonl", map(row, ids))
    with pytest.raises(EscError, match=told):
        list(read_turns(path))


def test_a_sample_given_twice_is_named(tmp_path):
    path = samples(tmp_path / "s.jsonl", [row("0-0"), row("0-0", 1), row("0-0")])
    with pytest.raises(EscError, match="turn 0-0 is there twice"):
        list(read_turns(path))


def test_more_turns_take_no_more_memory(tmp_path):
    def peak(turns):
        path = samples(tmp_path / "s.jsonl", (row(f"{n}-0") for n in range(turns)))
        tracemalloc.start()
        assert sum(1 for _ in read_turns(path)) == turns
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    peak(10)
    assert peak(5000) < 1.2 * peak(500)
