"""An OpenAI-compatible server on loopback that answers at once, to measure what asks it.

    python -m experiments.stub_server --latency 0.7 --rate 8.3 --told retry-after-ms=700

Prints its port. With a rate, what comes above it (a token bucket of one second) is refused with
429; with a status, every completion has that one. The count of completions is under ``/count``.
"""

import argparse
import asyncio
import socket
import time
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
import uvicorn

COMPLETIONS = "/v1/chat/completions"
MODELS = {"data": [{"id": name} for name in ("base", "sp-sft", "rg-sft", "vanilla-sft")]}


class Stub:
    """The application; a sampled answer differs from all others, a greedy one is a strategy."""

    def __init__(self, *, latency: float, rate: float | None, told: str, status: int) -> None:
        """``rate`` in completions a second; ``told`` is a refusal's header, ``name=value``."""
        self.completions = 0
        self.latency, self.rate, self.told, self.status = latency, rate, told, status
        self.tokens, self.filled = rate or 0.0, time.monotonic()

    async def __call__(
        self,
        scope: dict[str, Any],
        receive: Callable[[], Awaitable[dict[str, Any]]],
        send: Callable[[dict[str, Any]], Awaitable[None]],
    ) -> None:
        """One HTTP exchange."""
        body, more = b"", True
        while more:
            part = await receive()
            body, more = body + part.get("body", b""), part.get("more_body", False)
        path = scope["path"]
        status = await self._work() if path == COMPLETIONS else 200
        self.completions += path == COMPLETIONS
        said = f"This is reply {self.completions}." if b'"seed"' in body else "Question"
        message = {"role": "assistant", "content": said}
        answers: dict[str, Any] = {
            COMPLETIONS: {
                "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 500, "completion_tokens": 2},
            },
            "/v1/models": MODELS,
            "/count": self.completions,
        }
        headers = [(b"content-type", b"application/json")]
        if status == 429 and self.told:
            name, _, value = self.told.partition("=")
            headers.append((name.encode(), value.encode()))
        status = status if path in answers else 404
        await send({"type": "http.response.start", "status": status, "headers": headers})
        reply = orjson.dumps(answers[path] if status == 200 else {})
        await send({"type": "http.response.body", "body": reply})

    async def _work(self) -> int:
        """The status of a completion, once it has taken its time."""
        if self.rate is not None:
            now = time.monotonic()
            filled = self.tokens + (now - self.filled) * self.rate
            self.tokens, self.filled = min(filled, self.rate), now
            if self.tokens < 1:
                return 429
            self.tokens -= 1
        await asyncio.sleep(self.latency)
        return self.status


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--latency", type=float, default=0.0, help="seconds")
    parser.add_argument("--rate", type=float, help="completions a second; more is refused")
    parser.add_argument("--told", default="", help="a refusal's header, name=value")
    parser.add_argument("--status", type=int, default=200)
    app = Stub(**vars(parser.parse_args()))
    listening = socket.create_server(("127.0.0.1", 0))
    print(listening.getsockname()[1], flush=True)
    config = uvicorn.Config(app, lifespan="off", log_level="warning")
    asyncio.run(uvicorn.Server(config).serve([listening]))


if __name__ == "__main__":
    main()
