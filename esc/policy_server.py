"""The server that answers for a model's policies: the one that runs, or one for this process alone.

``serving`` starts and stops it; this is what the other packages need to know of it.
"""

import atexit
import json
import subprocess
import sys
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import psutil

from esc import backbones, files, paths
from esc.files import EscError

PROGRAM = "vllm.entrypoints.openai.api_server"
BATCH_PROGRAM = "vllm.entrypoints.launchers.run_batch"
# How a word ends by which a process is known to be one of vLLM's.
_ENGINES = (PROGRAM, BATCH_PROGRAM, "/in_ray/run_batch.py")
STATE, LOG = "server.json", "server.log"
_STEP = 5.0  # seconds by which a clock that is set may move a process's start


@dataclass(frozen=True, slots=True)
class State:
    """What is known of a server this kit started."""

    pid: int
    begun: float  # the process's start, in seconds since the epoch: a pid is used again
    url: str  # with /v1
    adapters: dict[str, str]  # served name to the SHA-256 of the weights it was started with
    asked: str  # host, port and flags it was asked for
    ready: bool  # whether it has been healthy; before, it loads


def running(model: str, work: Path) -> State | None:
    """The server of a model that ``make serve`` started, or None where it does not run."""
    left = files.read_json(work / paths.server(model) / STATE, default={})
    if left:
        state = State(**left)
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(state.pid)
            is_same = abs(process.create_time() - state.begun) < _STEP
            if is_same and process.status() != psutil.STATUS_ZOMBIE:
                return state
    return None


def on_this_machine() -> list[int]:
    """The pids of all vLLM servers and batch runners that this user can see."""
    return [
        one.pid
        for one in psutil.process_iter(["cmdline"])
        if any(word.endswith(_ENGINES) for word in one.info["cmdline"] or ())
    ]


def servers(model: str, work: Path, given: str | None, weights: Mapping[str, str]) -> list[str]:
    """Where to send requests: the URLs given, else the running server, else one of our own.

    ``weights`` maps the served names that will be asked to the SHA-256 of their weights. Raises
    EscError where the running server still loads, or holds other weights.
    """
    if given:
        return split_urls(given)
    state = running(model, work)
    if not state:
        return [_own_server(model, work)]
    if not state.ready:
        raise EscError(f"the server at {state.url} is still loading; try again when it is up")
    if stale := [name for name, sha in weights.items() if state.adapters.get(name, sha) != sha]:
        anew = paths.make("stop", "serve", work=work, model=model)
        raise EscError(
            f"the server at {state.url} was started with older weights of {', '.join(stale)}; "
            f"{anew}"
        )
    return [state.url]


_own = ExitStack()
atexit.register(_own.close)


@cache
def _own_server(model: str, work: Path) -> str:
    """One that ends with this process, however it dies: its holder stops it when its input ends."""
    command = [sys.executable, "-m", "serving", "hold", "--model", model, "--work", str(work)]
    pipe: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    holder = _own.enter_context(subprocess.Popen(command, **pipe, start_new_session=True))
    assert holder.stdout is not None
    if not (line := holder.stdout.readline()):
        raise EscError("no server could be started (see above); 'make doctor' helps")
    return str(json.loads(line)["url"])


def split_urls(given: str) -> list[str]:
    """The URLs of a BASE_URL or JUDGE_BASE_URL, which commas or blanks separate."""
    return given.replace(",", " ").split()


def beside_training(work: Path) -> str | None:
    """What runs on this machine beside a training, and what ends it; None where nothing does.

    A server of ``work`` is named with its own command, another one by its process.
    """
    for model in backbones.table():
        if state := running(model, work):
            stop = paths.make("stop", work=work, model=model)
            return (
                f"a server of {model} runs at {state.url}, and vLLM takes most of the memory; "
                f"{stop} frees it"
            )
    if pids := on_this_machine():
        return (
            f"a vLLM server or batch runs on this machine (process {pids[0]}), and takes most of "
            "the memory; 'make stop', with the MODEL and WORK it was started with, ends a server, "
            "Ctrl-C a batch"
        )
    return None
