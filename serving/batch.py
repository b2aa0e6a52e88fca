"""Files of requests through vLLM's batch runner, through Ray Data with it, or a hosted Batch API.

    python -m serving run-batch --requests batch/0001.requests.jsonl

``0001.answers.jsonl`` appears beside the requests when all answers are there. vLLM, also on Ray,
gets what a server of this kit gets: the base and every adapter under the same names, the same chat
template and flags, SERVE_ARGS among them; its log is ``0001.log``. A service is given each file
once: ``0001.batch.json`` notes its batch before anybody looks at that. The step ends with its
input, and the engine with it.
"""

import json
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import openai
import typer

from esc import adapters, backbones, cli, files
from esc.files import EscError
from esc.llm import Address
from esc.llm_batch import ANSWERS, REQUESTS, STATE, Shard
from esc.paths import EMBEDDED
from esc.policy_server import BATCH_PROGRAM
from esc.serving_environment import PYTHON, RAY_PYTHON, RAY_READY
from serving import server

IN_RAY = Path(__file__).parent / "in_ray" / "run_batch.py"  # runs inside Ray's environment
_MARK = "shard_sha256"
POLL_SECONDS = 30.0  # between two looks at the batches of a service
_ON_ITS_WAY = ("validating", "in_progress", "finalizing", "cancelling")


def by_vllm(shard: Shard, flags: Sequence[str], *, ray: bool, root: Path = Path()) -> None:
    """Leave the answers of a shard beside it; EscError, from its log, where the engine stops.

    ``flags`` are those of a server; ``root`` holds the environments.
    """
    if ray and not (root / RAY_READY).is_file():
        raise EscError("the Ray environment is missing; make setup-ray installs it")
    python = (root / (RAY_PYTHON if ray else PYTHON)).absolute()
    program = [str(IN_RAY)] if ray else ["-m", BATCH_PROGRAM]
    requests, log = shard.path(REQUESTS), shard.path(".log")
    part = shard.folder / f".{shard.number:04}{files.TEMPORARY}"
    print(f"batch       {requests} (log: {log})", flush=True)
    with log.open("wb") as stream:
        engine = subprocess.Popen(
            [str(python), *program, *flags, "-i", str(requests), "-o", str(part)],
            env=server.environment(server.kind_of(root)),
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )
    try:
        if code := engine.wait():
            why = "it was killed, as a system does that runs out of memory; "
            why += "SERVE_ARGS='--max-num-seqs 8' makes do with less"
            raise EscError(
                f"{requests} was not run: {why if code < 0 else server.reason(log)} (log: {log}); "
                "the answers of others are kept: the same command goes on"
            )
        part.replace(shard.path(ANSWERS))
    finally:
        server.end(engine.pid)
        part.unlink(missing_ok=True)


def by_service(shards: Sequence[Shard], url: str) -> None:
    """Make a batch of each shard that has none, and wait for the answers of all.

    Raises EscError where the service refuses one, when the others have ended.
    """
    at = Address(url)
    http = openai.DefaultHttpxClient(trust_env=not at.is_loopback)
    to: Any = {"base_url": at.url, "default_query": at.query, "api_key": at.key}
    client = openai.OpenAI(**to, max_retries=5, http_client=http)
    try:
        # Not `batches.list`, which fails on the page of a server that is none.
        made: Any = client.get("/batches", cast_to=object, options={"params": {"limit": 100}})
        if not isinstance(made, dict):
            raise EscError(f"{at.url} answers no JSON; a base URL mostly ends in /v1")
        marked = {(one.get("metadata") or {}).get(_MARK): one["id"] for one in made["data"]}
        waiting = {shard: _made(client, at.url, shard, marked) for shard in shards}
        refused = _awaited(client, waiting)
    except (openai.APIError, json.JSONDecodeError) as error:
        refused = str(error.__cause__ or error)
    if refused:
        raise EscError(
            f"{at.url}: {at.clean(refused)[:300]}; batches that were made are noted and not made "
            "again: the same command goes on"
        )


def _made(client: openai.OpenAI, url: str, shard: Shard, marked: dict[str | None, str]) -> str:
    """The id of the shard's batch, made now where neither its note nor its mark has one."""
    state, requests = shard.path(STATE), shard.path(REQUESTS)
    digest = files.sha256(requests)
    known = files.read_json(state, default={})
    if known and known["url"] != url:
        raise EscError(f"{state} is of {known['url']}; ask there, or move that file away")
    identity = known and (known["batch"] or marked.get(digest))
    if not identity:
        files.write_json(state, {"url": url, _MARK: digest, "batch": None})
        uploaded = client.files.create(file=requests, purpose="batch")
        # Asking again could make a second one: a lost answer is found by the mark.
        batches = client.with_options(max_retries=0).batches
        identity = batches.create(
            input_file_id=uploaded.id,
            endpoint="/v1/chat/completions",
            completion_window="24h",
            metadata={_MARK: digest},
        ).id
        print(f"batch       {requests}: {identity} at {url}", flush=True)
    files.write_json(state, {"url": url, _MARK: digest, "batch": identity})
    return str(identity)


def _awaited(client: openai.OpenAI, waiting: dict[Shard, str]) -> str:
    """Why one of the batches has no answers, when all have ended, or nothing."""
    refused = ""
    while waiting:
        for shard, identity in list(waiting.items()):
            batch = client.batches.retrieve(identity)
            if batch.status in _ON_ITS_WAY:
                continue
            del waiting[shard]
            found = [one for one in (batch.output_file_id, batch.error_file_id) if one]
            if batch.status == "failed" or not found:
                # Nothing ran, and nothing is paid: the next run makes another.
                shard.path(STATE).unlink()
                errors = (batch.errors and batch.errors.data) or []
                why = "; ".join(str(error.message) for error in errors) or "no reason is given"
                refused = f"batch {identity} of {shard.path(REQUESTS)} {batch.status}: {why}"
                continue
            with files.atomic_writer(shard.path(ANSWERS)) as stream:
                for one in found:
                    stream.write(client.files.content(one).content.rstrip(b"\n") + b"\n")
        if waiting:
            time.sleep(POLL_SECONDS)
    return refused


@cli.command(
    examples="  python -m serving run-batch --requests batch/0001.requests.jsonl\n"
    "  python -m serving run-batch --engine openai --base-url https://api.openai.com/v1 "
    "--requests batch/*.requests.jsonl",
    name="run-batch",
)
def main(
    requests: Annotated[list[Path], typer.Option(help="files NNNN.requests.jsonl")],
    engine: Annotated[str, typer.Option(help="vllm, ray or openai")] = "vllm",
    model: cli.Model = EMBEDDED,
    work: cli.Work = Path(),
    base_url: cli.BaseUrl = None,
    args: server.Flags = "",
) -> None:
    """Run files of requests; the answers lie beside them. It ends when its input ends."""
    server.end_with_input()
    names = [path.name.removesuffix(REQUESTS) for path in requests]
    if others := [name for name in names if not name.isdecimal()]:
        raise EscError(f"{others[0]} is no file of requests, NNNN{REQUESTS}")
    shards = [Shard(path.parent, int(name)) for path, name in zip(requests, names, strict=True)]
    if engine == "openai":
        by_service(shards, base_url or "")
        return
    backbone, found = backbones.get(model), adapters.found(work, model)
    ray = engine == "ray"
    # Ray spreads the engines, each of its own cards.
    args = f"--data-parallel-size 1 {args}" if ray else args
    for shard in shards:
        flags = server.flags(backbone, found, shard.folder, server.kind_of(Path()), args)
        by_vllm(shard, flags, ray=ray)
