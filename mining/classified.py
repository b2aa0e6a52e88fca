"""What `classify` reads: predictions of this kit or another, or verdicts that are already there.

One file holds one form; the first row tells which.
"""

from dataclasses import dataclass
from pathlib import Path

import orjson

from esc.exceptions import EscError
from esc.files import Row
from esc.foreign import FOREIGN, OURS
from esc.predictions import Prediction, named_rows, prediction_of
from esc.psych_errors import PsychError, parse
from esc.verdicts import Reason, Unscored, read
from mining.verdicts import ErrorVerdict

NOT_JUDGED = "not judged"
STATUSES = ("scored", "unscored", "failed", NOT_JUDGED)
"""Of a row of ``errors.jsonl``."""
STORED = "stored verdicts"
"""Who judged, where rows do not say."""
_PAPERS = {"Error Type", "Contains Empathy Error"}
_OWN = {"status", "judge", "error"}
_FORMS = '"Error Type" or "Contains Empathy Error"; or status, judge and error'


@dataclass(frozen=True, slots=True)
class StoredVerdict:
    """One verdict that is already there."""

    id: str
    status: str
    """One of `STATUSES`."""
    verdict: ErrorVerdict | None
    """Where it is scored."""
    reason: str
    """Where it is not."""
    detail: str
    judge: str


@dataclass(frozen=True, slots=True)
class Source:
    """A file's records, all of one form."""

    predictions: list[Prediction]
    verdicts: list[StoredVerdict]
    """Empty where there are predictions, and the other way round."""
    numbered: int
    """Records without an id; theirs is the row's number, from 0."""
    smoke: bool
    """Whether a row says of itself that it is of a smoke run."""


def read_source(path: Path) -> Source:
    """The records of a file, in any form that `esc.foreign` reads.

    Raises EscError, naming the row, for whatever is not as it should be.
    """
    predictions, verdicts, numbered = [], [], 0
    stored: bool | None = None
    is_smoke = False
    for named in named_rows(path):
        numbered += named.numbered
        is_smoke = is_smoke or _is_smoke(named.row)
        stored = _is_verdict(named.row) if stored is None else stored
        if stored:
            verdicts.append(_stored(named.id, named.row, named.where))
        elif {OURS[1], FOREIGN[1], "status"} & named.row.keys():
            predictions.append(prediction_of(named))
        else:
            raise EscError(
                f"{named.where}: neither a prediction ({' and '.join(OURS)}, or "
                f"{' and '.join(FOREIGN)}) nor a stored verdict on one ({_FORMS}); its columns are "
                f"{named.columns}: rename those that are it"
            )
    return Source(predictions, verdicts, numbered, is_smoke)


def _is_verdict(row: Row) -> bool:
    """Whether it has the form of a row of ``errors.jsonl``, or the paper's names.

    Pairs, routes and preference sets name errors too, and are no verdicts on predictions.
    """
    return bool(_PAPERS & row.keys()) or row.keys() >= _OWN


def _is_smoke(row: Row) -> bool:
    made_with = row.get("provenance")
    return bool(row.get("smoke") or (isinstance(made_with, dict) and made_with.get("smoke")))


def _stored(name: str, row: Row, where: str) -> StoredVerdict:
    if not _is_verdict(row):
        raise EscError(f"{where}: no verdict ({_FORMS}), though the first row is one")
    judge = row.get("judge") or STORED
    if not isinstance(judge, str):
        raise EscError(f"{where}: its judge is no text")
    status = row.get("status")
    if status in STATUSES[1:]:
        told = [str(row.get(key) or "") for key in ("reason", "detail")]
        return StoredVerdict(name, status, None, told[0] or status, told[1], judge)
    verdict = _verdict(row)
    if isinstance(verdict, Unscored):
        return StoredVerdict(name, "unscored", None, verdict.reason, verdict.detail, judge)
    return StoredVerdict(name, "scored", verdict, "", "", judge)


def _verdict(row: Row) -> ErrorVerdict | Unscored:
    """The row's verdict, read as strictly as a judge's answer.

    Where it does not say whether there is an error, its label does.
    """
    label = row.get("Error Type", row.get("error"))
    says = row.get("Contains Empathy Error", row.get("contains_error"))
    if says is None:
        if not isinstance(label, str) or not label.strip():
            return Unscored(Reason.INCOMPLETE, "no label")
        says = "No" if parse(label) is PsychError.NONE else "Yes"
    fields = {
        "contains_error": says,
        "error": label,
        "explanation": row.get("Brief Explanation", row.get("explanation")),
        "suggestion": row.get("Improvement Suggestion", row.get("suggestion")),
    }
    return read(ErrorVerdict, orjson.dumps(fields).decode())
