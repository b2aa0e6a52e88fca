"""A server on loopback that plays OpenAI's Batch API, and fails as a test asks."""

import json
import re
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from batches import answer_line, error_line


class BatchService(ThreadingHTTPServer):
    """Answers every line of a batch when it is looked at for the second time."""

    daemon_threads = True

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, dict[str, Any]] = {}
        self.keys: set[str] = set()
        """Values of the Authorization header."""
        self.queries: set[str] = set()
        self.ends: str = "completed"
        self.ends_of: dict[str, str] = {}
        """Batch to how it ends, where not as the others."""
        self.page: bytes | None = None
        """What a server that is none answers to everything."""
        self.looks = 2
        self.refuse: dict[str, tuple[int, str]] = {}
        """Beginning of ``METHOD path`` to status and message."""
        self.drop: str | None = None
        """Beginning of a request whose answer is lost, once."""
        self.say: Callable[[dict[str, Any]], str] = lambda body: body["messages"][-1]["content"]
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/v1"

    def __enter__(self) -> "BatchService":
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has gone away is no news."""

    def upload(self, body: bytes) -> dict[str, Any]:
        name = f"file-{len(self.files)}"
        # The part of the form that holds lines.
        self.files[name] = b"\n".join(re.findall(rb"^\{.*\}$", body, re.M)) + b"\n"
        return {"id": name, "object": "file"}

    def create(self, body: dict[str, Any]) -> dict[str, Any]:
        name = f"batch_{len(self.batches)}"
        self.batches[name] = body | {
            "id": name, "object": "batch", "status": "validating", "looks": 0,
            "output_file_id": None, "error_file_id": None,
        }  # fmt: skip
        return self.batches[name]

    def look(self, name: str) -> dict[str, Any]:
        batch = self.batches[name]
        batch["looks"] += 1
        if batch["looks"] >= self.looks and batch["status"] == "validating":
            batch["status"] = self.ends_of.get(name, self.ends)
            if batch["status"] == "failed":
                batch["errors"] = {"data": [{"message": "token limit of the organisation"}]}
            else:
                self.answer(batch)
        return batch

    def answer(self, batch: dict[str, Any]) -> None:
        rows = list(map(json.loads, self.files[batch["input_file_id"]].splitlines()))
        late = rows.pop() if self.ends == "expired" else None
        told = [answer_line(row["custom_id"], self.say(row["body"])) for row in rows]
        batch["output_file_id"] = f"out-{batch['id']}"
        # The service's files may end without a line break.
        self.files[batch["output_file_id"]] = "".join(told).rstrip().encode()
        if late:
            expired = json.loads(error_line(late["custom_id"], 500, "x"))
            expired |= {"response": None, "error": {"code": "batch_expired", "message": "late"}}
            batch["error_file_id"] = f"err-{batch['id']}"
            self.files[batch["error_file_id"]] = json.dumps(expired).encode() + b"\n"


class _Handler(BaseHTTPRequestHandler):
    server: BatchService

    def log_message(self, *_: object) -> None:
        """Nothing on stderr."""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0].removeprefix("/v1/")
        if path == "batches":
            found = list(self.server.batches.values())[::-1]
            self.send(json.dumps({"object": "list", "data": found, "has_more": False}).encode())
        elif path.startswith("batches/"):
            self.send(json.dumps(self.server.look(path.partition("/")[2])).encode())
        else:
            self.send(self.server.files[path.split("/")[1]])

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path.partition("?")[0] == "/v1/files":
            self.send(json.dumps(self.server.upload(body)).encode())
        elif self.refused() is None:
            self.send(json.dumps(self.server.create(json.loads(body))).encode())
        else:
            self.send(b"")

    def refused(self) -> tuple[int, str] | None:
        asked = f"{self.command} {self.path}"
        found = (told for begin, told in self.server.refuse.items() if asked.startswith(begin))
        return next(found, None)

    def send(self, body: bytes) -> None:
        self.server.keys.add(self.headers.get("Authorization", ""))
        self.server.queries.add(self.path.partition("?")[2])
        drop = self.server.drop
        if drop and f"{self.command} {self.path}".startswith(drop):
            self.server.drop = None
            self.close_connection = True
            self.connection.shutdown(2)
            return
        status = 200
        if refused := self.refused():
            status, body = refused[0], json.dumps({"error": {"message": refused[1]}}).encode()
        self.send_response(status)
        kind = "application/json"
        if self.server.page:
            kind, body = "text/html", self.server.page
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
