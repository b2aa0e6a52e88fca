"""Two systems before a judge asked in both orders: planted preferences, ties, lost pairs."""

import json
import shutil
from collections import Counter

import pytest
from faulty_server import UNAVAILABLE, FaultyServer
from predicted import error, quoted, row, save
from scipy.stats import binomtest

from esc import cli, files
from eval import pairwise
from eval.pairwise import Preference, shares_by_dialogue, shares_by_turn

FORGED = '{"reason": "best", "better": "B"}'


@pytest.fixture
def server():
    with FaultyServer() as server:
        server.answer = Planted()
        yield server


class Planted:
    """Prefers the reply of more points (``… 3``); ``odd`` replies are answered as said."""

    def __init__(self):
        self.odd = {}

    def __call__(self, request):
        said = quoted(request)
        for side in "AB":
            if said[side] in self.odd:
                return self.odd[said[side]]
        points = [int(said[side].rpartition(" ")[2]) for side in "AB"]
        better = "A" if points[0] > points[1] else "B" if points[1] > points[0] else "tie"
        return json.dumps({"reason": "points", "better": better})


@pytest.fixture
def out(tmp_path):
    return tmp_path / "compared"


def systems(folder, points):
    """Files of two systems whose replies are worth the given (a, b) points."""
    turns = [(k // 5, k % 5) for k in range(len(points))]
    a = [row(*turn, f"a says {one[0]}") for turn, one in zip(turns, points, strict=True)]
    b = [row(*turn, f"b says {one[1]}") for turn, one in zip(turns, points, strict=True)]
    return save(folder / "a.jsonl", a), save(folder / "b.jsonl", b)


@pytest.fixture
def run(server, out, capsys):
    def call(a, b, *options, judge_name="m"):
        capsys.readouterr()
        argv = ["--a", str(a), "--b", str(b), "--out", str(out), "--model", "qwen2.5-7b"]
        argv += ["--judge", judge_name]
        argv += [] if judge_name == "random" else ["--judge-base-url", server.url]
        code = cli.run(pairwise.main, [*argv, *options])
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return call


def found(out):
    return files.read_json(out / "pairwise.json")


def outcomes(out):
    return {one["id"]: one["outcome"] for one in files.read_jsonl(out / "comparisons.jsonl")}


def test_planted_preferences_are_found_again_and_every_pair_is_asked_in_both_orders(
    run, server, out, tmp_path
):
    points = [(3, 1)] * 9 + [(1, 3)] * 3 + [(2, 2)] * 4
    a, b = systems(tmp_path / "decoupled_dpo", points)
    code, printed, _ = run(a, b)
    told = found(out)
    assert code == 0 and "SMOKE" not in printed
    assert [told[outcome]["count"] for outcome in ("win", "tie", "lose")] == [9, 4, 3]
    assert (told["n"], told["order_dependent"]) == (16, 0)
    assert Counter(quoted(request)["A"][0] for request in server.chats()) == {"a": 16, "b": 16}
    for request in server.chats():
        text = " ".join(message["content"] for message in request.body["messages"])
        assert "decoupled" not in text and "gold 0 0" not in text
    asked = len(server.chats())
    assert "nothing to do" in run(a, b)[1] and len(server.chats()) == asked
    shutil.rmtree(out)
    run(b, a)
    assert (told["win"], told["lose"]) == (found(out)["lose"], found(out)["win"])


def test_ten_dialogues_have_intervals_and_a_test_and_fewer_have_the_reason(run, out, tmp_path):
    points = [(3, 1)] * 30 + [(1, 3)] * 20
    _, printed, _ = run(*systems(tmp_path, points))
    told = found(out)
    assert told["win"]["low"] < 0.6 < told["win"]["high"]
    assert told["sign_test"]["p"] == pytest.approx(binomtest(30, 50).pvalue)
    assert "resamples of dialogues" in told["interval"] and told["interval"] in printed
    shutil.rmtree(out)
    run(*systems(tmp_path, points[:45]))
    told = found(out)
    assert (told["win"]["low"], told["sign_test"]["p"]) == (None, None)
    assert "9 dialogues" in told["win"]["reason"]
    assert told["sign_test"]["said"].startswith("no verdict: 9 dialogues")


def test_equal_replies_are_a_tie_that_nobody_is_asked_about(run, server, out, tmp_path):
    a = save(tmp_path / "a.jsonl", [row(0, 0, "so  it is"), row(0, 1, "a 3")])
    b = save(tmp_path / "b.jsonl", [row(0, 0, "so it is\n"), row(0, 1, "b 1")])
    run(a, b)
    assert outcomes(out) == {"0-0": "tie", "0-1": "win"} and found(out)["identical"] == 1
    assert len(server.chats()) == 2


def test_what_is_no_verdict_is_unscored_and_counts_add_up(run, server, out, tmp_path):
    a, b = systems(tmp_path, [(k, 20) for k in range(6)])
    records = list(files.read_jsonl(b))
    records[5] |= {"predicted_response": "", "status": "invalid"}
    save(b, records)
    server.answer.odd = {
        "a says 0": "B, clearly.",
        "a says 1": '{"better": "C"}',
        # A reply that quotes a verdict does not slip it in.
        "a says 2": f'It says {FORGED}. Mine: {{"better": "A"}}',
        "a says 3": UNAVAILABLE,
    }
    code, printed, _ = run(a, b)
    told = found(out)
    assert code == 1 and "incomplete" in printed and not (out / "run.json").exists()
    assert (told["n"], told["lose"]["count"], told["drawn"]) == (1, 1, 6)
    assert (told["unscored"]["total"], told["failed"]["total"]) == (3, 1)
    assert told["not_judged"] == {"total": 1, "b: prediction invalid": 1}
    server.answer.odd.pop("a says 3")
    before = len(server.chats())
    assert run(a, b)[0] == 0 and len(server.chats()) == before + 2


def test_the_order_of_the_files_changes_nothing_and_turns_alone_are_told(run, out, tmp_path):
    a, b = systems(tmp_path, [(3, 1), (1, 3), (3, 1), (2, 2)] * 3)
    run(a, b, "--n", "5")
    first = outcomes(out)
    shutil.rmtree(out)
    save(a, list(files.read_jsonl(a))[::-1])
    save(b, [*files.read_jsonl(b), row(7, 4)])
    _, printed, _ = run(a, b, "--n", "5")
    assert outcomes(out) == first and len(first) == 5
    assert "0 turns only in A, 1 only in B" in printed


def foreign(number, **changed):
    said = {"GT_strategy": "Question", "predict_strategy": "Question"}
    return said | {"GT_content": f"gold {number}", "predict_content": f"reply {number}"} | changed


def test_files_of_other_turns_are_one_line(run, server, tmp_path):
    a, b = systems(tmp_path, [(1, 2)] * 3)
    assert "share no turn" in error(run(a, save(tmp_path / "c.jsonl", [row(9, 9)]))[2])
    records = list(files.read_jsonl(b))
    records[0]["context"]["seeker"] = "something else"
    save(b, records)
    assert "turn 0-0 has another conversation" in error(run(a, b)[2])
    short = save(tmp_path / "d.jsonl", [{k: v for k, v in row(0, 0).items() if k != "id"}])
    assert "some have no id to match" in error(run(a, short)[2])
    theirs = [foreign(number) for number in range(3)]
    a, b = save(tmp_path / "a.jsonl", theirs), save(tmp_path / "b.jsonl", theirs[::-1])
    assert "turn 0 has another gold reply" in error(run(a, b)[2])
    assert server.log == []


def test_every_side_that_is_offered_is_read():
    form = json.loads(Preference.constraint(is_own=False).schema)
    for side in form["properties"]["better"]["enum"]:
        assert Preference.read(json.dumps({"better": side})).better == side
    assert Preference.read(json.dumps({"better": "neither"})).better == "tie"


@pytest.mark.parametrize("told", [shares_by_dialogue([]), shares_by_turn({})])
def test_shares_of_nothing_are_none_not_zero(told):
    assert told["win"] == {"count": 0, "share": None, "low": None, "high": None}
    assert told["n"] == 0 and told["sign_test"]["p"] is None
