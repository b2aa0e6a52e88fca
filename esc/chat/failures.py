"""What can go wrong with a request: typed, and either worth another attempt or not."""

from dataclasses import dataclass
from enum import StrEnum

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
    too_long = "context length" in message or "maximum model length" in message
    return FailureKind.TOO_LONG if too_long else FailureKind.REFUSED


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
    ) -> None:
        super().__init__(message)
        self.kind, self.message, self.transient = kind, message, transient
        self.retry_after = retry_after
        """Seconds the server asked to wait, or None."""


class RunStopped(EscError):
    """Something that every other request of the run would meet too: nothing more is sent."""
