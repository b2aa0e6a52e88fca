"""What goes wrong between a question and its answer: nothing is lost that could be had."""

import json
import time
from email.utils import formatdate

import faulty_server as fs
import pytest

from esc import llm
from esc.files import EscError
from esc.llm import Failure, Reason, RunStopped

KEY = "sk-very-secret-0123456789"


def body(found):
    return fs.Fault(body=json.dumps(found).encode())


PASSING = {
    "500": (fs.SERVER_ERROR, Reason.SERVER_ERROR),
    "slow": (fs.SLOW, Reason.TIMEOUT),
    "dropped": (fs.DROPPED, Reason.CONNECTION),
    "no JSON": (fs.NO_JSON, Reason.BAD_ANSWER),
    "another shape": (body({"choices": [{}]}), Reason.BAD_ANSWER),
    "an error in a 200": (body({"error": {"message": "x", "code": 502}}), Reason.SERVER_ERROR),
}


@pytest.mark.parametrize(("fault", "kind"), PASSING.values(), ids=PASSING)
def test_a_passing_fault_is_tried_again_and_one_that_stays_is_a_typed_record(
    server, ask_all, tmp_path, fault, kind
):
    cache, timeout = tmp_path / "calls.jsonl", 0.2 if fault is fs.SLOW else 5.0
    server.script = [fault, fault]
    outcome = ask_all(server.url, ["a"], cache=cache, timeout=timeout)
    assert outcome.texts == ["re: a"] and len(server.chats()) == 3
    assert (outcome.meter.answered, outcome.meter.retries, outcome.meter.failed) == (1, 2, 0)

    server.always = {"b": fault}
    answered, failed = ask_all(server.url, ["c", "b"], cache=cache, timeout=timeout).results
    assert answered.text == "re: c"
    assert isinstance(failed, Failure) and (failed.kind, failed.attempts) == (kind, 4)
    assert [request.asked for request in server.chats()].count("b") == 4

    # Failures are not stored: another run asks for that alone.
    server.always, before = {}, len(server.chats())
    assert ask_all(server.url, ["a", "b", "c"], cache=cache).meter.cached == 2
    assert [request.asked for request in server.chats()[before:]] == ["b"]


TOLD = {
    "seconds": ({"Retry_After": "0.25"}, 0.25),
    "milliseconds": ({"Retry_After_Ms": "250"}, 0.25),
    "a date too far": ({"Retry_After": formatdate(time.time() + 9999, usegmt=True)}, 0.3),
    "nothing to read": ({"Retry_After": "soon"}, 0.0),
}


@pytest.mark.parametrize(("told", "least"), TOLD.values(), ids=TOLD)
def test_a_server_is_asked_again_when_it_said_but_not_too_late(server, ask_all, told, least):
    server.script = [fs.refusal(503, "come back", **told)]
    begin = time.monotonic()
    assert ask_all(server.url, ["a"]).texts == ["re: a"]
    assert least <= time.monotonic() - begin < least + 2


def test_a_rate_limit_uses_up_no_attempts_and_fails_by_time(server, ask_all, monkeypatch):
    server.script = [fs.RATE_LIMITED] * 6 + [fs.SERVER_ERROR]
    assert ask_all(server.url, ["a"]).texts == ["re: a"]
    assert len(server.chats()) == 8

    monkeypatch.setattr(llm, "PATIENCE", 0.5)
    server.always = {"b": fs.RATE_LIMITED}
    answered, failed = ask_all(server.url, ["c", "b"]).results
    assert answered.text == "re: c" and failed.kind is Reason.RATE_LIMITED
    assert failed.attempts == [request.asked for request in server.chats()].count("b") > 1


@pytest.mark.parametrize("told", [{}, {"Retry_After": "0.1"}])
def test_nothing_is_lost_to_a_limit_on_the_rate_and_the_number_in_flight_follows_it(
    server, ask_all, monkeypatch, told
):
    # As many attempts as are usual would not do.
    monkeypatch.setattr(llm, "ATTEMPTS", 1)
    server.rate, server.delay = 50.0, 0.07
    server.limit = fs.refusal(429, "slow down", **told)
    records = [f"r{number}" for number in range(60)]
    outcome = ask_all(server.url, records, in_flight=60)
    assert outcome.texts == [f"re: {record}" for record in records]
    # Asked again as told alone, each would be refused many times.
    assert 0 < server.refused < 3 * len(records)


def test_a_truncated_answer_is_kept_and_not_asked_again(server, ask_all, tmp_path):
    server.always = {"a": fs.TRUNCATED}
    for _ in range(2):
        outcome = ask_all(server.url, ["a", "b"], cache=tmp_path / "calls.jsonl")
        assert [reply.truncated for reply in outcome.results] == [True, False]
        assert outcome.texts[0] == "half an ans"
    assert len(server.chats()) == 2


def test_an_answer_has_at_most_what_is_left_of_the_context(server, ask_all):
    # The chat has eight tokens (words, marks, ends); three of the five asked for are left.
    server.context = 8 + 3
    server.answer = lambda request: fs.TOO_LONG if request.body["max_tokens"] > 3 else "short"
    assert ask_all(server.url, ["a"]).texts == ["short"]
    assert [request.body["max_tokens"] for request in server.chats()] == [5, 3]


TOO_LONG = {
    0: "the request exceeds the available context size. try increasing the context size",
    8: "Your input exceeds the context window of this model",
    4096: "This model's maximum context length is 4096 tokens",
}


@pytest.mark.parametrize(("context", "words"), TOO_LONG.items())
def test_a_context_without_room_for_an_answer_is_not_asked_again(server, ask_all, context, words):
    server.context, server.always = context, {"a": fs.refusal(400, words)}
    failed, answered = ask_all(server.url, ["a", "b"]).results
    assert failed == Failure(Reason.TOO_LONG, words, 1)
    assert answered.text == "re: b" and len(server.chats()) == 2


def test_a_stopped_run_keeps_what_was_in_flight_and_waits_for_nothing_else(
    server, ask_all, tmp_path, monkeypatch
):
    monkeypatch.setattr(llm, "LONGEST", 60.0)
    cache = tmp_path / "calls.jsonl"
    server.delay = 0.2
    later = {"Retry-After": "60"}
    server.always = {
        "a": fs.Fault(503, fs.UNAVAILABLE.body, later, delay=0.01),
        "b": fs.Fault(404, fs.NO_MODEL.body, delay=0.1),
        "c": fs.Fault(503, fs.UNAVAILABLE.body, later, delay=0.2),
    }
    begin = time.monotonic()
    with pytest.raises(RunStopped, match="The model `x` does not exist"):
        ask_all(server.url, ["a", "b", "c", "d", "e", "f"], cache=cache, in_flight=5)
    assert time.monotonic() - begin < 5
    assert sorted(request.asked for request in server.chats()) == ["a", "b", "c", "d", "e"]
    assert cache.read_text().count("re: ") == 2


def test_a_key_goes_to_its_server_stops_the_run_where_refused_and_is_shown_nowhere(
    server, ask_all, tmp_path, monkeypatch
):
    monkeypatch.setenv("VLLM_API_KEY", f"{KEY}\n")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-for-https-alone")
    cache = tmp_path / "calls.jsonl"
    server.script = [
        fs.OK,
        fs.refusal(400, f"{'x' * 270} no funds for {KEY}"),
        fs.refusal(401, f"Incorrect API key provided: {KEY}."),
    ]
    failed = ask_all(server.url, ["a", "b"], cache=cache, in_flight=1).results[1]
    assert "x" * 270 in failed.message and "sk-" not in failed.message
    with pytest.raises(RunStopped, match="its key: VLLM_API_KEY") as caught:
        ask_all(server.url, ["b", "c", "d"], cache=cache, in_flight=1)
    assert {request.headers["authorization"] for request in server.chats()} == {f"Bearer {KEY}"}
    assert len(server.chats()) == 3
    assert KEY not in str(caught.value) + cache.read_text()

    monkeypatch.setenv("VLLM_API_KEY", f"{KEY}é")
    with pytest.raises(EscError, match="VLLM_API_KEY holds characters") as caught:
        ask_all(server.url, ["a"])
    assert "sk-" not in str(caught.value)
