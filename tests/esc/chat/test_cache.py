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
RECORDS, IN_FLIGHT = 40, 4
FORTY = f"""
import asyncio, signal, sys
from pathlib import Path
from esc.llm import Cache, Chat, Generation, Sampling
from esc.prompts import Message
# A shell's background job inherits that it ignores Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)
async def work(asks, record):
    return await asks.ask(Generation(record, "reply", "m", (Message("user", record),), Sampling(5)))
async def main(url, path):
    chat = Chat([url], Cache(Path(path)), timeout=5.0, connections={IN_FLIGHT})
    await chat.run([f"r{{n:02}}" for n in range({RECORDS})], work, "forty")
asyncio.run(main(*sys.argv[1:]))
"""


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
    ask_all(server.url, ["a", "b", "c"], cache=path, in_flight=1)
    path.write_bytes(path.read_bytes()[:-torn])
    assert ask_all(server.url, ["a", "b", "c"], cache=path).texts == ["re: a", "re: b", "re: c"]
    assert [request.asked for request in server.chats()] == ["a", "b", "c", "c"]
    assert [row["record"] for row in rows(path)] == ["a", "b", "c"]


@pytest.mark.parametrize("content", [b"", b'{"calls of": {"sys'])
def test_a_file_torn_before_its_first_answer_begins_anew(path, content):
    path.write_bytes(content)
    Cache(path).put("k", {}, {"text": "k"})
    again = Cache(path)
    assert (again.get("k"), again.repaired) == ({"text": "k"}, False)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (2, r"calls\.jsonl, line 3: no stored answer"),
        (0, r"another run \(.*other.*another WORK=folder"),
    ],
)
def test_a_broken_line_and_another_runs_file_are_named_and_left_alone(path, line, told):
    Cache(path).put("k", {}, {"text": "a"})
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:line], '{"key": "other"}', *lines[line:]]) + "\n")
    content = path.read_bytes()
    with pytest.raises(EscError, match=told):
        Cache(path)
    assert path.read_bytes() == content


def test_the_same_call_is_asked_and_stored_once(server, ask_all, path):
    server.delay = 0.03
    outcome = ask_all(server.url, ["a", "b", "a", "a"], cache=path, in_flight=8)
    assert outcome.texts == ["re: a", "re: b", "re: a", "re: a"]
    assert sorted(row["record"] for row in rows(path)) == ["a", "b"] and len(server.chats()) == 2


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
        replace(call, answers=("x",)),
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


@pytest.mark.parametrize("with_signal", [signal.SIGKILL, signal.SIGINT], ids=["kill", "ctrl-c"])
def test_a_stopped_run_goes_on_where_it_was(server, path, with_signal):
    server.delay = 0.03
    process = start(server, path)
    until = time.monotonic() + 90
    while len(server.chats()) < RECORDS // 2:
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.002)
    process.send_signal(with_signal)
    process.communicate(timeout=90)
    before = [row["record"] for row in rows(path)]
    assert process.returncode and RECORDS // 2 - IN_FLIGHT <= len(before) < RECORDS
    sent = len(server.chats())

    process = start(server, path)
    _, told = process.communicate(timeout=90)
    assert process.returncode == 0, told.decode()
    after = {row["record"]: row["answer"]["text"] for row in rows(path)}
    assert after == {f"r{n:02}": f"re: r{n:02}" for n in range(RECORDS)}
    assert [row["record"] for row in rows(path)][: len(before)] == before
    assert len(rows(path)) == RECORDS and len(server.chats()) <= RECORDS + IN_FLIGHT
    assert not {request.asked for request in server.chats()[sent:]} & {*before}
