"""From a request to an answer that is not lost: cache, retries, concurrency, money.

A task awaits ``Asks.ask`` and knows nothing of it. All records of a run are in flight at once; what
limits them is the number of requests at a time.
"""

import asyncio
import hashlib
import math
import os
import re
import sys
import time
import weakref
from collections import Counter, defaultdict, deque
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from email.utils import parsedate_to_datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol, TypeVar

import httpx2
import orjson
from tqdm import tqdm

from esc.files import EscError
from esc.prompts import Message, spoken
from esc.visible import visible

Payload = dict[str, Any]
Tokens = tuple[int, ...]
Record = TypeVar("Record")
Result = TypeVar("Result")
T = TypeVar("T")


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

    def __init__(
        self,
        kind: FailureKind,
        message: str,
        *,
        used: tuple[int, int] = (0, 0),
        wait: float | None = None,
    ) -> None:
        """``used``: tokens paid for all the same; ``wait``: seconds until it may be asked again."""
        super().__init__(f"{kind}: {message}")
        self.kind, self.message, self.used, self.wait, self.attempts = kind, message, used, wait, 1


class RunStopped(EscError):
    """Something that every other request of the run would meet too: nothing more is sent."""


_TOO_LONG = re.compile(
    r"context (?:length|size|window)|maximum model length|prompt is too long", re.IGNORECASE
)


def refused(status: int, error: Any, who: str, wait: float | None = None) -> CallFailed:
    """What an HTTP status of 400 or more, and the error with it, say of a request.

    Raises RunStopped where every other one would fail alike: a key, money, an unknown model.
    """
    words, code = _told(error)
    message = " ".join(words.split())[:300] or f"HTTP {status}"
    if status in (401, 402, 403, 404) or code == "insufficient_quota":
        raise RunStopped(f"{who} refuses every request: {message}")
    kind = FailureKind.TOO_LONG if _TOO_LONG.search(message) else FailureKind.REFUSED
    if status == 429:
        kind = FailureKind.RATE_LIMITED
    elif status in (408, 409) or status >= 500:
        kind = FailureKind.SERVER_ERROR
    return CallFailed(kind, message, wait=wait)


def _told(error: Any) -> tuple[str, object]:
    """(what an error says in its own words, its code); a page for people has no words."""
    found = error if isinstance(error, dict) else {"message": error or ""}
    if inner := found.get("error") or found.get("detail"):
        return _told(inner)
    words = found.get("message", error)
    words = words if isinstance(words, str) else orjson.dumps(words).decode()
    return "" if words.lstrip().startswith("<") else words, found.get("code")


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
class Meter:
    """What this call of the program asks and spends; ``limit`` is MAX_COST."""

    price: Price | None = None
    limit: float | None = None
    spent: float = 0.0
    reserved: float = 0.0
    """The most that what is on its way can cost."""
    answered: int = 0
    cached: int = 0
    failed: int = 0
    retries: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def __post_init__(self) -> None:
        if self.limit is not None and self.price is None:
            raise EscError("MAX_COST needs PRICE=PROMPT/COMPLETION, money per million tokens")

    def most(self, call: "Generation") -> float:
        """The most that a request can cost: an upper bound, no estimate."""
        # One token has rarely fewer than two characters, and a chat template adds some dozens.
        tokens = call.characters / 2 + 64, call.sampling.max_tokens
        return self.price.of(*tokens) if self.price else 0.0

    def is_over(self, more: float) -> bool:
        """Whether so much more would pass the limit."""
        return self.limit is not None and self.spent + more > self.limit

    def pay(self, prompt_tokens: int, completion_tokens: int) -> None:
        """Count what a request used."""
        self.prompt_tokens += prompt_tokens
        self.completion_tokens += completion_tokens
        self.spent += self.price.of(prompt_tokens, completion_tokens) if self.price else 0.0

    def told(self) -> str:
        """What is spent so far, for the end of a sentence; nothing where no price is known."""
        return f" ({self.spent:.4f} spent by this call)" if self.price else ""

    def __str__(self) -> str:
        tokens = (self.prompt_tokens + self.completion_tokens) / 1000
        line = f"{self.answered} ok, {self.failed} failed, {self.cached} cached, "
        line += f"{tokens:.1f}k tokens, {self.retries} retries"
        return line + (f", cost {self.spent:.4f}" if self.price else "")


_HEADER = "calls of"


class Cache:
    """Stored answers by key, and the file new ones go to; without one, in memory alone."""

    def __init__(self, path: Path | None, run: Payload) -> None:
        """Raises EscError where the file is of another run or a line is no stored answer."""
        self._path, self._run = path, run
        self._answers: dict[str, Payload] = {}
        self.repaired = False
        """Whether a torn last line was cut off."""
        if path is not None and path.exists():
            self._read(path)

    def get(self, key: str) -> Payload | None:
        """The stored answer, or None."""
        return self._answers.get(key)

    def put(self, key: str, audit: Payload, answer: Payload) -> None:
        """Store one answer, at once and for good."""
        self._answers[key] = answer
        if self._path is None:
            return
        with self._path.open("ab") as stream:
            rows = [{"key": key} | audit | {"answer": answer}]
            for row in rows if stream.tell() else [{_HEADER: self._run}, *rows]:
                stream.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))

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
    truncated: bool = False
    """Whether ``max_tokens`` cut it; such an answer is kept."""
    scores: tuple[float, ...] | None = None
    """Natural log-probability of each of a request's ``answers``; None where nobody gives it."""


def derived_seed(record: str, sample: int) -> int:
    """The seed of one sample of one record: the same in every run and in every order."""
    digest = hashlib.sha256(f"{record}\n{sample}".encode()).digest()
    return int.from_bytes(digest[:4]) >> 1


_FREE = "use DECODE=free, or a server with structured outputs, such as vLLM"


@dataclass(frozen=True, slots=True)
class Generation:
    """A request for one answer, or for the log-probability of each of ``answers``."""

    record: str
    """Id of the record it is for."""
    step: str
    """What it is for, such as ``plan``; for the audit trail."""
    model: str
    """The served name."""
    messages: tuple[Message, ...]
    sampling: Sampling = Sampling(0)
    constraint: Constraint | None = None
    sample: int = 0
    """0-based index among several samples of the same record."""
    expected: str = ""
    """An answer of the usual kind, for a dry run; decides nothing else."""
    answers: tuple[str, ...] = ()

    @property
    def seed(self) -> int:
        """The seed sent with the request."""
        return derived_seed(self.record, self.sample)

    @property
    def characters(self) -> int:
        """Of the prompt."""
        return sum(len(message.content) for message in self.messages)

    def identity(self) -> Payload:
        """Everything that decides the answer."""
        asked: Payload = {"model": self.model, "messages": self.wire}
        if self.answers:
            return asked | {"answers": list(self.answers)}
        constraint = self.constraint.body() if self.constraint else None
        asked |= {"sampling": asdict(self.sampling), "constraint": constraint}
        return asked | {"seed": self.seed, "sample": self.sample}

    @property
    def wire(self) -> list[dict[str, str]]:
        """The chat as it is sent."""
        return [message.wire() for message in self.messages]

    def key(self, weights: Mapping[str, str]) -> str:
        """The cache key: SHA-256 over the identity and the hash of the model's weights."""
        decides = [self.identity(), weights.get(self.model)]
        return hashlib.sha256(orjson.dumps(decides, option=orjson.OPT_SORT_KEYS)).hexdigest()

    def audit(self) -> Payload:
        """What the stored line says besides the key."""
        asked = {"record": self.record, "step": self.step, "model": self.model}
        return asked if self.answers else asked | self.identity()

    def body(self) -> Payload:
        """What is sent, but for the tokens of a choice, which are the engine's."""
        body = {"model": self.model, "messages": self.wire, **asdict(self.sampling)}
        return body | {"seed": self.seed} | (self.constraint.body() if self.constraint else {})

    def read(self, stored: Payload | None) -> Reply:
        """The stored answer without its thinking; where there is none, the expected one."""
        if stored is None:
            return Reply(self.expected)
        if self.answers:
            return Reply("", scores=tuple(stored["logprobs"]))
        text, is_cut = spoken(stored["text"])
        return Reply(text, is_cut or stored["finish"] == "length")

    def check(self, stored: Payload) -> None:
        """RunStopped where a whole answer is none that the constraint allows."""
        constraint, reply = self.constraint, self.read(stored)
        if constraint and not (constraint.hint or reply.truncated or constraint.allows(reply.text)):
            raise RunStopped(f"the server answers, but ignores the constraint; {_FREE}")


def read_completion(answer: Any) -> Payload:
    """A chat completion as it is stored: text, finish reason and token counts.

    Raises CallFailed for another shape, and with what it used for an answer without text.
    """
    try:
        choice, usage = answer["choices"][0], answer.get("usage") or {}
        text, finish = choice["message"].get("content"), choice.get("finish_reason")
        if isinstance(text, list):
            parts = [one if isinstance(one, str) else one.get("text") for one in text]
            text = "".join(filter(None, parts)) if parts else None
        used = int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)
    except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
        reason = f"no chat completion: {type(error).__name__} {error}"
        raise CallFailed(FailureKind.BAD_ANSWER, reason) from error
    if text is None or (not text and finish == "length"):
        thought = f", its {used[1]:,} tokens went into something else, such as thinking"
        reason = "the answer has no text" + (thought if finish == "length" else "")
        raise CallFailed(FailureKind.EMPTY, reason, used=used)
    return {"text": text, "finish": finish, "prompt_tokens": used[0], "completion_tokens": used[1]}


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
        port = 80 if url.port is None else url.port
        is_one = url.scheme in ("http", "https") and url.host and not url.userinfo
        name = "OPENAI_API_KEY" if url.scheme == "https" else "VLLM_API_KEY"
        if not is_one or not 0 < port < 65536:
            raise EscError(
                "BASE_URL (a judge's is JUDGE_BASE_URL) is no URL without a password, such as "
                f"http://127.0.0.1:8000/v1; a key is set in {name}"
            )
        key = os.environ.get(name, "").strip() or "none"
        if not (key.isascii() and key.isprintable()):
            raise EscError(f"{name} holds characters that no key has, as a line break; set it anew")
        own = url.host.split(".")[-1] == "localhost" or url.host == "::1"
        own = own or url.host.startswith("127.")
        return cls(text.partition("?")[0].rstrip("/"), dict(url.params), own, name, key)

    def clean(self, text: str) -> str:
        """The text without the key."""
        return text if self.key == "none" else text.replace(self.key, "***")


ATTEMPTS = 6  # of one request, the first included; those that a rate limit refuses do not count
PATIENCE = 900.0  # seconds without any answer, after which a rate limit is a failure
FIRST, USUAL = 0.5, 8.0  # seconds until it is sent again: at first, and doubled up to
LONGEST = 60.0  # seconds until it is sent again where a server asks for more
DOWN, FAULTS = 15.0, 3  # seconds an endpoint is left out, after so many faults in a row
WINDOW = 2.0  # seconds over which the rate of an endpoint's answers is taken, where it limits it
SLOWEST = 1.0  # requests a second that it is asked in any case
_CHAT, _MODELS = "/chat/completions", "/models"
_COMPLETIONS, _TOKENIZE = "/completions", "/tokenize"


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
        self._limited: float | None = None
        self._down_until = self._next = 0.0
        self._turn = asyncio.Lock()

    async def send(self, path: str, body: Payload | None, read: Callable[[Any], T]) -> T:
        """What ``read`` makes of the JSON that it answers.

        Raises CallFailed, or RunStopped where every other request would fail alike.
        """
        url, is_extra = self.address.url, path in (_TOKENIZE, _COMPLETIONS)
        # vLLM's own routes lie beside /v1.
        to = (url.removesuffix("/v1") if path == _TOKENIZE else url) + path
        try:
            answer = await self._http.request("POST" if body else "GET", to, json=body)
        except httpx2.TimeoutException as error:
            raise CallFailed(FailureKind.TIMEOUT, f"{url} did not answer in time") from error
        except (httpx2.RequestError, OSError) as error:
            reason = f"{url}: {error or type(error).__name__}"
            raise CallFailed(FailureKind.CONNECTION, reason) from error
        status, found = answer.status_code, self.address.clean(answer.text)
        with suppress(ValueError):
            found = orjson.loads(found)
        wrong = found.get("error") if isinstance(found, dict) else None
        if status < 400 and path == _CHAT and wrong and not found.get("choices"):
            code = wrong.get("code") if isinstance(wrong, dict) else None
            status = code if isinstance(code, int) and code >= 400 else 500
        if status < 400:
            if isinstance(found, str):
                raise CallFailed(FailureKind.BAD_ANSWER, f"{url} answered no JSON")
            try:
                return read(found)
            except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
                kind = FailureKind.NOT_OFFERED if is_extra else FailureKind.BAD_ANSWER
                raise CallFailed(kind, f"{url}{path} answered another shape") from error
        # vLLM's own routes, the old completions and the list are not what every server has.
        is_passing = status in (408, 409, 429) or (status >= 500 and status != 501)
        if (is_extra and not is_passing) or (path == _MODELS and status == 404):
            reason = f"{url} has no {path}; a base URL usually ends in /v1"
            raise CallFailed(FailureKind.NOT_OFFERED, reason)
        wait = _seconds_told(answer.headers)
        raise refused(status, found, f"{url} (its key: {self.address.key_name})", wait)

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
            self._limited = now
        elif kind in (FailureKind.SERVER_ERROR, FailureKind.BAD_ANSWER):
            self._faults += 1
        if kind is FailureKind.CONNECTION or self._faults >= FAULTS:
            self._down_until = now + DOWN

    async def turn(self) -> None:
        """Wait for the next turn, where it has refused requests for their number.

        Turns come a little sooner than it has answered lately: so the number in flight follows
        what the endpoint takes, and finds out where that is more.
        """
        if self._limited is None:
            self._answers.clear()
            return
        async with self._turn:
            await asyncio.sleep(self._next - time.monotonic())
            now = time.monotonic()
            while self._answers and self._answers[0] < now - WINDOW:
                self._answers.popleft()
            more = 1.1 if now - self._limited < WINDOW else 2.0
            self._next = now + 1 / max(more * len(self._answers) / WINDOW, SLOWEST)


def _seconds_told(headers: Mapping[str, str]) -> float | None:
    """How long a server asks to wait, in any of the three forms; None where it does not say."""
    with suppress(ValueError):
        return float(headers.get("retry-after-ms", "")) / 1000
    told = headers.get("retry-after", "")
    with suppress(ValueError):
        return float(told)
    with suppress(ValueError):
        return parsedate_to_datetime(told).timestamp() - time.time()
    return None


_MAY_LACK = {"max_tokens": "max_completion_tokens", "temperature": "", "top_p": "", "seed": ""}
"""What a model may refuse, to the name it knows instead; without one it is left out."""
_UNKNOWN = re.compile(
    r"unsupported|not support|unknown|unrecogni[sz]ed|unexpected|not permitted|not allowed",
    re.IGNORECASE,
)
"""Words of a refusal that is of a parameter, not of its value."""
_Kind = FailureKind
_PASSING = (_Kind.SERVER_ERROR, _Kind.TIMEOUT, _Kind.CONNECTION, _Kind.BAD_ANSWER)


class Pool:
    """Several endpoints that serve the same models, asked as one.

    An endpoint that fails is left out for a while, and one that limits requests is sent fewer.
    """

    def __init__(
        self, urls: Sequence[str], *, timeout: float, connections: int, meter: Meter | None = None
    ) -> None:
        """``connections``: requests at a time, over all endpoints."""
        if not urls:
            raise EscError("BASE_URL is empty; give one or several URLs, or 'make serve'")
        self.connections, self.meter = connections, meter or Meter()
        self._endpoints = [_Endpoint(url, timeout, connections) for url in dict.fromkeys(urls)]
        self._heard = 0.0
        """When somebody last had an answer."""
        self.sending: set[object] = set()
        """The tasks whose request is at an endpoint."""
        self.is_last = False
        """Whether what fails is not asked again."""
        self._otherwise: defaultdict[str, dict[str, str]] = defaultdict(dict)
        """By model, what it refuses to be sent, to the name it knows instead, or nothing."""
        self._paths: dict[tuple[str, tuple[str, ...]], list[Tokens]] = {}
        self._learning = asyncio.Lock()

    async def close(self) -> None:
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
                served = await endpoint.send(
                    _MODELS, None, lambda found: [str(entry["id"]) for entry in found["data"]]
                )
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

    async def answer(self, call: Generation) -> Payload | None:
        """The answer as it is stored, or None where no endpoint gives log-probabilities.

        Raises CallFailed, or RunStopped where every other request would fail alike.
        """
        if call.answers:
            return await self._score(call)
        body, constraint, hinted = call.body(), call.constraint, Payload()
        if constraint and constraint.choice:
            body |= allowed(await self.paths_of(call.model, constraint.choice))
        elif constraint and constraint.hint:
            hinted = constraint.body()
        try:
            return await self._complete(body, hinted)
        except CallFailed as failed:
            if failed.kind is FailureKind.REFUSED and constraint and not constraint.hint:
                reason = f"the server refuses the constraint ({failed.message}); {_FREE}"
                raise RunStopped(reason) from failed
            if failed.kind is not FailureKind.TOO_LONG:
                raise
            # Its room is what the context leaves, where that is less.
            tokens, context = await self.tokens_of(call.model, messages=call.wire)
            left = context - len(tokens)
            if not 0 < left < call.sampling.max_tokens:
                raise
        return await self._complete(body | {"max_tokens": left}, hinted)

    async def _post(self, path: str, body: Payload, read: Callable[[Any], T]) -> T:
        """As `_Endpoint.send`, from an endpoint that works; what passes is asked again."""
        begin, task = time.monotonic(), asyncio.current_task()
        attempts = faults = 0
        while True:
            up = [one for one in self._endpoints if one.is_up()]
            chosen = min(up or self._endpoints, key=lambda it: it.running)
            chosen.running += 1
            attempts += 1
            try:
                await chosen.turn()
                self.sending.add(task)
                answer = await chosen.send(path, body, read)
            except CallFailed as failed:
                chosen.note(failed.kind)
                failed.attempts, wait = attempts, failed.wait
                if failed.kind is FailureKind.RATE_LIMITED:
                    is_passing = time.monotonic() - max(self._heard, begin) < PATIENCE
                else:
                    faults += 1
                    is_passing = failed.kind in _PASSING and faults < ATTEMPTS
                if self.is_last or not is_passing:
                    raise
            else:
                chosen.note(None)
                self._heard = time.monotonic()
                return answer
            finally:
                chosen.running -= 1
                self.sending.discard(task)
            self.meter.retries += 1
            usual = min(FIRST * 2 ** (attempts - 1), USUAL)
            await asyncio.sleep(min(usual if wait is None else wait, LONGEST))

    async def _offered(self, path: str, body: Payload, read: Callable[[Any], T]) -> T | None:
        """As `_post`; None where the server has no such route."""
        try:
            return await self._post(path, body, read)
        except CallFailed as failed:
            if failed.kind is FailureKind.NOT_OFFERED:
                return None
            raise

    async def _complete(self, body: Payload, hinted: Collection[str]) -> Payload:
        """A chat completion, asked for in the way the model knows.

        A parameter that it refuses is sent by another name or left out, and so are the fields
        ``hinted``, which ask for a form that is checked in any case: from then on for every
        request.
        """
        model, why = str(body["model"]), ""
        known = self._otherwise[model]
        other = dict(known)
        while True:
            sent = {other.get(name, name): value for name, value in body.items()}
            sent.pop("", None)
            try:
                answer = await self._post(_CHAT, sent, read_completion)
            except CallFailed as failed:
                why = failed.message
                named = [name for name in _MAY_LACK if name in sent and name in why]
                lacks = named[:1] if _UNKNOWN.search(why) else []
                lacks = lacks or [name for name in hinted if name in sent]
                if failed.kind is not FailureKind.REFUSED or not lacks:
                    raise
                other |= {name: _MAY_LACK.get(name, "") for name in lacks}
                continue
            for name in other.keys() - known.keys():
                done = f"sent as {other[name]}" if other[name] else "left out"
                line = f"note        {name} is {done} for {model}, which refuses it ({why})"
                tqdm.write(visible(line), file=sys.stderr)
            known |= other
            return answer

    async def tokens_of(self, model: str, **text: Any) -> tuple[Tokens, int]:
        """(the ids a server makes of ``messages`` or of a ``prompt``, the size of its context).

        Nothing and 0 where it has no ``/tokenize``.
        """

        def read(found: Any) -> tuple[Tokens, int]:
            return tuple(map(int, found["tokens"])), int(found.get("max_model_len") or 0)

        return await self._offered(_TOKENIZE, {"model": model} | text, read) or ((), 0)

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

    async def _score(self, call: Generation) -> Payload | None:
        """The log-probability of each answer; None without ``/tokenize`` or ``logprob_token_ids``.

        The answers' tokens form a tree of prefixes. One request holds a prompt for every inner
        node, with one token to generate, and asks for the log-probabilities of the tokens that go
        on from there; a score is the sum along an answer's path, the end of the turn included. The
        prompts share their beginning: with a prefix cache little more than the tree is computed.
        """
        paths = await self.paths_of(call.model, call.answers)
        if not paths:
            return None
        prompt, _ = await self.tokens_of(call.model, messages=call.wire)
        nodes = sorted({path[:depth] for path in paths for depth in range(len(path))})
        body = {
            "model": call.model,
            "prompt": [[*prompt, *node] for node in nodes],
            "max_tokens": 1,
            "temperature": 0,
            "logprobs": 1,
            "logprob_token_ids": sorted({token for path in paths for token in path}),
            "return_tokens_as_token_ids": True,
        }

        def read(found: Any) -> list[float]:
            choices = sorted(found["choices"], key=lambda choice: int(choice["index"]))
            after = {
                node: choice["logprobs"]["top_logprobs"][0]
                for node, choice in zip(nodes, choices, strict=True)
            }
            return [
                sum(after[path[:depth]][f"token_id:{token}"] for depth, token in enumerate(path))
                for path in paths
            ]

        scores = await self._offered(_COMPLETIONS, body, read)
        used = {"prompt_tokens": len(prompt), "completion_tokens": 0}
        return {"logprobs": scores} | used if scores else None


def allowed(paths: Sequence[Tokens]) -> Payload:
    """Request fields that keep an answer to the tokens of these paths; none of no path.

    A constraint on the text alone also admits odd spellings, "I" and "nformation", which a model
    was never trained on and takes for other reasons.
    """
    return {"allowed_token_ids": sorted({it for path in paths for it in path})} if paths else {}


class Asks(Protocol):
    """What a task needs: somebody to ask."""

    async def ask(self, call: Generation) -> Reply:
        """The answer to one call; CallFailed where there is none."""


MUTE = 20
"""Requests that end without a word, until a run does not wait for one any more."""


class Chat:
    """Asks models, each thing once."""

    def __init__(self, pool: Pool, cache: Cache, weights: Mapping[str, str]) -> None:
        """``weights`` maps a served name to a hash of what answers under it."""
        self._pool, self._cache, self._weights = pool, cache, weights
        self._slots = asyncio.Semaphore(pool.connections)
        self._asking: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()
        self._stopped: EscError | OSError | None = None
        self._mute: defaultdict[str, float] = defaultdict(float)
        """How often each model had nothing to say; minus infinity once it has said something."""
        self.meter = pool.meter

    async def ask(self, call: Generation) -> Reply:
        """The answer to one call, from the cache where it is there.

        Raises CallFailed where it has none for good, RunStopped where no call of the run would.
        """
        key = call.key(self._weights)
        # A second call of the same key waits for the first one's answer.
        async with self._asking.setdefault(key, asyncio.Lock()):
            if (stored := self._cache.get(key)) is not None:
                self.meter.cached += 1
                return call.read(stored)
            async with self._slots:
                answer = await self._answer(call)
            self.meter.answered += 1
            if answer is None:
                return call.read(None)
            call.check(answer)
            self._cache.put(key, call.audit(), answer)
        reply = call.read(answer)
        if reply.text:
            self._mute[call.model] = -math.inf
        elif reply.truncated:
            self._note_silence(call.model, "cut while the model thought")
        return reply

    async def _answer(self, call: Generation) -> Payload | None:
        """The answer to one request; what it can cost is set aside until that is known."""
        meter, most = self.meter, self.meter.most(call)
        while meter.is_over(meter.reserved + most):
            if meter.is_over(most):
                raise RunStopped(
                    f"the next request could pass MAX_COST={meter.limit:g}{meter.told()}; all "
                    "answers are kept: the same command goes on, with its own MAX_COST"
                )
            # What runs may turn out cheaper than it can be at most.
            await asyncio.sleep(0.1)
        if self._stopped is not None:
            raise self._stopped
        meter.reserved += most
        try:
            answer = await self._pool.answer(call)
            used = (answer["prompt_tokens"], answer["completion_tokens"]) if answer else (0, 0)
            meter.pay(*used)
            # A server that tells no usage is not one that costs nothing.
            meter.spent += most if answer and not any(used) else 0.0
            return answer
        except CallFailed as failed:
            meter.pay(*failed.used)
            meter.failed += 1
            if failed.kind in (FailureKind.EMPTY, FailureKind.REFUSED):
                self._note_silence(call.model, failed.message)
            raise
        finally:
            meter.reserved -= most

    def _note_silence(self, model: str, why: str) -> None:
        """Raise RunStopped where all that a model was asked ended without a word of it."""
        self._mute[model] += 1
        if self._mute[model] >= MUTE:
            raise RunStopped(
                f"the first {MUTE} requests to {model} brought no answer ({why}), nor would the "
                f"others{self.meter.told()}; all answers are kept"
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
                return Failure(failed.kind, failed.message, failed.attempts)
            except (EscError, OSError) as stopped:
                # RunStopped, or what every record meets, such as a prompt that does not render or
                # a full disk: raised below, when nothing is in flight any more.
                self._stopped, self._pool.is_last = self._stopped or stopped, True
                for task in {*tasks} - self._pool.sending - {asyncio.current_task()}:
                    task.cancel()
                return Failure(FailureKind.REFUSED, str(stopped), 0)
            finally:
                bar.set_postfix_str(str(self.meter), refresh=False)
                bar.update()

        try:
            async with asyncio.TaskGroup() as group:
                tasks += [group.create_task(one(record)) for record in records]
        finally:
            bar.close()
        if self._stopped is not None:
            raise self._stopped
        return [task.result() for task in tasks]


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """Asks nobody: ``meter`` counts what a run would send, and at most pay, for ``DRY_RUN``."""

    cache: Cache
    weights: Mapping[str, str]
    meter: Meter

    async def ask(self, call: Generation) -> Reply:
        """The stored answer, or one of the usual kind."""
        stored = self.cache.get(call.key(self.weights))
        if stored is None:
            self.meter.answered += 1
            self.meter.pay(call.characters // CHARACTERS_PER_TOKEN, call.sampling.max_tokens)
        else:
            self.meter.cached += 1
        return call.read(stored)

    def __str__(self) -> str:
        meter = self.meter
        report = (
            f"dry run: {meter.answered:,} requests to send, {meter.cached:,} answered already\n"
            f"about {meter.prompt_tokens:,} prompt tokens (4 characters each), at most "
            f"{meter.completion_tokens:,} answer tokens"
        )
        most = f"\nabout {meter.spent:,.4f} at most, at the given price"
        return report + (most if meter.price else "")
