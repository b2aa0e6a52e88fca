"""The server's command, what stops it from starting, and which one answers."""

import os
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path

import psutil
import pytest
from trained import MODEL

from esc import adapters, backbones, files, paths, policy_server, serving_environment
from esc.files import EscError
from esc.policy_server import State
from esc.serving_environment import PYTHON, READY
from serving import batch, server


def adapter(folder, rank):
    files.write_json(folder / adapters.CONFIG, {"r": rank})
    (folder / adapters.WEIGHTS).write_bytes(b"weights")
    return folder


@pytest.fixture
def flags(tmp_path, monkeypatch):
    monkeypatch.setattr(adapters, "of", lambda *_: "template")

    def call(found=(), *, model="qwen2.5-7b", kind="gpu", extra=""):
        return server.flags(backbones.get(model), dict(found), tmp_path, kind, extra)

    return call


def value(words, flag):
    return words[words.index(flag) + 1]


def test_every_adapter_is_in_the_command_with_room_for_the_largest(flags, tmp_path):
    found = {"sp-sft": adapter(tmp_path / "a", 16), "sp-dpo": adapter(tmp_path / "b", 32)}
    words = flags(found)
    assert value(words, "--max-lora-rank") == "32" and value(words, "--max-loras") == "2"
    at = words.index("--lora-modules")
    assert words[at + 1 : at + 3] == [f"sp-sft={tmp_path / 'a'}", f"sp-dpo={tmp_path / 'b'}"]
    assert Path(value(words, "--chat-template")).read_text() == "template"
    bare = flags()
    assert "--enable-lora" not in bare and value(bare, "--served-model-name") == "base"


def test_a_model_for_several_gpus_is_shared_out_unless_the_user_says_otherwise(flags):
    words = flags(model="qwen2.5-72b", extra="--tensor-parallel-size 2 --data-parallel-size 2")
    assert words[-6:-2] == ["--tensor-parallel-size", "8", "--tensor-parallel-size", "2"]
    assert "--tensor-parallel-size" not in flags() + flags(model="qwen2.5-72b", kind="cpu")


def test_every_card_has_a_copy_of_a_model_that_one_can_hold(flags, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(serving_environment, "gpus", lambda: ["A card, 80 GB"] * 4)
    assert value(flags(), "--data-parallel-size") == "4"
    assert "--data-parallel-size" not in flags(kind="cpu") + flags(model="qwen2.5-72b")
    for own in ("-tp 4", "--pipeline_parallel_size=2"):
        assert "--data-parallel-size" not in flags(extra=own)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    assert value(flags(), "--data-parallel-size") == "2"
    # vLLM takes the last of a flag given twice.
    assert flags(extra="--data-parallel-size 2")[-2:] == ["--data-parallel-size", "2"]


@pytest.mark.parametrize(
    ("extra", "told"),
    [
        ("--port 9", "SERVE_ARGS cannot set --port"),
        ("--served_model_name=x", "SERVE_ARGS cannot set --served-model-name"),
        ("--hf-overrides '{", "SERVE_ARGS: no closing quotation"),
        ("--api_key hunter2", "VLLM_API_KEY in the environment"),
    ],
)
def test_flags_the_kit_sets_and_a_key_are_refused(flags, extra, told):
    with pytest.raises(EscError, match=told) as caught:
        flags(extra=extra)
    assert "hunter2" not in str(caught.value)


def test_what_the_user_set_for_vllm_stays(monkeypatch):
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "40")
    given = server.environment("cpu")
    assert given["VLLM_CPU_KVCACHE_SPACE"] == "40" and given["VLLM_CPU_NUM_OF_RESERVED_CPU"] == "0"


PARSED = """
import sys
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser
given = make_arg_parser(FlexibleArgumentParser()).parse_args(sys.argv[1:])
print(given.tensor_parallel_size, given.data_parallel_size, given.max_lora_rank,
      [(one.name, one.path) for one in given.lora_modules])
"""


@pytest.mark.slow
def test_vllm_itself_parses_the_gpu_command(flags, run, tmp_path):
    spread = "--tensor-parallel-size 2 --data-parallel-size 2 --gpu-memory-utilization 0.8"
    words = flags({"sp-sft": adapter(tmp_path / "a", 16)}, extra=spread)
    shown = run(str(paths.ROOT / PYTHON), "-c", PARSED, *words)
    assert shown.returncode == 0, shown.stderr[-2000:]
    assert shown.stdout.splitlines()[-1] == f"2 2 16 [('sp-sft', '{tmp_path / 'a'}')]"


@pytest.fixture
def start(tmp_path, flags):
    """Start where the serving environment's python is this one: enough to get to the start."""
    python = tmp_path / PYTHON
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    (tmp_path / READY).write_text("cpu\n")
    return lambda port=0, root=tmp_path: server.start(MODEL, tmp_path, root=root, port=port)


def test_what_stops_it_from_starting_is_one_line(tmp_path, start, monkeypatch):
    with pytest.raises(EscError, match="make setup-serve installs it"):
        start(root=tmp_path / "elsewhere")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(EscError, match=rf"127.0.0.1:{port}: .*PORT=N"):
            start(port)
    # This environment has no vLLM.
    with pytest.raises(EscError, match=r"vLLM stopped: .*ModuleNotFoundError.*log: .*server.log"):
        start()
    assert not (tmp_path / paths.server(MODEL) / policy_server.STATE).exists()
    folder = adapter(tmp_path / paths.adapter(MODEL, "sp", "sft"), 16)
    (folder / "run.json").write_text("{}")
    (folder / adapters.FILE).write_text("{{ messages }}")
    with pytest.raises(EscError, match="sp_sft was trained with another chat template"):
        start()
    monkeypatch.setattr(server, "gpus", lambda: ["A card, 80 GB"])
    with pytest.raises(EscError, match="make setup-serve KIND=gpu"):
        start()


ENGINE = "(EngineCore pid=7) ERROR 01-02 03:04:05 [core.py:9] "
WORKER = "(VllmWorker-0 pid=8) ERROR 01-02 03:04:05 [multiproc_executor.py:9] "
LOGS = {
    "ValueError: No room for the cache": [
        "(APIServer pid=6) WARNING 01-02 03:04:05 [utils.py:1] errors like `OSError: [Errno 24]`",
        f"{ENGINE}    raise ValueError(",
        f"{ENGINE}ValueError: No room for the cache",
        "Process EngineCore:",
    ],
    "torch.OutOfMemoryError: No room": [
        f"{WORKER}torch.OutOfMemoryError: No room",
        f"{ENGINE}Exception: WorkerProc initialization failed; see stack trace for root cause.",
    ],
}


@pytest.mark.parametrize(("told", "lines"), LOGS.items())
def test_an_engine_or_its_worker_that_dies_at_start_is_told_with_its_own_reason(
    tmp_path, told, lines
):
    log = tmp_path / "server.log"
    died = "RuntimeError: Engine core initialization failed. See root cause above."
    # However long what follows the reason is.
    log.write_text("\n".join([*lines, *["  File x, line 1"] * 500, died]) + "\n")
    assert server.reason(log) == told
    log.write_text("one\nKilled\n\n")
    assert server.reason(log) == "Killed"


@pytest.fixture
def pretend(tmp_path):
    """Leave a process as the server of a WORK folder."""

    def leave(pid, held=(), *, ready=True, model=MODEL, later=0.0):
        begun = psutil.Process(pid).create_time() - later
        state = State(pid, begun, "http://127.0.0.1:1/v1", dict(held), "127.0.0.1:8000", ready)
        files.write_json(tmp_path / paths.server(model) / policy_server.STATE, asdict(state))

    return leave


@pytest.fixture
def sleeper():
    """Start processes that do nothing, with these words on their command lines."""
    with ExitStack() as stack:

        def call(*words):
            command = [sys.executable, "-c", "import time; time.sleep(60)", *words]
            process = stack.enter_context(subprocess.Popen(command))
            stack.callback(process.kill)
            return process

        yield call


def test_a_server_is_seen_to_be_healthy_past_a_proxy(monkeypatch, tmp_path, sleeper):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    (tmp_path / "health").touch()
    handler = partial(SimpleHTTPRequestHandler, directory=tmp_path)
    with HTTPServer(("127.0.0.1", 0), handler) as healthy:
        threading.Thread(target=healthy.handle_request, daemon=True).start()
        server._wait_healthy(sleeper(), f"http://127.0.0.1:{healthy.server_port}", tmp_path)


def test_stop_ends_that_process_only(tmp_path, pretend, sleeper):
    ours, other = sleeper(), sleeper()
    # Its pid now belongs to another process.
    pretend(other.pid, later=3600)
    assert server.stop(MODEL, tmp_path) is None
    pretend(ours.pid)
    assert server.stop(MODEL, tmp_path).pid == ours.pid
    assert not psutil.pid_exists(ours.pid) and other.poll() is None
    assert server.stop(MODEL, tmp_path) is None


def test_the_running_server_is_asked_where_it_is_up_and_has_the_weights(tmp_path, pretend, start):
    def asked(weights, given=None):
        return policy_server.servers(MODEL, tmp_path, given, weights)

    pretend(os.getpid(), {"sp-sft": "old"})
    assert asked({"sp-sft": "old"}) == ["http://127.0.0.1:1/v1"]
    with pytest.raises(EscError, match="older weights of sp-sft; make stop serve WORK="):
        asked({"sp-sft": "new"})
    # Other servers are asked whatever runs here.
    given = "http://a:1/v1,http://b:2/v1"
    assert asked({"sp-sft": "new"}, given) == ["http://a:1/v1", "http://b:2/v1"]
    with pytest.raises(EscError, match=r"for 127\.0\.0\.1:8000 runs already at .*; make stop"):
        start(9001)
    pretend(os.getpid(), ready=False)
    with pytest.raises(EscError, match="still loading"):
        asked({})


@pytest.mark.parametrize(
    "words",
    [("-m", policy_server.PROGRAM), ("-m", policy_server.BATCH_PROGRAM), (str(batch.IN_RAY),)],
)
def test_training_is_refused_beside_a_server_or_batch(words, tmp_path, pretend, sleeper):
    pretended, deadline = sleeper(*words), time.monotonic() + 10
    while pretended.pid not in policy_server.on_this_machine():
        assert time.monotonic() < deadline
    assert "'make stop', with the MODEL and WORK" in policy_server.beside_training(tmp_path)
    pretend(os.getpid(), model="qwen2.5-7b")
    told = policy_server.beside_training(tmp_path)
    assert f"make stop MODEL=qwen2.5-7b WORK={tmp_path} frees it" in told
