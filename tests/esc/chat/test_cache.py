import json
from dataclasses import replace

import pytest

from esc.exceptions import EscError
from esc.llm import Cache, Choice, Sampling, key_of
from esc.prompts import Message

RUN = {"system": "test"}
AUDIT = {"record": "r"}


def stored(path):
    return [json.loads(line) for line in path.read_text().splitlines()[1:]]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "work" / "calls.jsonl"


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
    assert stored(path) == [
        {
            "key": key_of(call.identity(), "w1"),
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
            "answer": {
                "text": "re: a",
                "finish": "stop",
                "prompt_tokens": 10,
                "completion_tokens": 5,
            },
        }
    ]


def test_a_torn_last_line_is_cut_and_only_its_answer_asked_again(server, ask_all, path):
    ask_all(server.url, ["a", "b", "c"], cache=path, in_flight=1)
    path.write_bytes(path.read_bytes()[:-20])
    assert ask_all(server.url, ["a", "b", "c"], cache=path).texts == ["re: a", "re: b", "re: c"]
    assert [request.asked for request in server.chats()] == ["a", "b", "c", "c"]
    assert [row["record"] for row in stored(path)] == ["a", "b", "c"]


@pytest.mark.parametrize("tail", [b'{"key": "x', b"x" * 200_000, b'{"key": "k", "answer": {}}'])
def test_what_follows_the_last_newline_is_cut(path, tail):
    cache = Cache(path, RUN)
    cache.put("k", AUDIT, {"text": "a"})
    cache.close()
    whole = path.read_bytes()
    path.write_bytes(whole + tail)
    again = Cache(path, RUN)
    assert (again.repaired, len(again), again.get("k")) == (True, 1, {"text": "a"})
    assert path.read_bytes() == whole


@pytest.mark.parametrize("content", [b"", b'{"calls of": {"sys'])
def test_a_file_torn_before_its_first_answer_begins_anew(path, content):
    path.parent.mkdir()
    path.write_bytes(content)
    cache = Cache(path, RUN)
    cache.put("k", AUDIT, {"text": "a"})
    assert Cache(path, RUN).get("k") == {"text": "a"}


@pytest.mark.parametrize("broken", ['{"key": "x', '{"key": "x"}', "[]", "7", ""])
def test_a_broken_line_in_the_middle_is_named_by_file_and_line(server, ask_all, path, broken):
    ask_all(server.url, ["a", "b", "c"], cache=path)
    lines = path.read_text().splitlines()
    lines[2] = broken
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(EscError, match=r"calls\.jsonl, line 3: no stored answer"):
        ask_all(server.url, ["a", "b", "c"], cache=path)
    assert len(server.chats()) == 3


@pytest.mark.parametrize(
    ("first", "told"),
    [
        ({"calls of": {"system": "other"}}, "another run (system other)"),
        ({"key": "k", "answer": {}}, "another run (no run)"),
        ({"calls of": ["other"]}, "another run"),
        (["other"], "another run (no run)"),
    ],
)
def test_a_file_of_another_run_is_refused_and_left_alone(path, first, told):
    path.parent.mkdir()
    path.write_text(json.dumps(first) + "\n")
    with pytest.raises(EscError) as caught:
        Cache(path, RUN)
    assert told in str(caught.value)
    assert path.read_text() == json.dumps(first) + "\n"


def test_answers_survive_without_close(path):
    cache = Cache(path, RUN)
    cache.put("k", AUDIT, {"text": "a"})
    assert Cache(path, RUN).get("k") == {"text": "a"}


def test_a_closed_cache_goes_on(path):
    cache = Cache(path, RUN)
    for key in ("k", "l"):
        cache.put(key, AUDIT, {"text": key})
        cache.close()
    assert [row["key"] for row in stored(path)] == ["k", "l"]


def test_without_a_path_answers_are_kept_in_memory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cache = Cache(None, RUN)
    cache.put("k", AUDIT, {"text": "a"})
    cache.close()
    assert cache.get("k") == {"text": "a"} and not list(tmp_path.iterdir())


def test_reading_creates_no_file(path):
    cache = Cache(path, RUN)
    cache.close()
    assert not path.exists()


@pytest.mark.parametrize("in_flight", [1, 8])
def test_the_same_call_is_asked_and_stored_once(server, ask_all, path, in_flight):
    server.delay = 0.03
    outcome = ask_all(server.url, ["a", "b", "a", "a"], cache=path, in_flight=in_flight)
    assert outcome.texts == ["re: a", "re: b", "re: a", "re: a"]
    assert sorted(request.asked for request in server.chats()) == ["a", "b"]
    assert sorted(row["record"] for row in stored(path)) == ["a", "b"]


def test_other_weights_are_another_answer(server, ask_all, path):
    for weights in ("w1", "w2", "w1", "w2"):
        ask_all(server.url, ["a"], cache=path, weights=weights)
    assert len(server.chats()) == 2
    assert len({row["key"] for row in stored(path)}) == 2


def test_each_thing_that_decides_an_answer_is_in_its_key(make_call):
    call = make_call("a")
    others = [
        call,
        replace(call, record="b"),
        replace(call, model="n"),
        replace(call, messages=(*call.messages, Message("user", "more"))),
        replace(call, sampling=Sampling(5, 0.7)),
        replace(call, constraint=Choice(("x",))),
        replace(call, sample=1),
    ]
    assert len({key_of(other.identity(), "w1") for other in others}) == len(others)
    same = replace(call, expected="else", step="else")
    assert key_of(same.identity(), "w1") == key_of(call.identity(), "w1")
