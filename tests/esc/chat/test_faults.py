"""What goes wrong between a question and its answer: nothing is lost that could be had."""

import asyncio
import socket
import time
from contextlib import aclosing
from email.utils import formatdate

import faulty_server as fs
import pytest

from esc import llm
from esc.files import EscError
from esc.llm import Chat, Failure, Generation, Reason, RunStopped
from esc.prompts import Message

KEY = "sk-very-secret-0123456789"


PASSING = {
    "500": (fs.SERVER_ERROR, Reason.SERVER_ERROR),
    "slow": (fs.SLOW, Reason.TIMEOUT),
    "dropped": (fs.DROPPED, Reason.CONNECTION),
    "no JSON": (fs.NO_JSON, Reason.BAD_ANSWER),
    "another shape": (fs.told({"choices": [{}]}), Reason.BAD_ANSWER),
    "an error in a 200": (fs.told({"error": {"message": "x", "code": 502}}), Reason.SERVER_ERROR),
}


@pytest.mark.parametrize(("fault", "kind"), PASSING.values(), ids=PASSING)
def test_a_passing_fault_is_tried_again_and_one_that_stays_is_a_typed_record(
    server, ask_all, tmp_path, fault, kind
):
    cache, timeout = tmp_path / "calls.jsonl", 0.2 if fault is fs.SLOW else 5.0
    server.script, server.always = [fault, fault], {"b": fault}
    outcome = ask_all(server.url, ["a"], cache=cache, timeout=timeout)
    assert outcome.texts == ["re: a"] and len(server.chats()) == 3
    assert (outcome.meter.answered, outcome.meter.retries, outcome.meter.failed) == (1, 2, 0)
    answered, failed = ask_all(server.url, ["c", "b"], cache=cache, timeout=timeout).results
    assert answered.text == "re: c"
    assert isinstance(failed, Failure) and (failed.kind, failed.attempts) == (kind, 4)
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


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(("told", "least"), TOLD.values(), ids=TOLD)
def test_a_server_is_asked_again_when_it_said_but_not_too_late(
    server, ask_all, status, told, least
):
    server.script = [fs.refusal(status, "come back", **told)]
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
    cache, later = tmp_path / "calls.jsonl", {"Retry-After": "60"}
    server.delay = 0.2
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


@pytest.fixture
def dead_url():
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # taken, and nobody listens
        yield f"http://127.0.0.1:{held.getsockname()[1]}/v1"


def connect(url, models):
    async def call():
        async with aclosing(Chat([url], timeout=0.5, connections=4)) as chat:
            return await chat.connect(models)

    return asyncio.run(call())


def test_a_server_without_the_models_or_none_at_all_is_said(server, dead_url):
    server.models = ("base", "sp-sft")
    assert connect(server.url, ["sp-sft"]) == ["base", "sp-sft"]
    with pytest.raises(EscError, match=r"does not serve rg-dpo; it has base, sp-sft"):
        connect(server.url, ["sp-sft", "rg-dpo"])
    server.routes = {"/v1/models": fs.refusal(404, "Not Found")}
    assert connect(server.url, []) == []
    for url in (dead_url, server.url):
        with pytest.raises(EscError, match=r"no server answers \(.+\); 'make serve' starts one"):
            connect(url, ["m"])


@pytest.mark.parametrize("url", ["http://127.0.0.1:99999/v1", "localhost:8000", "http://me:word@h"])
def test_what_is_no_url_or_holds_a_password_is_said(url):
    with pytest.raises(EscError, match=r"is no URL without a password, .* VLLM_API_KEY") as told:
        connect(url, ["m"])
    assert "word@" not in str(told.value)


@pytest.mark.parametrize("checked", [True, False])
def test_the_records_of_a_dead_server_go_to_the_living_one(server, ask_all, dead_url, checked):
    records = [f"r{number}" for number in range(12)]
    outcome = ask_all([dead_url, server.url], records, connect=checked, in_flight=4)
    assert outcome.texts == [f"re: {record}" for record in records]
    # Once it is found dead no attempt is lost on it.
    assert outcome.meter.retries == 0 if checked else 1 <= outcome.meter.retries <= 4


@pytest.mark.parametrize("fault", [fs.SERVER_ERROR, fs.NO_JSON])
def test_an_endpoint_that_keeps_failing_at_once_is_left_out_while_another_answers(
    server, second_server, ask_all, fault
):
    server.delay = 0.05
    records = [f"r{number}" for number in range(100)]
    second_server.always = dict.fromkeys(records, fault)
    outcome = ask_all([second_server.url, server.url], records, in_flight=8)
    assert outcome.texts == [f"re: {record}" for record in records]
    # Those that were on their way before the third failed.
    assert len(second_server.chats()) <= 2 + 4


def test_an_endpoint_that_was_left_out_is_tried_again_and_answers(
    server, second_server, ask_all, monkeypatch
):
    monkeypatch.setattr(llm, "DOWN", 0.1)
    server.delay = second_server.delay = 0.02
    second_server.script = [fs.SERVER_ERROR] * 4
    records = [f"r{number}" for number in range(60)]
    outcome = ask_all([second_server.url, server.url], records, in_flight=4)
    assert outcome.texts == [f"re: {record}" for record in records]
    assert len(second_server.chats()) > 10
    assert server.most_running <= 4 and second_server.most_running <= 2


def test_a_proxy_is_for_servers_elsewhere_alone(server, ask_all, dead_url, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, dead_url.removesuffix("/v1"))
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(llm, "ATTEMPTS", 1)
    urls = [server.url, server.url.replace("127.0.0.1", "localhost")]
    assert ask_all(urls, [f"r{number}" for number in range(8)], connect=True).meter.failed == 0
    (failed,) = ask_all("http://esc.invalid/v1", ["a"]).results
    assert "connect" in failed.message.lower() and "Name or service" not in failed.message


def test_a_base_url_s_query_is_sent_with_every_request(server, ask_all):
    url = f"{server.url}/?api-version=2024-10-21&x=a%2Fb"
    scoring = Generation("a", "x", "m", (Message("user", "a"),), answers=("x", "y"))
    ask_all(url, ["a", scoring], connect=True)
    paths, queries = zip(*(one.path.split("?") for one in server.log), strict=True)
    assert {fs.CHAT, fs.TOKENIZE, "/v1/models"} <= set(paths)
    assert set(queries) == {"api-version=2024-10-21&x=a%2Fb"}
