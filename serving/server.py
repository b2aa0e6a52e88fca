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
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from esc import adapters, backbones, chat_template, cli, commands, files, paths, policy_server
from esc.backbones import Backbone
from esc.exceptions import EscError
from esc.policy_server import State
from esc.serving_environment import PYTHON, READY, gpus
from serving import command, process

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
        port = process.free_port(options.host, options.port)
        program = command.build(
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
        url = f"http://{process.reachable(options.host)}:{port}"
        with (options.folder / LOG).open("wb") as log:
            started = subprocess.Popen(
                program,
                env=command.environment(kind),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        begun = policy_server.begin_of(started.pid)
        state = State(started.pid, begun or 0, f"{url}/v1", weights, options.asked, ready=False)
        policy_server.write_state(options.folder, state)
        try:
            process.wait_healthy(started, url, options.folder / LOG)
        except BaseException:
            process.end(state, options.folder)
            raise
        state = replace(state, ready=True)
        policy_server.write_state(options.folder, state)
    return state


def stop(model: str, work: Path) -> State | None:
    """The state of the server that was ended, or None where none ran."""
    state = policy_server.running(model, work)
    if state:
        process.end(state, work / paths.server(model))
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
    anew = commands.make("stop", "serve", work=options.work, model=options.model)
    if state.adapters != weights:
        raise EscError(f"a server with other adapters runs at {state.url}; {anew}")
    if state.asked != options.asked:
        raise EscError(f"a server for {state.asked} runs already; {anew}, with your HOST and PORT")
    return state


def write_template(folder: Path, backbone: Backbone, found: Mapping[str, Path]) -> Path:
    """The chat template to serve a backbone and the adapters found with, written to a folder.

    Raises EscError where an adapter was trained with another one.
    """
    template = folder / chat_template.FILE
    text = chat_template.of(backbone.location, backbone.template)
    _check_templates(found, text)
    files.write_text(template, text)
    return template


def _check_templates(found: Mapping[str, Path], text: str) -> None:
    """Where this kit trained an adapter, the template beside it must be the one to serve with."""
    for folder in found.values():
        beside = folder / chat_template.FILE
        if (folder / "run.json").is_file() and beside.read_text(encoding="utf-8") != text:
            raise EscError(
                f"{folder} was trained with another chat template than the backbone has now "
                f"({beside.name} there differs); train it again, or undo the change"
            )


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
        process.end(state, options.folder)
        shutil.rmtree(options.folder)
