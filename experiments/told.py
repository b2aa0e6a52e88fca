"""A command whose output passes through, and the one line that says why it failed."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

_KEPT = 8192
"""Bytes of the end of stderr, where a reason stands."""
_EVERY, _GRACE = 0.2, 10.0
"""Seconds between two looks at a command, and until one that is asked to end is killed."""
_PATIENCE = 2.0
"""Seconds: what a command leaves running may hold its stderr open."""


def run(
    command: Sequence[str],
    environment: Mapping[str, str],
    log: Path | None = None,
    lock: Sequence[int] = (),
    until: Callable[[], bool] | None = None,
) -> tuple[int, str]:
    """(exit code, why it is not 0); the output passes through, or goes to ``log`` alone.

    The command holds the descriptors of ``lock`` too. Where ``until`` says so, asked again and
    again, it is ended with all it has started.
    """
    if log is not None:
        with log.open("wb") as stream:
            ended = subprocess.run(
                command,
                env=environment,
                stdout=stream,
                stderr=stream,
                pass_fds=lock,
                check=False,
            )
        said = log.read_bytes()[-_KEPT:].decode(errors="replace")
        return ended.returncode, reason(said, ended.returncode, log) if ended.returncode else ""
    tail = bytearray()
    with subprocess.Popen(
        command,
        env=environment,
        stderr=subprocess.PIPE,
        bufsize=0,
        pass_fds=lock,
        start_new_session=until is not None,
    ) as process:
        assert process.stderr is not None
        passing = threading.Thread(target=_pass, args=(process.stderr, tail), daemon=True)
        passing.start()
        code = process.wait() if until is None else _watched(process, until)
        passing.join(_PATIENCE)
    return code, reason(bytes(tail).decode(errors="replace"), code) if code else ""


def _watched(process: subprocess.Popen[bytes], until: Callable[[], bool]) -> int:
    """Exit code of the leader of a session, which is ended with it on our own end too."""
    try:
        while process.poll() is None and not until():
            time.sleep(_EVERY)
    finally:
        if process.poll() is None:
            _end(process)
    return process.wait()


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a session: torchrun, asked to, ends its workers, which are in sessions of their own."""
    with suppress(ProcessLookupError):
        for number in (signal.SIGTERM, signal.SIGKILL):
            os.killpg(process.pid, number)
            patience = time.monotonic() + _GRACE
            while time.monotonic() < patience:
                # Reaps the leader, which would count as alive.
                process.poll()
                os.killpg(process.pid, 0)
                time.sleep(_EVERY)


def _pass(source: IO[bytes], tail: bytearray) -> None:
    while part := source.read(4096):
        sys.stderr.buffer.write(part)
        sys.stderr.buffer.flush()
        tail += part
        del tail[:-_KEPT]


def reason(said: str, code: int, log: Path | None = None) -> str:
    """The last error line of what a command said, or how it ended and where that stands."""
    lines = re.split(r"[\r\n]+", said.strip())
    told = [line.partition("error: ")[2] for line in lines if line.startswith("error: ")]
    if told:
        return told[-1]
    killed = [line for line in lines if re.search(r"\b(Killed|Error 137)\b", line)]
    if killed or code == -signal.SIGKILL:
        return "killed, most likely for want of memory"
    return f"exit code {code}; {f'see {log}' if log else 'its output is above'}"
