"""The errors of replies: rows of ``errors.jsonl``, their proportions, what a user is told."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from esc.chat.failures import Failure
from esc.files import Row
from esc.psych_errors import PsychError
from esc.shares import shares
from esc.verdicts import FOR_GOOD, Unscored
from mining.classified import NOT_JUDGED, StoredVerdict
from mining.verdicts import ErrorVerdict

ERRORS, PROPORTIONS = "errors.jsonl", "proportions.json"


def error_row(record: str, judge: str, verdict: ErrorVerdict | Unscored) -> Row:
    """The row of ``errors.jsonl`` of a verdict."""
    if isinstance(verdict, Unscored):
        return row_without_error(record, judge, "unscored", verdict.reason, verdict.detail)
    return {
        "id": record,
        "error": verdict.error.value,
        "status": "scored",
        "reason": None,
        "detail": None,
        "explanation": verdict.explanation,
        "suggestion": verdict.suggestion,
        "judge": judge,
    }


def row_without_error(record: str, judge: str, status: str, reason: str, detail: str = "") -> Row:
    """The row of a record that has no error for good or not yet, with the reason."""
    told = {"status": status, "reason": str(reason), "detail": detail or None}
    nothing = {"explanation": None, "suggestion": None}
    return {"id": record, "error": None, **told, **nothing, "judge": judge}


def failed_row(record: str, judge: str, failure: Failure) -> Row:
    """The row of a record whose request has no answer: unscored where none will ever come."""
    reason = FOR_GOOD.get(failure.kind)
    if reason is not None:
        return row_without_error(record, judge, "unscored", reason, failure.message)
    return row_without_error(record, judge, "failed", failure.kind, failure.message)


def stored_row(one: StoredVerdict) -> Row:
    """The row of a verdict that was there already."""
    if one.verdict is not None:
        return error_row(one.id, one.judge, one.verdict)
    return row_without_error(one.id, one.judge, one.status, one.reason, one.detail)


def proportions(rows: Iterable[Row]) -> Row:
    """Per error its count, share of the scored records and 95 % interval; the rest counted.

    Shares are 0 to 1, and None where nothing is scored. ``interval`` says whether it resamples
    dialogues, or what else where the ids name none.
    """
    status: Counter[str] = Counter()
    scored: list[tuple[str, str]] = []
    reasons: Counter[str] = Counter()
    for row in rows:
        status[row["status"]] += 1
        if row["status"] == "scored":
            scored.append((row["id"], row["error"]))
        else:
            reasons[f"{row['status']}: {row['reason']}"] += 1
    table, interval = shares(scored, [error.value for error in PsychError])

    def by_reason(of: str) -> dict[str, int]:
        found = {name.partition(": ")[2]: k for name, k in reasons.most_common() if _is(of, name)}
        return {"total": status[of], **found}

    return {
        "records": status.total(),
        "n": len(scored),
        "errors": table,
        "interval": interval,
        "unscored": by_reason("unscored"),
        "failed": by_reason("failed"),
        "not_judged": by_reason(NOT_JUDGED),
    }


def _is(status: str, name: str) -> bool:
    return name.startswith(f"{status}: ")


def report(out: Path, found: Row) -> str:
    """The numbers one should see: every record once, every error with its interval."""
    lines = [
        f"errors      {out / ERRORS}: {found['records']:,} records = {found['n']:,} scored "
        f"+ {found['unscored']['total']:,} unscored + {found['failed']['total']:,} failed "
        f"+ {found['not_judged']['total']:,} not judged; judge {found['judge']}"
    ]
    if found["numbered"]:
        lines.append(
            f"ids         {found['numbered']:,} records have none; theirs is their row, from 0"
        )
    for name, one in found["errors"].items():
        share = "" if one["share"] is None else f"{one['share']:>8.1%}"
        interval = "" if one["low"] is None else f"   [{one['low']:.1%}, {one['high']:.1%}]"
        lines.append(f"            {name:<20}{one['count']:>7,}{share}{interval}")
    lines.append(f"interval    {found['interval']}")
    for what in ("unscored", "failed", "not_judged"):
        told = [f"{count:,} {why}" for why, count in found[what].items() if why != "total"]
        if told:
            lines.append(f"{what.replace('_', ' '):<12}{', '.join(told)}")
    if found["failed"]["total"]:
        lines.append("incomplete  the same command asks again for what is missing")
    if found["smoke"]:
        lines.append("SMOKE       embedded model, sample corpus or random judge: no result")
    return "\n".join(lines)
