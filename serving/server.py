"""One vLLM server for a base model and every adapter that exists.

    python -m serving start --model smollm2-135m
    python -m serving stop --model smollm2-135m

Writes ``runs/<model>/server/``: the log, the chat template, and while it runs ``server.json``. The
served names are ``base`` and ``<task>-<stage>``, such as ``sp-sft``. A key for the server comes
from VLLM_API_KEY in the environment. ``hold`` is ``start`` for as long as its input stays open, on
any free port and in a folder of its own.
"""

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from esc import adapters, backbones, chat_template, cli, commands, files, paths, policy_server
from esc.exceptions import EscError
from esc.policy_server import State
from esc.serving_environment import PYTHON, READY
from serving import command

DEFAULT_HOST, DEFAULT_PORT = "127.0.0.1", 8000
LOG = "server.log"
_PATIENCE = 900.0
"""Seconds until a server must be healthy; a large model takes minutes to load."""


@dataclass(frozen=True, slots=True)
class Options:
    """What a user asks of a server."""

    model: str
    work: Path
    host: str = DEFAULT_HOST
    port: int = DEFAULT_PORT
    """0 for any free one."""
    extra: str = ""
    """Flags for vLLM."""
    private: str = ""
    """A name, for a server that others are not to find; its folder is its own."""

    @property
    def folder(self) -> Path:
        """The server's folder."""
        return self.work / paths.server(self.model) / self.private

    @property
    def asked(self) -> str:
        """What tells this request from one for another server."""
        return f"{self.host}:{self.port} {self.extra}".strip()


def start(options: Options, *, root: Path = Path()) -> State:
    """The state of the server, healthy now.

    Raises EscError where it cannot start; the log is then in its folder.
    """
    backbone = backbones.get(options.model)
    kind = _kind(root)
    with files.exclusive(options.folder):
        found = adapters.found(options.work, options.model)
        weights = {name: adapters.fingerprint(folder) for name, folder in found.items()}
        state = policy_server.running(options.model, options.work)
        if state and not options.private:
            return _already(state, weights, options)
        template = options.folder / chat_template.FILE
        text = chat_template.of(backbone.location, backbone.template)
        _check_templates(found, text)
        files.write_text(template, text)
        port = _port(options.host, options.port)
        program = command.build(
            root=root.resolve(),
            model_path=backbone.location,
            adapters={name: folder.resolve() for name, folder in found.items()},
            template=template.resolve(),
            host=options.host,
            port=port,
            kind=kind,
            extra=options.extra,
        )
        url = f"http://{_reachable(options.host)}:{port}"
        with (options.folder / LOG).open("wb") as log:
            process = subprocess.Popen(
                program,
                env=command.environment(kind),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        begun = policy_server.begin_of(process.pid)
        state = State(process.pid, begun or 0, f"{url}/v1", weights, options.asked, ready=False)
        policy_server.write_state(options.folder, state)
        try:
            _wait(process, url, options.folder / LOG)
        except BaseException:
            _end(state, options.folder)
            raise
        state = replace(state, ready=True)
        policy_server.write_state(options.folder, state)
    return state


def stop(model: str, work: Path) -> State | None:
    """The state of the server that was ended, or None where none ran."""
    state = policy_server.running(model, work)
    if state:
        _end(state, work / paths.server(model))
    return state


def _kind(root: Path) -> str:
    if not (root / READY).is_file() or not (root / PYTHON).exists():
        raise EscError("the serving environment is missing; make setup-serve installs it")
    return (root / READY).read_text().strip()


def _already(state: State, weights: Mapping[str, str], options: Options) -> State:
    anew = commands.make("stop", "serve", work=options.work, model=options.model)
    if state.adapters != weights:
        raise EscError(f"a server with other adapters runs at {state.url}; {anew}")
    if state.asked != options.asked:
        raise EscError(f"a server for {state.asked} runs already; {anew}, with your HOST and PORT")
    return state


def _check_templates(found: Mapping[str, Path], text: str) -> None:
    """Where this kit trained an adapter, the template beside it must be the one to serve with."""
    for folder in found.values():
        beside = folder / chat_template.FILE
        if (folder / "run.json").is_file() and beside.read_text(encoding="utf-8") != text:
            raise EscError(
                f"{folder} was trained with another chat template than the backbone has now "
                f"({beside.name} there differs); train it again, or undo the change"
            )


def _port(host: str, port: int) -> int:
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


def _reachable(host: str) -> str:
    """How this machine itself reaches a server that listens at ``host``."""
    if host in ("0.0.0.0", "::"):  # noqa: S104
        return "127.0.0.1" if host == "0.0.0.0" else "[::1]"  # noqa: S104
    return f"[{host}]" if ":" in host else host


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    begin = time.monotonic()
    print(f"starting vLLM (log: {log}) ", end="", file=sys.stderr, flush=True)
    while time.monotonic() - begin < _PATIENCE:
        if process.poll() is not None:
            print(file=sys.stderr)
            raise EscError(f"vLLM stopped: {_reason(log)} (log: {log})")
        if _healthy(url):
            print(f" {time.monotonic() - begin:.0f} s", file=sys.stderr)
            return
        print(".", end="", file=sys.stderr, flush=True)
        time.sleep(1)
    raise EscError(f"vLLM was not healthy after {_PATIENCE:.0f} s (log: {log})")


def _healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=5) as answer:  # noqa: S310
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False


def _reason(log: Path) -> str:
    """The line of the log that most likely says why."""
    with log.open(encoding="utf-8", errors="replace") as stream:
        last = deque((line.strip() for line in stream), maxlen=200)
    told = [line for line in last if "Error" in line and "Traceback" not in line]
    return (told or list(last) or ["no output"])[-1][:300]


def _end(state: State, folder: Path) -> None:
    """End the server and the engine processes of its session; nothing else."""
    deadline = time.monotonic() + 30
    for sent in (signal.SIGTERM, signal.SIGKILL):
        if policy_server.begin_of(state.pid) == state.begun:
            os.kill(state.pid, sent)
        while policy_server.begin_of(state.pid) == state.begun and time.monotonic() < deadline:
            _reap(state.pid)
            time.sleep(0.1)
        deadline += 10
    for survivor in _session(state.pid):
        os.kill(survivor, signal.SIGKILL)
    (folder / policy_server.STATE).unlink(missing_ok=True)


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


def _report(state: State, options: Options) -> str:
    names = ", ".join([adapters.BASE, *state.adapters])
    work, model = options.work, options.model
    check = commands.make("check-template", work=work, model=model)
    predict = commands.make("predict", work=work, model=model, SYSTEM="decoupled", STAGE="sft")
    stop_it = commands.make("stop", work=work, model=model)
    return (
        f"serving     {names}\n"
        f"at          {state.url}  (process {state.pid}, log {options.folder / LOG})\n"
        f"next        {check}; {predict}; {stop_it}\n"
        "These models are research software and no counsellors."
    )


def _parser(step: str, examples: str) -> argparse.ArgumentParser:
    parser = cli.parser(prog=f"python -m serving {step}", description=__doc__, examples=examples)
    parser.add_argument(
        "--model", default=backbones.EMBEDDED, help="folder of llamafactory_configs"
    )
    parser.add_argument("--work", type=Path, default=Path(), help="root of what is generated")
    return parser


def main(argv: list[str]) -> None:
    """Command line of ``start``."""
    parser = _parser(
        "start",
        "  python -m serving start\n"
        "  python -m serving start --model qwen2.5-7b --args='--tensor-parallel-size 4'",
    )
    parser.add_argument("--host", type=cli.optional, help="default: this machine alone")
    parser.add_argument("--port", type=_number, help=f"default: {DEFAULT_PORT}; 0: any free one")
    parser.add_argument(
        "--args", default=_flags(), help="flags for vLLM, in one text (default: $SERVE_ARGS)"
    )
    given = parser.parse_args(argv)
    host = given.host or DEFAULT_HOST
    port = DEFAULT_PORT if given.port is None else given.port
    options = Options(given.model, given.work, host, port, given.args)
    if host not in (DEFAULT_HOST, "localhost", "::1"):
        print(f"note: {options.host} lets other machines in; set VLLM_API_KEY", file=sys.stderr)
    print(_report(start(options), options))


def _number(text: str) -> int | None:
    """A port, or None where make passes a variable that is not set."""
    if text and not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a port")
    return int(text) if text else None


def _flags() -> str:
    """The user's flags for vLLM: from the environment, where no shell takes their quotes."""
    return os.environ.get("SERVE_ARGS", "")


def stop_main(argv: list[str]) -> None:
    """Command line of ``stop``."""
    given = _parser("stop", "  python -m serving stop").parse_args(argv)
    ended = stop(given.model, given.work)
    print(f"stopped process {ended.pid}" if ended else f"no server of {given.model} runs here")


def hold_main(argv: list[str]) -> None:
    """Command line of ``hold``: one JSON line when healthy; ends the server at end of input."""
    given = _parser("hold", "  python -m serving hold < /dev/null").parse_args(argv)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    private = f"of-{os.getpid()}"
    options = Options(given.model, given.work, port=0, extra=_flags(), private=private)
    state = start(options)
    try:
        print(json.dumps({"url": state.url}), flush=True)
        sys.stdin.read()
    finally:
        _end(state, options.folder)
        shutil.rmtree(options.folder)
