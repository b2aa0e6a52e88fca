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
    response = {"status_code": 200, "body": json.loads(completion(text, finish))}
    return json.dumps({"custom_id": key, "response": response, "error": None}) + "\n"


def error_line(key: str, status: int, message: str) -> str:
    """As vLLM writes it."""
    error = {"error": {"message": message, "type": "x", "param": None, "code": status}}
    response = {"status_code": status, "body": None}
    return json.dumps({"custom_id": key, "response": response, "error": error}) + "\n"


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
        self.headers: list[tuple[str, str]] = []  # authorization and query of every request
        self.ends: dict[str, str] = {}  # batch to how it ends, where it does not complete
        self.looks = 2
        self.refuse: dict[str, tuple[int, str]] = {}  # begin of ``METHOD path`` to what is told
        self.drop = ""  # begin of a request whose answer is lost, once
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
            made = {"id": f"batch_{len(self.batches)}", "status": "validating", "looks": 0}
            self.batches[str(made["id"])] = json.loads(body) | made
            return made
        if path == "batches":
            return {"object": "list", "data": list(self.batches.values()), "has_more": False}
        if path.startswith("files/"):
            return self.files[name.partition("/")[0]]
        return self.look(self.batches[name])

    def look(self, batch: dict[str, Any]) -> dict[str, Any]:
        batch["looks"] += 1
        if batch["looks"] < self.looks or batch["status"] != "validating":
            return batch
        batch["status"] = ends = self.ends.get(batch["id"], "completed")
        if ends == "failed":
            return batch | {"errors": {"data": [{"message": "token limit of the organisation"}]}}
        rows = list(map(json.loads, self.files[batch["input_file_id"]].splitlines()))
        late = [rows.pop()] if ends == "expired" else []
        told = [answer_line(r["custom_id"], r["body"]["messages"][-1]["content"]) for r in rows]
        lost = {"response": None, "error": {"code": "batch_expired", "message": "late"}}
        for kind, lines in (
            ("output", told),
            ("error", [json.dumps({"custom_id": row["custom_id"]} | lost) for row in late]),
        ):
            if lines:
                # The service's files may end without a line break.
                identity = f"{kind}-{batch['id']}"
                batch[f"{kind}_file_id"] = identity
                self.files[identity] = "".join(lines).rstrip().encode()
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
        is_page = told == "<html>"
        told = {"error": {"message": told}} if refused and not is_page else told
        sent = told if isinstance(told, bytes) else json.dumps(told).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/html" if is_page else "application/json")
        self.send_header("Content-Length", str(len(sent)))
        self.end_headers()
        self.wfile.write(sent)

    do_POST = do_GET  # noqa: N815
