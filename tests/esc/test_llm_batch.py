"""Batch files: what is asked through them, what is taken in again, and what is not."""

import json

import pytest
from batches import answer_line, error_line, play, requests

from esc import llm_batch
from esc.files import EscError, Waiting
from esc.llm import Cache, Constraint, Generation, Meter, Price, Reason, RunStopped, Sampling
from esc.llm_batch import BatchChat
from esc.prompts import Message

MODEL = "smollm2-135m"
RECORDS = [*"abcde"]
REPLIES = [f"re: {record}" for record in RECORDS]


def call(record, **more):
    chat = (Message("system", "Be kind."), Message("user", record))
    return Generation(record, "reply", "base", chat, Sampling(5), **more)


async def one_reply(asks, record):
    """A record is the seeker's words, or a whole call."""
    return (await asks.ask(call(record) if isinstance(record, str) else record)).text


async def two_steps(asks, record):
    return await one_reply(asks, f"after {await one_reply(asks, record)}")


def said(body):
    return f"re: {body['messages'][-1]['content']}"


def but_b(line):
    """What an engine says that leaves ``line`` for b, with its key."""
    return lambda body: line if said(body) == "re: b" else said(body)


@pytest.fixture
def ask(tmp_path, monkeypatch):
    """The results of a new process's run, its meter and the numbers of the shards that ran.

    ``say`` gives the text of an answer, or the line of it; ``breaks`` is the shard that the engine
    stops at.
    """

    def run(records, say=said, *, work=one_reply, engine="vllm", breaks=0, price=None):
        ran = []

        def played(engine, model, work, urls, shards):
            for shard in shards:
                if shard.number == breaks:
                    raise EscError("out of memory")
                ran.append(shard.number)
                lines = []
                for key, body in requests(shard.path(llm_batch.REQUESTS)).items():
                    line = say(body)
                    is_line = line.endswith("\n")
                    lines += line.replace('"k"', f'"{key}"') if is_line else answer_line(key, line)
                shard.path(llm_batch.ANSWERS).write_text("".join(lines).lstrip("\n"))

        monkeypatch.setattr(llm_batch, "run", played)
        shared = Cache(tmp_path / "calls.jsonl"), {"base": "w1"}, Meter(price)
        of = {"folder": tmp_path / "batch", "model": MODEL, "work": tmp_path}
        chat = BatchChat(*shared, **of, urls=(), engine=engine, size=2)
        return chat.rounds(records, work), chat.meter, ran

    return run


@pytest.fixture
def batch(tmp_path):
    return tmp_path / "batch"


def texts(batch):
    """What every shard asks, by its number."""
    return {
        int(path.name[:4]): [body["messages"][-1]["content"] for body in requests(path).values()]
        for path in sorted(batch.glob("*.requests.jsonl"))
    }


def test_requests_are_lines_of_the_batch_api_in_shards_and_each_is_asked_once(ask, batch):
    results, meter, _ = ask([*RECORDS[:4], "a"])
    assert results == [*REPLIES[:4], "re: a"] and (meter.answered, meter.cached) == (4, 0)
    row = json.loads((batch / "0001.requests.jsonl").read_text().splitlines()[0])
    assert (row["method"], row["url"]) == ("POST", "/v1/chat/completions")
    # OpenAI takes ids of up to 64 characters.
    assert len(row["custom_id"]) == 64 and row["body"] == call("a").body()
    results, meter, _ = ask(RECORDS)
    assert results == REPLIES and (meter.answered, meter.cached) == (1, 4)
    assert texts(batch) == {1: ["a", "b"], 2: ["c", "d"], 3: ["e"]}


def test_a_later_step_is_asked_in_a_later_round_with_the_earlier_answer(ask, batch):
    assert ask(["a", "b"], work=two_steps)[0] == ["re: after re: a", "re: after re: b"]
    assert texts(batch) == {1: ["a", "b"], 2: ["after re: a", "after re: b"]}


def test_broken_off_it_goes_on_with_the_shards_that_have_no_answers(ask, batch):
    with pytest.raises(EscError, match="out of memory"):
        ask(RECORDS, breaks=2)
    answers = batch / "0001.answers.jsonl"
    whole = answers.read_text()
    answers.write_text("{\n")
    with pytest.raises(EscError, match=r"answers.jsonl, line 1: not JSON"):
        ask(RECORDS)
    answers.write_text(whole)
    results, meter, ran = ask(RECORDS)
    assert results == REPLIES and meter.answered == 5 and ran == [2, 3]


def test_of_a_shard_that_was_answered_in_part_the_rest_is_asked_in_another(ask, batch):
    with pytest.raises(EscError):
        ask(["a", "b"], breaks=1)
    ask(["a"])
    assert texts(batch) == {1: ["a", "b"], 2: ["a"]}
    assert ask(["a", "b"])[2] == [3] and texts(batch)[3] == ["b"]


def test_an_engine_that_leaves_answers_out_is_told_and_the_rest_asked_alone(ask, batch):
    with pytest.raises(EscError, match=r"0001.answers.jsonl lacks 1 of 2 answers; .* is kept"):
        ask(["a", "b"], but_b(answer_line("f" * 64, "to what nobody asked")))
    assert ask(["a", "b"])[0] == ["re: a", "re: b"] and texts(batch)[2] == ["b"]


LATE = {"code": "batch_expired", "message": "x"}
KINDS = {
    error_line("k", 500, "EngineCore died"): Reason.SERVER_ERROR,
    error_line("k", 400, "maximum context length is 8192 tokens"): Reason.TOO_LONG,
    error_line("k", 400, "bad temperature"): Reason.REFUSED,
    answer_line("k", None, "length"): Reason.EMPTY,
    json.dumps({"custom_id": "k", "response": None, "error": LATE}) + "\n": Reason.TIMEOUT,
    '{"custom_id": "k", "response": {"status_code": 200, "body": {}}}\n': Reason.BAD_ANSWER,
    '{"custom_id": "k", "error": "no such thing"}\n': Reason.BAD_ANSWER,
}


@pytest.mark.parametrize(("line", "kind"), KINDS.items(), ids=KINDS.values())
def test_a_line_without_an_answer_fails_its_record_alone_and_is_asked_again(ask, batch, line, kind):
    results, meter, _ = ask(["a", "b"], but_b(line), price=Price(0.0, 1e6))
    assert results[0] == "re: a" and results[1].kind is kind and results[1].message
    assert (meter.answered, meter.failed) == (1, 1)
    # An answer without text is paid for.
    assert meter.spent == (10.0 if kind is Reason.EMPTY else 5.0)
    assert ask(["a", "b"])[0] == ["re: a", "re: b"] and texts(batch)[2] == ["b"]


def test_what_every_request_would_meet_stops_the_run_and_not_the_next(ask, batch):
    with pytest.raises(RunStopped, match="refuses every request: no such"):
        ask(RECORDS, but_b(error_line("k", 404, "no such")))
    results, meter, ran = ask(RECORDS)
    assert results == REPLIES and meter.answered == 1 and texts(batch)[ran[0]] == ["b"]
    ignored = call("f", constraint=Constraint(regex="[0-5]"))
    with pytest.raises(RunStopped, match="ignores the constraint; use DECODE=free"):
        ask([ignored], lambda body: "perhaps")


def test_what_was_brought_is_taken_and_a_failure_waits_for_the_shard_that_asks_again(ask, batch):
    with pytest.raises(Waiting, match=r"(?s)1 requests in 1 shards wait in .*BATCH=read"):
        ask(["a"], engine="write")
    reason = r"1 shards .* no answers yet .*0001.*BATCH=openai fetches.*; 4 requests are in no open"
    with pytest.raises(Waiting, match=reason):
        ask(RECORDS, engine="read")
    (key,) = requests(batch / "0001.requests.jsonl")
    (batch / "0001.answers.jsonl").write_text(error_line(key, 500, "died"))
    assert ask(["a"], engine="read")[0][0].kind is Reason.SERVER_ERROR
    for engine in ("write", "read"):
        with pytest.raises(Waiting):
            ask(["a"], engine=engine)
    play(batch, said)
    assert ask(["a"], engine="read")[0] == ["re: a"]


def test_what_no_batch_file_can_ask_is_answered_as_where_no_server_offers_it(ask, batch):
    assert ask([call("a", answers=("x", "y"))])[0] == [""] and texts(batch) == {}
