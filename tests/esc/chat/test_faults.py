import time
from email.utils import formatdate

import faulty_server as fs
import pytest

from esc import llm
from esc.exceptions import EscError
from esc.llm import Failure, FailureKind, Pool, RunStopped, api_key, retry_after

KEY = "sk-very-secret-0123456789"

TRANSIENT = {
    "500": (fs.SERVER_ERROR, FailureKind.SERVER_ERROR),
    "503": (fs.UNAVAILABLE, FailureKind.SERVER_ERROR),
    "slow": (fs.SLOW, FailureKind.TIMEOUT),
    "dropped": (fs.DROPPED, FailureKind.CONNECTION),
    "no JSON": (fs.NO_JSON, FailureKind.BAD_ANSWER),
    "another shape": (fs.ANOTHER_SHAPE, FailureKind.BAD_ANSWER),
    "no choices": (fs.NO_CHOICES, FailureKind.EMPTY),
    "no text": (fs.NO_TEXT, FailureKind.EMPTY),
}
transient = pytest.mark.parametrize(("fault", "kind"), TRANSIENT.values(), ids=TRANSIENT)


def patience(fault):
    return 0.2 if fault is fs.SLOW else 5.0


@transient
def test_a_transient_fault_is_retried_until_there_is_an_answer(server, ask_all, fault, kind):
    server.script = [fault, fault]
    outcome = ask_all(server.url, ["a"], timeout=patience(fault))
    assert outcome.texts == ["re: a"]
    assert len(server.chats()) == 3
    assert (outcome.meter.answered, outcome.meter.retries, outcome.meter.failed) == (1, 2, 0)


@transient
def test_a_fault_that_stays_is_a_record_of_its_kind_and_spares_the_others(
    server, ask_all, tmp_path, fault, kind
):
    server.always = {"b": fault}
    cache = tmp_path / "calls.jsonl"
    outcome = ask_all(server.url, ["a", "b", "c"], cache=cache, timeout=patience(fault))
    first, failed, last = outcome.results
    assert (first.text, last.text) == ("re: a", "re: c")
    assert isinstance(failed, Failure) and (failed.kind, failed.attempts) == (kind, 4)
    assert [request.asked for request in server.chats()].count("b") == 4
    assert outcome.meter.failed == 1
    assert len(cache.read_text().splitlines()) == 1 + 2


def test_a_second_run_asks_only_for_what_has_failed(server, ask_all, tmp_path):
    cache = tmp_path / "calls.jsonl"
    server.always = {"b": fs.SERVER_ERROR}
    ask_all(server.url, ["a", "b", "c"], cache=cache)
    server.always, before = {}, len(server.chats())
    outcome = ask_all(server.url, ["a", "b", "c"], cache=cache)
    assert outcome.texts == ["re: a", "re: b", "re: c"]
    assert [request.asked for request in server.chats()[before:]] == ["b"]
    assert (outcome.meter.answered, outcome.meter.cached) == (1, 2)


def test_retry_after_is_waited_for(server, ask_all):
    server.script = [fs.refusal(429, "slow down", Retry_After="0.25")]
    begin = time.monotonic()
    assert ask_all(server.url, ["a"]).texts == ["re: a"]
    assert time.monotonic() - begin >= 0.25


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_followed_no_longer_than_the_longest_wait(server, ask_all, status):
    server.script = [fs.refusal(status, "come back tomorrow", Retry_After="86400")]
    begin = time.monotonic()
    assert ask_all(server.url, ["a"]).texts == ["re: a"]
    assert 0.3 <= time.monotonic() - begin < 3


def test_retry_after_is_read_as_seconds_or_as_a_date_or_as_milliseconds():
    assert retry_after({"retry-after-ms": "700", "retry-after": "9"}) == 0.7
    assert retry_after({"retry-after-ms": "soon", "retry-after": "9"}) == 9.0
    assert retry_after({"retry-after": "nan"}) is None
    assert retry_after({"retry-after": "7"}) == 7.0
    in_a_minute = formatdate(time.time() + 60, usegmt=True)
    assert 55 < retry_after({"retry-after": in_a_minute}) <= 60
    assert retry_after({"retry-after": formatdate(0, usegmt=True)}) == 0.0
    assert retry_after({"retry-after": "soon"}) is None
    assert retry_after({}) is None


def test_a_rate_limit_uses_up_no_attempts(server, ask_all, monkeypatch):
    monkeypatch.setattr(llm, "SLOWEST", 100.0)
    server.script = [fs.RATE_LIMITED] * 6 + [fs.SERVER_ERROR]
    outcome = ask_all(server.url, ["a"], attempts=2, longest_wait=0.01)
    assert outcome.texts == ["re: a"]
    assert len(server.chats()) == 8


def test_a_rate_limit_that_lets_nobody_through_fails_by_time(server, ask_all):
    server.always = {"b": fs.RATE_LIMITED}
    first, failed, last = ask_all(server.url, ["a", "b", "c"], patience=0.5).results
    assert (first.text, last.text) == ("re: a", "re: c")
    assert isinstance(failed, Failure) and failed.kind == FailureKind.RATE_LIMITED
    assert failed.attempts == [request.asked for request in server.chats()].count("b") > 1


@pytest.mark.parametrize("told", [{}, {"Retry_After": "0.1"}, {"Retry_After_Ms": "70"}])
def test_nothing_is_lost_to_a_limit_on_the_rate_and_the_number_in_flight_follows_it(
    server, ask_all, monkeypatch, told
):
    monkeypatch.setattr(llm, "WINDOW", 0.2)
    server.rate, server.delay = 50.0, 0.07
    server.limit = fs.refusal(429, "slow down", **told)
    records = [f"r{number}" for number in range(60)]
    # As many attempts as are usual would not do.
    outcome = ask_all(server.url, records, in_flight=60, first_wait=0.05, attempts=1)
    assert outcome.texts == [f"re: {record}" for record in records]
    # Asked again as told alone, each would be refused many times.
    assert 0 < server.refused < 3 * len(records)


def test_a_truncated_answer_is_kept_and_counted_and_not_asked_again(server, ask_all, tmp_path):
    cache = tmp_path / "calls.jsonl"
    server.always = {"a": fs.TRUNCATED}
    for _ in range(2):
        outcome = ask_all(server.url, ["a", "b"], cache=cache)
        assert [reply.truncated for reply in outcome.results] == [True, False]
        assert outcome.texts[0] == "half an ans"
        assert (outcome.meter.truncated, outcome.meter.retries) == (1, 0)
    assert len(server.chats()) == 2


def test_a_context_that_is_too_long_fails_at_once(server, ask_all):
    server.always = {"b": fs.TOO_LONG}
    answered, failed = ask_all(server.url, ["a", "b"]).results
    assert answered.text == "re: a"
    assert (failed.kind, failed.attempts) == (FailureKind.TOO_LONG, 1)
    assert len(server.chats()) == 2


def test_an_answer_has_at_most_what_is_left_of_the_context(server, ask_all):
    # The chat has eight tokens (words, marks, ends); three of the five asked for are left.
    server.context = 8 + 3
    server.answer = lambda request: fs.TOO_LONG if request.body["max_tokens"] > 3 else "short"
    outcome = ask_all(server.url, ["a"])
    assert outcome.texts == ["short"] and outcome.meter.retries == 0
    assert [request.body["max_tokens"] for request in server.chats()] == [5, 3]


@pytest.mark.parametrize("context", [0, 8, 4096])
def test_a_context_without_room_for_an_answer_is_not_asked_again(server, ask_all, context):
    server.context = context
    server.always = {"a": fs.TOO_LONG}
    (failed,) = ask_all(server.url, ["a"]).results
    assert failed.kind is FailureKind.TOO_LONG and len(server.chats()) == 1


def test_another_refusal_fails_at_once(server, ask_all):
    server.script = [fs.refusal(400, "temperature must be\n at most 2")]
    (failed,) = ask_all(server.url, ["a"]).results
    assert failed == Failure(FailureKind.REFUSED, "temperature must be at most 2", 1)


def test_a_wrong_model_name_stops_the_run_with_one_request(server, ask_all):
    server.script = [fs.NO_MODEL] * 9
    with pytest.raises(RunStopped, match="The model `x` does not exist"):
        ask_all(server.url, ["a", "b", "c"], in_flight=1)
    assert len(server.chats()) == 1


def test_a_stopped_run_keeps_what_was_answered_and_what_was_in_flight(server, ask_all, tmp_path):
    cache = tmp_path / "calls.jsonl"
    server.delay = 0.1
    server.always = {"c": fs.refusal(404, "The model `x` does not exist.")}
    with pytest.raises(RunStopped):
        ask_all(server.url, ["a", "b", "c", "d", "e", "f"], cache=cache, in_flight=3)
    assert len(cache.read_text().splitlines()) - 1 == len(server.chats()) - 1 >= 2


def test_a_stopped_run_does_not_try_again_what_was_waiting(server, ask_all):
    server.always = {
        "a": fs.refusal(503, "overloaded", Retry_After="1"),
        "b": fs.Fault(404, fs.NO_MODEL.body, delay=0.1),
    }
    with pytest.raises(RunStopped):
        ask_all(server.url, ["a", "b"], longest_wait=1.0)
    assert sorted(request.asked for request in server.chats()) == ["a", "b"]


def test_a_stopped_run_does_not_wait_for_what_fails_after_it(server, ask_all):
    server.always = {
        "a": fs.Fault(503, fs.UNAVAILABLE.body, {"Retry-After": "6"}, delay=0.1),
        "b": fs.NO_MODEL,
    }
    begin = time.monotonic()
    with pytest.raises(RunStopped):
        ask_all(server.url, ["a", "b"], longest_wait=60.0)
    assert time.monotonic() - begin < 5


def test_a_refused_key_stops_the_run_and_is_shown_nowhere(server, ask_all, tmp_path, monkeypatch):
    monkeypatch.setenv("VLLM_API_KEY", KEY)
    cache = tmp_path / "calls.jsonl"
    server.script = [fs.OK, fs.refusal(401, f"Incorrect API key provided: {KEY}.")]
    with pytest.raises(RunStopped, match="set VLLM_API_KEY") as caught:
        ask_all(server.url, ["a", "b", "c"], cache=cache, in_flight=1)
    assert {request.headers["authorization"] for request in server.chats()} == {f"Bearer {KEY}"}
    assert len(server.chats()) == 2
    assert KEY not in str(caught.value)
    assert "re: a" in cache.read_text() and KEY not in cache.read_text()


@pytest.mark.parametrize("padding", [0, 270])
def test_a_server_that_repeats_the_key_does_not_get_it_into_a_failure(
    server, ask_all, monkeypatch, padding
):
    monkeypatch.setenv("VLLM_API_KEY", KEY)
    server.script = [fs.refusal(400, f"{'x' * padding} no funds for {KEY}")]
    (failed,) = ask_all(server.url, ["a"]).results
    assert "x" * padding in failed.message
    assert "sk-" not in failed.message


@pytest.mark.parametrize("key", [f"{KEY}é", f"{KEY}\n{KEY}"])
def test_a_key_that_cannot_be_sent_is_shown_nowhere(server, ask_all, monkeypatch, key):
    monkeypatch.setenv("VLLM_API_KEY", key)
    with pytest.raises(EscError, match="VLLM_API_KEY holds characters") as caught:
        ask_all(server.url, ["a"])
    assert "sk-" not in str(caught.value)


def test_a_line_break_after_a_key_does_not_belong_to_it(monkeypatch):
    monkeypatch.setenv("VLLM_API_KEY", f"{KEY}\n")
    assert api_key("http://a/v1") == KEY


def test_a_server_of_the_kit_never_sees_another_ones_key(monkeypatch):
    monkeypatch.setenv("VLLM_API_KEY", KEY)
    assert api_key("http://a/v1") == KEY
    assert api_key("https://a/v1") == "none"


def test_no_url_is_said():
    with pytest.raises(EscError, match="BASE_URL is empty"):
        Pool([], timeout=1, connections=1)
