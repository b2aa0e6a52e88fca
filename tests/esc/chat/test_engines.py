"""The engines of one's own machines: who is started, what is told when one stops."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from batches import answer_line

from esc.exceptions import EscError, Waiting
from esc.llm import Budget, Generation, Sampling
from esc.llm_batch import Batch, Local, Shard, engine_of, request_line
from esc.prompts import Message

MODEL = "smollm2-135m"


@pytest.fixture
def shards(tmp_path):
    made = []
    for name in ("0001", "0002"):
        path = tmp_path / f"{name}.requests.jsonl"
        line = str(request_line(name, {})).replace("'", '"')
        path.write_text(line + "\n")
        made.append(Shard(path))
    return made


PENDING = {
    name: Generation(name, "reply", "base", (Message("user", "x"),), Sampling(5))
    for name in ("0001", "0002")
}


class Scripted(Local):
    """Starts a Python program instead of `serving run-batch`."""

    def _step(self, *words):
        return [sys.executable, "-c", os.environ["PROGRAM"], *words]


@pytest.fixture
def run(shards, monkeypatch, tmp_path):
    def call(program):
        monkeypatch.setenv("PROGRAM", program)
        Scripted(Batch("vllm", 10, MODEL, tmp_path)).run(shards, PENDING)

    return call


def test_every_shard_is_run_by_the_engine_that_was_named(run, shards):
    run(
        "import sys; from pathlib import Path; path = Path(sys.argv[4])\n"
        "path.with_name(path.name.replace('requests', 'answers')).write_text(str(sys.argv[1:4]))"
    )
    for shard in shards:
        assert shard.answers.read_text() == "['--engine', 'vllm', '--requests']"


def test_where_one_stops_its_line_says_why_and_what_is_kept(run, shards):
    shards[0].answers.write_text(answer_line("0001", "x"))
    reason = (
        r"^shard 0002 was not run: the engine was killed; 1 of 2 shards of this round are answered "
        r"and kept, the same command goes on$"
    )
    with pytest.raises(EscError, match=reason):
        run(
            "import sys\nif '0002' in sys.argv[4]:\n"
            "    print('noise', file=sys.stderr); sys.exit('error: the engine was killed')"
        )


def test_killed_itself_it_closes_what_its_runner_waits_for(shards, tmp_path):
    mark = tmp_path / "ended"
    program = (
        "import sys; from pathlib import Path\n"
        f"Path('{mark}.begun').touch(); sys.stdin.read(); Path('{mark}').touch()"
    )
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\nimport test_engines as here\n"
        f"from pathlib import Path; from esc.llm_batch import Shard\n"
        f"batch = here.Batch('vllm', 1, here.MODEL, Path('{tmp_path}'))\n"
        f"here.Scripted(batch).run([Shard(Path('{shards[0].requests}'))], here.PENDING)"
    )
    here = Path(__file__).parent
    environment = os.environ | {"PROGRAM": program, "PYTHONPATH": str(here.parents[1])}
    command = [sys.executable, "-c", code, str(here)]
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as killed:
        wait_for(Path(f"{mark}.begun"))
        killed.send_signal(signal.SIGKILL)
    wait_for(mark)


def wait_for(path):
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_batches_at_a_service_need_its_address(tmp_path):
    with pytest.raises(EscError, match="BATCH=openai asks a hosted model"):
        engine_of(Batch("openai", 1, MODEL, tmp_path), [], Budget())


def test_more_requests_than_a_batch_takes_are_refused_before_a_shard_is_written(tmp_path):
    with pytest.raises(EscError, match="a batch takes 50,000 requests, not SHARD=60,000"):
        engine_of(Batch("openai", 60_000, MODEL, tmp_path), ["http://127.0.0.1:1/v1"], Budget())


@pytest.mark.parametrize("engine", ["vllm", "ray"])
def test_another_servers_models_are_not_taken_for_this_works(engine, shards, tmp_path):
    local = engine_of(Batch(engine, 1, MODEL, tmp_path), ["http://big-box:8000/v1"], Budget())
    with pytest.raises(EscError, match=r"runs this WORK's own models here, and http://big-box"):
        local.run(shards, PENDING)


def test_what_a_service_has_is_not_asked_to_be_brought(shards, tmp_path):
    shards[0].beside(".batch.json").write_text("{}")
    read = engine_of(Batch("read", 1, MODEL, tmp_path), [], Budget())
    more = PENDING | {"0003": PENDING["0001"]}
    reason = (
        r"1 requests of 1 shards .*\(0002 in .*bring their answers.*; 1 requests .*\(0001 in .*"
        r"BATCH=openai fetches.*; 1 requests are in no open shard"
    )
    with pytest.raises(Waiting, match=reason):
        read.run(shards, more)
