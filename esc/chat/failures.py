"""What can go wrong with a request: typed, and either worth another attempt or not."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from esc.exceptions import EscError


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
