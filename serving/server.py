"""One vLLM server for a base model and every adapter that exists.

    python -m serving start --model smollm2-135m
    python -m serving stop --model smollm2-135m

Writes ``runs/<model>/server/``: the log, the chat template, and while it runs ``server.json``.
``hold`` is ``start`` for as long as its input stays open, on any free port and in a folder of its
own.
"""

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import httpx2
import psutil
import typer

from esc import adapters, backbones, cli, files, paths, policy_server
from esc.backbones import Backbone
from esc.files import EscError
from esc.paths import EMBEDDED
from esc.policy_server import LOG, PROGRAM, State
from esc.serving_environment import PYTHON, READY, gpus, visible

IN_VLLM = Path(__file__).parent / "in_vllm"
"""Folder of the module that runs inside vLLM on a CPU."""
Flags = Annotated[str, typer.Option(envvar="SERVE_ARGS", help="flags for vLLM, in one text")]
# Tokens: the longest dialogue of ESConv, a draft and its critique, and the reply fit.
_MAX_MODEL_LEN = "8192"
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
_SET_BY_MAKE = {
    "--model", "--served-model-name", "--host", "--port", "--chat-template", "--enable-lora",
    "--lora-modules",
}  # fmt: skip
# vLLM reads LoRA weights anew for every token on a CPU: short steps keep that in its caches. Small
# blocks let more of a prompt be found in the prefix cache.
_CPU_FLAGS = (
    "--max-num-batched-tokens", "256", "--max-num-seqs", "64", "--block-size", "32",
    "--worker-extension-cls", "on_cpu.Extension",
)  # fmt: skip
_PATIENCE = 900.0
"""Seconds until a server must be healthy; a large model takes minutes to load."""
_GRACE = 30.0
"""Seconds in which a server, or Ray its own cluster, may end by itself."""


def flags(
    backbone: Backbone, found: Mapping[str, Path], folder: Path, kind: str, extra: str
) -> list[str]:
    """What vLLM is told of a base and its adapters, by served name, with the user's own flags.

    The chat template is written to ``folder``. EscError for a flag that is this kit's to set, or an
    adapter of another template.
    """
    try:
        more = shlex.split(extra)
    except ValueError as error:
        raise EscError(f"SERVE_ARGS: {str(error).lower()}") from error
    # vLLM takes either spelling.
    named = {flag.partition("=")[0].replace("_", "-") for flag in more if flag.startswith("--")}
    if refused := sorted(named & {*_SET_BY_MAKE, "--api-key"}):
        raise EscError(
            f"SERVE_ARGS cannot set {refused[0]}: MODEL, HOST, PORT and WORK do, and VLLM_API_KEY "
            "in the environment, which not every user here can read"
        )
    text = adapters.of(backbone.location, backbone.template)
    for trained in found.values():
        beside = trained / adapters.FILE
        by_us = trained.name == adapters.SERVED or (trained / "run.json").is_file()
        if by_us and beside.read_text(encoding="utf-8") != text:
            raise EscError(
                f"{trained} was trained with another chat template than the backbone has now "
                f"({beside.name} there differs); train it again, or undo the change"
            )
    files.write_text(folder / adapters.FILE, text)
    command = [
        "--model", backbone.location, "--served-model-name", adapters.BASE,
        "--chat-template", str((folder / adapters.FILE).resolve()),
        "--max-model-len", _MAX_MODEL_LEN,
        # Sampling is what a request says: no defaults of the model's authors, who differ.
        "--generation-config", "vllm",
    ]  # fmt: skip
    if found:
        largest = max(files.read_json(one / adapters.CONFIG)["r"] for one in found.values())
        command += [
            "--enable-lora", "--max-lora-rank", str(next(r for r in _RANKS if r >= largest)),
            "--max-loras", str(min(len(found), 8)),
            "--lora-modules", *(f"{name}={one.resolve()}" for name, one in found.items()),
        ]  # fmt: skip
    if kind == "cpu":
        # By itself it takes bfloat16, even of weights in float32.
        command += [*_CPU_FLAGS, "--dtype", backbones.precision()]
    elif backbone.serving_gpus > 1:
        command += ["--tensor-parallel-size", str(backbone.serving_gpus)]
    # Every card works: as many copies as fit, since a model that one can hold gains by no sharing.
    copies = len(visible()) // backbone.serving_gpus
    if kind != "cpu" and copies > 1 and not _spread(more):
        command += ["--data-parallel-size", str(copies)]
    # vLLM takes the last of a flag given twice.
    return command + more


def _spread(more: Sequence[str]) -> bool:
    """Whether a user says how the cards are used."""
    said = {word.partition("=")[0].replace("_", "-").lstrip("-") for word in more}
    sizes = {f"{way}-parallel-size" for way in ("tensor", "pipeline", "data")}
    return not said.isdisjoint({*sizes, "tp", "pp", "dp"})


def environment(kind: str) -> dict[str, str]:
    """The environment of the server; what the user has set stays."""
    defaults = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    if kind != "cpu":
        return defaults | os.environ
    # GiB of memory for what has been read; and every core works (vLLM would keep one idle).
    defaults |= {"VLLM_CPU_KVCACHE_SPACE": "2", "VLLM_CPU_NUM_OF_RESERVED_CPU": "0"}
    # Where the workers find what _CPU_FLAGS names.
    found_in = os.pathsep.join(filter(None, (str(IN_VLLM), os.environ.get("PYTHONPATH"))))
    return defaults | os.environ | {"PYTHONPATH": found_in}


def kind_of(root: Path) -> str:
    """The kind of the serving environment; EscError where there is none, or none for this GPU."""
    if not (root / READY).is_file() or not (root / PYTHON).exists():
        raise EscError("the serving environment is missing; make setup-serve installs it")
    kind = (root / READY).read_text().strip()
    if kind == "cpu" and gpus():
        raise EscError(
            "the serving environment was made for a CPU, and this machine has a GPU; "
            "make setup-serve KIND=gpu makes it anew"
        )
    return kind


def start(
    model: str,
    work: Path,
    *,
    host: str = _LOOPBACK[0],
    port: int = 8000,
    extra: str = "",
    private: str = "",
    root: Path = Path(),
) -> State:
    """The state of the server, healthy now; port 0 is any free one.

    ``extra`` is the user's own flags for vLLM, ``private`` the folder of a server that others are
    not to find. EscError where it cannot start; the log is then in its folder.
    """
    backbone, kind = backbones.get(model), kind_of(root)
    folder, asked = work / paths.server(model) / private, f"{host}:{port} {extra}".strip()
    with files.exclusive(folder):
        found = adapters.found(work, model)
        weights = {name: adapters.fingerprint(one) for name, one in found.items()}
        state = policy_server.running(model, work)
        if state and not private:
            if (state.adapters, state.asked) != (weights, asked):
                other = f"for {state.asked}" if state.asked != asked else "with other adapters"
                anew = paths.make("stop", "serve", work=work, model=model)
                raise EscError(f"a server {other} runs already at {state.url}; {anew}")
            return state
        given = flags(backbone, found, folder, kind, extra)
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            with socket.create_server((host, port), family=family) as probe:
                port = probe.getsockname()[1]
        except OSError as error:
            reason = (error.strerror or "cannot be used").lower()
            raise EscError(f"{host}:{port}: {reason}; choose another HOST or PORT=N") from error
        program = [str(root.absolute() / PYTHON), "-m", PROGRAM, "--host", host]
        with (folder / LOG).open("wb") as log:
            started = subprocess.Popen(
                [*program, "--port", str(port), *given],
                env=environment(kind),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        # How this machine itself reaches a server that listens at any address.
        here = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
        url = f"http://{f'[{here}]' if ':' in here else here}:{port}"
        begun = psutil.Process(started.pid).create_time()
        state = State(started.pid, begun, f"{url}/v1", weights, asked, ready=False)
        files.write_json(folder / policy_server.STATE, asdict(state))
        try:
            _wait_healthy(started, url, folder / LOG)
        except BaseException:
            end(started.pid)
            (folder / policy_server.STATE).unlink()
            raise
        state = replace(state, ready=True)
        files.write_json(folder / policy_server.STATE, asdict(state))
    return state


def _wait_healthy(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    begin = time.monotonic()
    print(f"starting vLLM (log: {log})", file=sys.stderr, flush=True)
    while time.monotonic() - begin < _PATIENCE:
        if process.poll() is not None:
            raise EscError(f"vLLM stopped: {reason(log)} (log: {log})")
        # To this machine itself, whatever proxy the environment names.
        with suppress(httpx2.HTTPError):
            if httpx2.get(f"{url}/health", trust_env=False).status_code == 200:
                return
        time.sleep(1)
    raise EscError(f"vLLM was not healthy after {_PATIENCE:.0f} s (log: {log})")


# Which of vLLM's processes says a line, and where.
_FROM = re.compile(r"^\([^)]*pid=\d+\) (ERROR [\d-]+ [\d:]+ \[[^\]]*\] )?")
# What was raised, but for the processes that only say that another one has died.
_RAISED = re.compile(r"^[\w.]*(Error|Exception)\b(?!.*root cause)")


def reason(log: Path) -> str:
    """The line of the log that most likely says why: what was raised last, or said last."""
    text = log.read_text(encoding="utf-8", errors="replace")
    lines = [line for one in text.splitlines() if (line := _FROM.sub("", one.strip()))]
    return ([*filter(_RAISED.match, lines)] or lines or ["no output"])[-1][:300]


def end(leader: int) -> None:
    """End a server or a batch runner, and what it has left of its session; nothing else."""
    with suppress(psutil.NoSuchProcess):  # it ended by itself
        process = psutil.Process(leader)
        process.terminate()
        psutil.wait_procs([process], _GRACE)
    for one in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, ProcessLookupError):  # ended meanwhile
            if os.getsid(one.pid) == leader:
                one.kill()


def end_with_input() -> None:
    """Interrupt this process when its input ends: whoever started it is gone then."""

    def watch() -> None:
        while os.read(sys.stdin.fileno(), 4096):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    # Not SIGINT, which a shell has its background jobs ignore.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    threading.Thread(target=watch, daemon=True).start()


def stop(model: str, work: Path) -> State | None:
    """The state of the server that was ended, or None where none ran."""
    state = policy_server.running(model, work)
    if state:
        end(state.pid)
        (work / paths.server(model) / policy_server.STATE).unlink(missing_ok=True)
    return state


@cli.command(
    examples="  python -m serving start\n"
    "  python -m serving start --model qwen2.5-7b --args='--tensor-parallel-size 4'",
    name="start",
)
def main(
    model: cli.Model = EMBEDDED,
    work: cli.Work = Path(),
    host: Annotated[str, typer.Option(envvar="HOST", help="where it listens")] = _LOOPBACK[0],
    port: Annotated[
        int, typer.Option(envvar="PORT", min=0, max=65535, help="0: any free one")
    ] = 8000,
    args: Flags = "",
) -> None:
    """Start one server with the base and every adapter, in the background."""
    if host not in _LOOPBACK:
        print(f"note: {host} lets other machines in; set VLLM_API_KEY", file=sys.stderr)
    state = start(model, work, host=host, port=port, extra=args)
    print(
        f"serving     {', '.join([adapters.BASE, *state.adapters])}\n"
        f"at          {state.url}  (process {state.pid}, log {work / paths.server(model) / LOG})\n"
        f"end it with {paths.make('stop', work=work, model=model)}\n"
        "These models are research software and no counsellors."
    )


@cli.command(examples="  python -m serving stop", name="stop")
def stop_main(model: cli.Model = EMBEDDED, work: cli.Work = Path()) -> None:
    """End the server that ``start`` left running."""
    ended = stop(model, work)
    print(f"stopped process {ended.pid}" if ended else f"no server of {model} runs here")


@cli.command(examples="  python -m serving hold < /dev/null", name="hold")
def hold_main(model: cli.Model = EMBEDDED, work: cli.Work = Path(), args: Flags = "") -> None:
    """Serve for as long as the input stays open; one JSON line says where, when it is healthy."""
    end_with_input()
    private = f"of-{os.getpid()}"
    state = start(model, work, port=0, extra=args, private=private)
    try:
        print(json.dumps({"url": state.url}), flush=True)
        signal.pause()
    except KeyboardInterrupt:
        return
    finally:
        end(state.pid)
        shutil.rmtree(work / paths.server(model) / private)
