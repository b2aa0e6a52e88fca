"""Money: what is spent, what is set aside, and when a run stops."""

import asyncio

import faulty_server as fs
import pytest

from esc.files import EscError
from esc.llm import MUTE, Cache, Generation, Meter, Price, Reason, Rehearsal, RunStopped

PER_ANSWER_TOKEN = Price(0.0, 1e6)
"""One unit of money for each token of an answer; every call here asks for at most five."""
RECORDS = ["a", "b", "c", "d", "e", "f", "g", "h"]


@pytest.mark.parametrize("in_flight", [1, 8])
def test_the_run_stops_before_the_limit_is_passed_and_goes_on_with_a_larger_one(
    server, ask_all, tmp_path, in_flight
):
    path, meter = tmp_path / "calls", Meter(PER_ANSWER_TOKEN, 12.0)
    server.delay = 0.05
    with pytest.raises(RunStopped, match=r"MAX_COST=12 \(10\.0000 spent by this call\)"):
        ask_all(server.url, RECORDS, cache=path, meter=meter, in_flight=in_flight)
    assert len(server.chats()) == len(path.read_text().splitlines()) - 1 == 2
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


def test_an_answer_without_usage_counts_as_the_most_it_can_cost(server, ask_all):
    server.tokens = 0, 0
    with pytest.raises(RunStopped, match=r"\(10\.0000 spent by this call\)"):
        ask_all(server.url, RECORDS, meter=Meter(PER_ANSWER_TOKEN, 12.0), in_flight=1)
    assert len(server.chats()) == 2


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


def test_a_price_is_per_million_tokens_and_a_limit_needs_one():
    assert Price.parse("0.40/1.60").of(1_000_000, 500_000) == pytest.approx(1.2)
    for text in ("0.4", "0.4/1.6/2", "a/b"):
        with pytest.raises(EscError, match="PROMPT/COMPLETION"):
            Price.parse(text)
    with pytest.raises(EscError, match="MAX_COST needs PRICE"):
        Meter(None, 1.0)


def test_a_rehearsal_counts_and_sends_nothing(server, ask_all, tmp_path, make_call):
    path = tmp_path / "calls"
    ask_all(server.url, ["a" * 32], cache=path)
    sent, price = len(server.log), Price(1e4, 1e5)
    rehearsal = Rehearsal(Cache(path), {"m": "w1"}, Meter(price))

    async def rehearse():
        calls = [make_call(letter * 32, expected="usual") for letter in "abc"]
        calls.append(Generation("a", "distribution", "m", (), answers=("x", "y")))
        replies = [await rehearsal.ask(call) for call in calls]
        assert replies[-1].scores is None
        return [reply.text for reply in replies[:-1]]

    assert asyncio.run(rehearse()) == ["re: " + "a" * 32, "usual", "usual"]
    # "Be kind." and 32 characters make 10 tokens of four characters; five more at most come back.
    told = "3 requests to send, 1 answered already\nabout 20 prompt tokens (4 characters each), "
    assert told + "at most 10 answer tokens\nabout 1.2000 at most" in str(rehearsal)
    assert len(server.log) == sent
