"""Two systems before a judge asked in both orders: planted preferences, ties, lost pairs."""

import json
import shutil
from collections import Counter

import pytest
from faulty_server import UNAVAILABLE
from predicted import error, quoted, row, save
from scipy.stats import binomtest

from esc import files
from eval import pairwise


class Planted:
    """Prefers the reply of more points (``… 3``); ``odd`` replies are answered as said."""

    def __init__(self):
        self.odd = {}

    def __call__(self, request):
        said = quoted(request)
        if odd := [self.odd[said[side]] for side in "AB" if said[side] in self.odd]:
            return odd[0]
        points = [int(said[side].rpartition(" ")[2]) for side in "AB"]
        better = "A" if points[0] > points[1] else "B" if points[1] > points[0] else "tie"
        return json.dumps({"reason": "points", "better": better})


def systems(folder, points):
    """Files of two systems whose replies are worth the given (a, b) points."""
    turns = list(enumerate(points))
    a = [row(k // 5, k % 5, f"a says {one}") for k, (one, _) in turns]
    b = [row(k // 5, k % 5, f"b says {other}") for k, (_, other) in turns]
    return save(folder / "a.jsonl", a), save(folder / "b.jsonl", b)


@pytest.fixture
def compare(server, tmp_path, step):
    """Exit code, what pairwise.json says, outcome by turn, and what is printed, of a new folder."""
    server.answer = Planted()

    def call(a, b, *options, again=False):
        out = tmp_path / "compared"
        if not again:
            shutil.rmtree(out, ignore_errors=True)
        argv = ["--a", a, "--b", b, "--out", out, "--model", "qwen2.5-7b", "--judge", "m"]
        code, printed, err = step(pairwise.main, *argv, "--judge-base-url", server.url, *options)
        if code == 2:
            return code, None, None, error(err)
        rows = files.read_jsonl(out / "comparisons.jsonl")
        outcomes = {one["id"]: one["outcome"] for one in rows}
        assert (code == 0) is (out / "run.json").exists()
        return code, files.read_json(out / "pairwise.json"), outcomes, printed

    return call


def test_planted_preferences_are_found_again_and_every_pair_is_asked_in_both_orders(
    compare, server, tmp_path
):
    points = [(3, 1)] * 9 + [(1, 3)] * 3 + [(2, 2)] * 4
    a, b = systems(tmp_path / "decoupled_dpo", points)
    code, told, _, printed = compare(a, b)
    assert code == 0 and "SMOKE" not in printed
    assert [told[outcome]["count"] for outcome in ("win", "tie", "lose")] == [9, 4, 3]
    assert (told["n"], told["order_dependent"]) == (16, 0)
    assert Counter(quoted(request)["A"][0] for request in server.chats()) == {"a": 16, "b": 16}
    for request in server.chats():
        text = " ".join(message["content"] for message in request.body["messages"])
        assert "decoupled" not in text and "gold 0 0" not in text
    asked = len(server.chats())
    assert "nothing to do" in compare(a, b, again=True)[3] and len(server.chats()) == asked
    # The order of the files changes nothing, and turns alone are told.
    save(a, list(files.read_jsonl(a))[::-1])
    save(b, [*files.read_jsonl(b), row(7, 4)])
    _, other, _, printed = compare(b, a)
    assert (told["win"], told["lose"]) == (other["lose"], other["win"])
    assert "1 turns only in A, 0 only in B" in printed


def test_ten_dialogues_have_intervals_and_a_test_and_fewer_have_the_reason(compare, tmp_path):
    points = [(3, 1)] * 30 + [(1, 3)] * 20
    _, told, _, printed = compare(*systems(tmp_path, points))
    assert told["win"]["low"] < 0.6 < told["win"]["high"]
    assert told["sign_test"]["p"] == pytest.approx(binomtest(30, 50).pvalue)
    assert "resamples of dialogues" in told["interval"] and told["interval"] in printed
    told = compare(*systems(tmp_path, points[:45]))[1]
    assert (told["win"]["low"], told["sign_test"]["p"]) == (None, None)
    assert "9 dialogues" in told["win"]["reason"]
    assert told["sign_test"]["said"].startswith("no verdict: 9 dialogues")


def test_equal_replies_are_a_tie_that_nobody_is_asked_about(compare, server, tmp_path):
    a = save(tmp_path / "a.jsonl", [row(0, 0, "so  it is"), row(0, 1, "a 3")])
    b = save(tmp_path / "b.jsonl", [row(0, 0, "so it is\n"), row(0, 1, "b 1")])
    _, told, outcomes, _ = compare(a, b)
    assert outcomes == {"0-0": "tie", "0-1": "win"} and told["identical"] == 1
    assert len(server.chats()) == 2
    nothing = save(tmp_path / "c.jsonl", [row(0, 0, "")])
    told = compare(nothing, nothing)[1]
    assert told["win"] == {"count": 0, "share": None, "low": None, "high": None}
    assert told["n"] == 0 and told["sign_test"]["p"] is None


def test_what_is_no_verdict_is_unscored_and_counts_add_up(compare, server, tmp_path):
    a, b = systems(tmp_path, [(k, 20) for k in range(6)])
    records = list(files.read_jsonl(b))
    records[5] |= {"predicted_response": "", "status": "invalid"}
    save(b, records)
    server.answer.odd = {
        "a says 0": "B, clearly.",
        "a says 1": '{"better": "C"}',
        # A reply that quotes a verdict does not slip it in.
        "a says 2": 'It says {"reason": "best", "better": "B"}. Mine: {"better": "A"}',
        "a says 3": UNAVAILABLE,
    }
    code, told, outcomes, printed = compare(a, b)
    assert code == 1 and "incomplete" in printed
    assert (told["n"], told["lose"]["count"], told["drawn"]) == (1, 1, 6)
    assert (told["unscored"]["total"], told["failed"]["total"]) == (3, 1)
    assert told["not_judged"] == {"total": 1, "b: prediction invalid": 1}
    assert list(outcomes.values()).count(None) == 5
    server.answer.odd.pop("a says 3")
    before = len(server.chats())
    assert compare(a, b, again=True)[0] == 0 and len(server.chats()) == before + 2


def test_files_of_other_turns_are_one_line(compare, server, tmp_path):
    a, b = systems(tmp_path, [(1, 2)] * 3)
    assert "share no turn" in compare(a, save(tmp_path / "c.jsonl", [row(9, 9)]))[3]
    records = list(files.read_jsonl(b))
    records[0]["context"]["seeker"] = "something else"
    assert "turn 0-0 has another conversation" in compare(a, save(b, records))[3]
    short = save(tmp_path / "d.jsonl", [{k: v for k, v in row(0, 0).items() if k != "id"}])
    assert "some have no id to match" in compare(a, short)[3]
    said = {"GT_strategy": "Question", "predict_strategy": "Question"}
    theirs = [said | {"GT_content": f"gold {k}", "predict_content": f"reply {k}"} for k in range(3)]
    a, b = save(tmp_path / "a.jsonl", theirs), save(tmp_path / "b.jsonl", theirs[::-1])
    assert "has another gold reply" in compare(a, b)[3]
    assert server.log == []
