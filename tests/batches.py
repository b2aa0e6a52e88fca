"""Engines of batch files played by tests: of the shards of a folder, and a service on loopback."""

import json
import re
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from faulty_server import Loopback, completion

Body = dict[str, Any]


def answer_line(key: str, text: str | None, finish: str = "stop") -> str:
    response = {"status_code": 200, "request_id": "r", "body": json.loads(completion(text, finish))}
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


class BatchService(Loopback):
    """OpenAI's Batch API: answers a batch, with its last message, when it is looked at twice."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, dict[str, Any]] = {}
        self.headers: list[tuple[str, str]] = []
        """Authorization and query of every request."""
        self.ends: dict[str, str] = {}
        """Batch to how it ends, where it does not complete."""
        self.looks = 2
        self.refuse: dict[str, tuple[int, str]] = {}
        """Beginning of ``METHOD path`` to status and message."""
        self.drop = ""
        """Beginning of a request whose answer is lost, once."""
        super().__init__(_Handler)

    def answer(self, asked: str, body: bytes) -> Any:
        path = asked.partition(" /v1/")[2]
        name = path.partition("/")[2]
        if asked == "POST /v1/files":
            identity = f"file-{len(self.files)}"
            # The part of the form that holds lines.
            self.files[identity] = b"\n".join(re.findall(rb"^\{.*\}$", body, re.M)) + b"\n"
            return {"id": identity, "object": "file"}
        if asked == "POST /v1/batches":
            identity = f"batch_{len(self.batches)}"
            made = {"id": identity, "object": "batch", "status": "validating", "looks": 0}
            self.batches[identity] = json.loads(body) | made
            return self.batches[identity]
        if path == "batches":
            return {"object": "list", "data": list(self.batches.values()), "has_more": False}
        if path.startswith("files/"):
            return self.files[name.partition("/")[0]]
        return self.look(self.batches[name])

    def look(self, batch: dict[str, Any]) -> dict[str, Any]:
        batch["looks"] += 1
        if batch["looks"] >= self.looks and batch["status"] == "validating":
            batch["status"] = ends = self.ends.get(batch["id"], "completed")
            if ends == "failed":
                batch["errors"] = {"data": [{"message": "token limit of the organisation"}]}
                return batch
            rows = list(map(json.loads, self.files[batch["input_file_id"]].splitlines()))
            if ends == "expired":
                error = {"code": "batch_expired", "message": "late"}
                late = {"custom_id": rows.pop()["custom_id"], "response": None, "error": error}
                batch["error_file_id"] = f"err-{batch['id']}"
                self.files[batch["error_file_id"]] = json.dumps(late).encode() + b"\n"
            told = [answer_line(r["custom_id"], r["body"]["messages"][-1]["content"]) for r in rows]
            batch["output_file_id"] = f"out-{batch['id']}"
            # The service's files may end without a line break.
            self.files[batch["output_file_id"]] = "".join(told).rstrip().encode()
        return batch


class _Handler(BaseHTTPRequestHandler):
    server: BatchService

    def log_message(self, *_: object) -> None:
        """Nothing on stderr."""

    def do_GET(self) -> None:
        service, (path, _, query) = self.server, self.path.partition("?")
        asked = f"{self.command} {path}"
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        service.headers.append((self.headers.get("Authorization", ""), query))
        refused = [told for begin, told in service.refuse.items() if asked.startswith(begin)]
        status, told = refused[0] if refused else (200, service.answer(asked, body))
        if service.drop and asked.startswith(service.drop):
            service.drop = ""
            self.connection.shutdown(2)
            return
        if refused and told != "<html>":
            told = {"error": {"message": told}}
        sent = told if isinstance(told, bytes) else json.dumps(told).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/html" if told == "<html>" else "application/json")
        self.send_header("Content-Length", str(len(sent)))
        self.end_headers()
        self.wfile.write(sent)

    do_POST = do_GET  # noqa: N815
