"""Stored answers: nothing that was answered is asked again, whatever broke between."""

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from esc.files import EscError
from esc.llm import Cache, Constraint, Sampling
from esc.paths import ROOT
from esc.prompts import Message

RUN = {"system": "test"}
AUDIT = {"record": "r"}
RECORDS, IN_FLIGHT = 40, 4
FORTY = f"""
import asyncio, signal, sys
from pathlib import Path
from esc.llm import Cache, Chat, Generation, Pool, Sampling
from esc.prompts import Message
# A shell's background job inherits that it ignores Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)
async def work(asks, record):
    return await asks.ask(Generation(record, "reply", "m", (Message("user", record),), Sampling(5)))
async def main(url, path):
    pool = Pool([url], timeout=5.0, connections={IN_FLIGHT})
    chat = Chat(pool, Cache(Path(path), {{}}), {{}})
    await chat.run([f"r{{n:02}}" for n in range({RECORDS})], work, "forty")
asyncio.run(main(*sys.argv[1:]))
"""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "calls.jsonl"


def rows(path):
    return [json.loads(line) for line in path.read_text().split("\n")[1:-1]]


def test_a_rerun_of_everything_sends_nothing(server, ask_all, path):
    first = ask_all(server.url, ["a", "b", "c"], cache=path)
    content = path.read_bytes()
    second = ask_all(server.url, ["c", "a", "b"], cache=path)
    assert len(server.chats()) == 3
    assert sorted(first.texts) == sorted(second.texts)
    assert (second.meter.answered, second.meter.cached) == (0, 3)
    assert path.read_bytes() == content


def test_a_stored_line_says_what_was_asked_and_answered(server, ask_all, path, make_call):
    ask_all(server.url, ["a"], cache=path)
    call = make_call("a")
    assert json.loads(path.read_text().splitlines()[0]) == {"calls of": RUN}
    answer = {"text": "re: a", "finish": "stop", "prompt_tokens": 10, "completion_tokens": 5}
    assert rows(path) == [
        {
            "key": call.key({"m": "w1"}),
            "record": "a",
            "step": "reply",
            "model": "m",
            "messages": [
                {"role": "system", "content": "Be kind."},
                {"role": "user", "content": "a"},
            ],
            "sampling": {"max_tokens": 5, "temperature": 0.0, "top_p": 1.0},
            "constraint": None,
            "seed": call.seed,
            "sample": 0,
            "answer": answer,
        }
    ]


@pytest.mark.parametrize("torn", [20, 1])
def test_a_torn_last_line_is_cut_and_only_its_answer_asked_again(server, ask_all, path, torn):
    ask_all(server.url, ["a", "b", "c"], cache=path, in_flight=1)
    path.write_bytes(path.read_bytes()[:-torn])
    assert ask_all(server.url, ["a", "b", "c"], cache=path).texts == ["re: a", "re: b", "re: c"]
    assert [request.asked for request in server.chats()] == ["a", "b", "c", "c"]
    assert [row["record"] for row in rows(path)] == ["a", "b", "c"]


@pytest.mark.parametrize("content", [b"", b'{"calls of": {"sys'])
def test_a_file_torn_before_its_first_answer_begins_anew(path, content):
    path.write_bytes(content)
    cache = Cache(path, RUN)
    for key in ("k", "l"):
        cache.put(key, AUDIT, {"text": key})
    assert [row["key"] for row in rows(path)] == ["k", "l"]
    again = Cache(path, RUN)
    assert (again.get("k"), again.repaired) == ({"text": "k"}, False)


@pytest.mark.parametrize("broken", ['{"key": "x', '{"key": "x"}', "[]", "7", ""])
def test_a_broken_line_in_the_middle_is_named_by_file_and_line(path, broken):
    Cache(path, RUN).put("k", AUDIT, {"text": "a"})
    path.write_text(path.read_text() + broken + "\n")
    with pytest.raises(EscError, match=r"calls\.jsonl, line 3: no stored answer"):
        Cache(path, RUN)


@pytest.mark.parametrize("first", [{"calls of": {"system": "other"}}, {"key": "k"}, ["other"]])
def test_a_file_of_another_run_is_refused_and_left_alone(path, first):
    path.write_text(json.dumps(first) + "\n")
    with pytest.raises(EscError, match=r"another run \(.*(other|key).*another WORK=folder"):
        Cache(path, RUN)
    assert path.read_text() == json.dumps(first) + "\n"


@pytest.mark.parametrize("in_flight", [1, 8])
def test_the_same_call_is_asked_and_stored_once(server, ask_all, path, in_flight):
    server.delay = 0.03
    outcome = ask_all(server.url, ["a", "b", "a", "a"], cache=path, in_flight=in_flight)
    assert outcome.texts == ["re: a", "re: b", "re: a", "re: a"]
    assert sorted(request.asked for request in server.chats()) == ["a", "b"]
    assert sorted(row["record"] for row in rows(path)) == ["a", "b"]


def test_each_thing_that_decides_an_answer_is_in_its_key(make_call):
    call = make_call("a")
    others = [
        call,
        replace(call, record="b"),
        replace(call, model="n"),
        replace(call, messages=(*call.messages, Message("user", "more"))),
        replace(call, sampling=Sampling(5, 0.7)),
        replace(call, constraint=Constraint(choice=("x",))),
        replace(call, sample=1),
    ]
    keys = {other.key({"m": "w1", "n": "w1"}) for other in others}
    assert len(keys | {call.key({"m": "w2"})}) == len(others) + 1
    same = replace(call, expected="else", step="else")
    assert same.key({"m": "w1"}) == call.key({"m": "w1"})


def start(server, cache):
    command = [sys.executable, "-c", FORTY, server.url, str(cache)]
    return subprocess.Popen(
        command, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE
    )


def finish(server, cache):
    process = start(server, cache)
    _, said = process.communicate(timeout=90)
    assert process.returncode == 0, said.decode()
    return [(row["record"], row["answer"]["text"]) for row in rows(cache)]


@pytest.mark.parametrize("with_signal", [signal.SIGKILL, signal.SIGINT], ids=["kill", "ctrl-c"])
def test_a_stopped_run_goes_on_where_it_was(server, second_server, tmp_path, with_signal):
    server.delay = 0.03
    cache = tmp_path / "calls.jsonl"
    process = start(server, cache)
    until = time.monotonic() + 90
    while len(server.chats()) < RECORDS // 2:
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.002)
    process.send_signal(with_signal)
    process.communicate(timeout=90)
    assert process.returncode != 0
    before = [(row["record"], row["answer"]["text"]) for row in rows(cache)]
    assert RECORDS // 2 - IN_FLIGHT <= len(before) < RECORDS
    sent = len(server.chats())

    after = finish(server, cache)
    undisturbed = finish(second_server, tmp_path / "undisturbed.jsonl")
    assert sorted(after) == sorted(undisturbed) and len(dict(after)) == len(after) == RECORDS
    assert after[: len(before)] == before
    assert len(server.chats()) <= RECORDS + IN_FLIGHT
    asked_again = {request.asked for request in server.chats()[sent:]}
    assert not asked_again & dict(before).keys()
