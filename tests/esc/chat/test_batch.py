"""Batch files: what is asked through them, what is taken in again, and what is not."""

import json

import pytest
from batches import answer_line, error_line, play, requests

from esc.choice import Scoring
from esc.exceptions import EscError, Waiting
from esc.llm import (
    Budget,
    Cache,
    Choice,
    Failure,
    FailureKind,
    Generation,
    Meter,
    Price,
    Regex,
    RunStopped,
    Sampling,
)
from esc.llm_batch import Rounds, choice_fields, outcome_of
from esc.prompts import Message

RUN = {"system": "test"}
RECORDS = ["a", "b", "c", "d", "e"]


def call(record, **more):
    chat = (Message("system", "Be kind."), Message("user", record))
    return Generation(record, "reply", "m", chat, Sampling(5), **more)


async def one_reply(asks, record):
    """A record is the seeker's words, or a whole call."""
    answer = await asks.ask(call(record) if isinstance(record, str) else record)
    return answer.text


async def two_steps(asks, record):
    first = await asks.ask(call(record))
    return (await asks.ask(call(f"after {first.text}"))).text


def said(body):
    return f"re: {body['messages'][-1]['content']}"


class Played:
    """An engine that answers ``say``; it breaks off before the shard called ``breaks``."""

    def __init__(self, say=said, *, writes=True, breaks=None):
        self.say, self.writes, self.breaks = say, writes, breaks
        self.ran = []

    def body(self, call):
        return call.body()

    def run(self, shards, pending):
        if not self.writes:
            raise Waiting("bring answers")
        for shard in shards:
            if shard.name == self.breaks:
                raise EscError("out of memory")
            self.ran.append(shard.name)
            lines = [self.line(key, body) for key, body in requests(shard.requests).items()]
            shard.answers.write_text("".join(lines))

    def line(self, key, body):
        text = self.say(body)
        return text(key) if callable(text) else answer_line(key, text)


@pytest.fixture
def ask(tmp_path):
    """The results of a new process's run, and its meter."""

    def run(records, engine, work=one_reply, size=2, budget=None):
        cache = Cache(tmp_path / "calls.jsonl", RUN)
        meter = Meter(budget or Budget())
        rounds = Rounds(cache, {"m": "w1"}, engine, size, meter)
        return rounds.ask(records, work), meter

    return run


@pytest.fixture
def batch(tmp_path):
    return tmp_path / "batch"


def texts(batch):
    """What every shard asks, by its number."""
    return {
        path.name[:4]: [body["messages"][-1]["content"] for body in requests(path).values()]
        for path in sorted(batch.glob("*.requests.jsonl"))
    }


def rows_by_key(path):
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return {row["key"]: row for row in rows if "key" in row}


def test_a_batch_asks_and_stores_what_a_live_run_does(ask, ask_all, server, batch, tmp_path):
    live = tmp_path / "live.jsonl"
    ask_all(server.url, RECORDS, cache=live)
    assert ask(RECORDS, Played())[0] == [f"re: {record}" for record in RECORDS]
    written = {}
    for path in batch.glob("*.requests.jsonl"):
        written |= requests(path)
    sent = {request.asked: request.body for request in server.chats()}
    assert {body["messages"][-1]["content"]: body for body in written.values()} == sent
    assert written.keys() == rows_by_key(live).keys()
    assert rows_by_key(tmp_path / "calls.jsonl") == rows_by_key(live)


def test_a_line_is_one_that_batch_engines_read(ask, batch):
    ask(["a"], Played())
    (row,) = map(json.loads, (batch / "0001.requests.jsonl").read_text().splitlines())
    assert row.keys() == {"custom_id", "method", "url", "body"}
    assert (row["method"], row["url"]) == ("POST", "/v1/chat/completions")
    # OpenAI takes ids of up to 64 characters.
    assert len(row["custom_id"]) == 64


def test_requests_are_cut_into_shards_and_equal_ones_asked_once(ask, batch):
    results, meter = ask([*RECORDS, "a"], Played())
    assert results[-1] == "re: a" and meter.answered == 5
    assert texts(batch) == {"0001": ["a", "b"], "0002": ["c", "d"], "0003": ["e"]}


def test_a_later_step_is_asked_in_a_later_round_with_the_earlier_answer(ask, batch):
    results, _ = ask(["a", "b"], Played(), work=two_steps)
    assert results == ["re: after re: a", "re: after re: b"]
    assert texts(batch) == {"0001": ["a", "b"], "0002": ["after re: a", "after re: b"]}


def test_what_is_stored_is_not_asked_and_counts_as_cached(ask, batch):
    ask(["a", "b"], Played())
    results, meter = ask(["a", "b", "c"], Played())
    assert results[2] == "re: c" and (meter.cached, meter.answered) == (2, 1)
    assert texts(batch)["0002"] == ["c"]


def test_broken_off_it_goes_on_with_the_shards_that_have_no_answers(ask, batch):
    with pytest.raises(EscError, match="out of memory"):
        ask(RECORDS, Played(breaks="0002"))
    engine = Played()
    results, meter = ask(RECORDS, engine)
    assert engine.ran == ["0002", "0003"] and len(texts(batch)) == 3
    assert results == [f"re: {record}" for record in RECORDS] and meter.answered == 5


def test_of_a_cut_answers_file_the_whole_lines_are_taken_and_the_rest_asked(ask, batch):
    with pytest.raises(EscError):
        ask(RECORDS, Played(breaks="0002"))
    answers = batch / "0001.answers.jsonl"
    answers.write_bytes(answers.read_bytes()[:-20])
    engine = Played()
    assert ask(RECORDS, engine)[0] == [f"re: {record}" for record in RECORDS]
    # What was missing is a shard of its own: nothing is asked twice.
    assert engine.ran == ["0002", "0003", "0004"] and texts(batch)["0004"] == ["b"]


def test_an_answer_without_the_last_line_break_is_whole(ask, batch):
    ask(["a"], Played())
    answers = batch / "0001.answers.jsonl"
    answers.write_bytes(answers.read_bytes().rstrip(b"\n"))
    (batch.parent / "calls.jsonl").unlink()
    engine = Played()
    assert ask(["a"], engine)[0] == ["re: a"] and engine.ran == []


def test_an_engine_that_leaves_answers_out_is_told_and_the_rest_asked_alone(ask, batch):
    class Forgets(Played):
        def line(self, key, body):
            return "" if "b" in said(body)[4:] else super().line(key, body)

    with pytest.raises(EscError, match=r"0001.answers.jsonl lacks 1 of 2 answers; .* is kept"):
        ask(["a", "b"], Forgets())
    engine = Played()
    assert ask(["a", "b"], engine)[0] == ["re: a", "re: b"]
    assert texts(batch)["0002"] == ["b"] and engine.ran == ["0002"]


def test_an_answer_nobody_asked_for_stops_with_file_line_and_id(ask, batch, tmp_path):
    with pytest.raises(EscError):
        ask(RECORDS, Played(breaks="0002"))
    stray = answer_line("f" * 64, "of another run")
    (batch / "0002.answers.jsonl").write_text(stray)
    reason = r"0002.answers.jsonl, line 1: an answer to f{64}, which 0002.requests.jsonl does not"
    with pytest.raises(EscError, match=reason):
        ask(RECORDS, Played())
    (batch / "0002.answers.jsonl").unlink()
    assert ask(RECORDS, Played())[0] == [f"re: {record}" for record in RECORDS]


@pytest.mark.parametrize(
    ("file", "line"),
    [("0001.answers.jsonl", "no answer; delete that line"),
     ("0001.requests.jsonl", "no whole request; delete 0001")],
)  # fmt: skip
def test_a_damaged_line_is_named(ask, batch, file, line):
    ask(["a", "b"], Played())
    (batch.parent / "calls.jsonl").unlink()
    damaged = batch / file
    whole = damaged.read_text().splitlines(keepends=True)
    damaged.write_text(whole[0][:-30] + "\n" + whole[1])
    with pytest.raises(EscError, match=rf"{file}, line 1: {line}"):
        ask(["a", "b"], Played())


KINDS = [
    (error_line("k", 429, "slow"), FailureKind.RATE_LIMITED),
    (error_line("k", 500, "EngineCore died"), FailureKind.SERVER_ERROR),
    (error_line("k", 400, "maximum context length is 8192 tokens"), FailureKind.TOO_LONG),
    (error_line("k", 400, "bad temperature"), FailureKind.REFUSED),
    (answer_line("k", None), FailureKind.EMPTY),
    ('{"custom_id": "k", "response": null, "error": {"code": "batch_expired", "message": "x"}}',
     FailureKind.TIMEOUT),
    ('{"custom_id": "k", "response": {"status_code": 200, "body": {}}}', FailureKind.BAD_ANSWER),
    ('{"custom_id": "k", "error": "no such thing"}', FailureKind.BAD_ANSWER),
    ('{"custom_id": "k", "response": {"status_code": 429, "body": {"error": {"message": "m"}}}}',
     FailureKind.RATE_LIMITED),
]  # fmt: skip


@pytest.mark.parametrize(("line", "kind"), KINDS)
def test_a_line_without_an_answer_is_the_failure_a_live_request_has(line, kind):
    failure = outcome_of(json.loads(line))
    assert isinstance(failure, Failure) and failure.kind is kind and failure.message


@pytest.mark.parametrize("status", [401, 402, 403, 404])
def test_what_every_request_would_meet_stops_the_run(status):
    with pytest.raises(RunStopped, match="no such model"):
        outcome_of(json.loads(error_line("k", status, "no such model")))


def test_a_failed_line_fails_its_record_alone_and_is_asked_again(ask, batch, tmp_path):
    def say(body):
        text = said(body)
        return (lambda key: error_line(key, 500, "died")) if text == "re: b" else text

    results, meter = ask(["a", "b"], Played(say))
    assert results[0] == "re: a" and results[1].kind is FailureKind.SERVER_ERROR
    assert (meter.answered, meter.failed) == (1, 1)
    assert len(rows_by_key(tmp_path / "calls.jsonl")) == 1
    engine = Played()
    assert ask(["a", "b"], engine)[0] == ["re: a", "re: b"] and texts(batch)["0002"] == ["b"]


def test_what_stops_a_run_stops_it_when_all_answers_are_stored_and_not_the_next_run(ask, batch):
    def say(body):
        text = said(body)
        return (lambda key: error_line(key, 404, "no such model")) if text == "re: a" else text

    with pytest.raises(RunStopped, match=r"0001.answers.jsonl: no such model"):
        ask(RECORDS, Played(say))
    assert len(rows_by_key(batch.parent / "calls.jsonl")) == 4
    engine = Played()
    assert ask(RECORDS, engine)[0] == [f"re: {record}" for record in RECORDS]
    assert engine.ran == ["0004"] and texts(batch)["0004"] == ["a"]


def test_an_engine_that_ignored_a_constraint_can_be_changed_for_another(ask):
    asked = [call("a", constraint=Choice(("yes", "no")))]
    with pytest.raises(RunStopped, match="ignores the constraint"):
        ask(asked, Played(lambda body: "perhaps"))
    assert ask(asked, Played(lambda body: "yes"))[0] == ["yes"]


def test_no_request_is_run_in_two_shards(ask, batch):
    with pytest.raises(EscError):
        ask(["a", "b", "c"], Played(breaks="0001"), size=3)
    with pytest.raises(EscError):
        ask(["a", "b"], Played(breaks="0002"), size=3)
    engine = Played()
    assert ask(["a", "b", "c"], engine, size=3)[0] == ["re: a", "re: b", "re: c"]
    assert engine.ran == ["0001"]


def test_shards_are_numbered_beyond_four_digits(ask, batch):
    batch.mkdir()
    for name in ("9999", "10000", "0001-copy"):
        (batch / f"{name}.requests.jsonl").write_text('{"custom_id": "other"}\n')
    engine = Played()
    assert ask(["a"], engine)[0] == ["re: a"] and engine.ran == ["10001"]


def test_answers_brought_by_others_are_taken_and_what_is_missing_awaited(ask, batch):
    class Written(Played):
        def run(self, shards, pending):
            raise Waiting("run them")

    with pytest.raises(Waiting, match="run them"):
        ask(["a", "b"], Written())
    with pytest.raises(Waiting, match="bring answers"):
        ask(["a", "b"], Played(writes=False))
    assert play(batch, said) == 1
    assert ask(["a", "b"], Played(writes=False))[0] == ["re: a", "re: b"]


def test_a_failure_that_was_brought_waits_for_the_shard_that_asks_again(ask, batch):
    class Written(Played):
        def run(self, shards, pending):
            raise Waiting("run them")

    with pytest.raises(Waiting):
        ask(["a"], Written())
    (key,) = requests(batch / "0001.requests.jsonl")
    (batch / "0001.answers.jsonl").write_text(error_line(key, 500, "died"))
    (failed,) = ask(["a"], Played(writes=False))[0]
    assert failed.kind is FailureKind.SERVER_ERROR
    with pytest.raises(Waiting):
        ask(["a"], Written())
    with pytest.raises(Waiting):
        ask(["a"], Played(writes=False))
    play(batch, said)
    assert ask(["a"], Played(writes=False))[0] == ["re: a"]


def test_a_planners_distribution_is_null_as_where_a_server_offers_none(ask, batch):
    async def work(asks, record):
        chat = (Message("user", record),)
        return await asks.ask(Scoring(record, "distribution", "m", chat, ("x", "y")))

    assert ask(["a"], Played(), work=work)[0] == [None] and texts(batch) == {}


@pytest.mark.parametrize("constraint", [Choice(("yes", "no")), Regex(r"\[(yes|no)\] .+")])
def test_an_engine_that_ignores_a_constraint_is_stopped(ask, constraint):
    with pytest.raises(EscError, match="ignores the constraint; use DECODE=free"):
        ask([call("a", constraint=constraint)], Played(lambda body: "perhaps"))


def test_an_answer_within_its_constraint_or_cut_is_kept(ask):
    calls = [call(name, constraint=Choice(("yes", "no"))) for name in "ab"]

    def say(body):
        cut = body["messages"][-1]["content"] == "b"
        return (lambda key: answer_line(key, "y", "length")) if cut else "yes"

    assert ask(calls, Played(say))[0] == ["yes", "y"]


def test_a_choice_is_kept_to_the_usual_tokens_of_its_options(model):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    fields = choice_fields("smollm2-135m", ("Question", "Reflection of feelings"))
    told = tokenizer.convert_ids_to_tokens(fields["allowed_token_ids"])
    assert {"Question", "<|im_end|>"} <= set(told) and "I" not in told
    for name in ("Question", "Reflection of feelings"):
        ids = tokenizer(name, add_special_tokens=False)["input_ids"]
        assert set(ids) <= set(fields["allowed_token_ids"])


def test_an_answer_without_text_is_paid_for(ask):
    budget = Budget(Price(0.0, 1e6))
    silent = Played(lambda body: lambda key: answer_line(key, None, "length"))
    (failed,), meter = ask(["a"], silent, budget=budget)
    assert (failed.kind, budget.spent) == (FailureKind.EMPTY, 5.0)
    assert (meter.failed, meter.completion_tokens) == (1, 5)


def test_a_choice_made_after_thinking_keeps_its_constraint(ask):
    choice = call("a", constraint=Choice(("Question", "Others")))
    (text,), _ = ask([choice], Played(lambda body: "<think>Or?</think>\n\nOthers"))
    assert text == "Others"


def test_a_form_that_is_checked_in_any_case_stops_no_run(ask):
    number = call("a", constraint=Regex("[0-5]", hint=True))
    assert ask([number], Played(lambda body: "about 4"))[0] == ["about 4"]
