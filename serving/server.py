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
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from esc import adapters, backbones, cli, files, paths, policy_server
from esc.adapters import BASE
from esc.backbones import Backbone
from esc.exceptions import EscError
from esc.paths import EMBEDDED
from esc.policy_server import PROGRAM, State
from esc.serving_environment import PYTHON, READY, gpus

MAX_MODEL_LEN = 8192
"""Tokens: the longest dialogue of ESConv, a draft and its critique, and the reply fit."""

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
IN_VLLM = Path(__file__).parent / "in_vllm"
"""Folder of the modules that run inside vLLM on a CPU."""


def build(
    *,
    root: Path,
    model_path: str,
    adapters: Mapping[str, Path],
    template: Path,
    host: str,
    port: int,
    kind: str,
    gpus: int,
    extra: str,
) -> list[str]:
    """The command that serves a base model with its adapters; raises as `flags` does."""
    asked = flags(
        model_path=model_path,
        adapters=adapters,
        template=template,
        kind=kind,
        gpus=gpus,
        extra=extra,
    )
    return [str(root / PYTHON), "-m", PROGRAM, "--host", host, "--port", str(port), *asked]


def flags(
    *,
    model_path: str,
    adapters: Mapping[str, Path],
    template: Path,
    kind: str,
    gpus: int,
    extra: str,
    seen_from: Path | None = None,
) -> list[str]:
    """What vLLM is told of the base model and its adapters, by a server and by a batch alike.

    ``gpus`` share the weights out; ``extra`` is the user's own flags for vLLM, such as
    ``--tensor-parallel-size 4``; ``seen_from``, the folder it runs in, makes the paths of adapters
    and template relative. Raises as `given` does.
    """

    def place(path: Path) -> str:
        return str(path) if seen_from is None else os.path.relpath(path, seen_from)

    more = given(extra)
    command = [
        "--model", model_path, "--served-model-name", BASE,
        "--chat-template", place(template),
        "--max-model-len", str(MAX_MODEL_LEN),
        # Sampling is what a request says: no defaults of the model's authors, who differ.
        "--generation-config", "vllm",
    ]  # fmt: skip
    if adapters:
        command += [
            "--enable-lora", "--max-lora-rank", str(rank(adapters)),
            "--max-loras", str(min(len(adapters), 8)),
            "--lora-modules", *(f"{name}={place(folder)}" for name, folder in adapters.items()),
        ]  # fmt: skip
    if kind == "cpu":
        # By itself it takes bfloat16, even of weights in float32.
        command += [*_CPU_FLAGS, "--dtype", backbones.precision()]
    elif gpus > 1:
        command += ["--tensor-parallel-size", str(gpus)]
    # vLLM takes the last of a flag given twice.
    return command + more


def given(extra: str) -> list[str]:
    """The user's own flags; EscError for one that this kit sets, or a key on the command line."""
    try:
        words = shlex.split(extra)
    except ValueError as error:
        raise EscError(f"SERVE_ARGS: {str(error).lower()}") from error
    # vLLM takes either spelling.
    named = {flag.partition("=")[0].replace("_", "-") for flag in words if flag.startswith("--")}
    if "--api-key" in named:
        raise EscError("SERVE_ARGS cannot hold --api-key, which every user here could read; set "
                       "VLLM_API_KEY in the environment")  # fmt: skip
    if fixed := named & _SET_BY_MAKE:
        raise EscError(
            f"SERVE_ARGS cannot set {', '.join(sorted(fixed))}: MODEL, HOST, PORT and WORK do"
        )
    return words


def rank(adapters: Mapping[str, Path]) -> int:
    """The smallest rank vLLM knows that holds every adapter."""
    largest = max(
        int(json.loads((folder / "adapter_config.json").read_text())["r"])
        for folder in adapters.values()
    )
    return next(rank for rank in _RANKS if rank >= largest)


def environment(kind: str) -> dict[str, str]:
    """The environment of the server; what the user has set stays."""
    defaults = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    if kind == "cpu":
        # GiB of memory for what has been read; and every core works (vLLM would keep one idle).
        defaults |= {"VLLM_CPU_KVCACHE_SPACE": "2", "VLLM_CPU_NUM_OF_RESERVED_CPU": "0"}
    given = defaults | os.environ
    if kind == "cpu":
        # Where the workers find what _CPU_FLAGS names.
        paths = [str(IN_VLLM), *filter(None, [given.get("PYTHONPATH")])]
        given |= {"PYTHONPATH": os.pathsep.join(paths)}
    return given


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


DEFAULT_HOST, DEFAULT_PORT = "127.0.0.1", 8000
LOG = policy_server.LOG


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
    kind = kind_of(root)
    with files.exclusive(options.folder):
        found = adapters.found(options.work, options.model)
        weights = {name: adapters.fingerprint(folder) for name, folder in found.items()}
        state = policy_server.running(options.model, options.work)
        if state and not options.private:
            return _already(state, weights, options)
        template = write_template(options.folder, backbone, found)
        port = free_port(options.host, options.port)
        program = build(
            root=root.resolve(),
            model_path=backbone.location,
            adapters={name: folder.resolve() for name, folder in found.items()},
            template=template.resolve(),
            host=options.host,
            port=port,
            kind=kind,
            gpus=backbone.serving_gpus,
            extra=options.extra,
        )
        url = f"http://{reachable(options.host)}:{port}"
        with (options.folder / LOG).open("wb") as log:
            started = subprocess.Popen(
                program,
                env=environment(kind),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        begun = policy_server.begin_of(started.pid)
        state = State(started.pid, begun or 0, f"{url}/v1", weights, options.asked, ready=False)
        policy_server.write_state(options.folder, state)
        try:
            wait_healthy(started, url, options.folder / LOG)
        except BaseException:
            end(state, options.folder)
            raise
        state = replace(state, ready=True)
        policy_server.write_state(options.folder, state)
    return state


def stop(model: str, work: Path) -> State | None:
    """The state of the server that was ended, or None where none ran."""
    state = policy_server.running(model, work)
    if state:
        end(state, work / paths.server(model))
    return state


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


def _already(state: State, weights: Mapping[str, str], options: Options) -> State:
    anew = paths.make("stop", "serve", work=options.work, model=options.model)
    if state.adapters != weights:
        raise EscError(f"a server with other adapters runs at {state.url}; {anew}")
    if state.asked != options.asked:
        raise EscError(f"a server for {state.asked} runs already; {anew}, with your HOST and PORT")
    return state


def write_template(folder: Path, backbone: Backbone, found: Mapping[str, Path]) -> Path:
    """The chat template to serve a backbone and the adapters found with, written to a folder.

    Raises EscError where an adapter was trained with another one.
    """
    template = folder / adapters.FILE
    text = adapters.of(backbone.location, backbone.template)
    _check_templates(found, text)
    files.write_text(template, text)
    return template


def _check_templates(found: Mapping[str, Path], text: str) -> None:
    """Where this kit trained an adapter, the template beside it must be the one to serve with."""
    for folder in found.values():
        beside = folder / adapters.FILE
        if (folder / "run.json").is_file() and beside.read_text(encoding="utf-8") != text:
            raise EscError(
                f"{folder} was trained with another chat template than the backbone has now "
                f"({beside.name} there differs); train it again, or undo the change"
            )


def _report(state: State, options: Options) -> str:
    names = ", ".join([adapters.BASE, *state.adapters])
    work, model = options.work, options.model
    check = paths.make("check-template", work=work, model=model)
    predict = paths.make("predict", work=work, model=model, SYSTEM="decoupled", STAGE="sft")
    stop_it = paths.make("stop", work=work, model=model)
    return (
        f"serving     {names}\n"
        f"at          {state.url}  (process {state.pid}, log {options.folder / LOG})\n"
        f"next        {check}; {predict}; {stop_it}\n"
        "These models are research software and no counsellors."
    )


def _parser(step: str, examples: str) -> argparse.ArgumentParser:
    parser = cli.parser(prog=f"python -m serving {step}", description=__doc__, examples=examples)
    parser.add_argument("--model", default=EMBEDDED, help="folder of llamafactory_configs")
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
        "--args", default=given_flags(), help="flags for vLLM, in one text (default: $SERVE_ARGS)"
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


def given_flags() -> str:
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
    options = Options(given.model, given.work, port=0, extra=given_flags(), private=private)
    state = start(options)
    try:
        print(json.dumps({"url": state.url}), flush=True)
        sys.stdin.read()
    finally:
        end(state, options.folder)
        shutil.rmtree(options.folder)
