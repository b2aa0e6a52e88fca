import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from esc.paths import ROOT

SCRIPT = Path(__file__).with_name("forty_records.py")
RECORDS, IN_FLIGHT = 40, 4


def start(server, cache):
    command = [sys.executable, str(SCRIPT), server.url, str(cache)]
    return subprocess.Popen(
        command, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE
    )


def stop_half_way(server, cache, with_signal):
    """The records on disk after a run that was ended in its middle."""
    process = start(server, cache)
    until = time.monotonic() + 20
    while len(server.chats()) < RECORDS // 2:
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.002)
    process.send_signal(with_signal)
    process.communicate(timeout=20)
    assert process.returncode != 0
    return stored(cache)


def finish(server, cache):
    process = start(server, cache)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 0, said.decode()
    return stored(cache)


def stored(cache):
    """(record, answer) of every whole line."""
    lines = cache.read_text().split("\n")[1:-1]
    return [(row["record"], row["answer"]["text"]) for row in map(json.loads, lines)]


@pytest.mark.parametrize("with_signal", [signal.SIGKILL, signal.SIGINT], ids=["kill", "ctrl-c"])
def test_a_stopped_run_goes_on_where_it_was(server, second_server, tmp_path, with_signal):
    server.delay = 0.03
    cache = tmp_path / "calls.jsonl"
    before = stop_half_way(server, cache, with_signal)
    assert RECORDS // 2 - IN_FLIGHT <= len(before) < RECORDS
    sent = len(server.chats())

    after = finish(server, cache)
    undisturbed = finish(second_server, tmp_path / "undisturbed.jsonl")
    assert sorted(after) == sorted(undisturbed) and len(dict(after)) == len(after) == RECORDS
    assert after[: len(before)] == before
    assert len(server.chats()) <= RECORDS + IN_FLIGHT
    asked_again = {request.asked for request in server.chats()[sent:]}
    assert not asked_again & dict(before).keys()
