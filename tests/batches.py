"""Engines of batch files played by tests: of the shards of a folder, and a service on loopback."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from faulty_server import Fault, Loopback, Request, completion, told

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
        self.ends: dict[str, str] = {}  # batch to how it ends, where it does not complete
        self.looks = 2
        self.refuse: dict[str, Fault] = {}  # begin of ``METHOD path`` to what is told
        self.drop = ""  # begin of a request whose answer is lost, once
        super().__init__()

    def answered(self, path: str, request: Request) -> Fault:
        asked = f"{request.method} {path}"
        for begin, fault in self.refuse.items():
            if asked.startswith(begin):
                return fault
        found = self.found(asked, request)
        if self.drop and asked.startswith(self.drop):
            self.drop = ""
            return told(found, cut=True)
        return Fault(body=found) if isinstance(found, bytes) else told(found)

    def found(self, asked: str, request: Request) -> Any:
        path = asked.partition(" /v1/")[2]
        name = path.partition("/")[2]
        if asked == "POST /v1/files":
            identity = f"file-{len(self.files)}"
            # The part of the form that holds lines.
            self.files[identity] = b"\n".join(re.findall(rb"^\{.*\}$", request.raw, re.M)) + b"\n"
            return {"id": identity, "object": "file"}
        if asked == "POST /v1/batches":
            made = {"id": f"batch_{len(self.batches)}", "status": "validating", "looks": 0}
            self.batches[str(made["id"])] = request.body | made
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
        said = [answer_line(r["custom_id"], r["body"]["messages"][-1]["content"]) for r in rows]
        lost = {"response": None, "error": {"code": "batch_expired", "message": "late"}}
        for kind, lines in (
            ("output", said),
            ("error", [json.dumps({"custom_id": row["custom_id"]} | lost) for row in late]),
        ):
            if lines:
                # The service's files may end without a line break.
                identity = f"{kind}-{batch['id']}"
                batch[f"{kind}_file_id"] = identity
                self.files[identity] = "".join(lines).rstrip().encode()
        return batch
