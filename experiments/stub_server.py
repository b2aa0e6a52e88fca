"""An OpenAI-compatible server that answers every request at once, to measure what asks it.

    python -m experiments.stub_server PORT
    python -m experiments.stub_server PORT --latency 0.7 --rate 8.3 --told retry-after-ms=700
    python -m experiments.stub_server PORT --status 500

With a rate, what comes above it (a token bucket of one second) is refused with 429; with a status,
every completion has that one.
"""

import argparse
import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
import uvicorn

_COMPLETIONS = "/v1/chat/completions"
_MODELS = {"data": [{"id": name} for name in ("base", "sp-sft", "rg-sft", "vanilla-sft")]}

Send = Callable[[dict[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[dict[str, Any]]]


def completion(text: str) -> dict[str, Any]:
    """What a server answers that says ``text``."""
    message = {"role": "assistant", "content": text}
    return {
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 500, "completion_tokens": 2},
    }


class Stub:
    """The application: counts completions, answers the count under ``/count``.

    A sampled answer differs from all others, a greedy one is a strategy.
    """

    def __init__(self, *, latency: float, rate: float | None, told: str, status: int) -> None:
        """``rate`` in completions a second; ``told`` is a refusal's header, ``name=value``."""
        self.completions = 0
        self._latency, self._rate, self._told, self._status = latency, rate, told, status
        self._tokens, self._filled = rate or 0.0, time.monotonic()

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """One HTTP exchange."""
        body = b""
        while part := await receive():
            body += part.get("body", b"")
            if not part.get("more_body"):
                break
        path = scope["path"]
        status = await self._work() if path == _COMPLETIONS else 200
        self.completions += path == _COMPLETIONS
        reply = f"This is reply {self.completions}." if b'"seed"' in body else "Question"
        answers: dict[str, Any] = {
            _COMPLETIONS: completion(reply),
            "/v1/models": _MODELS,
            "/count": self.completions,
        }
        headers = [(b"content-type", b"application/json")]
        if status == 429 and self._told:
            name, _, value = self._told.partition("=")
            headers.append((name.encode(), value.encode()))
        status = status if path in answers else 404
        await send({"type": "http.response.start", "status": status, "headers": headers})
        said = answers[path] if status == 200 else {}
        await send({"type": "http.response.body", "body": orjson.dumps(said)})

    async def _work(self) -> int:
        """The status of a completion, once it has taken its time."""
        if self._rate is not None:
            now = time.monotonic()
            filled = self._tokens + (now - self._filled) * self._rate
            self._tokens, self._filled = min(filled, self._rate), now
            if self._tokens < 1:
                return 429
            self._tokens -= 1
        await asyncio.sleep(self._latency)
        return self._status


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("--latency", type=float, default=0.0, help="seconds")
    parser.add_argument("--rate", type=float, help="completions a second; more is refused")
    parser.add_argument("--told", default="", help="a refusal's header, name=value")
    parser.add_argument("--status", type=int, default=200)
    given = vars(parser.parse_args())
    port = given.pop("port")
    config = uvicorn.Config(
        Stub(**given), host="127.0.0.1", port=port, lifespan="off", log_level="warning"
    )
    asyncio.run(uvicorn.Server(config).serve())


if __name__ == "__main__":
    main()
