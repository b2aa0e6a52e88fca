"""One file of requests through vLLM's batch runner, or through Ray Data with vLLM.

    python -m serving run-batch --requests 0001.requests.jsonl --engine vllm

The engine gets what a server of this kit gets: the base and every adapter under the same names, the
same chat template and flags, SERVE_ARGS among them. Writes ``0001.answers.jsonl`` and ``0001.log``
beside the requests; the answers appear when all are there. It ends with its input, and the engine
with it. ``--script FOLDER`` writes ``run.sh`` there instead, for machines that have vLLM alone.
"""

import argparse
import select
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from esc import adapters, backbones, cli, files
from esc.adapters import BASE
from esc.exceptions import EscError
from esc.llm_batch import ANSWERS, REQUESTS, Shard
from esc.paths import EMBEDDED
from esc.policy_server import BATCH_PROGRAM
from esc.serving_environment import PYTHON, RAY_PYTHON, RAY_READY
from serving import server
from serving.server import given_flags, kind_of, write_template

ENGINES = ("vllm", "ray")
IN_RAY = Path(__file__).parent / "in_ray" / "run_batch.py"
"""The one program that runs inside Ray's environment."""
_DEAD = "EngineCore encountered an issue"
"""What vLLM says to requests whose engine is no more."""
_LESS = "SERVE_ARGS='--max-num-seqs 8' makes do with less"
_GRACE = 20.0
"""Seconds in which Ray ends its own cluster."""

_SCRIPT = """\
#!/bin/sh
# Runs these shards where they have no answers yet, each from its start. On several machines that
# see this folder, NNODES=N and NODE_RANK=K (from 0) share the shards out. Paths are from here: a
# copy takes this folder and the adapters', at the same places within WORK.
cd "$(dirname "$0")" || exit 1
number=0
for shard in {shards}; do
  mine=$((number % ${{NNODES:-1}}))
  number=$((number + 1))
  if [ "$mine" -ne "${{NODE_RANK:-0}}" ] || [ -e "$shard{answers}" ]; then continue; fi
  {command} -i "$shard{requests}" -o "$shard.unfinished" || exit 1
  mv "$shard.unfinished" "$shard{answers}" || exit 1
  if grep -q "{dead}" "$shard{answers}"; then
    echo "the engine died on the way; BATCH=write asks again for what it did not answer" >&2
    exit 1
  fi
done
"""


@dataclass(frozen=True, slots=True)
class Options:
    """What is run, and by what."""

    model: str
    work: Path
    engine: str
    extra: str
    """The user's flags for vLLM."""


def run(shard: Shard, options: Options, *, root: Path = Path()) -> None:
    """Leave the shard's answers beside it; EscError, from its log, where the engine stops."""
    kind = kind_of(root)
    python = root / (RAY_PYTHON if options.engine == "ray" else PYTHON)
    if options.engine == "ray" and not (root / RAY_READY).is_file():
        raise EscError("the Ray environment is missing; make setup-ray installs it")
    program = [str(IN_RAY)] if options.engine == "ray" else ["-m", BATCH_PROGRAM]
    unfinished = shard.beside(f".unfinished{files.TEMPORARY}")
    unfinished = unfinished.with_name(f".{unfinished.name}")
    words = [str(python.absolute()), *program, *_flags(options, shard.requests.parent, kind)]
    words += ["-i", str(shard.requests), "-o", str(unfinished)]
    try:
        log = shard.beside(".log")
        _run(words, server.environment(kind), log)
        died = _DEAD.encode() in unfinished.read_bytes()
        unfinished.replace(shard.answers)
    finally:
        unfinished.unlink(missing_ok=True)
    if died:
        # The runner outlives its engine, and writes an error to whatever was not answered.
        raise EscError(
            f"the engine died on the way, as it does where memory runs out (log: {log}); what it "
            f"had answered is kept; {_LESS}"
        )


def _flags(options: Options, folder: Path, kind: str, *, movable: bool = False) -> list[str]:
    """The engine's flags; ``movable`` ones have paths from ``folder``, where it is to run."""
    backbone = backbones.get(options.model)
    found = adapters.found(options.work, options.model)
    # A link below WORK is kept: in a copy it may be a folder.
    work = options.work.resolve()
    return server.flags(
        model_path=backbone.location,
        adapters={name: work / path.relative_to(options.work) for name, path in found.items()},
        template=write_template(folder, backbone, found).resolve(),
        kind=kind,
        gpus=backbone.serving_gpus,
        extra=options.extra,
        seen_from=folder.resolve() if movable else None,
    )


def _run(words: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
    with log.open("wb") as stream:
        engine = subprocess.Popen(
            words,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )
    try:
        while engine.poll() is None:
            # Readable means at its end: whoever wanted the answers is gone.
            if select.select([sys.stdin], [], [], 0.5)[0] and not sys.stdin.read(1):
                raise EscError("nobody waits for the answers any more")
    finally:
        if engine.poll() is None:
            engine.terminate()
            try:
                engine.wait(_GRACE)
            except subprocess.TimeoutExpired:
                engine.kill()
        server.end_session(engine.pid)
    if engine.returncode == -signal.SIGKILL:
        raise EscError(
            f"the engine was killed, as a system does that runs out of memory (log: {log}); {_LESS}"
        )
    if engine.returncode:
        raise EscError(f"the engine stopped: {server.reason(log)} (log: {log})")


def script(folder: Path, shards: Sequence[str], names: Sequence[str], options: Options) -> Path:
    """Write ``run.sh``, which asks the models called ``names`` what is in ``shards``, by number.

    Returns its path. A model that is none of this WORK's is vLLM's to find by its own name, and
    then the only one.
    """
    others = set(names) - {BASE, *adapters.found(options.work, options.model)}
    if others and len(names) > 1:
        raise EscError(f"{', '.join(sorted(others))} cannot be run together with other models")
    if others:
        flags = ["--model", *others, *server.given(options.extra)]
    else:
        flags = _flags(options, folder, "gpu", movable=True)
    text = _SCRIPT.format(
        shards=shlex.join(shards),
        requests=REQUESTS,
        answers=ANSWERS,
        dead=_DEAD,
        command=shlex.join(["vllm", "run-batch", *flags]),
    )
    files.write_text(folder / "run.sh", text)
    return folder / "run.sh"


def main(argv: list[str]) -> None:
    """Command line of the step."""
    given = _parser().parse_args(argv)
    # Another process's request to stop ends the engine too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    options = Options(given.model, given.work, given.engine, given_flags())
    if given.script:
        script(given.script, given.shards, given.names, options)
    elif not given.requests.name.endswith(REQUESTS):
        raise EscError(f"{given.requests} is no file of requests: its name ends in {REQUESTS}")
    else:
        run(Shard(given.requests), options)


def _parser() -> argparse.ArgumentParser:
    parser = cli.parser(
        prog="python -m serving run-batch",
        description=__doc__,
        examples="  python -m serving run-batch --requests batch/0001.requests.jsonl\n"
        "  python -m serving run-batch --script batch --shards 0001 0002 --names sp-sft",
    )
    parser.add_argument("--model", default=EMBEDDED, help="folder of llamafactory_configs")
    parser.add_argument("--work", type=Path, default=Path(), help="root of what is generated")
    # The variable ENGINE is a training's.
    cli.variable(
        parser.add_argument("--engine", choices=ENGINES, default="vllm", help="default: vllm")
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--requests", type=Path, metavar="FILE")
    what.add_argument("--script", type=Path, metavar="FOLDER", help="write run.sh there instead")
    parser.add_argument(
        "--shards", nargs="*", default=[], metavar="NUMBER", help="what run.sh runs"
    )
    parser.add_argument("--names", nargs="+", default=[BASE], help="models that it asks")
    return parser
