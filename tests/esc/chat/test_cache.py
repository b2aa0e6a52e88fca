"""Stored answers and money: nothing is asked or paid twice, whatever broke between."""

import asyncio
import json
import subprocess
import sys
import time
from dataclasses import replace

import faulty_server as fs
import pytest

from esc.llm import (
    MUTE,
    Cache,
    Constraint,
    Generation,
    Meter,
    Price,
    Reason,
    Rehearsal,
    RunStopped,
    Sampling,
    derived_seed,
)
from esc.paths import ROOT
from esc.prompts import Message

COUNT, IN_FLIGHT = 40, 4
FORTY = f"""
import asyncio, sys
from pathlib import Path
from esc.llm import Cache, Chat, Generation, Sampling
from esc.prompts import Message
async def work(asks, record):
    return await asks.ask(Generation(record, "reply", "m", (Message("user", record),), Sampling(5)))
chat = Chat([sys.argv[1]], Cache(Path(sys.argv[2])), timeout=5.0, connections={IN_FLIGHT})
asyncio.run(chat.run([f"r{{n:02}}" for n in range({COUNT})], work, "forty"))
"""
PER_ANSWER_TOKEN = Price(0.0, 1e6)
"""One unit of money for each token of an answer; every call here asks for at most five."""
RECORDS = [*"abcdefgh"]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "calls.jsonl"


def rows(path):
    return [json.loads(line) for line in path.read_text().split("\n")[:-1]]


def test_a_stored_line_says_what_was_asked_and_answered_and_no_rerun_asks_it(server, ask_all, path):
    ask_all(server.url, ["a", "b", "c"], cache=path, in_flight=1)
    content = path.read_bytes()
    again = ask_all(server.url, ["c", "a", "b"], cache=path)
    assert again.texts == ["re: c", "re: a", "re: b"] and again.meter.cached == 3
    assert len(server.chats()) == 3 and path.read_bytes() == content
    answer = {"text": "re: a", "finish": "stop", "prompt_tokens": 10, "completion_tokens": 5}
    assert rows(path)[0] == {
        "key": "391639a36d9bfd3d66f5db2492e4f0bdcb5be19ba3f25acee760238f7d31d06d",
        "record": "a",
        "step": "reply",
        "model": "m",
        "messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "a"}],
        "sampling": {"max_tokens": 5, "temperature": 0.0, "top_p": 1.0},
        "constraint": None,
        "seed": 933147694,
        "sample": 0,
        "answer": answer,
    }


@pytest.mark.parametrize("torn", [20, 1])
def test_a_torn_last_line_is_cut_and_only_its_answer_asked_again(server, ask_all, path, torn):
    # What earlier versions wrote at the head of the file is no answer.
    path.write_bytes(b'{"calls of":{"system":"test"}}\n')
    ask_all(server.url, ["a", "b", "c"], cache=path, in_flight=1)
    path.write_bytes(path.read_bytes()[:-torn])
    assert ask_all(server.url, ["a", "b", "c"], cache=path).texts == ["re: a", "re: b", "re: c"]
    assert [request.asked for request in server.chats()] == ["a", "b", "c", "c"]
    assert [row["record"] for row in rows(path)[1:]] == ["a", "b", "c"]


def test_the_same_call_is_asked_and_stored_once(server, ask_all, path):
    server.delay = 0.03
    outcome = ask_all(server.url, ["a", "b", "a", "a"], cache=path, in_flight=8)
    assert outcome.texts == ["re: a", "re: b", "re: a", "re: a"]
    assert sorted(row["record"] for row in rows(path)) == ["a", "b"] and len(server.chats()) == 2


def test_each_thing_that_decides_an_answer_is_in_its_key(make_call):
    call = make_call("a")
    changes = [
        {"record": "b"},
        {"model": "n"},
        {"messages": (*call.messages, Message("user", "more"))},
        {"sampling": Sampling(5, 0.7)},
        {"constraint": Constraint(choice=("x",))},
        {"sample": 1},
        {"answers": ("x",)},
    ]
    keys = {replace(call, **change).key({"m": "w1", "n": "w1"}) for change in [{}, *changes]}
    assert len(keys | {call.key({"m": "w2"})}) == len(changes) + 2
    assert replace(call, expected="else", step="else").key({"m": "w1"}) == call.key({"m": "w1"})
    assert len({derived_seed("a", 0), derived_seed("a", 1), derived_seed("b", 0)}) == 3


def test_a_killed_run_goes_on_where_it_was(server, path):
    server.delay = 0.03
    command = [sys.executable, "-c", FORTY, server.url, str(path)]
    how = {"cwd": ROOT, "env": {"PYTHONPATH": str(ROOT)}}
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, **how) as process:
        while len(server.chats()) < COUNT // 2:
            assert process.poll() is None
            time.sleep(0.002)
        process.kill()
    before = [row["record"] for row in rows(path)]
    assert COUNT // 2 - IN_FLIGHT <= len(before) < COUNT
    sent = len(server.chats())
    subprocess.run(command, check=True, **how)
    assert [row["record"] for row in rows(path)][: len(before)] == before
    assert sorted(row["record"] for row in rows(path)) == [f"r{n:02}" for n in range(COUNT)]
    assert len(server.chats()) <= COUNT + IN_FLIGHT
    assert not {request.asked for request in server.chats()[sent:]} & {*before}


@pytest.mark.parametrize("in_flight", [1, 8])
@pytest.mark.parametrize("tokens", [(10, 5), (0, 0)], ids=["usage", "none told"])
def test_the_run_stops_before_the_limit_is_passed_and_goes_on_with_a_larger_one(
    server, ask_all, path, in_flight, tokens
):
    server.delay, server.tokens = 0.05, tokens
    meter = Meter(PER_ANSWER_TOKEN, 12.0)
    with pytest.raises(RunStopped, match=r"MAX_COST=12 \(10\.0000 spent by this call\)"):
        ask_all(server.url, RECORDS, cache=path, meter=meter, in_flight=in_flight)
    assert len(server.chats()) == len(rows(path)) == 2
    outcome = ask_all(server.url, RECORDS, cache=path, meter=Meter(PER_ANSWER_TOKEN, 99.0))
    assert len(server.chats()) == len(outcome.results) == len(RECORDS)
    assert outcome.meter.spent == 30.0


CUT_THINKING = fs.Fault(body=fs.completion(None, "length"))
CUT_BEFORE_A_WORD = fs.Fault(body=fs.completion("", "length"))


@pytest.mark.parametrize("fault", [CUT_THINKING, CUT_BEFORE_A_WORD, fs.NO_TEXT])
def test_an_answer_without_text_is_paid_for_and_asked_once(server, ask_all, fault):
    meter = Meter(PER_ANSWER_TOKEN, 99.0)
    server.always = {"a": fault}
    failed, answered = ask_all(server.url, ["a", "b"], meter=meter).results
    assert (failed.kind, failed.attempts) == (Reason.EMPTY, 1)
    assert ("its 5 tokens went into something else" in failed.message) == (fault is not fs.NO_TEXT)
    assert answered.text == "re: b" and len(server.chats()) == 2 and meter.spent == 10.0


MUTE_MODELS = {
    "without text": (CUT_THINKING, "the answer has no text"),
    "in cut thinking": (fs.Fault(body=fs.completion("<think>\nOr")), "while the model thought"),
    "refused": (fs.refusal(400, "no such parameter: x"), "no such parameter: x"),
}


@pytest.mark.parametrize(("fault", "why"), MUTE_MODELS.values(), ids=MUTE_MODELS)
def test_a_run_in_which_every_answer_ends_without_a_word_stops(server, ask_all, fault, why):
    many = [f"r{number}" for number in range(40)]
    server.script = [fault] * 40
    with pytest.raises(RunStopped, match=f"the first {MUTE} requests to m brought .*{why}.*spent"):
        ask_all(server.url, many, in_flight=1, meter=Meter(PER_ANSWER_TOKEN))
    assert len(server.chats()) == MUTE
    # One that has said something may be silent often.
    server.script = [fs.OK] + [fault] * 39
    assert len(ask_all(server.url, many, in_flight=1).results) == 40


def test_a_rehearsal_counts_and_sends_nothing(server, ask_all, path, make_call):
    ask_all(server.url, ["a" * 32], cache=path)
    rehearsal = Rehearsal(Cache(path), {"m": "w1"}, Meter(Price(1e4, 1e5)))
    calls = [make_call(letter * 32, expected="usual") for letter in "abc"]
    calls.append(Generation("a", "distribution", "m", (), answers=("x", "y")))
    *said, scored = asyncio.run(rehearsal.run(calls, lambda asks, call: asks.ask(call)))
    assert [reply.text for reply in said] == ["re: " + "a" * 32, "usual", "usual"]
    assert scored.scores is None and len(server.log) == 1
    # "Be kind." and 32 characters make 10 tokens of four characters; five more at most come back.
    told = "3 requests to send, 1 answered already\nabout 20 prompt tokens (4 characters each), "
    assert told + "at most 10 answer tokens\nabout 1.2000 at most" in str(rehearsal)
