"""A server on loopback that speaks enough of the OpenAI API, and fails as its script says."""

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

CHAT, COMPLETIONS, TOKENIZE = "/v1/chat/completions", "/v1/completions", "/tokenize"
MARKS = END, ASSISTANT, USER, SYSTEM = "</end>", "<assistant>", "<user>", "<system>"


@dataclass(frozen=True, slots=True)
class Fault:
    """How a request is answered; the default is an ordinary answer."""

    status: int = 200
    body: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0
    cut: bool = False


def told(found: Any, status: int = 200, **more: Any) -> Fault:
    return Fault(status, json.dumps(found).encode(), **more)


def refusal(status: int, message: str, **headers: str) -> Fault:
    names = {name.replace("_", "-"): text for name, text in headers.items()}
    return told({"error": {"message": message, "code": status}}, status, headers=names)


def completion(text: Any, finish: str = "stop", tokens: tuple[int, int] = (10, 5)) -> bytes:
    message = {"role": "assistant", "content": text}
    usage = {"prompt_tokens": tokens[0], "completion_tokens": tokens[1]}
    choices = [{"index": 0, "message": message, "finish_reason": finish}]
    return json.dumps({"id": "x", "choices": choices, "usage": usage}).encode()


OK = Fault()
RATE_LIMITED = refusal(429, "slow down")
SERVER_ERROR = refusal(500, "internal")
UNAVAILABLE = refusal(503, "overloaded")
SLOW = Fault(delay=0.5)
DROPPED = Fault(cut=True)
NO_JSON = Fault(body=b"<html>busy</html>")
NO_TEXT = Fault(body=completion(None))
TRUNCATED = Fault(body=completion("half an ans", "length"))
NO_MODEL = refusal(404, "The model `x` does not exist.")
NO_ROUTE = refusal(404, "Not Found")
TOO_LONG = refusal(400, "This model's maximum context length is 4096 tokens, you asked for 9000.")


@dataclass(frozen=True, slots=True)
class Request:
    path: str
    body: dict[str, Any]
    headers: dict[str, str]
    method: str = "POST"
    raw: bytes = b""

    @property
    def asked(self) -> str:
        """The last message of a chat."""
        return self.body["messages"][-1]["content"]


class Loopback(ThreadingHTTPServer):
    """A server that runs while its block does."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        self.log: list[Request] = []
        self.running = self.most_running = 0
        self.delay = 0.0
        self.lock = threading.Lock()
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/v1"

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has gone away is no news."""

    def answered(self, path: str, request: Request) -> Fault:
        """What is answered to a request; the path has no query."""
        raise NotImplementedError


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Loopback

    def log_message(self, *_: object) -> None:
        """Nothing on stderr."""

    def do_POST(self) -> None:
        server, length = self.server, int(self.headers.get("Content-Length", 0))
        raw = self.rfile.read(length)
        if len(raw) < length:
            return  # whoever asked was killed
        headers = {name.lower(): text for name, text in self.headers.items()}
        body = json.loads(raw) if raw.startswith(b"{") else {}
        request = Request(self.path, body, headers, self.command, raw)
        with server.lock:
            server.log.append(request)
            server.running += 1
            server.most_running = max(server.most_running, server.running)
        fault = server.answered(self.path.partition("?")[0], request)
        time.sleep(fault.delay or server.delay)
        with server.lock:
            server.running -= 1
        sent = fault.body or b"{}"
        kind = "text/html" if sent.startswith(b"<") else "application/json"
        self.send_response(fault.status)
        about = {"Content-Type": kind, "Content-Length": str(len(sent))}
        for name, text in (fault.headers | about).items():
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(sent[: len(sent) // 2] if fault.cut else sent)
        self.close_connection = self.close_connection or fault.cut

    do_GET = do_POST  # noqa: N815


class FaultyServer(Loopback):
    """Consumes ``script`` chat by chat, then answers; ``always`` fails chats of a given text."""

    def __init__(self, script: tuple[Fault, ...] = (), *, models: tuple[str, ...] = ("m",)) -> None:
        self.script, self.models = list(script), models
        self.always: dict[str, Fault] = {}
        # What is said to a chat that neither the script nor ``always`` takes.
        self.answer: Callable[[Request], str | Fault] | None = None
        self.routes: dict[str, Fault] = {}  # path to what is answered there instead
        # Chats a second, a tenth of a second's at once; more are answered with ``limit``.
        self.rate: float | None = None
        self.limit, self.refused = RATE_LIMITED, 0
        self._left, self._filled = 0.0, 0.0
        self.tokens, self.context = (10, 5), 4096
        self.words = {word: n for n, word in enumerate(MARKS)}
        # By (word before, word); the head of the answer is ``<assistant>``.
        self.logprobs: dict[tuple[str, str], float] = {}
        super().__init__()

    def chats(self) -> list[Request]:
        """The chat completions asked for so far."""
        return self.requests(CHAT)

    def requests(self, path: str) -> list[Request]:
        with self.lock:
            return [request for request in self.log if request.path.partition("?")[0] == path]

    def answered(self, path: str, request: Request) -> Fault:
        if path in self.routes:
            return self.routes[path]
        if path == CHAT:
            return self.chatted(request)
        if path == "/v1/models":
            return told({"object": "list", "data": [{"id": name} for name in self.models]})
        if path == TOKENIZE:
            ids = self.tokenized(request.body)
            return told({"tokens": ids, "count": len(ids), "max_model_len": self.context})
        return told({"choices": self.scored(request.body)}) if path == COMPLETIONS else NO_ROUTE

    def chatted(self, request: Request) -> Fault:
        with self.lock:
            if self.rate is not None and not self.within_rate(self.rate):
                self.refused += 1
                return self.limit
            fault = self.always.get(request.asked) or (self.script.pop(0) if self.script else OK)
        if fault.body is not None:
            return fault
        held = request.body.get("structured_outputs", {})
        choices = ["[Question] Why?"] if "regex" in held else held.get("choice")
        text: str | Fault = choices[0] if choices else f"re: {request.asked}"
        if self.answer is not None:
            text = self.answer(request)
        if isinstance(text, Fault):
            return text
        return Fault(body=completion(text, tokens=self.tokens), delay=fault.delay, cut=fault.cut)

    def within_rate(self, rate: float) -> bool:
        now = time.monotonic()
        self._left = min(self._left + (now - self._filled) * rate, max(rate / 10, 1.0))
        self._filled = now
        fits = self._left >= 1
        self._left -= fits
        return fits

    def ids(self, text: str) -> list[int]:
        with self.lock:
            return [self.words.setdefault(word, len(self.words)) for word in text.split()]

    def word(self, token: int) -> str:
        return list(self.words)[token]

    def tokenized(self, body: dict[str, Any]) -> list[int]:
        if "prompt" in body:
            return self.ids(body["prompt"])
        said = [f"<{one['role']}> {one['content']} {END}" for one in body["messages"]]
        return self.ids(" ".join([*said, ASSISTANT * body.get("add_generation_prompt", True)]))

    def scored(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        """The choices of a completion, not in their order: of each prompt the wanted tokens."""
        choices = []
        for index, prompt in enumerate(body["prompt"]):
            before = self.word(prompt[-1])
            top = {
                f"token_id:{token}": self.logprobs.get((before, self.word(token)), -30.0)
                for token in body["logprob_token_ids"]
            }
            choices.append({"index": index, "logprobs": {"top_logprobs": [top]}})
        return choices[::-1]
