"""The server's command, and what stops it from starting."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from esc import adapters, backbones, paths, policy_server
from esc.adapters import FILE
from esc.exceptions import EscError
from esc.policy_server import State
from serving import batch, server
from serving.server import Options

MODEL = "smollm2-135m"


class Healthy(HTTPServer):
    """Answers 200 to everything."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_):
            """Nothing on stderr."""

        def do_GET(self):
            self.send_response(200)
            self.end_headers()

    def __init__(self):
        super().__init__(("127.0.0.1", 0), self.Handler)

    def __enter__(self):
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()


def adapter(folder, rank):
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps({"r": rank}))
    (folder / adapters.WEIGHTS).write_bytes(b"weights")
    return folder


def built(**changes):
    settings = {
        "root": Path("/kit"), "model_path": "org/model", "template": Path("t.jinja"),
        "adapters": {}, "host": "127.0.0.1", "port": 8000, "kind": "gpu", "gpus": 1,
        "extra": "",
    }  # fmt: skip
    return server.build(**settings | changes)


def value(words, flag):
    return words[words.index(flag) + 1]


def test_every_adapter_is_in_the_command_with_room_for_the_largest(tmp_path):
    found = {"sp-sft": adapter(tmp_path / "a", 16), "sp-dpo": adapter(tmp_path / "b", 32)}
    words = built(adapters=found)
    assert value(words, "--max-lora-rank") == "32" and value(words, "--max-loras") == "2"
    at = words.index("--lora-modules")
    assert words[at + 1 : at + 3] == [f"sp-sft={tmp_path / 'a'}", f"sp-dpo={tmp_path / 'b'}"]


def test_without_adapters_the_base_is_served_alone():
    words = built()
    assert "--enable-lora" not in words and value(words, "--served-model-name") == "base"
    assert value(words, "--host") == "127.0.0.1"


def test_parallel_flags_pass_through_after_the_kits_own():
    words = built(extra="--tensor-parallel-size 4 --data-parallel-size 2")
    assert words[-4:] == ["--tensor-parallel-size", "4", "--data-parallel-size", "2"]


def test_a_model_for_several_gpus_is_shared_out_unless_the_user_says_otherwise():
    words = built(gpus=8, extra="--tensor-parallel-size 4")
    assert words[-4:] == ["--tensor-parallel-size", "8", "--tensor-parallel-size", "4"]
    assert "--tensor-parallel-size" not in built() + built(gpus=8, kind="cpu")


@pytest.mark.parametrize("backbone", backbones.table().values(), ids=lambda one: one.name)
def test_a_servers_gpus_of_80_gb_hold_the_weights_and_what_is_read(backbone):
    assert 2 * backbone.parameters * 1.25 / backbone.serving_gpus < 80


@pytest.mark.parametrize(
    "flag", ["--port 9", "--model=x", "--lora-modules a=b", "--served_model_name x"]
)
def test_flags_the_kit_sets_are_refused(flag):
    with pytest.raises(EscError, match="SERVE_ARGS cannot set"):
        built(extra=flag)


@pytest.mark.parametrize("flag", ["--api-key", "--api_key"])
def test_a_key_on_the_command_line_is_refused_and_not_repeated(flag):
    with pytest.raises(EscError, match="VLLM_API_KEY") as caught:
        built(extra=f"{flag} hunter2")
    assert "hunter2" not in str(caught.value)


def test_no_key_is_in_the_command(monkeypatch):
    monkeypatch.setenv("VLLM_API_KEY", "hunter2")
    assert "hunter2" not in " ".join(built(kind="cpu"))
    assert server.environment("cpu")["VLLM_API_KEY"] == "hunter2"


def test_what_the_user_set_for_vllm_stays(monkeypatch):
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "40")
    assert server.environment("cpu")["VLLM_CPU_KVCACHE_SPACE"] == "40"
    assert server.environment("cpu")["VLLM_CPU_NUM_OF_RESERVED_CPU"] == "0"


@pytest.mark.slow
def test_vllm_itself_parses_the_gpu_command(tmp_path):
    words = built(
        adapters={"sp-sft": adapter(tmp_path / "a", 16)},
        gpus=8,
        extra="--tensor-parallel-size 2 --data-parallel-size 2 --gpu-memory-utilization 0.8",
    )
    program = (
        "import sys\n"
        "from vllm.entrypoints.launchers.cli_args import make_arg_parser\n"
        "from vllm.utils.argparse_utils import FlexibleArgumentParser\n"
        "given = make_arg_parser(FlexibleArgumentParser()).parse_args(sys.argv[1:])\n"
        "print(given.tensor_parallel_size, given.data_parallel_size, given.max_lora_rank,\n"
        "      [(one.name, one.path) for one in given.lora_modules])\n"
    )
    python = paths.ROOT / ".venv-serve" / "bin" / "python"
    shown = subprocess.run(
        [python, "-c", program, *words[3:]], capture_output=True, text=True, check=False
    )
    assert shown.returncode == 0, shown.stderr[-2000:]
    assert shown.stdout.splitlines()[-1] == f"2 2 16 [('sp-sft', '{tmp_path / 'a'}')]"


def environment_at(root):
    """A serving environment whose python is this one: enough to get as far as the start."""
    (root / ".venv-serve" / "bin").mkdir(parents=True)
    (root / ".venv-serve" / "bin" / "python").symlink_to(sys.executable)
    (root / ".venv-serve" / ".ready").write_text("cpu\n")
    return root


def test_without_the_environment_it_names_the_command(tmp_path):
    with pytest.raises(EscError, match="make setup-serve"):
        server.start(Options(MODEL, tmp_path), root=tmp_path)


def test_a_port_in_use_is_one_line_with_the_fix(tmp_path, model):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        options = Options(MODEL, tmp_path / "work", port=port)
        with pytest.raises(EscError, match=rf"127.0.0.1:{port}: .*PORT=N"):
            server.start(options, root=environment_at(tmp_path))


def test_a_cpus_environment_beside_a_gpu_is_refused_with_the_command(tmp_path, monkeypatch):
    monkeypatch.setattr(server, "gpus", lambda: ["A card, 80 GB"])
    with pytest.raises(EscError, match="make setup-serve KIND=gpu"):
        server.start(Options(MODEL, tmp_path), root=environment_at(tmp_path))


ENGINE = "(EngineCore pid=7) ERROR 01-02 03:04:05 [core.py:9] "
WORKER = "(VllmWorker-0 pid=8) ERROR 01-02 03:04:05 [multiproc_executor.py:9] "
DIED = (
    "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}"
)
LOGS = {
    "the engine itself": [
        "(APIServer pid=6) WARNING 01-02 03:04:05 [utils.py:1] errors like `OSError: [Errno 24]`",
        f"{ENGINE}    raise ValueError(",
        f"{ENGINE}ValueError: No room for the cache: 8.1 GiB are asked for",
        "Process EngineCore:",
        "    raise ValueError(",
    ],
    "a GPU's worker": [
        f"{WORKER}Traceback (most recent call last):",
        f"{WORKER}torch.OutOfMemoryError: No room for the cache: 8.1 GiB are asked for",
        f"{ENGINE}Exception: WorkerProc initialization failed due to an exception in a "
        "background process. See stack trace for root cause.",
        "Exception: WorkerProc initialization failed due to an exception in a background process. "
        "See stack trace for root cause.",
    ],
}


@pytest.mark.parametrize("lines", LOGS.values(), ids=LOGS)
def test_an_engine_that_dies_at_start_is_told_with_its_own_reason(tmp_path, lines):
    log = tmp_path / "server.log"
    tail = ["    raise RuntimeError(", DIED]
    # However long what follows the reason is.
    log.write_text("\n".join([*lines, *["  File x, line 1"] * 500, *tail]) + "\n")
    assert server.reason(log).endswith("Error: No room for the cache: 8.1 GiB are asked for")


def test_a_log_without_a_reason_gives_its_last_line(tmp_path):
    log = tmp_path / "server.log"
    log.write_text("one\nKilled\n\n")
    assert server.reason(log) == "Killed"
    log.write_text("")
    assert server.reason(log) == "no output"


def test_a_server_is_seen_to_be_healthy_past_a_proxy(monkeypatch):
    with socket.socket() as held, Healthy() as healthy:
        held.bind(("127.0.0.1", 0))
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{held.getsockname()[1]}")
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        assert server._healthy(f"http://127.0.0.1:{healthy.server_port}")


def test_a_server_that_dies_says_why_and_leaves_no_state(tmp_path, model):
    # This environment has no vLLM.
    options = Options(MODEL, tmp_path / "work", port=0)
    with pytest.raises(EscError, match=r"vLLM stopped: .*ModuleNotFoundError.*log: .*server.log"):
        server.start(options, root=environment_at(tmp_path))
    assert policy_server.running(MODEL, tmp_path / "work") is None
    assert not (options.folder / policy_server.STATE).exists()


def test_an_adapter_trained_with_another_template_is_refused(tmp_path, model):
    folder = adapter(tmp_path / "work" / paths.adapter(MODEL, "sp", "sft"), 16)
    (folder / "run.json").write_text("{}")
    (folder / FILE).write_text("{{ messages }}")
    with pytest.raises(EscError, match="sp_sft was trained with another chat template"):
        server.start(Options(MODEL, tmp_path / "work", port=0), root=environment_at(tmp_path))


def wait_until(true, seconds=10):
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def state(pid, begun, adapters=None, *, ready=True):
    return State(pid, begun, "http://127.0.0.1:1/v1", adapters or {}, "127.0.0.1:8000", ready)


def sleeper():
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])


def test_stop_ends_that_process_only(tmp_path):
    folder = tmp_path / paths.server(MODEL)
    folder.mkdir(parents=True)
    with sleeper() as ours, sleeper() as other:
        begun = policy_server.begin_of(ours.pid)
        policy_server.write_state(folder, state(ours.pid, begun))
        assert server.stop(MODEL, tmp_path).pid == ours.pid
        assert ours.wait(5) != 0 and other.poll() is None
        other.kill()
    assert server.stop(MODEL, tmp_path) is None


def test_a_pid_that_now_belongs_to_another_process_is_left_alone(tmp_path):
    folder = tmp_path / paths.server(MODEL)
    folder.mkdir(parents=True)
    with sleeper() as other:
        begun = policy_server.begin_of(other.pid)
        policy_server.write_state(folder, state(other.pid, begun - 1))
        assert policy_server.running(MODEL, tmp_path) is None
        assert server.stop(MODEL, tmp_path) is None
        assert other.poll() is None
        other.kill()


def test_weights_newer_than_the_running_server_are_noticed(tmp_path):
    folder = tmp_path / paths.server(MODEL)
    folder.mkdir(parents=True)
    ours = state(os.getpid(), policy_server.begin_of(os.getpid()), {"sp-sft": "old"})
    policy_server.write_state(folder, ours)
    with policy_server.servers(MODEL, tmp_path, None, {"sp-sft": "old"}) as where:
        assert where.urls == [ours.url]
    asked = policy_server.servers(MODEL, tmp_path, None, {"sp-sft": "new"})
    with pytest.raises(EscError, match="older weights of sp-sft; make stop serve WORK="), asked:
        pass


def test_other_servers_are_asked_whatever_runs_here(tmp_path):
    folder = tmp_path / paths.server(MODEL)
    folder.mkdir(parents=True)
    ours = state(os.getpid(), policy_server.begin_of(os.getpid()), {"sp-sft": "old"})
    policy_server.write_state(folder, ours)
    given = "http://a:1/v1,http://b:2/v1"
    with policy_server.servers(MODEL, tmp_path, given, {"sp-sft": "new"}) as where:
        assert where.urls == ["http://a:1/v1", "http://b:2/v1"] and not where.own


def test_a_server_that_still_loads_is_not_asked(tmp_path):
    folder = tmp_path / paths.server(MODEL)
    folder.mkdir(parents=True)
    loading = state(os.getpid(), policy_server.begin_of(os.getpid()), ready=False)
    policy_server.write_state(folder, loading)
    asked = policy_server.servers(MODEL, tmp_path, None, {})
    with pytest.raises(EscError, match="still loading"), asked:
        pass


def test_serving_again_with_another_port_is_one_line(tmp_path, model):
    options = Options(MODEL, tmp_path / "work", port=9001)
    options.folder.mkdir(parents=True)
    policy_server.write_state(
        options.folder, state(os.getpid(), policy_server.begin_of(os.getpid()))
    )
    with pytest.raises(EscError, match="runs already; make stop serve"):
        server.start(options, root=environment_at(tmp_path))


@pytest.mark.parametrize(
    ("host", "port", "told"),
    [
        ("127.0.0.1", 99999, "PORT=99999 is no port"),
        ("no-such-host.invalid", 0, "HOST=no-such-host.invalid: "),
        ("192.0.2.1", 0, "choose another HOST or PORT"),
    ],
)
def test_an_address_that_cannot_be_used_is_one_line(tmp_path, model, host, port, told):
    options = Options(MODEL, tmp_path / "work", host=host, port=port)
    with pytest.raises(EscError, match=told):
        server.start(options, root=environment_at(tmp_path))


def test_flags_that_no_shell_could_read_are_one_line():
    with pytest.raises(EscError, match="SERVE_ARGS: no closing quotation"):
        built(extra="--hf-overrides '{")


def test_a_training_on_a_gpu_is_told_of_its_own_server_and_what_ends_it(tmp_path):
    begun = policy_server.begin_of(os.getpid())
    state = policy_server.State(os.getpid(), begun, "http://127.0.0.1:8000/v1", {}, "", ready=True)
    policy_server.write_state(tmp_path / paths.server("qwen2.5-7b"), state)
    told = policy_server.beside_training(tmp_path)
    assert told and f"make stop MODEL=qwen2.5-7b WORK={tmp_path} frees it" in told


@pytest.mark.parametrize(
    "words",
    [("-m", policy_server.PROGRAM), ("-m", policy_server.BATCH_PROGRAM), (str(batch.IN_RAY),)],
)
def test_training_is_refused_beside_a_server_or_batch(words):
    program = "import time, sys; time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", program, *words]) as pretended:
        wait_until(lambda: pretended.pid in policy_server.on_this_machine())
        try:
            with pytest.raises(EscError, match="'make stop', with the MODEL and WORK"):
                policy_server.refuse_beside_training()
            told = policy_server.beside_training(paths.ROOT / "nothing-here")
            assert told and "'make stop', with the MODEL and WORK" in told
        finally:
            pretended.kill()
