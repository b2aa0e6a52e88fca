"""From a request to an answer that is not lost: cache, retries, concurrency, money.

A task awaits ``Asks.ask`` and knows nothing of it.
"""

import asyncio
import hashlib
import math
import os
import re
import sys
import time
import weakref
from collections import defaultdict
from collections.abc import Awaitable, Callable, Container, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from email.utils import parsedate_to_datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import parse_qsl, urlsplit

import httpx2
import orjson
from tqdm import tqdm

from esc import files
from esc.files import EscError
from esc.prompts import Message, spoken
from esc.visible import visible

Payload = dict[str, Any]
Tokens = tuple[int, ...]
Record = TypeVar("Record")
Result = TypeVar("Result")


class Reason(StrEnum):
    """Why a request has no answer, or an answer holds no verdict."""

    RATE_LIMITED = "rate limited"
    SERVER_ERROR = "server error"
    TIMEOUT = "timeout"
    CONNECTION = "connection"
    BAD_ANSWER = "bad answer"  # a body that is not JSON, or JSON of another shape
    NOT_OFFERED = "not offered"  # the endpoint has no such route
    EMPTY = "empty answer"
    TOO_LONG = "context too long"
    REFUSED = "request refused"
    PROSE = "no verdict in the answer"
    CUT = "answer cut at its length limit"
    INCOMPLETE = "fields missing"
    OFF_MENU = "label not offered"
    OFF_SCALE = "score not on the scale"
    TWO = "two verdicts that differ"
    CONTRADICTION = "verdict contradicts itself"


@dataclass
class Failure(Exception):
    """The final failure of one request, raised to its task; the run of the others goes on."""

    kind: Reason
    message: str
    attempts: int = 1
    used: tuple[int, int] = (0, 0)  # tokens of prompt and answer that are paid for all the same
    wait: float | None = None  # seconds until it may be asked again, where a server says so

    def __str__(self) -> str:
        return f"{self.kind}: {self.message}"

    def row(self) -> Payload:
        """What stands in a record."""
        return {"kind": self.kind, "message": self.message, "attempts": self.attempts}


class RunStopped(EscError):
    """Something that every other request of the run would meet too: nothing more is sent."""


_TOO_LONG = re.compile(
    r"context (?:length|size|window)|maximum model length|prompt is too long", re.I
)


def refused(status: int, error: Any, who: str) -> Failure:
    """What an HTTP status of 400 or more, and the error with it, say of a request.

    Raises RunStopped where every other one would fail alike: a key, money, an unknown model.
    """
    code = None
    while isinstance(error, dict):
        code, told = error.get("code"), [error.get(name) for name in ("error", "detail", "message")]
        error = next(filter(None, told), "")
    words = error if isinstance(error, str) else orjson.dumps(error).decode() if error else ""
    # A page for people has no words.
    message = "" if words.lstrip().startswith("<") else " ".join(words.split())[:300]
    message = message or f"HTTP {status}"
    if status in (401, 402, 403, 404) or code == "insufficient_quota":
        raise RunStopped(f"{who} refuses every request: {message}")
    if status == 429:
        return Failure(Reason.RATE_LIMITED, message)
    if status in (408, 409) or status >= 500:
        return Failure(Reason.SERVER_ERROR, message)
    return Failure(Reason.TOO_LONG if _TOO_LONG.search(message) else Reason.REFUSED, message)


CHARACTERS_PER_TOKEN = 4  # of English text, for estimates only


class Price(NamedTuple):
    """Money per million tokens of prompts, and of answers."""

    prompt: float
    completion: float

    @classmethod
    def parse(cls, text: str) -> "Price":
        """The price in ``PROMPT/COMPLETION``, such as ``0.40/1.60``; EscError for another form."""
        try:
            prompt, completion = map(float, text.split("/"))
        except ValueError:
            form = "PROMPT/COMPLETION in money per million tokens, such as 0.40/1.60"
            raise EscError(f"PRICE={text!r} is not {form}") from None
        return cls(prompt, completion)

    def of(self, prompt_tokens: float, completion_tokens: float) -> float:
        """What so many tokens cost."""
        return (prompt_tokens * self.prompt + completion_tokens * self.completion) / 1e6


@dataclass(slots=True)
class Meter:
    """What this call of the program asks and spends; ``limit`` is MAX_COST."""

    price: Price | None = None
    limit: float = math.inf
    free: Container[str] = ()  # served names that cost nothing, on servers of our own
    spent: float = 0.0
    reserved: float = 0.0  # the most that what is on its way can cost
    answered: int = 0
    cached: int = 0
    failed: int = 0
    retries: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def most(self, call: "Generation") -> float:
        """The most that a request can cost: an upper bound, no estimate."""
        # One token has rarely fewer than two characters, and a chat template adds some dozens.
        tokens = call.characters / 2 + 64, call.sampling.max_tokens
        return self.price.of(*tokens) if self.price and call.model not in self.free else 0.0

    def pay(self, model: str, prompt_tokens: int, completion_tokens: int) -> None:
        """Count what a request to a model used."""
        self.prompt_tokens += prompt_tokens
        self.completion_tokens += completion_tokens
        if self.price and model not in self.free:
            self.spent += self.price.of(prompt_tokens, completion_tokens)

    def told(self) -> str:
        """What is spent so far, for the end of a sentence; nothing where no price is known."""
        return f" ({self.spent:.4f} spent by this call)" if self.price else ""


class Cache(dict[str, Payload]):
    """Stored answers by key, and the file new ones go to; without one, in memory alone."""

    def __init__(self, path: Path | None = None) -> None:
        """A last line that a killed writer has torn is cut off, and its answer asked for again."""
        super().__init__()
        self._path = path
        if path is not None and path.exists():
            with path.open("rb") as stream:
                os.truncate(path, sum(len(line) for line in stream if line.endswith(b"\n")))
            rows = (row for row in files.read_jsonl(path) if row.keys() >= {"key", "answer"})
            self.update((row["key"], row["answer"]) for row in rows)

    def borrow(self, path: Path) -> None:
        """Know the answers of another file too, which may be written at this very time."""
        lines = path.read_bytes().split(b"\n")[:-1] if path.is_file() else ()
        for row in map(orjson.loads, filter(None, lines)):
            self.setdefault(row["key"], row["answer"])

    def put(self, key: str, audit: Payload, answer: Payload) -> None:
        """Store one answer, at once and for good."""
        self[key] = answer
        if self._path is not None:
            row = {"key": key} | audit | {"answer": answer}
            with self._path.open("ab") as stream:
                stream.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraint:
    """What an answer is held to: one of these texts, an expression, or a JSON schema, as text.

    A ``hint`` may be ignored by an endpoint: who asks checks the answer in any case.
    """

    choice: tuple[str, ...] = ()
    regex: str = ""
    schema: str = ""
    hint: bool = False

    def body(self) -> Payload:
        """The fields of a chat completion request."""
        if self.schema:
            form = {"name": "verdict", "schema": orjson.loads(self.schema), "strict": True}
            return {"response_format": {"type": "json_schema", "json_schema": form}}
        held = {"choice": list(self.choice)} if self.choice else {"regex": self.regex}
        return {"structured_outputs": held}

    def allows(self, text: str) -> bool:
        """Whether a whole answer keeps to it, which no free one does but by chance."""
        if self.choice:
            return text in self.choice
        return not self.regex or re.match(self.regex, text, re.DOTALL) is not None


@dataclass(frozen=True, slots=True)
class Sampling:
    """How an answer is drawn; ``max_tokens`` are fewer where the context lacks room for them."""

    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0


@dataclass(frozen=True, slots=True)
class Reply:
    """A model's answer."""

    text: str  # without what a reasoning model thought; nothing where its thinking was cut
    truncated: bool = False  # by max_tokens; such an answer is kept
    scores: tuple[float, ...] | None = None  # natural log-probability of each of ``answers``


def derived_seed(record: str, sample: int) -> int:
    """The seed of one sample of one record: the same in every run and in every order."""
    digest = hashlib.sha256(f"{record}\n{sample}".encode()).digest()
    return int.from_bytes(digest[:4]) >> 1


@dataclass(frozen=True, slots=True)
class Generation:
    """A request for one answer, or for the log-probability of each of ``answers``.

    It is for a ``step``, such as ``plan``, of a ``record``, and of its samples the one of that
    0-based index. ``model`` is a served name; ``expected``, an answer of the usual kind, is for a
    dry run alone.
    """

    record: str
    step: str
    model: str
    messages: tuple[Message, ...]
    sampling: Sampling = Sampling(0)
    constraint: Constraint | None = None
    sample: int = 0
    expected: str = ""
    answers: tuple[str, ...] = ()

    @property
    def seed(self) -> int:
        """The seed sent with the request."""
        return derived_seed(self.record, self.sample)

    @property
    def characters(self) -> int:
        """Of the prompt."""
        return sum(len(message.content) for message in self.messages)

    @property
    def wire(self) -> list[dict[str, str]]:
        """The chat as it is sent."""
        return [message.wire() for message in self.messages]

    def _decides(self) -> Payload:
        """Everything that decides the answer, but for the weights."""
        asked: Payload = {"model": self.model, "messages": self.wire}
        if self.answers:
            return asked | {"answers": list(self.answers)}
        constraint = self.constraint.body() if self.constraint else None
        asked |= {"sampling": asdict(self.sampling), "constraint": constraint}
        return asked | {"seed": self.seed, "sample": self.sample}

    def key(self, weights: Mapping[str, str]) -> str:
        """The cache key: SHA-256 over what decides the answer and the hash of the weights."""
        decides = [self._decides(), weights.get(self.model)]
        return hashlib.sha256(orjson.dumps(decides, option=orjson.OPT_SORT_KEYS)).hexdigest()

    def audit(self) -> Payload:
        """What the stored line says besides the key."""
        asked = {"record": self.record, "step": self.step, "model": self.model}
        return asked if self.answers else asked | self._decides()

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


# What reading JSON of another shape raises.
_SHAPES = KeyError, TypeError, IndexError, AttributeError, ValueError


def read_completion(answer: Any) -> Payload:
    """A chat completion as it is stored: text, finish reason and token counts.

    Raises Failure for another shape, an error in its place, and an answer without text.
    """
    try:
        if answer.get("error") and not answer.get("choices"):
            raise refused(int(answer["error"]["code"]), answer["error"], "the endpoint")
        choice, usage = answer["choices"][0], answer.get("usage") or {}
        text, finish = choice["message"].get("content"), choice.get("finish_reason")
        if isinstance(text, list):
            parts = [one if isinstance(one, str) else one.get("text") for one in text]
            text = "".join(filter(None, parts)) if parts else None
        used = int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)
    except _SHAPES as error:
        reason = f"no chat completion: {type(error).__name__} {error}"
        raise Failure(Reason.BAD_ANSWER, reason) from error
    if text is None or (not text and finish == "length"):
        thought = f", its {used[1]:,} tokens went into something else, such as thinking"
        reason = "the answer has no text" + (thought if finish == "length" else "")
        raise Failure(Reason.EMPTY, reason, used=used)
    return {"text": text, "finish": finish, "prompt_tokens": used[0], "completion_tokens": used[1]}


_FREE = "use DECODE=free, or a server with structured outputs, such as vLLM"


@dataclass
class Asks:
    """Somebody to ask, each thing once; how, live or through files, is a subclass's matter.

    ``weights`` maps a served name to a hash of what answers under it.
    """

    cache: Cache = field(default_factory=Cache)
    weights: Mapping[str, str] = field(default_factory=dict)
    meter: Meter = field(default_factory=Meter)
    _connections = 1  # records at a time
    # Why nothing more is sent; what is on its way is answered and kept.
    _stopped: EscError | OSError | None = field(default=None, init=False)
    _asking: weakref.WeakValueDictionary[str, asyncio.Lock] = field(
        default_factory=weakref.WeakValueDictionary, init=False
    )

    async def ask(self, call: Generation) -> Reply:
        """The answer to one call, from the cache where it is there.

        Raises Failure where it has none for good, RunStopped where no call of the run would.
        """
        key = call.key(self.weights)
        # A second call of the same key waits for the first one's answer.
        async with self._asking.setdefault(key, asyncio.Lock()):
            stored = self.cache.get(key)
            if stored is None:
                stored = await self._answer(key, call)
            else:
                self.meter.cached += 1
        return call.read(stored)

    async def _answer(self, key: str, call: Generation) -> Payload | None:
        """The answer to what is not stored; None where nobody can be asked that."""
        raise NotImplementedError

    async def run(
        self,
        records: Sequence[Record],
        work: Callable[["Asks", Record], Awaitable[Result]],
        what: str = "",
    ) -> list[Result | Failure]:
        """The result of ``work`` for every record, in order, or its final failure.

        Raises RunStopped, or another EscError of ``work``, after the requests already sent have
        been answered and kept. ``what`` is the title of a bar on stderr.
        """
        results: list[Any] = [None] * len(records)
        left, every = iter(enumerate(records)), 0.5 if sys.stderr.isatty() else 15.0
        bar = tqdm(total=len(records), desc=what, unit="turn", mininterval=every, disable=not what)

        async def one_by_one() -> None:
            for place, record in left:
                try:
                    results[place] = await work(self, record)
                except Failure as failed:
                    results[place] = failed
                except (EscError, OSError) as stopped:
                    # RunStopped, or what every record meets, such as a full disk.
                    self._stopped = self._stopped or stopped
                if self._stopped:
                    return
                counts = f"{self.meter.failed} failed, {self.meter.retries} retries"
                bar.set_postfix_str(counts + self.meter.told(), refresh=False)
                bar.update()

        with bar:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._connections):
                    group.create_task(one_by_one())
        if self._stopped:
            raise self._stopped
        return results

    def _keep(self, key: str, call: Generation, answer: Payload) -> None:
        """Pay and store an answer; RunStopped where it is none that the constraint allows."""
        used, meter = (answer["prompt_tokens"], answer["completion_tokens"]), self.meter
        meter.answered += 1
        meter.pay(call.model, *used)
        # A server that tells no usage is not one that costs nothing.
        meter.spent += 0.0 if any(used) else meter.most(call)
        reply, held = call.read(answer), call.constraint
        if held and not (held.hint or reply.truncated or held.allows(reply.text)):
            raise RunStopped(f"the server answers, but ignores the constraint; {_FREE}")
        self.cache.put(key, call.audit(), answer)


Work = Callable[["Asks", Record], Awaitable[Result]]


class _Apart(Asks):
    """One to ask where the questions of some steps go to others."""

    def __init__(self, rest: Asks, steps: Mapping[str, Asks]) -> None:
        super().__init__(rest.cache, rest.weights, rest.meter)
        self._rest, self._steps = rest, steps

    async def ask(self, call: Generation) -> Reply:
        return await self._steps.get(call.step, self._rest).ask(call)


def apart(work: Work[Record, Result], steps: Mapping[str, Asks]) -> Work[Record, Result]:
    """The same work, with the questions of each of these steps asked of somebody else."""

    async def done(asks: Asks, record: Record) -> Result:
        try:
            return await work(_Apart(asks, steps) if steps else asks, record)
        except (EscError, OSError) as stopped:
            # The others do not wait for what nobody will take.
            for one in steps.values():
                one._stopped = one._stopped or stopped
            raise

    return done


class Rehearsal(Asks):
    """Asks nobody: ``meter`` counts what a run would send, and at most pay, for ``DRY_RUN``."""

    async def _answer(self, key: str, call: Generation) -> None:
        self.meter.answered += 1
        used = call.characters // CHARACTERS_PER_TOKEN, call.sampling.max_tokens
        self.meter.pay(call.model, *used)

    def __str__(self) -> str:
        meter = self.meter
        most = f"\nabout {meter.spent:,.4f} at most, at the given price" if meter.price else ""
        return (
            f"dry run: {meter.answered:,} requests to send, {meter.cached:,} answered already\n"
            f"about {meter.prompt_tokens:,} prompt tokens (4 characters each), at most "
            f"{meter.completion_tokens:,} answer tokens{most}"
        )


class Address:
    """A base URL taken apart, and the key for it, which goes nowhere else.

    ``url`` has no query; ``is_loopback`` where it is of this very machine, which a proxy of the
    environment does not reach. The key is OPENAI_API_KEY for https alone, VLLM_API_KEY for http.
    """

    def __init__(self, text: str) -> None:
        """Raises EscError where it is no URL, or holds a password, or a key is no key."""
        host, self.key_name = "", "OPENAI_API_KEY" if text[:5] == "https" else "VLLM_API_KEY"
        with suppress(ValueError):  # of a port, or of brackets
            found = urlsplit(text)
            if found.scheme in ("http", "https") and "@" not in found.netloc and found.port != 0:
                host = found.hostname or ""
        if not host:
            raise EscError(
                "BASE_URL (a judge's is JUDGE_BASE_URL) is no URL without a password, such as "
                f"http://127.0.0.1:8000/v1; a key is set in {self.key_name}"
            )
        self.key = os.environ.get(self.key_name, "").strip() or "none"
        if not (self.key.isascii() and self.key.isprintable()):
            raise EscError(f"{self.key_name} holds characters that no key has; set it anew")
        path, _, query = text.partition("?")
        self.url, self.query = path.rstrip("/"), dict(parse_qsl(query))
        name = host.split(".")
        self.is_loopback = name[-1] == "localhost" or name[0] == "127" or host == "::1"

    def clean(self, text: str) -> str:
        """The text without the key."""
        return text if self.key == "none" else text.replace(self.key, "***")


ATTEMPTS = 6  # of one request, the first included; those that a rate limit refuses do not count
PATIENCE = 900.0  # seconds without any answer, after which a rate limit is a failure
FIRST, USUAL = 0.5, 8.0  # seconds until it is sent again: at first, and doubled up to
LONGEST = 60.0  # seconds until it is sent again where a server asks for more
DOWN, FAULTS = 15.0, 3  # seconds an endpoint is left out, after so many faults in a row
MUTE = 20  # requests that end without a word, until a run does not wait for one any more
_CHAT, _MODELS = "/chat/completions", "/models"
_COMPLETIONS, _TOKENIZE = "/completions", "/tokenize"
_PASSING = (Reason.SERVER_ERROR, Reason.TIMEOUT, Reason.CONNECTION, Reason.BAD_ANSWER)


class _Endpoint:
    """One base URL: how it is asked, and how it has answered lately."""

    def __init__(self, url: str, timeout: float, connections: int) -> None:
        self.address = Address(url)
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
        self._limit = math.inf
        self._down_until = self._paused_until = self.heard = 0.0

    async def send(self, path: str, body: Payload | None, read: Callable[[Any], Any]) -> Any:
        """What ``read`` makes of the JSON that it answers.

        Raises Failure, or RunStopped where every other request would fail alike.
        """
        url = self.address.url
        # vLLM's own routes lie beside /v1.
        to = (url.removesuffix("/v1") if path == _TOKENIZE else url) + path
        try:
            answer = await self._http.request("POST" if body else "GET", to, json=body)
        except httpx2.TimeoutException as error:
            raise Failure(Reason.TIMEOUT, f"{url} did not answer in time") from error
        except (httpx2.RequestError, OSError) as error:
            raise Failure(Reason.CONNECTION, f"{url}: {error or type(error).__name__}") from error
        status, found = answer.status_code, self.address.clean(answer.text)
        with suppress(ValueError):
            found = orjson.loads(found)
        if status < 400:
            with suppress(*_SHAPES):
                return read(found)
        # The list, vLLM's own routes and the old completions are not what every server has.
        is_passing = path == _MODELS or status in (408, 409, 429, 500) or status > 501
        if path != _CHAT and (status in (200, 404) or not is_passing):
            reason = f"{url} has no {path}; a base URL usually ends in /v1"
            raise Failure(Reason.NOT_OFFERED, reason)
        failure = refused(status, found, f"{url} (its key: {self.address.key_name})")
        failure.wait = _seconds_told(answer.headers)
        raise failure

    def is_up(self) -> bool:
        """Whether it works; where it failed, one request at a time shows whether it does again."""
        is_tried = self.running == 0 and self._down_until <= time.monotonic()
        return self._faults < FAULTS or is_tried

    def has_room(self) -> bool:
        """Whether it may be sent another request now, after those that it refused."""
        return self.running < self._limit and self._paused_until <= time.monotonic()

    def note(self, kind: Reason | None, wait: float = 0.0) -> None:
        """Remember how a request that no longer runs went: None is an answer."""
        now = time.monotonic()
        if kind is None:
            self._faults, self.heard = 0, now
            # After each round of answers it may be sent one more at a time.
            self._limit += 1 / self._limit
        elif kind is Reason.RATE_LIMITED:
            # It takes as many as it has not refused; where that is none, it is left alone.
            self._limit = max(1.0, min(self._limit, self.running))
            self._paused_until = now + wait if self._limit == 1 else 0.0
        elif kind in (Reason.SERVER_ERROR, Reason.BAD_ANSWER, Reason.CONNECTION):
            self._faults += FAULTS if kind is Reason.CONNECTION else 1
            self._down_until = now + DOWN


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


# What a model may refuse, to the name it knows instead; without one it is left out.
_MAY_LACK = {"max_tokens": "max_completion_tokens", "temperature": "", "top_p": "", "seed": ""}
# Words of a refusal that is of a parameter, not of its value.
_UNKNOWN = re.compile(
    r"unsupported|not support|unknown|unrecogni[sz]ed|unexpected|not permitted|not allowed", re.I
)


class Chat(Asks):
    """Asks live servers of the same models as if they were one.

    One that fails is left out for a while, and one that limits requests is sent fewer.
    """

    def __init__(self, urls: Sequence[str], *shared: Any, timeout: float, connections: int) -> None:
        """``connections``: requests at a time, over all endpoints; ``shared`` as of `Asks`."""
        if not urls:
            raise EscError("BASE_URL is empty; give one or several URLs, or 'make serve'")
        super().__init__(*shared)
        self._endpoints = [_Endpoint(url, timeout, connections) for url in dict.fromkeys(urls)]
        self._connections = connections
        # How often each model had nothing to say; minus infinity once it has said something.
        self._silent: defaultdict[str, float] = defaultdict(float)
        # By model, what it refuses to be sent, to the name it knows instead, or nothing.
        self._otherwise: defaultdict[str, dict[str, str]] = defaultdict(dict)
        self._paths: dict[tuple[str, tuple[str, ...]], list[Tokens]] = {}
        self._learning = asyncio.Lock()

    async def aclose(self) -> None:
        """Close all connections."""
        for endpoint in self._endpoints:
            await endpoint.close()

    async def connect(self, models: Sequence[str]) -> list[str]:
        """The models that the endpoints list, all of ``models`` among those of each that answers.

        Without any an answer is enough: a hosted endpoint need not list its own. Raises EscError
        where none answers, or one lacks a model.
        """
        reasons, served = [], list[str]()
        for endpoint in self._endpoints:
            try:
                served = await endpoint.send(
                    _MODELS, None, lambda found: [str(entry["id"]) for entry in found["data"]]
                )
            except Failure as failed:
                if models or failed.kind is Reason.CONNECTION:
                    endpoint.note(Reason.CONNECTION)
                    reasons.append(failed.message)
                continue
            if missing := [name for name in models if name not in served]:
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

    async def _pause(self, seconds: float) -> None:
        """Wait; raises what the run is stopped by, now or meanwhile."""
        until = time.monotonic() + seconds
        while not self._stopped and (rest := until - time.monotonic()) > 0:
            await asyncio.sleep(min(rest, 0.1))
        if self._stopped:
            raise self._stopped

    async def _answer(self, key: str, call: Generation) -> Payload | None:
        meter, most = self.meter, self.meter.most(call)
        while meter.spent + meter.reserved + most > meter.limit:
            if meter.spent + most > meter.limit:
                raise RunStopped(
                    f"the next request could pass MAX_COST={meter.limit:g}{meter.told()}; all "
                    "answers are kept: the same command goes on, with its own MAX_COST"
                )
            # What runs may turn out cheaper than it can be at most.
            await self._pause(0.1)
        meter.reserved += most
        try:
            answer = await (self._score(call) if call.answers else self._generate(call))
        except Failure as failed:
            meter.pay(call.model, *failed.used)
            meter.failed += 1
            if failed.kind in (Reason.EMPTY, Reason.REFUSED):
                self._note_silence(call.model, failed.message)
            raise
        finally:
            meter.reserved -= most
        if answer:
            self._keep(key, call, answer)
            reply = call.read(answer)
            is_cut = reply.truncated and not reply.text
            self._note_silence(call.model, "cut while the model thought" if is_cut else "")
        return answer

    def _note_silence(self, model: str, why: str) -> None:
        """Raise RunStopped where all that a model was asked ended without a word of it."""
        self._silent[model] = self._silent[model] + 1 if why else -math.inf
        if self._silent[model] >= MUTE:
            raise RunStopped(
                f"the first {MUTE} requests to {model} brought no answer ({why}), nor would the "
                f"others{self.meter.told()}; all answers are kept"
            )

    async def _generate(self, call: Generation) -> Payload:
        """A chat completion, asked for in the way the model knows.

        A parameter that it refuses is sent by another name or left out, and so is a form that is a
        hint alone: from then on for every request. Where the context lacks room for an answer of
        ``max_tokens``, it is asked once more for one of what is left.
        """
        model, body, held = call.model, call.body(), call.constraint
        if held and held.choice:
            body |= allowed(await self.paths_of(model, held.choice))
        hinted = list(held.body()) if held and held.hint else []
        known, is_whole, why = self._otherwise[model], True, ""
        other = dict(known)
        while True:
            sent = {other.get(name, name): value for name, value in body.items()}
            sent.pop("", None)
            try:
                answer: Payload = await self._post(_CHAT, sent, read_completion)
                break
            except Failure as failed:
                why = failed.message
                named = [name for name in _MAY_LACK if name in sent and name in why]
                lacks = named[:1] if _UNKNOWN.search(why) else []
                lacks = lacks or [name for name in hinted if name in sent]
                if failed.kind is Reason.REFUSED and lacks:
                    other |= {name: _MAY_LACK.get(name, "") for name in lacks}
                elif failed.kind is Reason.REFUSED and held and not held.hint:
                    told = f"the server refuses the constraint ({why}); {_FREE}"
                    raise RunStopped(told) from None
                elif failed.kind is Reason.TOO_LONG and is_whole:
                    tokens, context = await self.tokens_of(model, messages=call.wire)
                    body["max_tokens"], is_whole = context - len(tokens), False
                    if not 0 < body["max_tokens"] < call.sampling.max_tokens:
                        raise
                else:
                    raise
        for name in other.keys() - known.keys():
            done = f"sent as {other[name]}" if other[name] else "left out"
            line = f"note        {name} is {done} for {model}, which refuses it ({why})"
            tqdm.write(visible(line), file=sys.stderr)
        known |= other
        return answer

    async def _post(self, path: str, body: Payload, read: Callable[[Any], Any]) -> Any:
        """As `_Endpoint.send`, from an endpoint that works; what passes is asked again.

        None where it has no such route.
        """
        begin, attempts, faults = time.monotonic(), 0, 0
        while True:
            endpoint = await self._next_endpoint()
            endpoint.running += 1
            attempts += 1
            kind, wait = None, 0.0
            try:
                return await endpoint.send(path, body, read)
            except Failure as failed:
                kind, failed.attempts = failed.kind, attempts
                if kind is Reason.NOT_OFFERED:
                    return None
                if kind is Reason.RATE_LIMITED:
                    heard = max(begin, *(one.heard for one in self._endpoints))
                    is_passing = time.monotonic() - heard < PATIENCE
                else:
                    faults += 1
                    is_passing = kind in _PASSING and faults < ATTEMPTS
                if self._stopped or not is_passing:
                    raise
                usual = min(FIRST * 2 ** max(faults - 1, 0), USUAL)
                wait = min(usual if failed.wait is None else failed.wait, LONGEST)
            finally:
                endpoint.running -= 1
                endpoint.note(kind, wait)
            self.meter.retries += 1
            await self._pause(wait)

    async def _next_endpoint(self) -> _Endpoint:
        """The one that has least to do of those that work; waits where none has room."""
        while True:
            await self._pause(0)
            up = [one for one in self._endpoints if one.is_up()] or self._endpoints
            if free := [one for one in up if one.has_room()]:
                return min(free, key=lambda one: one.running)
            await self._pause(0.02)

    async def tokens_of(self, model: str, **text: Any) -> tuple[Tokens, int]:
        """(the ids a server makes of ``messages`` or of a ``prompt``, the size of its context).

        Nothing and 0 where it has no ``/tokenize``.
        """

        def read(found: Any) -> tuple[Tokens, int]:
            return tuple(map(int, found["tokens"])), int(found.get("max_model_len") or 0)

        return await self._post(_TOKENIZE, {"model": model} | text, read) or ((), 0)

    async def paths_of(self, model: str, answers: tuple[str, ...]) -> list[Tokens]:
        """The tokens of every answer, each with the one that ends the turn; asked once.

        None where the server tells no tokens, or its chat template does not continue a prompt.
        """
        async with self._learning:
            if (model, answers) not in self._paths:
                asked = Message("user", "?").wire()
                head, _ = await self.tokens_of(model, messages=[asked])
                paths = []
                for answer in answers if head else ():
                    chat = {"messages": [asked, Message("assistant", answer).wire()]}
                    whole, _ = await self.tokens_of(model, **chat, add_generation_prompt=False)
                    alone, _ = await self.tokens_of(model, prompt=answer, add_special_tokens=False)
                    path = whole[len(head) : len(head) + len(alone) + 1]
                    if whole[: len(head)] == head and len(path) == len(alone) + 1:
                        paths.append(path)
                self._paths[model, answers] = paths if len(paths) == len(answers) else []
        return self._paths[model, answers]

    async def _score(self, call: Generation) -> Payload | None:
        """The log-probability of each answer; None without ``/tokenize`` or ``logprob_token_ids``.

        The answers' tokens form a tree of prefixes. One request holds a prompt for every inner
        node, and asks for the log-probabilities of the tokens that go on from there; a score is
        the sum along an answer's path, the end of the turn included. With a prefix cache little
        more than the tree is computed.
        """
        if not (paths := await self.paths_of(call.model, call.answers)):
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
            told = {it["index"]: it["logprobs"]["top_logprobs"][0] for it in found["choices"]}
            after = {node: told[index] for index, node in enumerate(nodes)}
            return [
                sum(after[path[:depth]][f"token_id:{token}"] for depth, token in enumerate(path))
                for path in paths
            ]

        scores = await self._post(_COMPLETIONS, body, read)
        used = {"prompt_tokens": len(prompt), "completion_tokens": 0}
        return {"logprobs": scores} | used if scores else None


def allowed(paths: Sequence[Tokens]) -> Payload:
    """Request fields that keep an answer to the tokens of these paths; none of no path.

    A constraint on the text alone also admits odd spellings, "I" and "nformation", which a model
    was never trained on and takes for other reasons.
    """
    return {"allowed_token_ids": sorted({it for path in paths for it in path})} if paths else {}
