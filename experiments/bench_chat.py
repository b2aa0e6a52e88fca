"""Speed of the LLM layer: against no server at all, against a full one, and against one by one.

``layer``: requests a second through ``esc.llm`` to a stub that answers at once (target 300).
``cached``: a prediction run that finds every answer stored: requests sent (target 0) and seconds
beyond start-up (target 2 for the 1,792 turns of ESConv's test split).
``strategies``: planner requests a second on a real vLLM server, for the base and for a LoRA
adapter: through the layer, one after another (target ratio 5), and as an open-loop load that sends
everything at once (target 0.9 of it here; median of alternated runs, each with prompts of its own
so that no run profits from another's prefix cache). ``replies``: generator's replies a second, and
``judge``: a judge's scores a second, both by the base model on that server.
"""

import asyncio
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2

from esc import files, paths, policy_server
from esc.adapters import BASE
from esc.exceptions import EscError
from esc.llm import Asks, Budget, Cache, Chat, Generation, Policy, Pool, Sampling
from esc.paths import EMBEDDED
from esc.plan_and_speak import PLAN_TOKENS, strategy_constraint
from esc.prompts import Message
from experiments.step import python

ALTERNATIONS = 5
PROMPTS = 96
JUDGED = 4
"""Turns that the judge scores."""
_PROMPT = "word " * 500


def measure(work: Path, esconv: str) -> dict[str, Any]:
    """All figures; builds, trains one step and serves in ``work``."""
    python("-m", "data_builders", "build", "--esconv", esconv, "--work", str(work))
    return {"layer": layer(), "cached": cached(work)} | served(work)


def layer(requests: int = 2000) -> dict[str, Any]:
    """Requests a second to a stub that answers at once, and the share of one core that takes."""
    calls = [_call(str(number), "base", _PROMPT) for number in range(requests)]
    with stub() as url, tempfile.TemporaryDirectory() as scratch:
        begin, cpu = time.perf_counter(), time.process_time()
        _ask(url, calls, in_flight=32, cache=Cache(Path(scratch) / "calls.jsonl", {}))
        seconds, busy = time.perf_counter() - begin, time.process_time() - cpu
    return {
        "requests": requests,
        "requests_per_second": round(requests / seconds),
        "cpu_ms_per_request": round(1000 * busy / requests, 2),
    }


def cached(work: Path) -> dict[str, Any]:
    """Seconds of a run in which every answer is stored, start-up apart, and requests it sent."""
    command = ("-m", "eval", "predict", "--work", str(work), "--system", "decoupled",
               "--stage", "base", "--decode", "free", "--base-url")  # fmt: skip
    folder = work / paths.run(EMBEDDED, "decoupled", "base")
    with stub() as url:
        python(*command, url)
        before = _count(url)
        facts = files.read_json(folder / "run.json")
        (folder / "run.json").unlink()
        begin = time.perf_counter()
        python(*command, url)
        seconds = time.perf_counter() - begin
        sent = _count(url) - before
    begin = time.perf_counter()
    python("-m", "eval", "predict", "--help")
    start_up = time.perf_counter() - begin
    return {
        "turns": facts["records"],
        "requests_sent": sent,
        "seconds": round(seconds, 2),
        "start_up_seconds": round(start_up, 2),
        "seconds_beyond_start_up": round(seconds - start_up, 2),
    }


def served(work: Path) -> dict[str, Any]:
    """What a real server answers a second: strategies for base and adapter, replies, scores."""
    python("-m", "training", "train", "--task", "sp", "--work", str(work),
         "--set", "max_steps=1", "gradient_accumulation_steps=1")  # fmt: skip
    rows = list(files.read_jsonl(work / paths.sft_file("sp", "train")))[:PROMPTS]
    with policy_server.servers(EMBEDDED, work, None, {}) as where:
        url = where.urls[0]
        return {
            "strategies": {name: _strategies(url, name, rows) for name in ("base", "sp-sft")},
            "replies": _replies(work, url),
            "judge": _scores(work, url),
        }


def _replies(work: Path, url: str) -> dict[str, Any]:
    begin = time.perf_counter()
    python("-m", "eval", "predict", "--work", str(work), "--system", "decoupled-gold",
           "--stage", "base", "--limit", "1", "--base-url", url)  # fmt: skip
    seconds = time.perf_counter() - begin
    facts = files.read_json(work / paths.run(EMBEDDED, "decoupled-gold", "base") / "run.json")
    replies = facts["records"]
    return {"replies": replies, "seconds_a_reply": round(seconds / replies, 2)}


def _scores(work: Path, url: str) -> dict[str, Any]:
    predictions = work / paths.run(EMBEDDED, "decoupled-gold", "base") / "predictions.jsonl"
    out = work / "judged"
    begin = time.perf_counter()
    python("-m", "eval", "judge", "--predictions", str(predictions), "--out", str(out),
           "--work", str(work), "--judge", BASE, "--judge-base-url", url,
           "--n", str(JUDGED), "--repeat", "0")  # fmt: skip
    seconds = time.perf_counter() - begin
    scores = sum(1 for _ in files.read_jsonl(out / "scores.jsonl"))
    return {"scores": scores, "seconds_a_score": round(seconds / scores, 2)}


def _strategies(url: str, model: str, rows: Sequence[files.Row]) -> dict[str, Any]:
    nonces = iter(f"{model} {number}" for number in range(10_000))

    def calls() -> list[Generation]:
        nonce = next(nonces)
        return [_call(row["id"], model, row["instruction"], nonce, row["system"]) for row in rows]

    _ask(url, calls(), in_flight=32)  # the first run compiles
    through, all_at_once = [], []
    for _ in range(ALTERNATIONS):
        through.append(_rate(_ask, url, calls(), in_flight=32))
        all_at_once.append(_rate(_open_loop, url, calls()))
    one_by_one = _rate(_ask, url, calls(), in_flight=1)
    rate = statistics.median(through)
    return {
        "prompts": len(rows),
        "per_second": round(rate, 2),
        "one_by_one_per_second": round(one_by_one, 2),
        "ratio_to_one_by_one": round(rate / one_by_one, 2),
        "open_loop_per_second": round(statistics.median(all_at_once), 2),
        "ratio_to_open_loop": round(rate / statistics.median(all_at_once), 3),
    }


def _call(
    record: str, model: str, text: str, nonce: str = "", system: str = "Answer."
) -> Generation:
    chat = (Message("system", f"{nonce}\n{system}"), Message("user", text))
    constraint = strategy_constraint("choice") if nonce else None
    return Generation(record, "plan", model, chat, Sampling(PLAN_TOKENS), constraint)


def _rate(ask: Any, url: str, calls: Sequence[Generation], **options: Any) -> float:
    begin = time.perf_counter()
    ask(url, calls, **options)
    return len(calls) / (time.perf_counter() - begin)


def _ask(
    url: str, calls: Sequence[Generation], *, in_flight: int, cache: Cache | None = None
) -> None:
    async def work(asks: Asks, call: Generation) -> None:
        await asks.ask(call)

    async def go() -> None:
        pool = Pool([url], timeout=600, connections=in_flight)
        chat = Chat(
            pool,
            cache or Cache(None, {}),
            weights={},
            policy=Policy(in_flight=in_flight),
            budget=Budget(),
        )
        try:
            results = await chat.run(calls, work, "bench")
        finally:
            await pool.close()
        if len(results) != len(calls) or chat.meter.failed:
            raise EscError("requests of the bench failed")

    asyncio.run(go())


def _open_loop(url: str, calls: Sequence[Generation]) -> None:
    """The server's own limit: everything sent at once, by a bare HTTP client."""

    async def go() -> None:
        async with httpx2.AsyncClient(
            timeout=600, limits=httpx2.Limits(), trust_env=False
        ) as client:
            bodies = [
                {
                    "model": call.model,
                    "messages": [message.wire() for message in call.messages],
                    "max_tokens": call.sampling.max_tokens,
                    "temperature": 0,
                }
                | (call.constraint.body() if call.constraint else {})
                for call in calls
            ]
            answers = await asyncio.gather(
                *(client.post(f"{url}/chat/completions", json=body) for body in bodies)
            )
        if any(answer.status_code != 200 for answer in answers):
            raise EscError("requests of the bench's open loop failed")

    asyncio.run(go())


@contextmanager
def stub(*options: str) -> Iterator[str]:
    """The address of a server that answers at once, or as its options say, while the block runs."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}/v1"
    command = [sys.executable, "-m", "experiments.stub_server", str(port), *options]
    with subprocess.Popen(command) as server:
        try:
            for _ in range(200):
                try:
                    _count(url)
                    break
                except httpx2.ConnectError:
                    time.sleep(0.05)
            yield url
        finally:
            server.kill()


def _count(url: str) -> int:
    return int(httpx2.get(f"{url.removesuffix('/v1')}/count", trust_env=False).json())
