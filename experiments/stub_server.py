"""An OpenAI-compatible server on loopback that answers at once, to measure what asks it.

    python -m experiments.stub_server --latency 0.7 --rate 8.3 --told retry-after-ms=700

Prints its port. With a rate, what comes above it (a token bucket of one second) is refused with
429; with a status, every completion has that one. The count of completions is under ``/count``.
"""

import argparse
import asyncio
import socket
import time

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

MODELS = {"data": [{"id": name} for name in ("base", "sp-sft", "rg-sft", "vanilla-sft")]}


def application(latency: float, rate: float | None, told: str, status: int) -> Starlette:
    """The server; a sampled answer differs from all others, a greedy one is a strategy.

    ``rate`` in completions a second; ``told`` is a refusal's header, ``name=value``.
    """
    count, tokens, filled = 0, rate or 0.0, time.monotonic()

    async def complete(request: Request) -> Response:
        nonlocal count, tokens, filled
        count += 1
        asked, now = await request.body(), time.monotonic()
        if rate is not None:
            tokens, filled = min(tokens + (now - filled) * rate, rate) - 1, now
            if tokens < 0:
                tokens += 1
                return Response(status_code=429, headers=dict([told.split("=")] if told else []))
        said = f"This is reply {count}." if b'"seed"' in asked else "Question"
        if b"You play" in asked:
            said = '{"say": "Well.", "intensity": 4, "done": false}'
        message = {"role": "assistant", "content": said}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        usage = {"prompt_tokens": 500, "completion_tokens": 2}
        await asyncio.sleep(latency)
        return JSONResponse({"choices": [choice], "usage": usage}, status)

    return Starlette(
        routes=[
            Route("/v1/chat/completions", complete, methods=["POST"]),
            Route("/v1/models", lambda _: JSONResponse(MODELS)),
            Route("/count", lambda _: JSONResponse(count)),
        ]
    )


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--latency", type=float, default=0.0, help="seconds")
    parser.add_argument("--rate", type=float, help="completions a second; more is refused")
    parser.add_argument("--told", default="", help="a refusal's header, name=value")
    parser.add_argument("--status", type=int, default=200)
    app = application(**vars(parser.parse_args()))
    listening = socket.create_server(("127.0.0.1", 0))
    print(listening.getsockname()[1], flush=True)
    config = uvicorn.Config(app, lifespan="off", log_level="warning")
    asyncio.run(uvicorn.Server(config).serve([listening]))


if __name__ == "__main__":
    _main()
