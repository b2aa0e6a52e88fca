"""Endpoints that differ from OpenAI's in one way each, as those that people have do."""

import json

import faulty_server as fs
import pytest

from esc.choice import Scoring
from esc.llm import Choice, Endpoint, Failure, FailureKind, JsonSchema, RunStopped
from esc.prompts import Message

HINT = JsonSchema("verdict", '{"type": "object", "properties": {}}', hint=True)
CHOICE = Choice(("Question", "Others"))
THOUGHT = "<think>\nPerhaps Others?\n</think>\n\nQuestion"


def said(text, **more):
    message = {"role": "assistant", "content": text} | more.pop("message", {})
    usage = {"usage": {"prompt_tokens": 10, "completion_tokens": 5}}
    body = {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]} | usage | more
    return fs.Fault(body=json.dumps(body).encode())


def without_finish(text):
    body = {"choices": [{"index": 0, "message": {"role": "assistant", "content": text}}]}
    return fs.Fault(body=json.dumps(body).encode())


FORMS = {
    "in parts": said([{"type": "text", "text": "re"}, {"type": "text", "text": ": a"}]),
    "beside a part of thinking": said([{"type": "thinking"}, {"type": "text", "text": "re: a"}]),
    "without a finish reason": without_finish("re: a"),
    "without usage": said("re: a", usage=None),
    "with usage of nothing": said("re: a", usage={"prompt_tokens": None}),
    "with thinking beside it": said("re: a", message={"reasoning_content": "Or b?"}),
    "after a closed block": said("<think>\n\n</think>\n\nre: a"),
    "after a block the prompt opened": said("Or b?</think>re: a"),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_an_answer_is_read_in_any_form(server, ask_all, form):
    server.script = [form]
    (reply,) = ask_all(server.url, ["a"]).results
    assert (reply.text, reply.truncated) == ("re: a", False)
    assert len(server.chats()) == 1


def test_what_was_thought_stays_in_the_stored_answer(server, ask_all, tmp_path):
    server.script = [said(THOUGHT)]
    for _ in range(2):
        outcome = ask_all(server.url, ["a"], cache=tmp_path / "calls")
        assert outcome.texts == ["Question"]
    assert "Perhaps Others?" in (tmp_path / "calls").read_text()
    assert len(server.chats()) == 1


def test_an_answer_cut_while_it_was_thought_about_is_cut_and_says_nothing(server, ask_all):
    server.script = [said("<think>\nOkay, a Question"), said("re: b")]
    cut, whole = ask_all(server.url, ["a", "b"], in_flight=1).results
    assert (cut.text, cut.truncated) == ("", True)
    assert (whole.text, whole.truncated) == ("re: b", False)


def refuses(unless, *replies):
    """Answers with the first of ``replies`` whose condition on the body holds."""

    def answer(request):
        return next((fault for holds, fault in replies if holds(request.body)), unless)

    return answer


def has(name):
    return lambda body: name in body


SCHEMA_REFUSED = {
    "in an object": fs.refusal(400, "This response_format type is unavailable now"),
    "in a text": fs.Fault(
        400, b"{\"error\": \"'response_format.type' must be 'json_schema' or 'text'\"}"
    ),
}


@pytest.mark.parametrize("refused", SCHEMA_REFUSED.values(), ids=SCHEMA_REFUSED)
def test_a_hint_that_is_refused_is_left_out_from_then_on(server, ask_all, make_call, refused):
    server.answer = refuses("fine", (has("response_format"), refused))
    calls = [make_call(record, constraint=HINT) for record in "abcd"]
    outcome = ask_all(server.url, calls, in_flight=1)
    assert outcome.texts == ["fine"] * 4
    assert [("response_format" in one.body) for one in server.chats()] == [True, *[False] * 4]


def test_a_question_that_is_refused_costs_the_others_no_hint(server, ask_all, make_call):
    server.always = {"a": fs.refusal(400, "flagged as unsafe")}
    server.answer = lambda request: "fine"
    calls = [make_call(record, constraint=HINT) for record in "ab"]
    refused, answered = ask_all(server.url, calls, in_flight=1).results
    assert refused.message == "flagged as unsafe" and answered.text == "fine"
    assert "response_format" in server.chats()[-1].body


def unsupported(name, words="is not supported with this model"):
    error = {"message": f"Unsupported parameter: '{name}' {words}.", "param": name}
    return fs.Fault(400, json.dumps({"error": error}).encode())


def test_parameters_that_a_model_refuses_are_sent_otherwise_or_left_out(
    server, ask_all, make_call, capsys
):
    use = "is not supported with this model. Use 'max_completion_tokens' instead"
    extra = {"loc": ["body", "seed"], "msg": "extra fields not permitted"}
    server.answer = refuses(
        "fine",
        (has("max_tokens"), unsupported("max_tokens", use)),
        (has("temperature"), unsupported("temperature", "does not support 0.0")),
        (has("seed"), fs.Fault(422, json.dumps({"detail": [extra]}).encode())),
    )
    outcome = ask_all(server.url, [make_call(one) for one in "abc"], in_flight=1)
    assert outcome.texts == ["fine"] * 3
    assert len(server.chats()) == 3 + 3
    last = server.chats()[-1].body
    assert last["max_completion_tokens"] == 5
    assert not {"max_tokens", "temperature", "seed"} & last.keys()
    told = [line for line in capsys.readouterr().err.splitlines() if "note  " in line]
    assert len(told) == 3 and "seed is left out for m" in told[2]


def test_what_is_stored_is_found_by_what_was_meant(server, ask_all, tmp_path):
    server.answer = refuses("fine", (has("seed"), unsupported("seed")))
    ask_all(server.url, ["a"], cache=tmp_path / "calls")
    server.answer = None
    assert ask_all(server.url, ["a"], cache=tmp_path / "calls").meter.cached == 1


def test_a_canary_is_asked_in_the_way_the_model_knows(server, ask_all, make_call):
    server.answer = lambda request: (
        unsupported("max_tokens") if "max_tokens" in request.body else fs.constrained(request.body)
    )
    assert ask_all(server.url, [make_call("a", constraint=CHOICE)]).texts == ["Question"]


def test_a_refused_constraint_is_told_in_the_server_s_words(server, ask_all, make_call):
    server.answer = lambda request: fs.Fault(400, b'{"error": "no grammars here"}')
    with pytest.raises(RunStopped, match=r"refuses the constraint \(Choice\) \(no grammars here\)"):
        ask_all(server.url, [make_call("a", constraint=CHOICE)])


WORDS = {
    "an object": b'{"error": {"message": "no more of it"}}',
    "a text": b'{"error": "no more of it"}',
    "a detail": b'{"detail": "no more of it"}',
    "a list of details": b'{"detail": [{"msg": "no more of it"}]}',
    "a message alone": b'{"message": "no more of it"}',
    "plain text": b"no more of it",
}


@pytest.mark.parametrize("body", WORDS.values(), ids=WORDS)
def test_a_refusal_is_told_in_the_server_s_words(server, ask_all, body):
    server.script = [fs.Fault(400, body)]
    (failed,) = ask_all(server.url, ["a"]).results
    assert failed == Failure(FailureKind.REFUSED, "no more of it", 1)


def test_a_page_for_people_is_no_message(server, ask_all):
    server.script = [fs.Fault(400, b"<html>Bad Request</html>")]
    (failed,) = ask_all(server.url, ["a"]).results
    assert failed.message == "HTTP 400"


def error_in_200(code):
    error = {"error": {"message": "Provider returned error", "code": code}}
    return fs.Fault(body=json.dumps(error).encode())


@pytest.mark.parametrize("code", [429, 502, None])
def test_a_passing_error_that_comes_as_an_answer_is_asked_again(server, ask_all, code):
    server.script = [error_in_200(code)]
    outcome = ask_all(server.url, ["a"])
    assert outcome.texts == ["re: a"] and outcome.meter.retries == 1


def test_a_refusal_that_comes_as_an_answer_is_one(server, ask_all):
    server.script = [error_in_200(400)]
    (failed,) = ask_all(server.url, ["a"]).results
    assert failed == Failure(FailureKind.REFUSED, "Provider returned error", 1)


TOO_LONG = (
    "the request exceeds the available context size. try increasing the context size",
    "Your input exceeds the context window of this model",
    "This model's maximum context length is 4096 tokens",
)


@pytest.mark.parametrize("words", TOO_LONG)
def test_a_context_that_is_too_long_is_known_by_any_server_s_words(server, ask_all, words):
    server.script = [fs.refusal(400, words)]
    (failed,) = ask_all(server.url, ["a"]).results
    assert (failed.kind, failed.message) == (FailureKind.TOO_LONG, words)


ROUTE_MISSING = {
    "400": fs.refusal(400, "unknown route"),
    "403": fs.refusal(403, "path not allowed by gateway"),
    "404 of a page": fs.Fault(404, b"<html>404</html>"),
    "422": fs.Fault(422, b'{"detail": "no"}'),
    "an error in a 200": fs.Fault(body=b'{"error": "Unexpected endpoint. Returning 200 anyway"}'),
}


@pytest.mark.parametrize("path", [fs.TOKENIZE, fs.COMPLETIONS])
@pytest.mark.parametrize("missing", ROUTE_MISSING.values(), ids=ROUTE_MISSING)
def test_a_route_that_is_not_offered_costs_the_distribution_alone(server, ask_all, path, missing):
    server.routes = {path: missing}
    scoring = Scoring("a", "distribution", "m", (Message("user", "a"),), ("x", "y"))
    assert ask_all(server.url, [scoring, "b"]).results[0] is None


def test_a_base_url_s_query_is_sent_with_every_request(server, ask_all):
    url = f"{server.url}/?api-version=2024-10-21&x=a%2Fb"
    scoring = Scoring("a", "distribution", "m", (Message("user", "a"),), ("x", "y"))
    ask_all(url, ["a", scoring], connect=True)
    paths, queries = zip(*(one.path.split("?") for one in server.log), strict=True)
    assert {fs.CHAT, fs.TOKENIZE, "/v1/models"} <= set(paths)
    assert set(queries) == {"api-version=2024-10-21&x=a%2Fb"}


def test_a_query_is_in_no_message():
    endpoint = Endpoint("http://127.0.0.1:1/v1?key=secret", timeout=1, connections=1)
    assert endpoint.url == "http://127.0.0.1:1/v1"
