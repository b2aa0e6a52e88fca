"""What becomes of questions where a judge limits their rate, or one of two servers only fails.

``limits``: 1,500 questions, 256 at a time, to judges that answer 8.3 or 20 a second after 0.7 s and
refuse the others with 429, without a word on when to come back or with ``retry-after`` or
``retry-after-ms``: questions lost (target 0), seconds over questions / rate (target at most 1.3),
and refusals of a question. ``failing_server``: 1,500 questions, 64 at a time, to two servers, of
which one answers after a second and the other fails at once: questions lost (target 0).
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from typing import Any

from esc.llm import Asks, Budget, Cache, Chat, Generation, Meter, Policy, Pool, Sampling
from esc.prompts import Message

QUESTIONS = 1500
_LIMITS = [
    (rate, told) for rate in (8.3, 20.0) for told in ("", "retry-after=1", "retry-after-ms=700")
]
_STATUSES = (500, 502)

Stub = Callable[..., AbstractContextManager[str]]
"""Options of ``experiments.stub_server`` to the address of one, while a block runs."""


def measure(stub: Stub) -> dict[str, Any]:
    """All figures; the judges are asked side by side, as long as the slowest takes."""
    with ThreadPoolExecutor(len(_LIMITS)) as threads:
        limits = list(threads.map(lambda limit: _limited(stub, *limit), _LIMITS))
    return {"limits": limits, "failing_server": [_failing(stub, status) for status in _STATUSES]}


def _limited(stub: Stub, rate: float, told: str) -> dict[str, Any]:
    with stub("--latency", "0.7", "--rate", str(rate), "--told", told) as url:
        seconds, meter = _asked([url], in_flight=256)
    return {
        "rate": rate,
        "told": told,
        "lost": meter.failed,
        "seconds": round(seconds, 1),
        "ratio": round(seconds * rate / QUESTIONS, 2),
        "refusals_a_question": round(meter.retries / QUESTIONS, 2),
    }


def _failing(stub: Stub, status: int) -> dict[str, Any]:
    with ExitStack() as stack:
        failing = stack.enter_context(stub("--status", str(status)))
        urls = [failing, stack.enter_context(stub("--latency", "1"))]
        seconds, meter = _asked(urls, in_flight=64)
    return {"status": status, "lost": meter.failed, "seconds": round(seconds, 1)}


def _asked(urls: Sequence[str], *, in_flight: int) -> tuple[float, Meter]:
    """(seconds, what became of the questions)."""
    chat = (Message("user", "A question."),)
    calls = [Generation(str(n), "plan", "base", chat, Sampling(1)) for n in range(QUESTIONS)]

    async def work(asks: Asks, call: Generation) -> None:
        await asks.ask(call)

    async def go() -> Meter:
        pool = Pool(urls, timeout=60, connections=in_flight)
        policy = Policy(in_flight=in_flight)
        asks = Chat(pool, Cache(None, {}), weights={}, policy=policy, budget=Budget())
        try:
            await asks.run(calls, work, "bench")
        finally:
            await pool.close()
        return asks.meter

    begin = time.perf_counter()
    meter = asyncio.run(go())
    return time.perf_counter() - begin, meter
