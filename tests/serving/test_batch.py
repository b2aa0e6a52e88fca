"""What runs a shard: vLLM's batch runner and its end, and a service that is paid once."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from batches import BatchService, answer_line
from faulty_server import Fault, refusal

from esc import llm_batch, paths
from esc.files import EscError, Waiting
from esc.llm import Cache, Constraint, Generation, Meter, Price, Reason, RunStopped, Sampling
from esc.llm_batch import ANSWERS, REQUESTS, STATE, BatchChat, Shard
from esc.prompts import Message
from serving import batch

MODEL = "smollm2-135m"


@pytest.fixture
def shard(tmp_path):
    shard = Shard(tmp_path, 1)
    shard.path(REQUESTS).write_text('{"custom_id": "k"}\n')
    return shard


@pytest.fixture
def root(tmp_path):
    """Leave a shell program that finds ``-i REQUESTS -o ANSWERS`` in $2 and $4 as the engine."""

    def leave(program):
        python = tmp_path / "root" / ".venv-serve" / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.write_text(f"#!/bin/sh\nshift 2\n{program}\n")
        python.chmod(0o755)
        (python.parents[1] / ".ready").write_text("cpu\n")
        return tmp_path / "root"

    return leave


ENGINES = {
    "whole": ('[ "$1 $3" = "-i -o" ] && cp "$2" "$4"', ""),
    "fails": (
        "echo half > $4; echo 'ValueError: no such thing' >&2; exit 1",
        r"0001.requests.jsonl was not run: ValueError: no such thing \(log: .*0001.log\)",
    ),
    "killed": (
        "echo half > $4; kill -9 $$",
        "was killed, as a system does that runs out of memory",
    ),
}


@pytest.mark.parametrize(("program", "reason"), ENGINES.values(), ids=ENGINES)
def test_answers_appear_when_all_are_there_or_one_line_says_why_not(shard, root, program, reason):
    where = root(program)
    if reason:
        with pytest.raises(EscError, match=reason):
            batch.by_vllm(shard, [], ray=False, root=where)
    else:
        batch.by_vllm(shard, [], ray=False, root=where)
        assert shard.path(ANSWERS).read_text() == shard.path(REQUESTS).read_text()
    left = sorted(path.name for path in shard.folder.iterdir() if path.is_file())
    assert left == ["0001.answers.jsonl"] * (not reason) + ["0001.log", "0001.requests.jsonl"]


def wait_for(true):
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_the_engine_ends_with_the_process_that_waits_for_it(root, shard, tmp_path):
    """What started it may be killed, in a shell's background too, where Ctrl-C is ignored."""
    mark = tmp_path / "pid"
    mark.write_text("")
    code = (
        "from pathlib import Path\nfrom esc.llm_batch import Shard\nfrom serving import batch\n"
        f"batch.server.end_with_input(); shard = Shard(Path('{tmp_path}'), 1)\n"
        f"root = Path('{root(f'echo $$ > {mark}; sleep 60 & wait')}')\n"
        "batch.by_vllm(shard, [], ray=False, root=root)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=paths.ROOT,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    ) as runner:
        wait_for(mark.read_text)
        os.kill(int(mark.read_text()), signal.SIGCONT)
    assert runner.returncode
    with pytest.raises(ProcessLookupError):
        os.kill(int(mark.read_text()), signal.SIGCONT)


@pytest.fixture
def service(monkeypatch):
    monkeypatch.setattr(batch, "POLL_SECONDS", 0.02)
    with BatchService() as service:
        yield service


RECORDS = [*"abc"]


@pytest.fixture
def ask(service, tmp_path, monkeypatch):
    """The results of a new process's run at the service, in its own process."""

    def at_service(engine, model, work, urls, shards):
        batch.by_service(shards, urls[0])

    def run(records=RECORDS, meter=None, engine="openai", **more):
        async def work(asks, record):
            chat = (Message("user", record),)
            call = Generation(record, "judge", "gpt", chat, Sampling(5), **more)
            return (await asks.ask(call)).text

        shared = Cache(tmp_path / "calls.jsonl"), {}, meter or Meter()
        of = {"folder": tmp_path / "batch", "model": MODEL, "work": tmp_path}
        chat = BatchChat(*shared, **of, urls=[service.url], engine=engine, size=2)
        return chat.rounds(records, work)

    monkeypatch.setattr(llm_batch, "run", at_service)
    return run


def test_every_shard_becomes_a_batch_whose_answers_are_stored(ask, service, tmp_path):
    service.url += "?api-version=2024-10-21"
    schema = Constraint(schema='{"type":"object"}', hint=True)
    for _ in range(2):
        assert ask(constraint=schema) == RECORDS and len(service.batches) == 2
    first = service.batches["batch_0"]
    assert (first["endpoint"], first["completion_window"]) == ("/v1/chat/completions", "24h")
    sent = service.files["file-0"]
    assert sent == Shard(tmp_path / "batch", 1).path(REQUESTS).read_bytes()
    assert json.loads(sent.splitlines()[0])["body"]["response_format"]["type"] == "json_schema"
    assert all("?api-version=2024-10-21" in request.path for request in service.log)
    with pytest.raises(RunStopped, match=r"does not know the constraint"):
        ask(constraint=Constraint(choice=("yes", "no")))


def test_a_batch_whose_making_was_answered_to_nobody_is_found_and_not_made_again(ask, service):
    service.drop = "POST /v1/batches"
    with pytest.raises(EscError, match="not made again: the same command goes on"):
        ask()
    assert len(service.batches) == 1
    # One for each of the two shards.
    assert ask() == RECORDS and len(service.batches) == 2


def test_a_failed_batch_says_why_when_the_others_have_ended_and_is_made_anew(
    ask, service, tmp_path
):
    service.ends = {"batch_0": "failed"}
    with pytest.raises(EscError, match=r"batch_0 of .*0001.* failed: token limit of the organ"):
        ask()
    assert Shard(tmp_path / "batch", 2).path(ANSWERS).is_file()
    assert ask() == RECORDS and len(service.batches) == 3


def test_what_expired_fails_alone_and_only_it_is_asked_again(ask, service):
    service.ends = {"batch_0": "expired"}
    answered, late = ask(["a", "b"])
    assert answered == "a" and late.kind is Reason.TIMEOUT
    assert ask(["a", "b"]) == ["a", "b"]
    again = service.files[service.batches["batch_1"]["input_file_id"]].splitlines()
    assert [json.loads(row)["body"]["messages"][-1]["content"] for row in again] == ["b"]


def test_who_is_no_service_or_refuses_is_told_in_one_line_without_the_key(
    ask, service, monkeypatch
):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    monkeypatch.setenv("VLLM_API_KEY", "own-key")
    service.refuse = {"GET": Fault(body=b"<html>")}
    with pytest.raises(EscError, match="answers no JSON; a base URL mostly ends in /v1"):
        ask()
    service.refuse = {"POST /v1/batches": refusal(400, "billing limit of own-key")}
    with pytest.raises(EscError, match=r"400 .*billing limit.*the same command goes on") as told:
        ask()
    assert "own-key" not in str(told.value)
    # A key for https does not go to plain http.
    assert {request.headers["authorization"] for request in service.log} == {"Bearer own-key"}
    service.refuse = {}
    assert ask() == RECORDS and len(service.batches) == 2


def test_nothing_is_sent_that_could_pass_the_limit_and_what_was_sent_is_taken_in(ask, service):
    def limited():
        # A request of five tokens costs 500 units at the most.
        return Meter(Price(0.0, 100.0), limit=0.001)

    with pytest.raises(Waiting):
        ask(engine="write")
    with pytest.raises(RunStopped, match=r"the 3 new requests could pass MAX_COST=0.001"):
        ask(meter=limited())
    assert not service.files and not service.batches
    service.refuse = {"GET /v1/batches/": refusal(400, "maintenance")}
    with pytest.raises(EscError):
        ask()
    service.refuse = {}
    # A batch of which only a part is asked any more is waited for, too.
    assert ask(["a"], meter=limited()) == ["a"] and len(service.batches) == 2


def test_killed_while_it_waits_the_next_run_pays_for_nothing_again(service, tmp_path):
    """The whole way: the asking process is killed, and the one that looks at the batch ends."""
    service.looks = 10**9
    code = (
        "import sys; from pathlib import Path\n"
        "from esc.llm_batch import Shard, run\n"
        f"shards = [Shard(Path('{tmp_path}'), n) for n in (1, 2)]\n"
        f"run('openai', '{MODEL}', Path(), ['{service.url}'], shards)\n"
    )
    shards = [Shard(tmp_path, number) for number in (1, 2)]
    for shard in shards:
        body = {"messages": [{"content": f"hello {shard.number}"}]}
        line = json.dumps({"custom_id": str(shard.number), "body": body})
        shard.path(REQUESTS).write_text(line + "\n")
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, cwd=paths.ROOT) as killed:
        wait_for(lambda: len(service.batches) == 2 and service.batches["batch_1"]["looks"])
        killed.send_signal(signal.SIGKILL)
    service.looks = 1
    subprocess.run(command, cwd=paths.ROOT, check=True)
    said = [shard.path(ANSWERS).read_text() for shard in shards]
    assert said == [answer_line(str(number), f"hello {number}") for number in (1, 2)]
    assert len(service.batches) == 2 and sum(name.startswith("file") for name in service.files) == 2
    assert json.loads(shards[0].path(STATE).read_text())["batch"] == "batch_0"
