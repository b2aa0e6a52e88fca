"""An OpenAI-compatible server that answers every request at once, to measure what asks it.

python -m experiments.stub_server PORT
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
import uvicorn

_COMPLETION = {
    "choices": [
        {"index": 0, "message": {"role": "assistant", "content": "Question"},
         "finish_reason": "stop"}
    ],
    "usage": {"prompt_tokens": 500, "completion_tokens": 2},
}  # fmt: skip
_MODELS = {"data": [{"id": name} for name in ("base", "sp-sft", "rg-sft", "vanilla-sft")]}
_ANSWERS = {"/v1/chat/completions": _COMPLETION, "/v1/models": _MODELS}

Send = Callable[[dict[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[dict[str, Any]]]


class Stub:
    """The application: counts completions, answers the count under ``/count``."""

    def __init__(self) -> None:
        self.completions = 0

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """One HTTP exchange."""
        while (await receive()).get("more_body"):
            pass
        path = scope["path"]
        self.completions += path == "/v1/chat/completions"
        known = path in _ANSWERS or path == "/count"
        body = orjson.dumps(_ANSWERS.get(path, self.completions if known else {}))
        await send(
            {
                "type": "http.response.start",
                "status": 200 if known else 404,
                "headers": [(b"content-type", b"application/json")],
            }
        )
        await send({"type": "http.response.body", "body": body})


def main() -> None:
    """Serve until killed."""
    config = uvicorn.Config(
        Stub(), host="127.0.0.1", port=int(sys.argv[1]), lifespan="off", log_level="warning"
    )
    asyncio.run(uvicorn.Server(config).serve())


if __name__ == "__main__":
    main()
