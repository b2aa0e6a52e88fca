"""An engine played by a test: it answers the shards of a folder as OpenAI batch engines do."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Body = dict[str, Any]


def answer_line(key: str, text: str | None, finish: str = "stop") -> str:
    message = {"role": "assistant", "content": text}
    body = {
        "object": "chat.completion",
        "choices": [{"index": 0, "message": message, "finish_reason": finish}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 5},
    }
    response = {"status_code": 200, "request_id": "r", "body": body}
    return json.dumps({"id": "a", "custom_id": key, "response": response, "error": None}) + "\n"


def error_line(key: str, status: int, message: str) -> str:
    """As vLLM writes it."""
    response = {"status_code": status, "request_id": "r", "body": None}
    error = {"error": {"message": message, "type": "x", "param": None, "code": status}}
    return json.dumps({"id": "a", "custom_id": key, "response": response, "error": error}) + "\n"


def requests(path: Path) -> dict[str, Body]:
    """Cache key to body of a requests file."""
    rows = map(json.loads, path.read_text().splitlines())
    return {row["custom_id"]: row["body"] for row in rows}


def play(folder: Path, say: Callable[[Body], str]) -> int:
    """Answer every shard that has no answers; returns their number."""
    played = 0
    for path in sorted(folder.glob("*.requests.jsonl")):
        answers = path.with_name(path.name.replace("requests", "answers"))
        if not answers.exists():
            told = [answer_line(key, say(body)) for key, body in requests(path).items()]
            # An engine keeps to no order.
            answers.write_text("".join(reversed(told)))
            played += 1
    return played
