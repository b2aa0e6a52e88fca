"""One line of an answers file: the answer as it is stored, or why there is none."""

from typing import Any

from esc.chat.failures import AttemptFailed, Failure, FailureKind, RunStopped, kind_of, told
from esc.chat.request import Payload, read_completion, usage_of

_EXPIRED = "batch_expired"


def outcome_of(row: Any) -> Payload | Failure:
    """What a line with ``response`` and ``error`` says; a failure is of the kind a live one has.

    Raises RunStopped where every other request would fail alike: a key, a quota, an unknown model.
    """
    response, error = row.get("response"), row.get("error")
    response = response if isinstance(response, dict) else {}
    body, status = response.get("body"), response.get("status_code")
    if status == 200 and not error:
        try:
            return read_completion(body)
        except AttemptFailed as failed:
            return Failure(failed.kind, failed.message, 1)
    words, code = told(error or body)
    message = " ".join(words.split())[:300] or f"HTTP {status}"
    if code == _EXPIRED:
        return Failure(FailureKind.TIMEOUT, message, 1)
    if not isinstance(status, int) or status < 400:
        return Failure(FailureKind.BAD_ANSWER, message, 1)
    if status in (401, 402, 403, 404) or code == "insufficient_quota":
        raise RunStopped(message)
    return Failure(kind_of(status, message), message, 1)


def paid_for(row: Any) -> tuple[int, int]:
    """(tokens of the prompt, of the answer) that a line without an answer costs all the same."""
    response = row.get("response")
    body = response.get("body") if isinstance(response, dict) else None
    try:
        return usage_of(body)
    except (AttributeError, TypeError, ValueError):
        return 0, 0
