"""From a request to an answer that is not lost: cache, bounded retries, concurrency, budget.

A task awaits ``Chat.ask`` and knows nothing of it. All records of a run are in flight at once; what
limits them is the number of requests at a time.
"""

import asyncio
import errno
import hashlib
import ipaddress
import math
import os
import random
import re
import sys
import time
import weakref
from collections import Counter, deque
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, BinaryIO, Protocol, TypeVar
from urllib.parse import parse_qsl, urlsplit

import httpx2
import openai
import orjson
from tqdm import tqdm

from esc.exceptions import EscError
from esc.prompts import Message, text_of
from esc.visible import visible


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


_TOO_LONG = re.compile(
    r"context (?:length|size|window)|maximum model length|prompt is too long", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Failure:
    """The final failure of one request, as it stands in a record."""

    kind: FailureKind
    message: str
    attempts: int


def kind_of(status: int, message: str) -> FailureKind:
    """What an HTTP status of 400 or more, and the words with it, say of a request."""
    if status == 429:
        return FailureKind.RATE_LIMITED
    if status in (408, 409) or status >= 500:
        return FailureKind.SERVER_ERROR
    return FailureKind.TOO_LONG if _TOO_LONG.search(message) else FailureKind.REFUSED


def told(error: Any) -> tuple[str, str | None]:
    """(what an error says in its own words, its code): of a text, an object or a list of them.

    Nothing of a page for people: its words are no message.
    """
    if isinstance(error, list):
        return "; ".join(filter(None, (told(one)[0] for one in error))), None
    if not isinstance(error, Mapping):
        text = "" if error is None else str(error)
        return ("" if text.lstrip().startswith("<") else text), None
    for inner in (error.get("error"), error.get("detail")):
        if inner:
            return told(inner)
    place = error.get("loc")
    named = ".".join(map(str, place)) + ": " if isinstance(place, list) else ""
    message = str(error.get("message") or error.get("msg") or "")
    param, code = error.get("param"), error.get("code")
    if message and isinstance(param, str) and param not in message:
        message += f" ({param})"
    return f"{named}{message}" if message else "", code if isinstance(code, str) else None


def counted(failures: Iterable[tuple[str, str]]) -> str:
    """How many failed of each kind, the most frequent first, with the words of the first of each.

    ``failures`` holds (kind, message).
    """
    first: dict[str, str] = {}
    count: Counter[str] = Counter()
    for kind, message in failures:
        count[kind] += 1
        first.setdefault(kind, message)
    return ", ".join(f"{n} {kind} ({first[kind]})" for kind, n in count.most_common())


class CallFailed(Exception):
    """Raised to a task whose request failed for good; the run of the other records goes on."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(f"{failure.kind} after {failure.attempts} attempt(s): {failure.message}")
        self.failure = failure


class AttemptFailed(Exception):
    """One attempt that did not bring an answer."""

    def __init__(
        self,
        kind: FailureKind,
        message: str,
        *,
        transient: bool,
        retry_after: float | None = None,
        used: tuple[int, int] = (0, 0),
    ) -> None:
        super().__init__(message)
        self.kind, self.message, self.transient = kind, message, transient
        self.retry_after = retry_after
        """Seconds the server asked to wait, or None."""
        self.used = used
        """Tokens of the prompt and of the answer that are paid for all the same."""


def refusal_in(answer: Any) -> AttemptFailed | None:
    """The error that comes where a chat completion should be, or None."""
    if not isinstance(answer, Mapping) or not answer.get("error") or answer.get("choices"):
        return None
    error = answer["error"]
    status = error.get("code") if isinstance(error, Mapping) else None
    message = " ".join(told(error)[0].split())[:300] or "an error without a word"
    kind = FailureKind.BAD_ANSWER
    if isinstance(status, int) and status >= 400:
        kind = kind_of(status, message)
    for_good = kind in (FailureKind.REFUSED, FailureKind.TOO_LONG)
    return AttemptFailed(kind, message, transient=not for_good)


class RunStopped(EscError):
    """Something that every other request of the run would meet too: nothing more is sent."""


CHARACTERS_PER_TOKEN = 4
"""Of English text, for estimates only."""
_TEMPLATE_TOKENS = 64


@dataclass(frozen=True, slots=True)
class Price:
    """Money per million tokens."""

    prompt: float
    completion: float

    @classmethod
    def parse(cls, text: str) -> "Price":
        """The price in ``PROMPT/COMPLETION``, such as ``0.40/1.60``; EscError for another form."""
        try:
            prompt, completion = (float(part) for part in text.split("/"))
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
        most = self.price.of(characters / 2 + _TEMPLATE_TOKENS, max_tokens)
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


Payload = dict[str, Any]
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

    def __len__(self) -> int:
        return len(self._answers)

    def get(self, key: str) -> Payload | None:
        """The stored answer, or None."""
        return self._answers.get(key)

    def put(self, key: str, audit: Payload, answer: Payload) -> None:
        """Store one answer, at once and for good."""
        self._answers[key] = answer
        if self._path is None:
            return
        if self._stream is None:
            self._stream = self._open(self._path)
        row = {"key": key} | audit | {"answer": answer}
        line = orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE)
        begin = self._stream.tell()
        if self._stream.write(line) != len(line):
            self._stream.truncate(begin)
            raise OSError(errno.ENOSPC, "no space left on device", str(self._path))

    def close(self) -> None:
        """Hand everything to the disk."""
        if self._stream is not None:
            os.fsync(self._stream.fileno())
            self._stream.close()
            self._stream = None

    def _open(self, path: Path) -> BinaryIO:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Unbuffered: one line is one write.
        stream: BinaryIO = path.open("ab", buffering=0)
        if stream.tell() == 0:
            stream.write(orjson.dumps({_HEADER: self._run}, option=orjson.OPT_APPEND_NEWLINE))
        return stream

    def _read(self, path: Path) -> None:
        self._cut_torn_line(path)
        with path.open("rb") as stream:
            for number, line in enumerate(stream, start=1):
                try:
                    row = orjson.loads(line)
                    if number == 1:
                        self._check_header(path, row)
                    else:
                        self._answers[row["key"]] = row["answer"]
                except (ValueError, KeyError, TypeError) as error:
                    raise EscError(
                        f"{path}, line {number}: no stored answer; delete that line, "
                        "the answer is asked for again"
                    ) from error

    def _check_header(self, path: Path, row: Any) -> None:
        of = row.get(_HEADER) if isinstance(row, dict) else None
        if of != self._run:
            known = of.items() if isinstance(of, dict) else ()
            told = "; ".join(f"{k} {v}" for k, v in known) or "no run"
            raise EscError(
                f"{path} holds answers of another run ({told}); move it away, or use "
                "another WORK=folder"
            )

    def _cut_torn_line(self, path: Path) -> None:
        with path.open("rb+") as stream:
            end = stream.seek(0, os.SEEK_END)
            kept = end
            while kept:
                begin = max(kept - 65536, 0)
                stream.seek(begin)
                newline = stream.read(kept - begin).rfind(b"\n")
                if newline >= 0:
                    kept = begin + newline + 1
                    break
                kept = begin
            if kept < end:
                stream.truncate(kept)
                self.repaired = True


@dataclass(frozen=True, slots=True)
class Choice:
    """The answer is one of these texts."""

    options: tuple[str, ...]

    def body(self) -> dict[str, Any]:
        """The fields of a chat completion request."""
        return {"structured_outputs": {"choice": list(self.options)}}


@dataclass(frozen=True, slots=True)
class Regex:
    """The answer matches this expression."""

    pattern: str
    hint: bool = False
    """Whether the answer is checked in any case, so that an endpoint may ignore it."""

    def body(self) -> dict[str, Any]:
        """The fields of a chat completion request."""
        return {"structured_outputs": {"regex": self.pattern}}


@dataclass(frozen=True, slots=True)
class JsonSchema:
    """The answer is JSON of this schema."""

    name: str
    schema: str
    """The JSON schema, as JSON text (so that a request stays hashable)."""
    hint: bool = False
    """Whether the answer is checked in any case, so that an endpoint may ignore the schema."""

    def body(self) -> dict[str, Any]:
        """The fields of a chat completion request."""
        described = {"name": self.name, "schema": orjson.loads(self.schema), "strict": True}
        return {"response_format": {"type": "json_schema", "json_schema": described}}


Constraint = Choice | Regex | JsonSchema

_WORD = "zxqv-canary"
_CANARIES: dict[type, Constraint] = {
    Choice: Choice((_WORD,)),
    Regex: Regex(r"zxqv-canary"),
    JsonSchema: JsonSchema(
        "canary",
        '{"type":"object","properties":{"canary":{"const":"zxqv-canary"}},'
        '"required":["canary"],"additionalProperties":false}',
    ),
}


def canary(kind: type) -> dict[str, Any]:
    """The request fields of a constraint of ``kind`` that no free answer meets by chance."""
    asked = "Greet me in one word."
    return {"messages": [{"role": "user", "content": asked}]} | _CANARIES[kind].body()


def obeyed(text: str | None) -> bool:
    """Whether the answer to a canary shows that the constraint was kept."""
    return _WORD in (text or "")


@dataclass(slots=True)
class Meter:
    """Counts of requests and tokens; records are counted by the bar."""

    budget: Budget
    answered: int = 0
    cached: int = 0
    failed: int = 0
    retries: int = 0
    truncated: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    _bar: Any = field(default=None, init=False, repr=False)

    def begin(self, records: int, what: str) -> None:
        """Show a bar over ``records`` on stderr."""
        every = 0.5 if sys.stderr.isatty() else 15.0
        self._bar = tqdm(
            total=records, desc=what, unit="turn", mininterval=every, miniters=0, smoothing=0.05
        )

    def tick(self, records: int = 0) -> None:
        """Renew the bar, with ``records`` more of them done."""
        if self._bar is not None:
            self._bar.set_postfix_str(self.line(), refresh=False)
            self._bar.update(records)

    def end(self) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.set_postfix_str(self.line(), refresh=False)
            self._bar.close()
            self._bar = None

    def line(self) -> str:
        """Requests ok, failed and cached, tokens, and cost where a price is known."""
        parts = [
            f"{self.answered} ok",
            f"{self.failed} failed",
            f"{self.cached} cached",
            f"{(self.prompt_tokens + self.completion_tokens) / 1000:.1f}k tokens",
        ]
        if self.retries:
            parts.append(f"{self.retries} retries")
        if self.budget.price is not None:
            parts.append(f"cost {self.budget.spent:.4f}")
        return ", ".join(parts)


DOWN = 15.0
"""Seconds for which an endpoint that fails is left out."""
_FAULTS = 3
"""Server errors one after another, until an endpoint is left out for a while."""
WINDOW = 2.0
"""Seconds over which the rate of an endpoint's answers is taken, where it limits it."""
_MORE, _MUCH_MORE = 1.1, 2.0
"""Times that rate it is asked: where it refused something within the window, and where not."""
SLOWEST = 1.0
"""Requests a second that it is asked in any case."""
_MAY_LACK = {"max_tokens": "max_completion_tokens", "temperature": "", "top_p": "", "seed": ""}
"""What a model may refuse, to the name it knows instead; without one it is left out."""
_UNKNOWN = re.compile(
    r"unsupported|not support|unknown|unrecogni[sz]ed|unexpected|not permitted|not allowed",
    re.IGNORECASE,
)
"""Words of a refusal that is of a parameter, not of its value."""


def api_key(url: str) -> str:
    """The key for a URL, from the environment; EscError, without the key, where it is none.

    OPENAI_API_KEY goes to https alone; a server of one's own, on plain http, is sent VLLM_API_KEY.
    """
    name = _key_name(url)
    key = os.environ.get(name, "").strip() or "none"
    if not (key.isascii() and key.isprintable()):
        raise EscError(
            f"{name} holds characters that no key has, such as a line break; set it anew"
        )
    return key


def _key_name(url: str) -> str:
    return "OPENAI_API_KEY" if url.startswith("https://") else "VLLM_API_KEY"


def checked(url: str) -> str:
    """The URL without a slash at its end; EscError where it is none, or holds a password."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if usable and "@" in parts.netloc:
        raise EscError(
            f"BASE_URL holds a name or password; set {_key_name(url)} in the environment instead"
        )
    if not usable:
        raise EscError(
            f"BASE_URL={url!r} is no URL, such as http://127.0.0.1:8000/v1 "
            "(a judge's is JUDGE_BASE_URL)"
        )
    return url.rstrip("/")


def split_query(url: str) -> tuple[str, dict[str, str]]:
    """(the URL before its query, the query by name), such as an ``api-version``."""
    base, _, query = url.partition("?")
    return base.rstrip("/"), dict(parse_qsl(query, keep_blank_values=True))


class Endpoint:
    """One base URL."""

    def __init__(self, url: str, *, timeout: float, connections: int) -> None:
        self.url, query = split_query(checked(url))
        key = api_key(self.url)
        self.root = self.url.removesuffix("/v1")
        """Where vLLM's own routes lie, such as ``/tokenize``."""
        self.running = 0
        self.down_until = 0.0
        self.turn = asyncio.Lock()
        """Held by who waits for the next turn, where it is limited."""
        self._faults = 0
        self._refused: float | None = None
        self._answers: deque[float] = deque()
        self._next = 0.0
        self.known: dict[Any, Any] = {}
        """What a kind of call has learnt of this endpoint, such as token ids."""
        self.learning = asyncio.Lock()
        self._key = key
        self._obeys: set[type] = set()
        self._otherwise: dict[str, dict[str, str]] = {}
        """By model, what it refuses to be sent, to the name it knows instead, or nothing."""
        limits = httpx2.Limits(max_connections=connections, max_keepalive_connections=connections)
        self._client = openai.AsyncOpenAI(
            base_url=self.url,
            default_query=query,
            api_key=key,
            max_retries=0,
            timeout=timeout,
            http_client=openai.DefaultAsyncHttpxClient(
                limits=limits,
                timeout=timeout,
                # A proxy of the environment does not reach this machine's own loopback.
                trust_env=not is_loopback(self.url),
            ),
        )

    async def post(self, path: str, body: dict[str, Any]) -> Any:
        """The JSON of the answer; AttemptFailed or RunStopped says why there is none."""
        return await self._ask("post", path, body=body)

    async def complete(self, body: dict[str, Any], hinted: Mapping[str, Any] = {}) -> Any:
        """The JSON of a chat completion, asked for in the way that the model knows.

        A parameter that it refuses is sent by another name or left out, and so are the fields of
        ``hinted``, a part of ``body``, which ask for a form that is checked in any case: from then
        on for every request. Raises as `post`.
        """
        model = str(body["model"])
        otherwise = self._otherwise.setdefault(model, {})
        while True:
            names = {name: otherwise.get(name, name) for name in body}
            sent = {new: body[name] for name, new in names.items() if new}
            try:
                return await self.post("chat/completions", sent)
            except AttemptFailed as failed:
                if failed.kind is not FailureKind.REFUSED:
                    raise
                if refused := _refused_in(failed.message, sent):
                    self._learn(model, refused, failed.message)
                elif hints := hinted.keys() & sent:
                    bare = {name: value for name, value in body.items() if name not in hints}
                    answer = await self.complete(bare)
                    for name in hints:
                        self._learn(model, name, failed.message)
                    return answer
                else:
                    raise

    def _learn(self, model: str, name: str, why: str) -> None:
        """Send a model a parameter otherwise from now on, and say so once."""
        if name in self._otherwise[model]:
            return
        instead = self._otherwise[model][name] = _MAY_LACK.get(name, "")
        done = f"sent as {instead}" if instead else "left out"
        told = f"note        {self.url}: {name} is {done} for {model}, which refuses it ({why})"
        tqdm.write(visible(told), file=sys.stderr)

    async def models(self) -> list[dict[str, Any]]:
        """What the endpoint serves, as its ``/models`` lists it."""
        listed = await self._ask("get", "models")
        try:
            return [dict(entry) for entry in listed["data"]]
        except (KeyError, TypeError, ValueError) as error:
            raise AttemptFailed(
                FailureKind.BAD_ANSWER, "its /models is no list", transient=False
            ) from error

    @contextmanager
    def watched(self) -> Iterator[None]:
        """One request: how it goes decides how soon others follow, and whether any do."""
        try:
            yield
        except AttemptFailed as failed:
            if failed.kind is FailureKind.RATE_LIMITED:
                self._refused = time.monotonic()
            elif failed.kind in (FailureKind.SERVER_ERROR, FailureKind.BAD_ANSWER):
                self._faults += 1
            if failed.kind is FailureKind.CONNECTION or self._faults >= _FAULTS:
                self.leave_out()
            raise
        self._faults = 0
        if self.is_limited:
            self._answers.append(time.monotonic())

    def leave_out(self) -> None:
        """Ask it nothing for a while, where another answers."""
        self.down_until = time.monotonic() + DOWN

    @property
    def is_tried(self) -> bool:
        """Whether it kept failing, and a request is on its way that shows whether it still does."""
        return self._faults >= _FAULTS and self.running > 0

    @property
    def is_limited(self) -> bool:
        """Whether it has refused requests for their number, so that they take turns."""
        return self._refused is not None

    def due(self) -> float:
        """Seconds until it is asked again, where it is limited."""
        return max(self._next - time.monotonic(), 0.0)

    def ask(self) -> None:
        """Note that it is asked now: the next turn is a little sooner than it has answered lately.

        So the number in flight follows what the endpoint takes, and finds out where that is more.
        """
        now = time.monotonic()
        while self._answers and self._answers[0] < now - WINDOW:
            self._answers.popleft()
        refuses = self._refused is not None and now - self._refused < WINDOW
        rate = (_MORE if refuses else _MUCH_MORE) * len(self._answers) / WINDOW
        self._next = now + 1 / max(rate, SLOWEST)

    async def close(self) -> None:
        """Close all connections."""
        await self._client.close()

    async def verify(self, kind: type, model: str) -> None:
        """RunStopped where the endpoint answers, but not within a constraint of ``kind``."""
        if kind in self._obeys:
            return
        body = {"model": model, "temperature": 0, "max_tokens": 40} | canary(kind)
        try:
            answer = await self.complete(body)
            text = text_of(answer["choices"][0]["message"]["content"])
        except (KeyError, TypeError, IndexError) as error:
            raise AttemptFailed(FailureKind.BAD_ANSWER, str(error), transient=True) from error
        except AttemptFailed as failed:
            if failed.kind is not FailureKind.REFUSED:
                raise
            raise self._without(kind, "refuses", f" ({failed.message})") from failed
        if not obeyed(text):
            raise self._without(kind, "answers, but ignores")
        self._obeys.add(kind)

    def _without(self, kind: type, does: str, told: str = "") -> RunStopped:
        return RunStopped(
            f"{self.url} {does} the constraint ({kind.__name__}){told}; "
            "use DECODE=free, or a server with structured outputs, such as vLLM"
        )

    async def _ask(self, method: str, path: str, **options: Any) -> Any:
        send = self._client.post if method == "post" else self._client.get
        try:
            answer = await send(path, cast_to=httpx2.Response, **options)
            found = orjson.loads(answer.content)
        except openai.APITimeoutError as error:
            raise AttemptFailed(
                FailureKind.TIMEOUT, f"{self.url} did not answer in time", transient=True
            ) from error
        except openai.APIConnectionError as error:
            reason = str(error.__cause__ or error) or type(error.__cause__).__name__
            raise AttemptFailed(
                FailureKind.CONNECTION, f"{self.url}: {self._clean(reason)}", transient=True
            ) from error
        except openai.APIStatusError as error:
            raise self._failure(error, path) from error
        except ValueError as error:
            raise AttemptFailed(
                FailureKind.BAD_ANSWER, f"{self.url} answered no JSON", transient=True
            ) from error
        if path == "chat/completions" and (refused := refusal_in(found)):
            refused.message = self._clean(refused.message)
            raise refused
        return found

    def _failure(self, error: openai.APIStatusError, path: str) -> AttemptFailed | RunStopped:
        status = error.status_code
        message = self._clean(told(error.body)[0]) or f"HTTP {status}"
        is_extra = path.startswith("http") or path == "completions"
        if is_extra and (status == 501 or (status < 500 and status not in (408, 409, 429))):
            # vLLM's own routes and the old completions are not what every server has.
            return AttemptFailed(FailureKind.NOT_OFFERED, message, transient=False)
        if status == 402 or error.code == "insufficient_quota":
            return RunStopped(f"{self.url}: {message}")
        kind = kind_of(status, message)
        if kind in (FailureKind.RATE_LIMITED, FailureKind.SERVER_ERROR):
            wait = retry_after(error.response.headers)
            return AttemptFailed(kind, message, transient=True, retry_after=wait)
        if status in (401, 403):
            return RunStopped(
                f"{self.url} refuses the key ({message}); set {_key_name(self.url)} in the "
                "environment"
            )
        if status == 404 and path == "models":
            reason = f"{self.url} has no /models; a base URL usually ends in /v1"
            return AttemptFailed(FailureKind.NOT_OFFERED, reason, transient=False)
        if status == 404:
            return RunStopped(f"{self.url}: {message}")
        return AttemptFailed(kind, message, transient=False)

    def _clean(self, text: str) -> str:
        """The text as one short line, without the key."""
        if self._key != "none":
            text = text.replace(self._key, "***")
        return " ".join(text.split())[:300]


def _refused_in(message: str, sent: Mapping[str, Any]) -> str:
    """The parameter that a refusal names and that may be sent otherwise, or nothing."""
    if not _UNKNOWN.search(message):
        return ""
    return next((name for name in _MAY_LACK if name in sent and name in message), "")


def is_loopback(url: str) -> bool:
    """Whether a URL is of this very machine: ``localhost``, 127.0.0.0/8 or ``::1``."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that the headers of an answer ask to wait, or None.

    They stand in ``retry-after-ms``, or in ``retry-after`` as a number or a date.
    """
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        try:
            seconds = float(headers.get(name, "")) / unit
        except ValueError:
            continue
        if not math.isnan(seconds):
            return max(seconds, 0.0)
    try:
        until = parsedate_to_datetime(headers.get("retry-after", ""))
        return max((until - datetime.now(UTC)).total_seconds(), 0.0)
    except (ValueError, TypeError):
        return None


class Pool:
    """Several endpoints that serve the same models; one that fails is left out for a while."""

    def __init__(self, urls: Sequence[str], *, timeout: float, connections: int) -> None:
        if not urls:
            raise EscError("BASE_URL is empty; give one or several URLs, or 'make serve'")
        self._endpoints = [
            Endpoint(url, timeout=timeout, connections=connections) for url in dict.fromkeys(urls)
        ]

    async def connect(self, models: Sequence[str], *, listed: bool = True) -> None:
        """Check that a server answers and that every one that does serves ``models``.

        Where they need not be ``listed`` (a hosted endpoint may list some, or none), an answer is
        enough. Raises EscError where none answers, or one lacks a model (it lists what is there).
        """
        reasons = []
        for endpoint in self._endpoints:
            try:
                served = [str(entry.get("id")) for entry in await endpoint.models()]
            except AttemptFailed as failed:
                if not listed and failed.kind is not FailureKind.CONNECTION:
                    continue
                endpoint.leave_out()
                reasons.append(failed.message)
                continue
            if not listed:
                continue
            missing = [name for name in models if name not in served]
            if missing:
                raise EscError(
                    f"{endpoint.url} does not serve {', '.join(missing)}; it has "
                    f"{', '.join(sorted(served)[:20]) or 'nothing'} (train what is missing, then "
                    "make stop serve, or choose another STAGE)"
                )
        if len(reasons) == len(self._endpoints):
            raise EscError(
                f"no server answers ({'; '.join(reasons)}); 'make serve' starts one, or give "
                "BASE_URL=http://host:port/v1, for a judge JUDGE_BASE_URL"
            )

    @asynccontextmanager
    async def endpoint(self) -> AsyncIterator[Endpoint]:
        """The endpoint with the least to do, of those not left out."""
        now = time.monotonic()
        up = [one for one in self._endpoints if one.down_until <= now and not one.is_tried]
        chosen = min(up or self._endpoints, key=lambda one: one.running)
        chosen.running += 1
        try:
            yield chosen
        finally:
            chosen.running -= 1

    async def verify(self, endpoint: Endpoint, kind: type, model: str) -> None:
        """Send the canary of a constraint once to each endpoint that is used."""
        async with endpoint.learning:
            await endpoint.verify(kind, model)

    async def close(self) -> None:
        """Close all connections."""
        for endpoint in self._endpoints:
            await endpoint.close()


Tokens = tuple[int, ...]


async def tokens_of(endpoint: Endpoint, model: str, chat: Sequence[Message]) -> Tokens:
    """The ids the server makes of a chat, with the head of the answer to come."""
    body: dict[str, Any] = {"model": model, "messages": [message.wire() for message in chat]}
    if chat[-1].role == "assistant":
        body["add_generation_prompt"] = False
    return _ids(await endpoint.post(f"{endpoint.root}/tokenize", body))


async def room_after(endpoint: Endpoint, model: str, chat: Sequence[Message]) -> int:
    """The tokens that the model's context has left after a chat; 0 where the server tells none."""
    body = {"model": model, "messages": [message.wire() for message in chat]}
    try:
        answer = await endpoint.post(f"{endpoint.root}/tokenize", body)
        return int(answer["max_model_len"]) - int(answer["count"])
    except AttemptFailed as failed:
        if failed.kind is not FailureKind.NOT_OFFERED:
            raise
    except (KeyError, TypeError, ValueError):
        # An answer of another shape tells nothing either.
        pass
    return 0


def _ids(answer: Any) -> Tokens:
    try:
        return tuple(int(token) for token in answer["tokens"])
    except (KeyError, TypeError, ValueError) as error:
        raise AttemptFailed(
            FailureKind.NOT_OFFERED, "its /tokenize gives no tokens", transient=False
        ) from error


async def paths_of(endpoint: Endpoint, model: str, answers: Sequence[str]) -> list[Tokens]:
    """The tokens of every answer, each with the token that ends the turn; asked once."""
    key = (model, tuple(answers))
    async with endpoint.learning:
        if key not in endpoint.known:
            try:
                endpoint.known[key] = await _learn(endpoint, model, answers)
            except AttemptFailed as failed:
                if failed.kind is not FailureKind.NOT_OFFERED:
                    raise
                endpoint.known[key] = failed
        found: list[Tokens] | AttemptFailed = endpoint.known[key]
    if isinstance(found, AttemptFailed):
        raise found
    return found


async def choice_tokens(endpoint: Endpoint, model: str, options: Sequence[str]) -> dict[str, Any]:
    """Request fields that keep a choice to the tokens the options are usually written with.

    A constraint on the text alone also admits odd spellings, "I" and "nformation", which a model
    was never trained on and takes for other reasons. Nothing where the endpoint tells no tokens.
    """
    try:
        paths = await paths_of(endpoint, model, options)
    except AttemptFailed as failed:
        if failed.kind is not FailureKind.NOT_OFFERED:
            raise
        return {}
    return allowed(paths)


def allowed(paths: Sequence[Tokens]) -> dict[str, Any]:
    """Request fields that keep an answer to the tokens of these paths."""
    return {"allowed_token_ids": sorted({token for path in paths for token in path})}


def path_of(head: Tokens, whole: Tokens, count: int) -> Tokens | None:
    """The tokens of an answer of ``count`` tokens and the one that ends its turn.

    ``head`` is a chat with the head of the answer to come, ``whole`` that chat with the answer.
    None where the chat template does not continue a prompt.
    """
    path = whole[len(head) : len(head) + count + 1]
    return path if whole[: len(head)] == head and len(path) == count + 1 else None


async def _learn(endpoint: Endpoint, model: str, answers: Sequence[str]) -> list[Tokens]:
    asked = Message("user", "?")
    head = await tokens_of(endpoint, model, [asked])
    paths = []
    for answer in answers:
        whole = await tokens_of(endpoint, model, [asked, Message("assistant", answer)])
        alone = {"model": model, "prompt": answer, "add_special_tokens": False}
        count = len(_ids(await endpoint.post(f"{endpoint.root}/tokenize", alone)))
        path = path_of(head, whole, count)
        if path is None:
            raise AttemptFailed(
                FailureKind.NOT_OFFERED,
                "the server's chat template does not continue a prompt",
                transient=False,
            )
        paths.append(path)
    return paths


_BLOCK = re.compile(r"<think(?:ing)?>.*?</think(?:ing)?>\s*", re.DOTALL | re.IGNORECASE)
_CLOSED = re.compile(r".*</think(?:ing)?>\s*", re.DOTALL | re.IGNORECASE)
_OPENED = re.compile(r"<think(?:ing)?>", re.IGNORECASE)


def spoken(text: str) -> tuple[str, bool]:
    """(what a model says besides its thinking, whether it was cut while it thought).

    Thinking is a ``<think>…</think>`` block, and what stands before a closing tag alone, whose
    opening one was in the prompt. Where it was cut nothing is said: it may hold drafts.
    """
    said = _BLOCK.sub("", text)
    # Matched once, at the begin: a search would try again at every letter of a long text.
    if closed := _CLOSED.match(said):
        said = said[closed.end() :]
    return ("", True) if _OPENED.search(said) else (said, False)


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
    """Whether ``max_tokens`` cut it; such an answer is kept, and counted."""
    prompt_tokens: int
    completion_tokens: int


def derived_seed(record: str, sample: int) -> int:
    """The seed of one sample of one record: the same in every run and in every order."""
    digest = hashlib.sha256(f"{record}\n{sample}".encode()).digest()
    return int.from_bytes(digest[:4]) >> 1


@dataclass(frozen=True, slots=True)
class Generation:
    """A request for one answer."""

    record: str
    """Id of the record it is for; the seed comes from it and ``sample``."""
    step: str
    """What it is for, such as ``plan``; for the audit trail."""
    model: str
    """The served name."""
    messages: tuple[Message, ...]
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

    def identity(self) -> Payload:
        """Everything that decides the answer."""
        return {
            "model": self.model,
            "messages": [message.wire() for message in self.messages],
            "sampling": asdict(self.sampling),
            "constraint": self.constraint.body() if self.constraint else None,
            "seed": self.seed,
            "sample": self.sample,
        }

    def audit(self) -> Payload:
        """What the stored line says of the request besides its key."""
        return {"record": self.record, "step": self.step} | self.identity()

    def size(self) -> tuple[int, int]:
        """(characters of the prompt, largest number of answer tokens)."""
        return sum(len(m.content) for m in self.messages), self.sampling.max_tokens

    def body(self) -> Payload:
        """What is sent, but for the tokens of a choice, which are the engine's."""
        body = {
            "model": self.model,
            "messages": [message.wire() for message in self.messages],
            **asdict(self.sampling),
            "seed": self.seed,
        }
        return body | self.constraint.body() if self.constraint else body

    async def send(self, endpoint: Endpoint) -> Payload:
        """The answer as it is stored; AttemptFailed where the endpoint gives none."""
        body = self.body()
        if isinstance(self.constraint, Choice):
            body |= await choice_tokens(endpoint, self.model, self.constraint.options)
        is_hint = isinstance(self.constraint, JsonSchema | Regex) and self.constraint.hint
        hinted = self.constraint.body() if self.constraint and is_hint else {}
        try:
            return read_completion(await endpoint.complete(body, hinted))
        except AttemptFailed as failed:
            if failed.kind is not FailureKind.TOO_LONG:
                raise
            left = await room_after(endpoint, self.model, self.messages)
            if not 0 < left < self.sampling.max_tokens:
                raise
        return read_completion(await endpoint.complete(body | {"max_tokens": left}, hinted))

    def lasting(self, payload: Payload) -> bool:
        """Whether the answer is to be stored: always."""
        return True

    def read(self, payload: Payload) -> Reply:
        """The stored answer as a record."""
        text, is_cut = spoken(payload["text"])
        return Reply(
            text=text,
            truncated=is_cut or payload["finish"] == "length",
            prompt_tokens=payload["prompt_tokens"],
            completion_tokens=payload["completion_tokens"],
        )

    def rehearse(self) -> Reply:
        """The answer a dry run goes on with."""
        return Reply(self.expected, False, 0, 0)


def read_completion(answer: Any) -> Payload:
    """Text, finish reason and token counts of a completion.

    Raises AttemptFailed for another shape, and with what it used for an answer without text; where
    that was cut at its length, another attempt would be too.
    """
    try:
        if refused := refusal_in(answer):
            raise refused
        choices = answer["choices"]
        if not choices:
            raise AttemptFailed(FailureKind.EMPTY, "the answer has no choices", transient=True)
        text, finish = (
            text_of(choices[0]["message"].get("content")),
            choices[0].get("finish_reason"),
        )
        used = usage_of(answer)
    except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
        reason = f"no chat completion: {type(error).__name__} {error}"
        raise AttemptFailed(FailureKind.BAD_ANSWER, reason, transient=True) from error
    if text is None or (not text and finish == "length"):
        is_cut = finish == "length"
        reason = "the answer has no text" + (
            f", its {used[1]:,} tokens went into something else, such as thinking" if is_cut else ""
        )
        raise AttemptFailed(FailureKind.EMPTY, reason, transient=not is_cut, used=used)
    return {
        "text": text,
        "finish": finish,
        "prompt_tokens": used[0],
        "completion_tokens": used[1],
    }


def usage_of(answer: Any) -> tuple[int, int]:
    """(tokens of the prompt, of the answer) as a completion tells them, 0 where it does not.

    Raises AttributeError, TypeError or ValueError where what it tells is no number.
    """
    usage = answer.get("usage") or {}
    return int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)


def key_of(identity: Payload, weights: str | None) -> str:
    """The cache key: SHA-256 over what decides the answer, the model's weights included."""
    text = orjson.dumps([identity, weights], option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(text).hexdigest()


Answer = TypeVar("Answer", covariant=True)
Record = TypeVar("Record")
Result = TypeVar("Result")
MUTE = 20
"""Requests that end without a word, until a run does not wait for one any more."""


class Call(Protocol[Answer]):
    """A kind of request: a generation, or the score of given answers."""

    @property
    def model(self) -> str:
        """The served name."""

    def identity(self) -> Payload:
        """Everything that decides the answer."""

    def audit(self) -> Payload:
        """What the stored line says besides the key."""

    def size(self) -> tuple[int, int]:
        """(characters of the prompt, largest number of answer tokens)."""

    def body(self) -> Payload | None:
        """What a line of a batch file asks, or None where no batch engine has an answer to it."""

    async def send(self, endpoint: Endpoint) -> Payload:
        """The answer as it is stored."""

    def lasting(self, payload: Payload) -> bool:
        """Whether the answer is to be stored."""

    def read(self, payload: Payload) -> Answer:
        """The stored answer as the task sees it."""

    def rehearse(self) -> Answer:
        """The answer a dry run goes on with."""


class Asks(Protocol):
    """What a task needs: somebody to ask."""

    async def ask(self, call: Call[Answer]) -> Answer:
        """The answer to one call; CallFailed where there is none."""


@dataclass(frozen=True, slots=True)
class Policy:
    """How hard to try."""

    in_flight: int = 32
    """Requests at a time, over all endpoints."""
    attempts: int = 6
    """Of one request, the first included; those that a rate limit refuses do not count."""
    patience: float = 900.0
    """Seconds without any answer, after which a rate limit is a failure."""
    first_wait: float = 0.5
    """Seconds before the second attempt; doubled with each one after, with jitter."""
    longest_wait: float = 60.0
    """Seconds; also the most a Retry-After is followed."""

    def wait(self, attempt: int, retry_after: float | None) -> float:
        """Seconds to wait after the given attempt (1-based)."""
        if retry_after:
            # Not all at the same moment.
            return min(retry_after, self.longest_wait) * random.uniform(1.0, 1.3)
        longest: float = min(self.first_wait * 2.0 ** min(attempt - 1, 30), self.longest_wait)
        return longest * random.uniform(0.5, 1.0)


class Chat:
    """Asks models, each thing once."""

    def __init__(
        self,
        pool: Pool,
        cache: Cache,
        *,
        weights: Mapping[str, str],
        policy: Policy,
        budget: Budget,
    ) -> None:
        """``weights`` maps a served name to a hash of what answers under it."""
        self._pool, self._cache, self._weights = pool, cache, weights
        self._policy, self._budget = policy, budget
        self._slots = asyncio.Semaphore(policy.in_flight)
        self._asking: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()
        self._heard = time.monotonic()
        """When somebody last had an answer, or the start."""
        self._stopped: EscError | OSError | None = None
        self._stop = asyncio.Event()
        self._mute: Counter[str] = Counter()
        self._speaks: set[str] = set()
        """Models that have said something; of the others, how often they have not."""
        self.meter = Meter(budget)

    async def ask(self, call: Call[Answer]) -> Answer:
        """The answer to one call, from the cache where it is there.

        Raises CallFailed where it has none for good, RunStopped where no call of the run would.
        """
        key = key_of(call.identity(), self._weights.get(call.model))
        if not self._asking:
            # Where nobody asked, as between a person's two messages, nobody was refused either.
            self._heard = time.monotonic()
        # A second call of the same key waits for the first one's answer.
        async with self._asking.setdefault(key, asyncio.Lock()):
            stored = self._cache.get(key)
            was_stored = stored is not None
            if stored is None:
                async with self._slots:
                    stored = await self._answer(call)
                    if call.lasting(stored):
                        self._cache.put(key, call.audit(), stored)
            else:
                self.meter.cached += 1
        if stored.get("finish") == "length":
            self.meter.truncated += 1
        self.meter.tick()
        said, is_cut = spoken(stored.get("text", ""))
        if said:
            self._speaks.add(call.model)
        elif is_cut and not was_stored:
            self._check_not_mute(call.model, "cut while the model thought")
        return call.read(stored)

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
        self.meter.begin(len(records), what)

        async def one(record: Record) -> Result | Failure:
            try:
                return await work(self, record)
            except CallFailed as failed:
                return failed.failure
            except (EscError, OSError) as stopped:
                # RunStopped, or what every record meets, such as a prompt that does not render or
                # a full disk: raised below, when nothing is in flight any more.
                self._stopped = self._stopped or stopped
                self._stop.set()
                return Failure(FailureKind.REFUSED, str(stopped), 0)
            finally:
                self.meter.tick(records=1)

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one(record)) for record in records]
        finally:
            self.meter.end()
            self._cache.close()
        if self._stopped is not None:
            raise self._stopped
        return [task.result() for task in tasks]

    async def _answer(self, call: Call[Any]) -> Payload:
        try:
            answer = await self._attempts(call)
        except CallFailed as failed:
            self.meter.failed += 1
            if failed.failure.kind in (FailureKind.EMPTY, FailureKind.REFUSED):
                self._check_not_mute(call.model, failed.failure.message)
            raise
        self._heard = time.monotonic()
        self.meter.answered += 1
        return answer

    async def _send(self, call: Call[Any], endpoint: Endpoint) -> Payload:
        """The answer to one request; what it can cost is set aside until that is known."""
        characters, max_tokens = call.size()
        while (reserved := self._budget.reserve(characters, max_tokens)) is None:
            # What runs may turn out cheaper than it can be at most.
            await asyncio.sleep(0.1)
            if self._stopped is not None:
                raise self._stopped
        used = 0, 0
        try:
            answer = await call.send(endpoint)
            used = answer["prompt_tokens"], answer["completion_tokens"]
            if not any(used) and call.lasting(answer):
                # A server that tells no usage is not one that costs nothing.
                self._budget.spent += reserved
            return answer
        except AttemptFailed as failed:
            used = failed.used
            raise
        finally:
            self._budget.settle(reserved, *used)
            self.meter.prompt_tokens += used[0]
            self.meter.completion_tokens += used[1]

    def _check_not_mute(self, model: str, why: str) -> None:
        """Raise RunStopped where all that a model was asked ended without a word of it."""
        self._mute[model] += 1
        if model not in self._speaks and self._mute[model] >= MUTE:
            raise RunStopped(
                f"the first {MUTE} requests to {model} brought no answer ({why}), nor would the "
                f"others{self._budget.told()}; all answers are kept"
            )

    async def _attempts(self, call: Call[Any]) -> Payload:
        attempt = limited = 0
        while True:
            attempt += 1
            if self._stopped is not None:
                raise self._stopped
            try:
                async with self._pool.endpoint() as endpoint:
                    return await self._attempt(call, endpoint)
            except AttemptFailed as failed:
                if self._stopped is not None:
                    raise self._stopped from failed
                is_limit = failed.kind is FailureKind.RATE_LIMITED
                limited += is_limit
                if not self._again(failed, attempt - limited):
                    failure = Failure(failed.kind, failed.message, attempt)
                    raise CallFailed(failure) from failed
                self.meter.retries += 1
                count = limited if is_limit else attempt - limited
                await self._pause(self._policy.wait(count, failed.retry_after))

    async def _attempt(self, call: Call[Any], endpoint: Endpoint) -> Payload:
        if endpoint.is_limited:
            async with endpoint.turn:
                await self._pause(endpoint.due())
                endpoint.ask()
            if self._stopped is not None:
                raise self._stopped
        with endpoint.watched():
            constraint = getattr(call, "constraint", None)
            # What is checked in any case is worth no canary.
            if constraint is not None and not getattr(constraint, "hint", False):
                await self._pool.verify(endpoint, type(constraint), call.model)
            return await self._send(call, endpoint)

    def _again(self, failed: AttemptFailed, attempts: int) -> bool:
        """Whether another attempt is worth it: after a rate limit by time, else by their number."""
        if failed.kind is FailureKind.RATE_LIMITED:
            return time.monotonic() - self._heard < self._policy.patience
        return failed.transient and attempts < self._policy.attempts

    async def _pause(self, seconds: float) -> None:
        """Wait, or until the run is stopped."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), seconds)


class Rehearsal:
    """Asks nobody: counts what a run would send, for ``--dry-run``."""

    def __init__(self, cache: Cache, weights: Mapping[str, str]) -> None:
        self._cache, self._weights = cache, weights
        self.requests = self.cached = 0
        self.prompt_tokens = self.completion_tokens = 0

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
        lines = [
            f"dry run: {self.requests:,} requests to send, {self.cached:,} answered already",
            f"about {self.prompt_tokens:,} prompt tokens (4 characters each), at most "
            f"{self.completion_tokens:,} answer tokens",
        ]
        if budget.price is not None:
            most = budget.price.of(self.prompt_tokens, self.completion_tokens)
            lines.append(f"about {most:,.4f} at most, at the given price")
        return "\n".join(lines)
