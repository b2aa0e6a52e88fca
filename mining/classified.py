"""What `classify` reads: predictions of this kit or another, or verdicts that are already there.

One file holds one form; the first row tells which. Foreign files may name the conversation
``context`` or ``history`` (text, utterances, or pairs) and the latest message ``seeker``.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from esc.dialogue import Exchange
from esc.exceptions import EscError
from esc.files import Row
from esc.psych_errors import PsychError, parse
from esc.strategies import parse as parse_strategy
from mining.verdicts import ErrorVerdict, Reason, Unscored, read

NOT_JUDGED = "not judged"
STATUSES = ("scored", "unscored", "failed", NOT_JUDGED)
"""Of a row of ``errors.jsonl``."""
STORED = "stored verdicts"
"""Who judged, where rows do not say."""
NOT_GIVEN = "(not given)"

_OURS = ("predicted_strategy", "predicted_response")
_FOREIGN = ("predict_strategy", "predict_content")
_CONTEXTS = ("context", "history", "dialog_history", "dialogue_history", "conversation")
_SPEAKERS = {
    **dict.fromkeys(("seeker", "user", "usr", "human", "speaker"), "seeker"),
    **dict.fromkeys(("supporter", "assistant", "sys", "system", "gpt", "listener"), "supporter"),
}


@dataclass(frozen=True, slots=True)
class Prediction:
    """One reply to classify."""

    id: str
    history: tuple[Exchange, ...]
    seeker: str
    strategy: str
    """A strategy's name, or whatever the file says in its place."""
    reply: str | None
    """None where there is nothing to judge."""
    lacking: str
    """Why there is no reply."""


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


def read_source(path: Path) -> Source:
    """The records of a JSONL file or of a JSON array.

    Raises EscError, naming the row, for whatever is not as it should be.
    """
    predictions, verdicts, seen, numbered = [], [], set(), 0
    stored = False
    for number, row in enumerate(_rows(path)):
        where = f"{path}, row {number} (from 0)"
        if not isinstance(row, dict):
            raise EscError(f"{where}: not a JSON object")
        given = row.get("id")
        if given is not None and (isinstance(given, bool) or not isinstance(given, str | int)):
            raise EscError(f"{where}: its id is neither text nor a whole number")
        numbered += given is None
        name = str(number if given is None else given)
        if name in seen:
            raise EscError(f"{where}: id {name!r} is there twice")
        seen.add(name)
        if number == 0:
            stored = _is_verdict(row)
        if stored:
            verdicts.append(_stored(name, row, where))
        else:
            predictions.append(_prediction(name, row, where))
    if not seen:
        raise EscError(f"{path} is empty; it takes one record at least")
    return Source(predictions, verdicts, numbered)


def _rows(path: Path) -> Iterator[Any]:
    content = path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise EscError(f"{path} is not UTF-8 text: byte {error.start}") from error
    if text.lstrip().startswith("["):
        try:
            yield from orjson.loads(text)
        except orjson.JSONDecodeError as error:
            raise EscError(f"{path} is no JSON array: {error}") from error
        return
    # Not str.splitlines: a JSON string may hold the line separators that it knows beyond "\n".
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                yield orjson.loads(line)
            except orjson.JSONDecodeError as error:
                raise EscError(f"{path}, line {number}: not JSON ({error.msg})") from error


def _is_verdict(row: Row) -> bool:
    if "Error Type" in row:
        return True
    return "error" in row and not {*_OURS, *_FOREIGN} & row.keys()


def _prediction(name: str, row: Row, where: str) -> Prediction:
    status = row.get("status")
    ours = _OURS[1] in row or (status in ("failed", "invalid") and _FOREIGN[1] not in row)
    strategy_field, reply_field = _OURS if ours else _FOREIGN
    needed = () if ours and status == "failed" else (strategy_field, reply_field)
    if not ours and _FOREIGN[1] not in row:
        raise EscError(
            f"{where}: neither a prediction ({' and '.join(_OURS)}, or {' and '.join(_FOREIGN)}) "
            'nor a verdict ("Error Type", or error)'
        )
    for field in (*needed, "context") if ours else needed:
        if field not in row:
            raise EscError(f"{where}: no {field!r}")
        if field != "context" and not isinstance(row[field], str | None):
            raise EscError(f"{where}: {field!r} is no text")
    history, seeker = _conversation(row, where)
    reply = row.get(reply_field)
    said = row.get(strategy_field) or NOT_GIVEN
    known = parse_strategy(said)
    return Prediction(
        id=name,
        history=tuple(history),
        seeker=seeker or NOT_GIVEN,
        strategy=known.value if known else said,
        reply=reply if reply and reply.strip() and status != "failed" else None,
        lacking=f"prediction {status}" if status in ("failed", "invalid") else "empty reply",
    )


def _conversation(row: Row, where: str) -> tuple[list[Exchange], str]:
    """(exchanges so far, the seeker's latest words); empty where the row holds none."""
    context = next((row[name] for name in _CONTEXTS if row.get(name)), None)
    latest = row.get("seeker") or ""
    if isinstance(context, dict):
        context, latest = context.get("history", []), context.get("seeker") or latest
    if not isinstance(latest, str):
        raise EscError(f"{where}: the seeker's latest message is no text")
    if isinstance(context, str):
        # A transcript of unknown form is shown as it stands.
        return [], "\n".join(filter(None, (context, latest)))
    if context is None:
        return [], latest
    if not isinstance(context, list):
        raise EscError(f"{where}: its conversation is neither text nor a list")
    if all(isinstance(pair, list) and [*map(type, pair)] == [str, str] for pair in context):
        return [(said, reply) for said, reply in context], latest
    said = [_utterance(one, where) for one in context]
    if latest:
        said.append(("seeker", latest))
    return _exchanges(_with_speakers(said))


def _utterance(one: object, where: str) -> tuple[str | None, str]:
    """(who speaks, as far as it is said; the words)."""
    if isinstance(one, str):
        return None, one
    if isinstance(one, Mapping):
        text = next((one[key] for key in ("content", "text", "value") if key in one), None)
        speaker = next((one[key] for key in ("role", "speaker", "from") if key in one), None)
        role = _SPEAKERS.get(str(speaker))
        if isinstance(text, str) and role is not None:
            return role, text
    raise EscError(f"{where}: its conversation holds something that is no utterance or pair")


def _with_speakers(said: Sequence[tuple[str | None, str]]) -> Iterator[tuple[str, str]]:
    """Utterances without a speaker alternate, and the last one is the seeker's."""
    for place, (speaker, text) in enumerate(said):
        turn = "seeker" if (len(said) - place) % 2 else "supporter"
        yield speaker or turn, text


def _exchanges(said: Iterator[tuple[str, str]]) -> tuple[list[Exchange], str]:
    found: list[Exchange] = []
    open_words: list[str] = []
    for speaker, text in said:
        if speaker == "seeker":
            open_words.append(text)
        else:
            found.append(("\n".join(open_words) or " ", text))
            open_words = []
    return found, "\n".join(open_words)


def _stored(name: str, row: Row, where: str) -> StoredVerdict:
    if not _is_verdict(row):
        raise EscError(f'{where}: no verdict ("Error Type", or error), though the first row is one')
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
