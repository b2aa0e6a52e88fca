"""Batches at a service: each shard is made and paid for once, whatever breaks between."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from batch_service import BatchService

from esc import llm_batch
from esc.exceptions import EscError
from esc.llm import (
    Budget,
    Cache,
    Choice,
    FailureKind,
    Generation,
    JsonSchema,
    Meter,
    Price,
    RunStopped,
    Sampling,
)
from esc.llm_batch import Hosted, Rounds
from esc.prompts import Message

RECORDS = ["a", "b", "c"]


@pytest.fixture
def service(monkeypatch):
    monkeypatch.setattr(llm_batch, "POLL_SECONDS", 0.02)
    with BatchService() as service:
        yield service


@pytest.fixture
def ask(service, tmp_path):
    """The results of a new process's run."""

    def run(records=RECORDS, budget=None, size=2, **more):
        budget = budget or Budget()
        cache = Cache(tmp_path / "calls.jsonl", {})
        rounds = Rounds(cache, {}, Hosted(service.url, budget), size, Meter(budget))

        async def work(asks, record):
            chat = (Message("user", record),)
            call = Generation(record, "judge", "gpt", chat, Sampling(5), **more)
            return (await asks.ask(call)).text

        return rounds.ask(records, work)

    return run


def test_every_shard_becomes_a_batch_whose_answers_are_stored(ask, service, tmp_path):
    assert ask() == RECORDS
    assert len(service.batches) == 2
    first = service.batches["batch_0"]
    assert (first["endpoint"], first["completion_window"]) == ("/v1/chat/completions", "24h")
    assert service.files["file-0"] == (tmp_path / "batch" / "0001.requests.jsonl").read_bytes()
    assert ask() == RECORDS and len(service.batches) == 2


def test_a_base_url_s_query_is_sent_with_every_request(ask, service):
    service.url += "?api-version=2024-10-21"
    assert ask() == RECORDS
    assert service.queries == {"api-version=2024-10-21"}


def test_a_batch_whose_making_was_answered_to_nobody_is_found_and_not_made_again(ask, service):
    service.drop = "POST /v1/batches"
    with pytest.raises(EscError, match="not made again: the same command goes on"):
        ask()
    assert len(service.batches) == 1
    assert ask() == RECORDS
    # One for each of the two shards.
    assert len(service.batches) == 2


def test_refused_before_it_is_made_it_is_made_by_the_next_run(ask, service):
    service.refuse = {"POST /v1/batches": (400, "billing limit")}
    with pytest.raises(EscError, match=r"400: .*billing limit.*the same command goes on"):
        ask()
    service.refuse = {}
    assert ask() == RECORDS and len(service.batches) == 2


def test_a_failed_batch_says_why_and_is_made_anew(ask, service):
    service.ends = "failed"
    with pytest.raises(EscError, match="failed: token limit of the organisation"):
        ask(["a"])
    service.ends = "completed"
    assert ask(["a"]) == ["a"] and len(service.batches) == 2


def test_what_expired_fails_alone_and_only_it_is_asked_again(ask, service):
    service.ends = "expired"
    answered, late = ask(["a", "b"])
    assert answered == "a" and late.kind is FailureKind.TIMEOUT
    service.ends = "completed"
    assert ask(["a", "b"]) == ["a", "b"]
    assert len(service.files["file-0"].splitlines()) == 2
    (again,) = map(
        json.loads, service.files[service.batches["batch_1"]["input_file_id"]].splitlines()
    )
    assert again["body"]["messages"][-1]["content"] == "b"


def test_where_one_batch_fails_the_others_are_waited_for_and_kept(ask, service, tmp_path):
    service.ends_of = {"batch_0": "failed"}
    with pytest.raises(EscError, match=r"batch_0 of .*0001.*failed: token limit"):
        ask()
    assert (tmp_path / "batch" / "0002.answers.jsonl").is_file()
    assert ask() == RECORDS and len(service.batches) == 3


def test_a_server_that_is_none_is_told_in_one_line(ask, service):
    service.page = b"<html>"
    with pytest.raises(EscError, match="answers no JSON; a base URL mostly ends in /v1"):
        ask()


def test_what_was_set_aside_for_one_run_is_free_for_the_next(ask):
    # A request of five tokens costs 500 units at the most.
    budget = Budget(Price(0.0, 100.0), limit=0.0009)
    assert ask(["a"], budget=budget) == ["a"]
    budget.spent = 0.0
    assert ask(["a", "b"], budget=budget) == ["a", "b"]


def test_a_key_for_https_does_not_go_to_plain_http_and_is_in_no_message(ask, service, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    monkeypatch.setenv("VLLM_API_KEY", "own-key")
    service.refuse = {"GET /v1/batches/": (401, "wrong key own-key")}
    with pytest.raises(EscError) as told:
        ask()
    assert service.keys == {"Bearer own-key"}
    assert "own-key" not in str(told.value) and "401" in str(told.value)


def test_nothing_is_sent_that_could_pass_the_limit(ask, service):
    budget = Budget(Price(0.0, 100.0), limit=0.001)
    with pytest.raises(RunStopped, match=r"the 3 new requests could pass MAX_COST=0.001"):
        ask(budget=budget)
    assert not service.files and not service.batches


def test_what_was_sent_before_is_taken_in_whatever_the_limit(ask, service):
    service.drop = "GET /v1/batches/"
    service.refuse = {"GET /v1/batches/": (400, "maintenance")}
    with pytest.raises(EscError):
        ask()
    service.refuse = {}
    assert ask(budget=Budget(Price(0.0, 100.0), limit=0.001)) == RECORDS


def test_a_batch_of_which_a_part_was_answered_otherwise_is_waited_for(ask, service):
    service.refuse = {"GET /v1/batches/": (400, "maintenance")}
    with pytest.raises(EscError):
        ask(["a", "b"])
    service.refuse = {}
    assert ask(["a"]) == ["a"] and len(service.batches) == 1


def test_a_constraint_of_vllms_own_is_refused_and_a_schema_sent(ask, service):
    with pytest.raises(RunStopped, match=r"does not know the constraint \(Choice\)"):
        ask(constraint=Choice(("yes", "no")))
    ask(["a"], constraint=JsonSchema("v", '{"type":"object"}', hint=True))
    (row,) = map(json.loads, service.files["file-0"].splitlines())
    assert row["body"]["response_format"]["type"] == "json_schema"


RUN = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
import test_hosted_batch as here
here.run_once(sys.argv[1], Path(sys.argv[2]))
"""


def run_once(url, folder):
    """A process's run over all records; prints what it got."""
    rounds = Rounds(
        Cache(folder / "calls.jsonl", {}), {}, Hosted(url, Budget()), 2, Meter(Budget())
    )

    async def work(asks, record):
        call = Generation(record, "judge", "gpt", (Message("user", record),), Sampling(5))
        return (await asks.ask(call)).text

    print(rounds.ask(RECORDS, work))


def test_killed_while_it_waits_the_next_run_pays_for_nothing_again(service, tmp_path):
    service.looks = 10**9
    here = Path(__file__).parent
    command = [sys.executable, "-c", RUN, service.url, str(tmp_path), str(here)]
    environment = os.environ | {"PYTHONPATH": str(here.parents[1])}
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as killed:
        deadline = time.monotonic() + 60
        while len(service.batches) < 2 or not service.batches["batch_1"]["looks"]:
            assert time.monotonic() < deadline and killed.poll() is None
            time.sleep(0.02)
        killed.send_signal(signal.SIGKILL)
    service.looks = 1
    shown = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert shown.stdout.strip() == str(RECORDS), shown.stderr[-2000:]
    assert len(service.batches) == 2 and sum(name.startswith("file") for name in service.files) == 2
