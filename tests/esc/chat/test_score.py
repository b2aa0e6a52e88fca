import math

import faulty_server as fs
import pytest

from esc.choice import Scoring, normalised
from esc.prompts import Message

ANSWERS = ("Question", "Providing Suggestions", "Providing Information")
LOGPROBS = {
    ("<assistant>", "Question"): -0.5,
    ("Question", "</end>"): -0.25,
    ("<assistant>", "Providing"): -1.0,
    ("Providing", "Suggestions"): -0.125,
    ("Suggestions", "</end>"): -0.0625,
    ("Providing", "Information"): -2.5,
    ("Information", "</end>"): -4.0,
}


def scoring(record, answers=ANSWERS):
    chat = Message("system", "You plan."), Message("user", record)
    return Scoring(record, "distribution", "m", chat, answers)


def test_a_score_is_the_sum_along_an_answer_and_its_end(server, ask_all):
    server.logprobs = LOGPROBS
    (scores,) = ask_all(server.url, [scoring("I am sad")]).results
    assert scores == (-0.75, -1.1875, -7.5)


def test_one_request_holds_a_prompt_for_each_inner_node(server, ask_all):
    ask_all(server.url, [scoring("I am sad")])
    (request,) = server.requests(fs.COMPLETIONS)
    head = fs.Handler.tokens.__get__(type("Of", (), {"server": server}))(
        {"messages": [message.wire() for message in scoring("I am sad").messages]}
    )
    after = {tuple(prompt[len(head) :]) for prompt in request.body["prompt"]}
    assert all(prompt[: len(head)] == head for prompt in request.body["prompt"])
    nodes = ["", *["Question", "Providing", "Providing Suggestions", "Providing Information"]]
    assert after == {tuple(server.ids(node)) for node in nodes}
    assert request.body["max_tokens"] == 1


def test_the_paths_of_the_answers_are_asked_for_once(server, ask_all):
    ask_all(server.url, [scoring(f"record {n}") for n in range(6)])
    # The head, then two for each answer; after that one for each record's own chat.
    assert len(server.requests(fs.TOKENIZE)) == 1 + 2 * len(ANSWERS) + 6
    assert len(server.requests(fs.COMPLETIONS)) == 6


def test_other_answers_have_paths_of_their_own(server, ask_all):
    server.logprobs = LOGPROBS
    calls = [scoring("a"), scoring("a", ANSWERS[:1])]
    assert ask_all(server.url, calls).results == [(-0.75, -1.1875, -7.5), (-0.75,)]


def test_scores_are_stored_and_not_asked_again(server, ask_all, tmp_path):
    server.logprobs = LOGPROBS
    first = ask_all(server.url, [scoring("a")], cache=tmp_path / "calls")
    sent = len(server.log)
    second = ask_all(server.url, [scoring("a")], cache=tmp_path / "calls")
    assert first.results == second.results and len(server.log) == sent


def test_a_server_without_tokenize_gives_none_and_the_run_goes_on(server, ask_all):
    server.tokenizes = False
    before, score, after = ask_all(server.url, ["a", scoring("b"), "c"]).results
    assert (before.text, score, after.text) == ("re: a", None, "re: c")


def test_a_server_that_ignores_the_wanted_tokens_gives_none(server, ask_all):
    server.logprobs = dict.fromkeys(LOGPROBS)
    assert ask_all(server.url, [scoring("a")]).results == [None]


def test_normalised_scores_are_probabilities_over_the_answers():
    shares = normalised((-0.75, -1.1875, -7.5))
    assert sum(shares) == pytest.approx(1.0)
    assert shares[0] / shares[1] == pytest.approx(math.exp(1.1875 - 0.75))
    assert normalised((-2000.0, -2000.0)) == [0.5, 0.5]
    assert normalised((-3.0,)) == [1.0]
