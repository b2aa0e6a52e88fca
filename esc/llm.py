"""From a request to an answer that is not lost: cache, retries, concurrency, budget.

A task awaits ``Chat.ask`` and knows nothing of it. All records of a run are in flight at once; what
limits them is the number of requests at a time.
"""

import asyncio
import hashlib
import ipaddress
import math
import os
import re
import sys
import time
import weakref
from abc import ABC, abstractmethod
from collections import Counter, defaultdict, deque
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, BinaryIO, Generic, Protocol, TypeVar

import httpx2
import orjson
from tqdm import tqdm

from esc.files import EscError
from esc.prompts import Message, spoken, text_of
from esc.visible import visible

Payload = dict[str, Any]
Tokens = tuple[int, ...]
Answer = TypeVar("Answer", covariant=True)
Record = TypeVar("Record")
Result = TypeVar("Result")


class FailureKind(StrEnum):
    """Why a request has no answer."""

    RATE_LIMITED = "rate limited"
    SERVER_ERROR = "server error"
    TIMEOUT = "timeout"
    CONNECTION = "connection"
    BAD_ANSWER = "bad answer"
    """A body that is not JSON, or JSON of another shape."""
    EMPTY = "empty answer"
    TOO_LONG = "context too long"
    REFUSED = "request refused"
    NOT_OFFERED = "not offered"
    """The endpoint has no such route."""


@dataclass(frozen=True, slots=True)
class Failure:
    """The final failure of one request, as it stands in a record."""

    kind: FailureKind
    message: str
    attempts: int


class CallFailed(Exception):
    """Raised to a task whose request failed; the run of the other records goes on."""

    def __init__(self, kind: FailureKind, message: str, used: tuple[int, int] = (0, 0)) -> None:
        """``used``: tokens of the prompt and of the answer that are paid for all the same."""
        super().__init__(f"{kind}: {message}")
        self.kind, self.message, self.used, self.attempts = kind, message, used, 1
        self.wait: dict[str, str] = {}
        """The headers that say when to ask again."""

    @property
    def failure(self) -> Failure:
        """As it stands in a record."""
        return Failure(self.kind, self.message, self.attempts)


class RunStopped(EscError):
    """Something that every other request of the run would meet too: nothing more is sent."""


_TOO_LONG = re.compile(
    r"context (?:length|size|window)|maximum model length|prompt is too long", re.IGNORECASE
)


def kind_of(status: int, message: str) -> FailureKind:
    """What an HTTP status of 400 or more, and the words with it, say of a request."""
    if status == 429:
        return FailureKind.RATE_LIMITED
    if status in (408, 409) or status >= 500:
        return FailureKind.SERVER_ERROR
    return FailureKind.TOO_LONG if _TOO_LONG.search(message) else FailureKind.REFUSED


def told(error: Any) -> tuple[str, str | None]:
    """(what an error says in its own words, its code); a page for people has no words."""
    if isinstance(error, Mapping):
        if inner := error.get("error") or error.get("detail"):
            return told(inner)
        code = error.get("code")
        words = str(error.get("message") or orjson.dumps(error).decode())
        return words, code if isinstance(code, str) else None
    words = error if isinstance(error, str) else orjson.dumps(error).decode() if error else ""
    return ("" if words.lstrip().startswith("<") else words), None


def counted(failures: Iterable[tuple[str, str]]) -> str:
    """How many of (kind, message) are of each kind, with the words of the first of each."""
    first: dict[str, str] = {}
    count = Counter(kind for kind, message in failures if first.setdefault(kind, message) or True)
    return ", ".join(f"{n} {kind} ({first[kind]})" for kind, n in count.most_common())


CHARACTERS_PER_TOKEN = 4
"""Of English text, for estimates only."""


@dataclass(frozen=True, slots=True)
class Price:
    """Money per million tokens."""

    prompt: float
    completion: float

    @classmethod
    def parse(cls, text: str) -> "Price":
        """The price in ``PROMPT/COMPLETION``, such as ``0.40/1.60``; EscError for another form."""
        try:
            prompt, completion = map(float, text.split("/"))
        except ValueError:
            raise EscError(
                f"PRICE={text!r} is not PROMPT/COMPLETION in money per million tokens, "
                "such as 0.40/1.60"
            ) from None
        return cls(prompt, completion)

    def of(self, prompt_tokens: float, completion_tokens: float) -> float:
        """What so many tokens cost."""
        return (prompt_tokens * self.prompt + completion_tokens * self.completion) / 1e6


@dataclass(slots=True)
class Budget:
    """The money spent by this call of the program, and what running requests may still take."""

    price: Price | None = None
    limit: float | None = None
    spent: float = field(default=0.0, init=False)
    _reserved: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        if self.limit is not None and self.price is None:
            raise EscError("MAX_COST needs PRICE=PROMPT/COMPLETION, money per million tokens")

    def reserve(self, characters: int, max_tokens: int) -> float | None:
        """Set aside the most that a request can cost, or None while others' reserves forbid it.

        RunStopped where it would not fit if nothing else ran.
        """
        if self.price is None:
            return 0.0
        # One token has rarely fewer than two characters, and a chat template adds some dozens: an
        # upper bound, not an estimate.
        most = self.price.of(characters / 2 + 64, max_tokens)
        if self.limit is not None and self.spent + most > self.limit:
            raise RunStopped(
                f"the next request could pass MAX_COST={self.limit:g}{self.told()}; all answers "
                "are kept: the same command goes on, with its own MAX_COST"
            )
        if self.limit is not None and self.spent + self._reserved + most > self.limit:
            return None
        self._reserved += most
        return most

    def settle(self, reserved: float, prompt_tokens: int, completion_tokens: int) -> None:
        """Replace what was set aside by what the answer cost."""
        self._reserved -= reserved
        if self.price is not None:
            self.spent += self.price.of(prompt_tokens, completion_tokens)

    def told(self) -> str:
        """What is spent so far, for the end of a sentence; nothing where no price is known."""
        return "" if self.price is None else f" ({self.spent:.4f} spent by this call)"


@dataclass(slots=True)
class Meter:
    """Counts of requests and tokens."""

    budget: Budget
    answered: int = 0
    cached: int = 0
    failed: int = 0
    retries: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def line(self) -> str:
        """Requests ok, failed and cached, tokens, and cost where a price is known."""
        tokens = (self.prompt_tokens + self.completion_tokens) / 1000
        line = (
            f"{self.answered} ok, {self.failed} failed, {self.cached} cached, {tokens:.1f}k tokens"
        )
        if self.retries:
            line += f", {self.retries} retries"
        return line + (f", cost {self.budget.spent:.4f}" if self.budget.price else "")


_HEADER = "calls of"


class Cache:
    """Stored answers by key, and the file new ones go to."""

    def __init__(self, path: Path | None, run: Payload) -> None:
        """Read ``path`` where it exists; without one, answers are kept in memory alone.

        Raises EscError where it is of another run or a line is not JSON.
        """
        self._path, self._run = path, run
        self._stream: BinaryIO | None = None
        self._answers: dict[str, Payload] = {}
        self.repaired = False
        """Whether a torn last line was cut off."""
        if path is not None and path.exists():
            self._read(path)

    @property
    def folder(self) -> Path:
        """The folder its file lies in."""
        assert self._path is not None, "answers in memory alone lie in no folder"
        return self._path.parent

    def get(self, key: str) -> Payload | None:
        """The stored answer, or None."""
        return self._answers.get(key)

    def put(self, key: str, audit: Payload, answer: Payload) -> None:
        """Store one answer, at once and for good."""
        self._answers[key] = answer
        if self._path is None:
            return
        rows = [{"key": key} | audit | {"answer": answer}]
        if self._stream is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._stream = self._path.open("ab")
            if self._stream.tell() == 0:
                rows.insert(0, {_HEADER: self._run})
        for row in rows:
            self._stream.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))
        self._stream.flush()

    def close(self) -> None:
        """Hand everything to the disk."""
        if self._stream is not None:
            os.fsync(self._stream.fileno())
            self._stream.close()
            self._stream = None

    def _read(self, path: Path) -> None:
        whole = 0
        with path.open("rb") as stream:
            for number, line in enumerate(stream, start=1):
                if not line.endswith(b"\n"):
                    self.repaired = True
                    os.truncate(path, whole)
                    return
                whole += len(line)
                try:
                    row = orjson.loads(line)
                    if number > 1:
                        self._answers[row["key"]] = row["answer"]
                except (ValueError, KeyError, TypeError) as error:
                    raise EscError(
                        f"{path}, line {number}: no stored answer; delete that line, "
                        "the answer is asked for again"
                    ) from error
                if number == 1 and row != {_HEADER: self._run}:
                    raise EscError(
                        f"{path} holds answers of another run ({line.decode()[:300].strip()}); "
                        "move it away, or use another WORK=folder"
                    )


def key_of(identity: Payload, weights: str | None) -> str:
    """The cache key: SHA-256 over what decides the answer, the model's weights included."""
    text = orjson.dumps([identity, weights], option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(text).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraint:
    """What an answer is held to, one of three."""

    choice: tuple[str, ...] = ()
    """It is one of these texts."""
    regex: str = ""
    """It matches this expression."""
    schema: str = ""
    """It is JSON of this JSON schema, itself as JSON text (so that a request stays hashable)."""
    hint: bool = False
    """Whether who asks checks the answer in any case, so that an endpoint may ignore it."""

    def body(self) -> Payload:
        """The fields of a chat completion request."""
        if self.choice:
            return {"structured_outputs": {"choice": list(self.choice)}}
        if self.regex:
            return {"structured_outputs": {"regex": self.regex}}
        described = {"name": "verdict", "schema": orjson.loads(self.schema), "strict": True}
        return {"response_format": {"type": "json_schema", "json_schema": described}}

    def allows(self, text: str) -> bool:
        """Whether a whole answer keeps to it, which no free one does but by chance."""
        if self.choice:
            return text in self.choice
        return not self.regex or re.match(self.regex, text, re.DOTALL) is not None


@dataclass(frozen=True, slots=True)
class Address:
    """A base URL taken apart, and the key for it, which goes nowhere else."""

    url: str
    """Without a query or a slash at its end."""
    query: dict[str, str]
    """Such as an ``api-version``."""
    is_loopback: bool
    """Whether it is of this very machine, which a proxy of the environment does not reach."""
    key_name: str
    """The key's variable: OPENAI_API_KEY for https alone, VLLM_API_KEY for a server on http."""
    key: str = field(repr=False)

    @classmethod
    def of(cls, text: str) -> "Address":
        """The address in BASE_URL; EscError where it is none, holds a password, or has no key."""
        try:
            url = httpx2.URL(text)
        except httpx2.InvalidURL:
            url = httpx2.URL()
        name = "OPENAI_API_KEY" if url.scheme == "https" else "VLLM_API_KEY"
        port = 80 if url.port is None else url.port
        if url.scheme not in ("http", "https") or not url.host or not 0 < port < 65536:
            raise EscError(
                f"BASE_URL={text!r} is no URL, such as http://127.0.0.1:8000/v1 "
                "(a judge's is JUDGE_BASE_URL)"
            )
        if url.userinfo:
            raise EscError(f"BASE_URL holds a name or password; set {name} instead")
        key = os.environ.get(name, "").strip() or "none"
        if not (key.isascii() and key.isprintable()):
            raise EscError(f"{name} holds characters that no key has, as a line break; set it anew")
        own = url.host == "localhost" or url.host.endswith(".localhost")
        with suppress(ValueError):
            own = ipaddress.ip_address(url.host).is_loopback
        return cls(text.partition("?")[0].rstrip("/"), dict(url.params), own, name, key)

    def clean(self, text: str) -> str:
        """The text as one short line, without the key."""
        if self.key != "none":
            text = text.replace(self.key, "***")
        return " ".join(text.split())[:300]


ATTEMPTS = 6
"""Of one request, the first included; those that a rate limit refuses do not count."""
PATIENCE = 900.0
"""Seconds without any answer, after which a rate limit is a failure."""
LONGEST = 60.0
"""Seconds until a server is asked again that told a longer time than the client waits."""
DOWN, FAULTS = 15.0, 3
"""Seconds for which an endpoint is left out, after so many server errors one after another."""
WINDOW = 2.0
"""Seconds over which the rate of an endpoint's answers is taken, where it limits it."""
SLOWEST = 1.0
"""Requests a second that it is asked in any case."""
_CHAT, _COMPLETIONS, _TOKENIZE = "/chat/completions", "/completions", "/tokenize"
_MODELS = "/models"
_JSON = {"Content-Type": "application/json"}
_WHEN = ("retry-after", "retry-after-ms")


class _Endpoint:
    """One base URL: how it is asked, and how it has answered lately."""

    def __init__(self, url: str, timeout: float, connections: int) -> None:
        self.address = Address.of(url)
        self._http = httpx2.AsyncClient(
            params=self.address.query,
            headers={"Authorization": f"Bearer {self.address.key}"},
            timeout=timeout,
            limits=httpx2.Limits(max_connections=connections),
            follow_redirects=True,
            trust_env=not self.address.is_loopback,
        )
        self.close = self._http.aclose
        self.running = self._faults = 0
        self._answers: deque[float] = deque()
        self._refused: float | None = None
        self._down_until = self._next = 0.0
        self._turn = asyncio.Lock()

    async def send(self, method: str, path: str, content: bytes = b"") -> bytes:
        """The JSON that it answers.

        Raises CallFailed, or RunStopped where every other request would fail alike.
        """
        url, found = self.address.url, None
        # vLLM's own routes lie beside /v1.
        to = (url.removesuffix("/v1") if path == _TOKENIZE else url) + path
        try:
            answer = await self._http.request(method, to, content=content, headers=_JSON)
            found = orjson.loads(answer.content)
        except httpx2.TimeoutException as error:
            raise CallFailed(FailureKind.TIMEOUT, f"{url} did not answer in time") from error
        except (httpx2.RequestError, OSError) as error:
            reason = self.address.clean(f"{url}: {error or type(error).__name__}")
            raise CallFailed(FailureKind.CONNECTION, reason) from error
        except ValueError as error:
            if answer.status_code < 400:
                raise CallFailed(FailureKind.BAD_ANSWER, f"{url} answered no JSON") from error
        status = answer.status_code
        said = found if status < 400 and path == _CHAT and isinstance(found, dict) else {}
        if (wrong := said.get("error")) and not said.get("choices"):
            given = wrong.get("code") if isinstance(wrong, dict) else None
            status = given if isinstance(given, int) and given >= 400 else 500
        if status < 400:
            if path == _CHAT:
                read_completion(found)
            return answer.content
        words, code = told(found if found is not None else answer.text)
        refused = self._refusal(path, status, self.address.clean(words), code)
        refused.wait = {name: value for name, value in answer.headers.items() if name in _WHEN}
        raise refused

    def _refusal(self, path: str, status: int, words: str, code: str | None) -> CallFailed:
        message, address = words or f"HTTP {status}", self.address
        kind = kind_of(status, message)
        is_passing = kind in (FailureKind.RATE_LIMITED, FailureKind.SERVER_ERROR)
        # vLLM's own routes, the old completions and the list are not what every server has.
        if path in (_TOKENIZE, _COMPLETIONS) and (status == 501 or not is_passing):
            return CallFailed(FailureKind.NOT_OFFERED, message)
        if path == _MODELS and status == 404:
            reason = f"{address.url} has no /models; a base URL usually ends in /v1"
            return CallFailed(FailureKind.NOT_OFFERED, reason)
        if status in (401, 403):
            raise RunStopped(
                f"{address.url} refuses the key ({message}); set {address.key_name} in the "
                "environment"
            )
        if status in (402, 404) or code == "insufficient_quota":
            raise RunStopped(f"{address.url}: {message}")
        return CallFailed(kind, message)

    async def models(self) -> list[str]:
        """The names that it lists; raises as `send`."""
        listed = orjson.loads(await self.send("GET", _MODELS))
        try:
            return [str(entry["id"]) for entry in listed["data"]]
        except (KeyError, TypeError) as error:
            raise CallFailed(FailureKind.BAD_ANSWER, "its /models is no list") from error

    def is_up(self) -> bool:
        """Whether it works; where it failed, one request at a time shows whether it does again."""
        is_tried = self._faults >= FAULTS and self.running > 0
        return self._down_until <= time.monotonic() and not is_tried

    def note(self, kind: FailureKind | None) -> None:
        """Remember how a request went: None is an answer."""
        now = time.monotonic()
        if kind is None:
            self._faults = 0
            self._answers.append(now)
        elif kind is FailureKind.RATE_LIMITED:
            self._refused = now
        elif kind in (FailureKind.SERVER_ERROR, FailureKind.BAD_ANSWER):
            self._faults += 1
        if kind is FailureKind.CONNECTION or self._faults >= FAULTS:
            self._down_until = now + DOWN

    async def turn(self) -> None:
        """Wait for the next turn, where it has refused requests for their number.

        Turns come a little sooner than it has answered lately: so the number in flight follows
        what the endpoint takes, and finds out where that is more.
        """
        if self._refused is None:
            self._answers.clear()
            return
        async with self._turn:
            await asyncio.sleep(self._next - time.monotonic())
            now = time.monotonic()
            while self._answers and self._answers[0] < now - WINDOW:
                self._answers.popleft()
            more = 1.1 if now - self._refused < WINDOW else 2.0
            self._next = now + 1 / max(more * len(self._answers) / WINDOW, SLOWEST)


_MAY_LACK = {"max_tokens": "max_completion_tokens", "temperature": "", "top_p": "", "seed": ""}
"""What a model may refuse, to the name it knows instead; without one it is left out."""
_UNKNOWN = re.compile(
    r"unsupported|not support|unknown|unrecogni[sz]ed|unexpected|not permitted|not allowed",
    re.IGNORECASE,
)
"""Words of a refusal that is of a parameter, not of its value."""
_PASSING = (
    FailureKind.SERVER_ERROR,
    FailureKind.TIMEOUT,
    FailureKind.CONNECTION,
    FailureKind.BAD_ANSWER,
)


class Pool(httpx2.AsyncBaseTransport):
    """Several endpoints that serve the same models, as one server to openai's client.

    The client waits and asks again; whether, and whom, is decided here: an endpoint that fails is
    left out for a while, and one that limits requests is sent fewer.
    """

    def __init__(self, urls: Sequence[str], *, timeout: float, connections: int) -> None:
        """``connections``: requests at a time, over all endpoints."""
        if not urls:
            raise EscError("BASE_URL is empty; give one or several URLs, or 'make serve'")
        # Takes a second, which a step that finds its work done does not have.
        import openai

        self.connections = connections
        self._endpoints = [_Endpoint(url, timeout, connections) for url in dict.fromkeys(urls)]
        self._client = openai.AsyncOpenAI(
            base_url="http://pool",
            api_key="none",
            max_retries=sys.maxsize,
            http_client=httpx2.AsyncClient(transport=self, trust_env=False),
        )
        self._told_too_long = openai.InternalServerError
        self.close = self._client.close
        self.heard = time.monotonic()
        """When somebody last had an answer, or began to ask."""
        self.retries = 0
        self.sending: set[object] = set()
        """The tasks whose request is at an endpoint."""
        self.is_last = False
        """Whether what fails is not asked again."""
        self._faults: Counter[object] = Counter()
        """By task, the attempts that count."""
        self._otherwise: defaultdict[str, dict[str, str]] = defaultdict(dict)
        """By model, what it refuses to be sent, to the name it knows instead, or nothing."""
        self._paths: dict[tuple[str, tuple[str, ...]], list[Tokens]] = {}
        self._learning = asyncio.Lock()

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """An endpoint's answer, or one that has the client ask again; raises as `post`."""
        up = [one for one in self._endpoints if one.is_up()]
        chosen, task = min(up or self._endpoints, key=lambda it: it.running), asyncio.current_task()
        chosen.running += 1
        try:
            await chosen.turn()
            self.sending.add(task)
            content = await chosen.send(request.method, request.url.path, request.content)
        except CallFailed as failed:
            chosen.note(failed.kind)
            failed.attempts = 1 + int(request.headers["x-stainless-retry-count"])
            is_limit = failed.kind is FailureKind.RATE_LIMITED
            self._faults[task] += not is_limit
            if is_limit:
                is_worth_it = time.monotonic() - self.heard < PATIENCE
            else:
                is_worth_it = failed.kind in _PASSING and self._faults[task] < ATTEMPTS
            if self.is_last or not is_worth_it:
                raise
            self.retries += 1
            return httpx2.Response(503, headers={"x-should-retry": "true"} | failed.wait)
        finally:
            chosen.running -= 1
            self.sending.discard(task)
        chosen.note(None)
        self.heard = time.monotonic()
        return httpx2.Response(200, content=content)

    async def aclose(self) -> None:
        """Close all connections."""
        for endpoint in self._endpoints:
            await endpoint.close()

    async def connect(self, models: Sequence[str], *, listed: bool = True) -> list[str]:
        """The models that the endpoints list, all of ``models`` among those of each that answers.

        Where they need not be ``listed`` (a hosted endpoint may list some, or none), an answer is
        enough. Raises EscError where none answers, or one lacks a model (it lists what is there).
        """
        reasons, served = [], list[str]()
        for endpoint in self._endpoints:
            try:
                served = await endpoint.models()
            except CallFailed as failed:
                if listed or failed.kind is FailureKind.CONNECTION:
                    endpoint.note(FailureKind.CONNECTION)
                    reasons.append(failed.message)
                continue
            if missing := [name for name in models if listed and name not in served]:
                raise EscError(
                    f"{endpoint.address.url} does not serve {', '.join(missing)}; it has "
                    f"{', '.join(sorted(served)[:20]) or 'nothing'} (train what is missing, then "
                    "make stop serve, or choose another STAGE)"
                )
        if len(reasons) == len(self._endpoints):
            raise EscError(
                f"no server answers ({'; '.join(reasons)}); 'make serve' starts one, or give "
                "BASE_URL=http://host:port/v1, for a judge JUDGE_BASE_URL"
            )
        return served

    async def post(self, path: str, body: Payload) -> Any:
        """The JSON of the answer; CallFailed or RunStopped says why there is none."""
        try:
            while True:
                try:
                    answer = await self._client.post(path, cast_to=httpx2.Response, body=body)
                    return orjson.loads(answer.content)
                except self._told_too_long:
                    await asyncio.sleep(LONGEST)
        finally:
            self._faults.pop(asyncio.current_task(), None)

    async def complete(self, body: Payload, hinted: Collection[str] = ()) -> Payload:
        """A chat completion as `read_completion` has it, asked for in the way the model knows.

        A parameter that it refuses is sent by another name or left out, and so are the fields
        ``hinted``, which ask for a form that is checked in any case: from then on for every
        request. Raises as `post`.
        """
        model = str(body["model"])
        known = self._otherwise[model]
        sent = {
            known.get(name, name): value for name, value in body.items() if known.get(name, name)
        }
        try:
            return read_completion(await self.post(_CHAT, sent))
        except CallFailed as failed:
            why = failed.message
            named = [name for name in _MAY_LACK if name in sent and name in why]
            refused = named[:1] if _UNKNOWN.search(why) else []
            refused = refused or [name for name in hinted if name in sent]
            if failed.kind is not FailureKind.REFUSED or not refused:
                raise
        instead = {name: _MAY_LACK.get(name, "") for name in refused}
        other = {instead.get(name, name): value for name, value in sent.items()}
        other.pop("", None)
        answer = await self.complete(other, hinted)
        for name in instead.keys() - known.keys():
            done = f"sent as {instead[name]}" if instead[name] else "left out"
            line = f"note        {name} is {done} for {model}, which refuses it ({why})"
            tqdm.write(visible(line), file=sys.stderr)
        known |= instead
        return answer

    async def tokens_of(self, model: str, **text: Any) -> tuple[Tokens, int]:
        """(the ids a server makes of ``messages`` or of a ``prompt``, the size of its context).

        Nothing and 0 where it has no ``/tokenize``.
        """
        try:
            answer = await self.post(_TOKENIZE, {"model": model} | text)
            tokens = tuple(int(token) for token in answer["tokens"])
            return tokens, int(answer.get("max_model_len") or 0)
        except (KeyError, TypeError, ValueError, AttributeError):
            return (), 0
        except CallFailed as failed:
            if failed.kind is FailureKind.NOT_OFFERED:
                return (), 0
            raise

    async def paths_of(self, model: str, answers: tuple[str, ...]) -> list[Tokens]:
        """The tokens of every answer, each with the one that ends the turn; asked once.

        None of them where the server tells no tokens, or its chat template does not continue a
        prompt.
        """
        async with self._learning:
            if (model, answers) not in self._paths:
                asked = Message("user", "?").wire()
                head, _ = await self.tokens_of(model, messages=[asked])
                paths = []
                for answer in answers if head else ():
                    chat = [asked, Message("assistant", answer).wire()]
                    whole, _ = await self.tokens_of(
                        model, messages=chat, add_generation_prompt=False
                    )
                    alone, _ = await self.tokens_of(model, prompt=answer, add_special_tokens=False)
                    path = whole[len(head) : len(head) + len(alone) + 1]
                    if whole[: len(head)] == head and len(path) == len(alone) + 1:
                        paths.append(path)
                self._paths[model, answers] = paths if len(paths) == len(answers) else []
        return self._paths[model, answers]


def allowed(paths: Sequence[Tokens]) -> Payload:
    """Request fields that keep an answer to the tokens of these paths; none of no path.

    A constraint on the text alone also admits odd spellings, "I" and "nformation", which a model
    was never trained on and takes for other reasons.
    """
    return {"allowed_token_ids": sorted({it for path in paths for it in path})} if paths else {}


def read_completion(answer: Any) -> Payload:
    """Text, finish reason and token counts of a completion.

    Raises CallFailed for another shape, and with what it used for an answer without text.
    """
    try:
        choice, usage = answer["choices"][0], answer.get("usage") or {}
        text, finish = text_of(choice["message"].get("content")), choice.get("finish_reason")
        used = int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)
    except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
        reason = f"no chat completion: {type(error).__name__} {error}"
        raise CallFailed(FailureKind.BAD_ANSWER, reason) from error
    if text is None or (not text and finish == "length"):
        thought = f", its {used[1]:,} tokens went into something else, such as thinking"
        reason = "the answer has no text" + (thought if finish == "length" else "")
        raise CallFailed(FailureKind.EMPTY, reason, used)
    return {"text": text, "finish": finish, "prompt_tokens": used[0], "completion_tokens": used[1]}


@dataclass(frozen=True, slots=True)
class Sampling:
    """How an answer is drawn."""

    max_tokens: int
    """At most; fewer where the context has no room for so many."""
    temperature: float = 0.0
    top_p: float = 1.0


@dataclass(frozen=True, slots=True)
class Reply:
    """A model's answer."""

    text: str
    """Without what a reasoning model thought before it; nothing where its thinking was cut."""
    truncated: bool
    """Whether ``max_tokens`` cut it; such an answer is kept."""
    prompt_tokens: int
    completion_tokens: int


def derived_seed(record: str, sample: int) -> int:
    """The seed of one sample of one record: the same in every run and in every order."""
    digest = hashlib.sha256(f"{record}\n{sample}".encode()).digest()
    return int.from_bytes(digest[:4]) >> 1


@dataclass(frozen=True, slots=True)
class Call(ABC, Generic[Answer]):
    """What somebody asks: a generation, or the score of given answers."""

    record: str
    """Id of the record it is for."""
    step: str
    """What it is for, such as ``plan``; for the audit trail."""
    model: str
    """The served name."""
    messages: tuple[Message, ...]

    @property
    def wire(self) -> list[dict[str, str]]:
        """The chat as it is sent."""
        return [message.wire() for message in self.messages]

    def size(self) -> tuple[int, int]:
        """(characters of the prompt, largest number of answer tokens)."""
        return sum(len(message.content) for message in self.messages), 0

    @abstractmethod
    def identity(self) -> Payload:
        """Everything that decides the answer."""

    def audit(self) -> Payload:
        """What the stored line says besides the key."""
        return {"record": self.record, "step": self.step, "model": self.model}

    def body(self) -> Payload | None:
        """What a line of a batch file asks, or None where no batch engine has an answer to it."""
        return None

    @abstractmethod
    async def send(self, pool: Pool) -> Payload | None:
        """The answer as it is stored, or None where the server has none of the kind."""

    def check(self, answer: Payload) -> None:
        """RunStopped where the answer shows that what was asked for is ignored."""

    @abstractmethod
    def read(self, payload: Payload) -> Answer:
        """The stored answer as the task sees it."""

    @abstractmethod
    def rehearse(self) -> Answer:
        """The answer a dry run goes on with, or a run where there is none of the kind."""


_FREE = "use DECODE=free, or a server with structured outputs, such as vLLM"


@dataclass(frozen=True, slots=True)
class Generation(Call[Reply]):
    """A request for one answer, whose seed comes from the record and ``sample``."""

    sampling: Sampling
    constraint: Constraint | None = None
    sample: int = 0
    """0-based index among several samples of the same record."""
    expected: str = ""
    """An answer of the usual kind, for a dry run; decides nothing else."""

    @property
    def seed(self) -> int:
        """The seed sent with the request."""
        return derived_seed(self.record, self.sample)

    def size(self) -> tuple[int, int]:
        """(characters of the prompt, largest number of answer tokens)."""
        return Call.size(self)[0], self.sampling.max_tokens

    def identity(self) -> Payload:
        """Everything that decides the answer."""
        return {
            "model": self.model,
            "messages": self.wire,
            "sampling": asdict(self.sampling),
            "constraint": self.constraint.body() if self.constraint else None,
            "seed": self.seed,
            "sample": self.sample,
        }

    def audit(self) -> Payload:
        """The identity, with record and step."""
        return Call.audit(self) | self.identity()

    def body(self) -> Payload:
        """What is sent, but for the tokens of a choice, which are the engine's."""
        body = {"model": self.model, "messages": self.wire, **asdict(self.sampling)}
        return body | {"seed": self.seed} | (self.constraint.body() if self.constraint else {})

    async def send(self, pool: Pool) -> Payload:
        """The answer as it is stored; its room is what the context leaves, where that is less."""
        body, constraint, hinted = self.body(), self.constraint, Payload()
        if constraint and constraint.choice:
            body |= allowed(await pool.paths_of(self.model, constraint.choice))
        elif constraint and constraint.hint:
            hinted = constraint.body()
        try:
            return await pool.complete(body, hinted)
        except CallFailed as failed:
            if failed.kind is FailureKind.REFUSED and constraint and not constraint.hint:
                reason = f"the server refuses the constraint ({failed.message}); {_FREE}"
                raise RunStopped(reason) from failed
            if failed.kind is not FailureKind.TOO_LONG:
                raise
            tokens, context = await pool.tokens_of(self.model, messages=self.wire)
            left = context - len(tokens)
            if not 0 < left < self.sampling.max_tokens:
                raise
        return await pool.complete(body | {"max_tokens": left}, hinted)

    def check(self, answer: Payload) -> None:
        """RunStopped where a whole answer is none that the constraint allows."""
        constraint, (text, is_cut) = self.constraint, spoken(answer["text"])
        is_whole = not is_cut and answer["finish"] != "length"
        if constraint and not constraint.hint and is_whole and not constraint.allows(text):
            raise RunStopped(f"the server answers, but ignores the constraint; {_FREE}")

    def read(self, payload: Payload) -> Reply:
        """The answer without its thinking."""
        text, is_cut = spoken(payload["text"])
        is_cut = is_cut or payload["finish"] == "length"
        return Reply(text, is_cut, payload["prompt_tokens"], payload["completion_tokens"])

    def rehearse(self) -> Reply:
        """The expected answer."""
        return Reply(self.expected, False, 0, 0)


class Asks(Protocol):
    """What a task needs: somebody to ask."""

    async def ask(self, call: Call[Answer]) -> Answer:
        """The answer to one call; CallFailed where there is none."""


MUTE = 20
"""Requests that end without a word, until a run does not wait for one any more."""


class Chat:
    """Asks models, each thing once."""

    def __init__(
        self, pool: Pool, cache: Cache, *, weights: Mapping[str, str], budget: Budget
    ) -> None:
        """``weights`` maps a served name to a hash of what answers under it."""
        self._pool, self._cache, self._weights = pool, cache, weights
        self._slots = asyncio.Semaphore(pool.connections)
        self._asking: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()
        self._stopped: EscError | OSError | None = None
        self._mute: defaultdict[str, float] = defaultdict(float)
        """How often each model had nothing to say; minus infinity once it has said something."""
        self.meter = Meter(budget)

    async def ask(self, call: Call[Answer]) -> Answer:
        """The answer to one call, from the cache where it is there.

        Raises CallFailed where it has none for good, RunStopped where no call of the run would.
        """
        key = key_of(call.identity(), self._weights.get(call.model))
        if not self._asking:
            # Where nobody asked, as between a person's two messages, nobody was refused either.
            self._pool.heard = time.monotonic()
        # A second call of the same key waits for the first one's answer.
        async with self._asking.setdefault(key, asyncio.Lock()):
            stored = self._cache.get(key)
            if stored is not None:
                self.meter.cached += 1
                return call.read(stored)
            async with self._slots:
                answer = await self._answer(call)
            self.meter.answered += 1
            if answer is None:
                return call.rehearse()
            call.check(answer)
            self._cache.put(key, call.audit(), answer)
        said, is_cut = spoken(answer.get("text", ""))
        if said:
            self._mute[call.model] = -math.inf
        elif is_cut:
            self._check_not_mute(call.model, "cut while the model thought")
        return call.read(answer)

    async def _answer(self, call: Call[Any]) -> Payload | None:
        """The answer to one request; what it can cost is set aside until that is known."""
        if self._stopped is not None:
            raise self._stopped
        meter, used = self.meter, (0, 0)
        while (reserved := meter.budget.reserve(*call.size())) is None:
            # What runs may turn out cheaper than it can be at most.
            await asyncio.sleep(0.1)
        try:
            answer = await call.send(self._pool)
            if answer is not None:
                used = answer["prompt_tokens"], answer["completion_tokens"]
                # A server that tells no usage is not one that costs nothing.
                meter.budget.spent += 0.0 if any(used) else reserved
            return answer
        except CallFailed as failed:
            used = failed.used
            meter.failed += 1
            if failed.kind in (FailureKind.EMPTY, FailureKind.REFUSED):
                self._check_not_mute(call.model, failed.message)
            raise
        finally:
            meter.budget.settle(reserved, *used)
            meter.prompt_tokens += used[0]
            meter.completion_tokens += used[1]
            meter.retries = self._pool.retries

    def _check_not_mute(self, model: str, why: str) -> None:
        """Raise RunStopped where all that a model was asked ended without a word of it."""
        self._mute[model] += 1
        if self._mute[model] >= MUTE:
            raise RunStopped(
                f"the first {MUTE} requests to {model} brought no answer ({why}), nor would the "
                f"others{self.meter.budget.told()}; all answers are kept"
            )

    async def run(
        self,
        records: Sequence[Record],
        work: Callable[[Asks, Record], Awaitable[Result]],
        what: str,
    ) -> list[Result | Failure]:
        """The result of ``work`` for every record, in order, or its final failure.

        Raises RunStopped, or another EscError of ``work``, after the requests already sent have
        been answered and kept.
        """
        tasks: list[asyncio.Task[Result | Failure]] = []
        every = 0.5 if sys.stderr.isatty() else 15.0
        bar = tqdm(total=len(records), desc=what, unit="turn", mininterval=every, smoothing=0.05)

        async def one(record: Record) -> Result | Failure:
            try:
                return await work(self, record)
            except CallFailed as failed:
                return failed.failure
            except (EscError, OSError) as stopped:
                # RunStopped, or what every record meets, such as a prompt that does not render or
                # a full disk: raised below, when nothing is in flight any more.
                self._stopped, self._pool.is_last = self._stopped or stopped, True
                for task in {*tasks} - self._pool.sending - {asyncio.current_task()}:
                    task.cancel()
                return Failure(FailureKind.REFUSED, str(stopped), 0)
            finally:
                bar.set_postfix_str(self.meter.line(), refresh=False)
                bar.update()

        try:
            async with asyncio.TaskGroup() as group:
                tasks += [group.create_task(one(record)) for record in records]
        finally:
            bar.close()
            self._cache.close()
        if self._stopped is not None:
            raise self._stopped
        return [task.result() for task in tasks]


class Rehearsal:
    """Asks nobody: counts what a run would send, for ``--dry-run``."""

    def __init__(self, cache: Cache, weights: Mapping[str, str]) -> None:
        self._cache, self._weights = cache, weights
        self.requests = self.cached = self.prompt_tokens = self.completion_tokens = 0

    async def ask(self, call: Call[Answer]) -> Answer:
        """The stored answer, or one of the usual kind."""
        stored = self._cache.get(key_of(call.identity(), self._weights.get(call.model)))
        if stored is not None:
            self.cached += 1
            return call.read(stored)
        characters, max_tokens = call.size()
        self.requests += 1
        self.prompt_tokens += characters // CHARACTERS_PER_TOKEN
        self.completion_tokens += max_tokens
        return call.rehearse()

    def report(self, budget: Budget) -> str:
        """What would be sent, and at most paid."""
        report = (
            f"dry run: {self.requests:,} requests to send, {self.cached:,} answered already\n"
            f"about {self.prompt_tokens:,} prompt tokens (4 characters each), at most "
            f"{self.completion_tokens:,} answer tokens"
        )
        if budget.price is not None:
            most = budget.price.of(self.prompt_tokens, self.completion_tokens)
            report += f"\nabout {most:,.4f} at most, at the given price"
        return report
