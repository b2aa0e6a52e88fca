"""Requests to one or several OpenAI-compatible base URLs, by the openai client.

One attempt is one attempt: retrying is the policy's. Keys come from the environment and are taken
out of every message.
"""

import asyncio
import ipaddress
import math
import os
import re
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx2
import openai
import orjson
from tqdm import tqdm

from esc.chat import constraint
from esc.chat.failures import AttemptFailed, FailureKind, RunStopped, kind_of, refusal_in, told
from esc.chat.message import text_of
from esc.exceptions import EscError
from esc.visible import visible

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
        body = {"model": model, "temperature": 0, "max_tokens": 40} | constraint.canary(kind)
        try:
            answer = await self.complete(body)
            text = text_of(answer["choices"][0]["message"]["content"])
        except (KeyError, TypeError, IndexError) as error:
            raise AttemptFailed(FailureKind.BAD_ANSWER, str(error), transient=True) from error
        except AttemptFailed as failed:
            if failed.kind is not FailureKind.REFUSED:
                raise
            raise self._without(kind, "refuses", f" ({failed.message})") from failed
        if not constraint.obeyed(text):
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
