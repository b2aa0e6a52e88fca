"""An OpenAI-compatible server that answers every request at once, to measure what asks it.

python -m experiments.stub_server PORT
"""

import asyncio
import sys
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

    def __init__(self) -> None:
        self.completions = 0

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """One HTTP exchange."""
        body = b""
        while part := await receive():
            body += part.get("body", b"")
            if not part.get("more_body"):
                break
        path = scope["path"]
        self.completions += path == _COMPLETIONS
        said = f"This is reply {self.completions}." if b'"seed"' in body else "Question"
        answers = {
            _COMPLETIONS: completion(said),
            "/v1/models": _MODELS,
            "/count": self.completions,
        }
        known = path in answers
        await send(
            {
                "type": "http.response.start",
                "status": 200 if known else 404,
                "headers": [(b"content-type", b"application/json")],
            }
        )
        await send({"type": "http.response.body", "body": orjson.dumps(answers.get(path, {}))})


def main() -> None:
    """Serve until killed."""
    config = uvicorn.Config(
        Stub(), host="127.0.0.1", port=int(sys.argv[1]), lifespan="off", log_level="warning"
    )
    asyncio.run(uvicorn.Server(config).serve())


if __name__ == "__main__":
    main()
