"""A server as a process: its address, the wait until it is healthy, its end."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path

from esc import policy_server
from esc.exceptions import EscError
from esc.policy_server import State

_PATIENCE = 900.0
"""Seconds until a server must be healthy; a large model takes minutes to load."""
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""To this machine itself, whatever proxy the environment names."""
_FROM = re.compile(r"^\([^)]*pid=\d+\) (ERROR [\d-]+ [\d:]+ \[[^\]]*\] )?")
"""Which of vLLM's processes says a line, and where."""
_RAISED = re.compile(r"^[\w.]*(Error|Exception)\b")


def free_port(host: str, port: int) -> int:
    """The port to listen at, chosen where ``port`` is 0; EscError where the address is no use."""
    if not 0 <= port < 65536:
        raise EscError(f"PORT={port} is no port; choose one below 65536")
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        reason = (error.strerror or "cannot be used").lower()
        raise EscError(f"HOST={host}: {reason}; an address of this machine is needed") from error
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            reason = (error.strerror or "cannot be used").lower()
            raise EscError(f"{host}:{port}: {reason}; choose another HOST or PORT=N") from error
        return int(probe.getsockname()[1])


def reachable(host: str) -> str:
    """How this machine itself reaches a server that listens at ``host``."""
    if host in ("0.0.0.0", "::"):  # noqa: S104
        return "127.0.0.1" if host == "0.0.0.0" else "[::1]"  # noqa: S104
    return f"[{host}]" if ":" in host else host


def wait_healthy(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    """Return when the server at ``url`` is healthy; EscError, from its log, where it stops."""
    begin = time.monotonic()
    print(f"starting vLLM (log: {log}) ", end="", file=sys.stderr, flush=True)
    while time.monotonic() - begin < _PATIENCE:
        if process.poll() is not None:
            print(file=sys.stderr)
            raise EscError(f"vLLM stopped: {reason(log)} (log: {log})")
        if _healthy(url):
            print(f" {time.monotonic() - begin:.0f} s", file=sys.stderr)
            return
        print(".", end="", file=sys.stderr, flush=True)
        time.sleep(1)
    raise EscError(f"vLLM was not healthy after {_PATIENCE:.0f} s (log: {log})")


def _healthy(url: str) -> bool:
    try:
        with _DIRECT.open(f"{url}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False


def reason(log: Path) -> str:
    """The line of the log that most likely says why.

    The server only says that its engine has died and to see the root cause above, as the engine
    says it of its worker: what was raised before that is the reason.
    """
    with log.open(encoding="utf-8", errors="replace") as stream:
        lines = [_FROM.sub("", line.rstrip()) for line in stream]
    refers = [number for number, line in enumerate(lines) if "root cause" in line]
    above = lines[: refers[-1]] if refers else lines
    raised = [line for line in above if _RAISED.match(line) and "root cause" not in line]
    named = [line for line in lines if "Error" in line and "Traceback" not in line]
    return (raised or named or [line for line in lines if line] or ["no output"])[-1].strip()[:300]


def end(state: State, folder: Path) -> None:
    """End the server and the engine processes of its session; nothing else."""
    deadline = time.monotonic() + 30
    for sent in (signal.SIGTERM, signal.SIGKILL):
        if policy_server.begin_of(state.pid) == state.begun:
            _signal(state.pid, sent)
        while policy_server.begin_of(state.pid) == state.begun and time.monotonic() < deadline:
            _reap(state.pid)
            time.sleep(0.1)
        deadline += 10
    end_session(state.pid)
    (folder / policy_server.STATE).unlink(missing_ok=True)


def end_session(leader: int) -> None:
    """End the processes that a server or a batch runner has left of its session."""
    for survivor in _session(leader):
        _signal(survivor, signal.SIGKILL)


def _signal(pid: int, sent: signal.Signals) -> None:
    with suppress(ProcessLookupError):  # it ended by itself meanwhile
        os.kill(pid, sent)


def _reap(pid: int) -> None:
    """Where the server is our own child, let it go once it has ended."""
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return


def _session(leader: int) -> list[int]:
    """Processes of the server's own session that outlived it."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # ended meanwhile
        if int(fields[3]) == leader and fields[0] != "Z":
            found.append(int(path.parent.name))
    return found
