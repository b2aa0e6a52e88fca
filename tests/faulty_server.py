"""A server on loopback that speaks enough of the OpenAI API, and fails as its script says."""

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

CHAT, COMPLETIONS, TOKENIZE = "/v1/chat/completions", "/v1/completions", "/tokenize"
END, USER, ASSISTANT, SYSTEM = 0, 1, 2, 3


@dataclass(frozen=True, slots=True)
class Fault:
    """How one chat completion is answered; the default is an ordinary answer."""

    status: int = 200
    body: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0
    cut: bool = False
    dies: bool = False


def refusal(status: int, message: str, **headers: str) -> Fault:
    body = json.dumps({"error": {"message": message, "code": status}}).encode()
    return Fault(status, body, {name.replace("_", "-"): text for name, text in headers.items()})


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
DIES = Fault(dies=True)
NO_JSON = Fault(body=b"<html>busy</html>")
NO_CHOICES = Fault(body=b'{"choices": [], "usage": null}')
NO_TEXT = Fault(body=completion(None))
ANOTHER_SHAPE = Fault(body=b'{"answer": 42}')
TRUNCATED = Fault(body=completion("half an ans", "length"))
NO_MODEL = refusal(404, "The model `x` does not exist.")
TOO_LONG = refusal(400, "This model's maximum context length is 4096 tokens, you asked for 9000.")


@dataclass(frozen=True, slots=True)
class Request:
    path: str
    body: dict[str, Any]
    headers: dict[str, str]

    @property
    def asked(self) -> str:
        """The last message of a chat."""
        return self.body["messages"][-1]["content"]


class FaultyServer(ThreadingHTTPServer):
    """Consumes ``script`` chat by chat, then answers; ``always`` fails chats of a given text."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, script: tuple[Fault, ...] = (), *, models: tuple[str, ...] = ("m",)) -> None:
        self.script, self.models = list(script), models
        self.always: dict[str, Fault] = {}
        self.answer: Callable[[Request], str | Fault] | None = None
        """What is said to a chat that neither the script nor ``always`` takes."""
        self.routes: dict[str, Fault] = {}
        """Path to what is answered there instead."""
        self.delay = 0.0
        self.rate: float | None = None
        """Chats a second, a tenth of a second's at once; more are answered with ``limit``."""
        self.limit = RATE_LIMITED
        self.refused = 0
        self._left, self._filled = 0.0, 0.0
        self.tokens = 10, 5
        self.context = 4096
        self.obeys = self.tokenizes = True
        self.log: list[Request] = []
        self.running = self.most_running = 0
        self.words = {"</end>": END, "<user>": USER, "<assistant>": ASSISTANT, "<system>": SYSTEM}
        self.logprobs: dict[tuple[str, str], float] = {}
        """By (word before, word); the head of the answer is ``<assistant>``."""
        self.lock = threading.Lock()
        self._open: set[Any] = set()
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/v1"

    def __enter__(self) -> "FaultyServer":
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.die()

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has gone away is no news."""

    def die(self) -> None:
        """Stop listening, and break every open connection off."""
        self.shutdown()
        self.server_close()
        for connection in self._open:
            try:
                connection.shutdown(2)
            except OSError:
                continue

    def chats(self) -> list[Request]:
        """The chat completions asked for so far, canaries included."""
        return self.requests(CHAT)

    def requests(self, path: str) -> list[Request]:
        with self.lock:
            return [request for request in self.log if request.path.partition("?")[0] == path]

    def begun(self, request: Request) -> None:
        with self.lock:
            self.log.append(request)
            self.running += 1
            self.most_running = max(self.most_running, self.running)

    def ended(self) -> None:
        with self.lock:
            self.running -= 1

    def next_fault(self, request: Request) -> Fault:
        with self.lock:
            if self.rate is not None and not self.within_rate(self.rate):
                self.refused += 1
                return self.limit
            fault = self.always.get(request.asked) or (self.script.pop(0) if self.script else OK)
        if fault is not OK or self.answer is None:
            return fault
        said = self.answer(request)
        return said if isinstance(said, Fault) else Fault(body=completion(said, tokens=self.tokens))

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


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: FaultyServer

    def log_message(self, *_: object) -> None:
        """Nothing on stderr."""

    def do_GET(self) -> None:
        self.server.begun(Request(self.path, {}, lowered(self.headers)))
        if refused := self.server.routes.get(self.path.partition("?")[0]):
            self.send(refused, refused.body or b"{}")
            return
        listed = [{"id": name} for name in self.server.models]
        self.send(OK, json.dumps({"object": "list", "data": listed}).encode())

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        request = Request(self.path, body, lowered(self.headers))
        self.server.begun(request)
        path = self.path.partition("?")[0]
        if path in self.server.routes:
            self.send(self.server.routes[path], self.server.routes[path].body or b"{}")
        elif path == CHAT:
            fault = self.server.next_fault(request)
            text = constrained(body) if self.server.obeys else None
            usual = completion(text or f"re: {request.asked}", tokens=self.server.tokens)
            self.send(fault, usual if fault.body is None else fault.body)
        elif path == TOKENIZE and self.server.tokenizes:
            tokens = self.tokens(body)
            context = {"count": len(tokens), "max_model_len": self.server.context}
            self.send(OK, json.dumps({"tokens": tokens} | context).encode())
        elif path == COMPLETIONS:
            self.send(OK, json.dumps(self.scored(body)).encode())
        else:
            self.send(refusal(404, "Not Found"), b'{"detail": "Not Found"}')

    def tokens(self, body: dict[str, Any]) -> list[int]:
        if "prompt" in body:
            return self.server.ids(body["prompt"])
        tokens = []
        for message in body["messages"]:
            tokens += [*self.server.ids(f"<{message['role']}> {message['content']}"), END]
        return [*tokens, ASSISTANT] if body.get("add_generation_prompt", True) else tokens

    def scored(self, body: dict[str, Any]) -> dict[str, Any]:
        choices = []
        for index, prompt in enumerate(body["prompt"]):
            before = self.server.word(prompt[-1])
            top = {
                f"token_id:{token}": self.server.logprobs.get(
                    (before, self.server.word(token)), -30.0
                )
                for token in body["logprob_token_ids"]
            }
            choices.append({"index": index, "logprobs": {"top_logprobs": [top]}})
        return {"choices": choices[::-1]}

    def send(self, fault: Fault, body: bytes) -> None:
        if fault.dies:
            self.close_connection = True
            self.server.die()
            return
        time.sleep(fault.delay or self.server.delay)
        self.server.ended()
        self.send_response(fault.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        for name, text in fault.headers.items():
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if fault.cut else body)
        self.close_connection = self.close_connection or fault.cut


def lowered(headers: Any) -> dict[str, str]:
    return {name.lower(): text for name, text in headers.items()}


def constrained(body: dict[str, Any]) -> str | None:
    """The shortest text within the request's constraint, or None where it has none."""
    outputs = body.get("structured_outputs", {})
    if "choice" in outputs:
        return str(outputs["choice"][0])
    if "regex" in outputs:
        return str(outputs["regex"])
    if "response_format" in body:
        schema = body["response_format"]["json_schema"]["schema"]
        return json.dumps({name: of.get("const") for name, of in schema["properties"].items()})
    return None
