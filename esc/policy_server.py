"""The server that answers for a model's policies: the one that runs, or one for this run alone.

``serving`` starts and stops it; this is what the other packages need to know of it.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from pathlib import Path

from esc import backbones, files, paths
from esc.exceptions import EscError

PROGRAM = "vllm.entrypoints.openai.api_server"
BATCH_PROGRAM = "vllm.entrypoints.launchers.run_batch"
RAY_PROGRAM = "in_ray/run_batch.py"
"""How the path of Ray's batch runner ends."""
STATE, LOG = "server.json", "server.log"


@dataclass(frozen=True, slots=True)
class State:
    """What is known of a server this kit started."""

    pid: int
    begun: int
    """The process's start in clock ticks since boot: tells it from a later one with its pid."""
    url: str
    """Base URL, with ``/v1``."""
    adapters: dict[str, str]
    """Served name to the SHA-256 of the weights it was started with."""
    asked: str
    """Host, port and flags it was asked for."""
    ready: bool
    """Whether it has been healthy; before, it loads."""


@dataclass(frozen=True, slots=True)
class Servers:
    """Where requests go."""

    urls: list[str]
    own: bool
    """Whether it is a server of this kit, known to hold this WORK's adapters."""


def write_state(folder: Path, state: State) -> None:
    """Leave the state of a server in its folder."""
    files.write_json(folder / STATE, asdict(state))


def running(model: str, work: Path) -> State | None:
    """The server of a model that ``make serve`` started, or None where it does not run."""
    path = work / paths.server(model) / STATE
    if not path.is_file():
        return None
    state = State(**files.read_json(path))
    return state if begin_of(state.pid) == state.begun else None


def begin_of(pid: int) -> int | None:
    """The start of a process in clock ticks since boot, or None where it has ended."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The program's name, in brackets, may hold anything.
    fields = text.rpartition(")")[2].split()
    return None if fields[0] == "Z" else int(fields[19])


def on_this_machine() -> list[int]:
    """The pids of all vLLM servers and batch runners that this user can see."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue  # ended meanwhile, or another user's
        engines = PROGRAM.encode(), BATCH_PROGRAM.encode()
        if any(word in engines or word.endswith(b"/" + RAY_PROGRAM.encode()) for word in words):
            found.append(int(path.parent.name))
    return found


_kept: ContextVar[tuple[ExitStack, dict[tuple[str, Path], str]] | None]
_kept = ContextVar("_kept", default=None)


@contextmanager
def one_server() -> Iterator[None]:
    """Keep a server that is started inside the block for all of it: several questions, one start.

    None may be trained meanwhile: it would go on with the adapters it was started with.
    """
    with ExitStack() as stack:
        token = _kept.set((stack, {}))
        try:
            yield
        finally:
            _kept.reset(token)


@contextmanager
def servers(
    model: str, work: Path, given: str | None, weights: Mapping[str, str]
) -> Iterator[Servers]:
    """Where to send requests: the URLs given, else the running server, else one for this block.

    ``given`` holds URLs separated by commas or blanks; ``weights`` maps the served names that will
    be asked to the SHA-256 of their weights. A server started here ends with the block, or with
    this process, however it dies. Raises EscError where the running server still loads, or holds
    other weights.
    """
    if given:
        yield Servers(split_urls(given), own=False)
    elif state := running(model, work):
        _check_fresh(state, model, work, weights)
        yield Servers([state.url], own=True)
    elif kept := _kept.get():
        stack, urls = kept
        if (model, work) not in urls:
            urls[model, work] = stack.enter_context(_own_server(model, work))
        yield Servers([urls[model, work]], own=True)
    else:
        with _own_server(model, work) as url:
            yield Servers([url], own=True)


@contextmanager
def _own_server(model: str, work: Path) -> Iterator[str]:
    command = [sys.executable, "-m", "serving", "hold", "--model", model, "--work", str(work)]
    # It stops the server when its input ends: so also when this process is killed.
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        try:
            line = holder.stdout.readline()
        except BaseException:
            # While a server loads, its holder does not look at its input.
            holder.terminate()
            raise
        if not line:
            holder.wait()
            raise EscError("no server could be started (see above); 'make doctor' helps")
        try:
            yield json.loads(line)["url"]
        finally:
            holder.stdin.close()


def split_urls(given: str) -> list[str]:
    """The URLs of a BASE_URL or JUDGE_BASE_URL, which commas or blanks separate."""
    return given.replace(",", " ").split()


def _check_fresh(state: State, model: str, work: Path, weights: Mapping[str, str]) -> None:
    if not state.ready:
        raise EscError(f"the server at {state.url} is still loading; try again when it is up")
    stale = [name for name, sha in weights.items() if state.adapters.get(name, sha) != sha]
    if stale:
        anew = paths.make("stop", "serve", work=work, model=model)
        raise EscError(
            f"the server at {state.url} was started with older weights of {', '.join(stale)}; "
            f"{anew}"
        )


def refuse_beside_training() -> None:
    """Raise EscError where a server runs on this machine, which has no GPU to train on."""
    pids = [pid for pid in on_this_machine() if pid != os.getpid()]
    if pids:
        raise EscError(
            f"a vLLM server or batch runs on this machine (process {pids[0]}), and training on the "
            f"CPU beside it would take its memory and time; {_ENDS}"
        )


_ENDS = "'make stop', with the MODEL and WORK it was started with, ends a server, Ctrl-C a batch"


def beside_training(work: Path) -> str | None:
    """What runs on this machine and holds most of its GPUs' memory, and what ends it; or None.

    A server of ``work`` is named with its own command, another one by its process.
    """
    for model in backbones.table():
        if state := running(model, work):
            stop = paths.make("stop", work=work, model=model)
            return (
                f"a server of {model} runs at {state.url}, and vLLM takes most of the memory of "
                f"its GPUs; {stop} frees it"
            )
    pids = [pid for pid in on_this_machine() if pid != os.getpid()]
    if not pids:
        return None
    return (
        f"a vLLM server or batch runs on this machine (process {pids[0]}), and takes most of the "
        f"memory of its GPUs; {_ENDS}"
    )
