"""A file of predictions, this kit's own or another system's, row by row and strictly.

Foreign rows hold ``GT_strategy``, ``predict_strategy``, ``GT_content`` and ``predict_content``, or
what `foreign` reads as these, and may name the conversation ``context`` or ``history`` (text,
utterances, or pairs) and the latest message ``seeker``.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from esc import foreign
from esc.dialogue import Exchange
from esc.exceptions import EscError
from esc.files import Row
from esc.foreign import CONTEXTS, FOREIGN, OURS
from esc.strategies import parse
from esc.thinking import spoken

NOT_GIVEN = "(not given)"

_GOLD = ("gold_response", "GT_content")
_SPEAKERS = {
    **dict.fromkeys(("seeker", "user", "usr", "human", "speaker"), "seeker"),
    **dict.fromkeys(("supporter", "assistant", "sys", "system", "gpt", "listener"), "supporter"),
}


@dataclass(frozen=True, slots=True)
class Prediction:
    """One predicted reply."""

    id: str
    history: tuple[Exchange, ...]
    seeker: str
    strategy: str
    """A strategy's name, or whatever the file says in its place."""
    reply: str | None
    """None where there is nothing to judge."""
    lacking: str
    """Why there is no reply."""
    gold: str | None
    """The corpus's own reply, where the row has it."""


@dataclass(frozen=True, slots=True)
class Named:
    """One row of a file, and what it is called."""

    id: str
    where: str
    """File and row, for a message."""
    numbered: bool
    """Whether it has no id of its own: then it is the row's number, from 0."""
    row: Row
    """Under the names that this kit reads."""
    columns: str
    """The names it has in the file."""


def named_rows(path: Path) -> Iterator[Named]:
    """The rows of a file (`foreign.rows`), one id each; tells what is taken of a foreign one.

    Raises EscError, naming the row, for whatever is not as it should be; also where there is none.
    """
    seen: set[str] = set()
    for number, row in enumerate(foreign.rows(path)):
        where = f"{path}, row {number} (from 0)"
        if not isinstance(row, dict):
            raise EscError(f"{where}: not a JSON object")
        given = row.get("id")
        # Pandas makes 3.0 of 3 in a column with a gap. Beyond this size digits are lost.
        if isinstance(given, float) and given.is_integer() and abs(given) < 2**53:
            given = int(given)
        if given is not None and (isinstance(given, bool) or not isinstance(given, str | int)):
            raise EscError(f"{where}: its id is neither text nor a whole number; write ids as text")
        name = str(number if given is None else given)
        if name in seen:
            raise EscError(f"{where}: id {name!r} is there twice")
        if not seen and (told := foreign.told(row)):
            print(f"columns     {path}: {told}")
        seen.add(name)
        known = foreign.known_names(row)
        columns = ", ".join(row)
        yield Named(name, where, given is None, known | _spoken(known), columns)
    if not seen:
        raise EscError(f"{path} is empty; it takes one record at least")


def _spoken(row: Row) -> Row:
    """What a model says in the row, without its thinking."""
    said = {name: row[name] for name in (*OURS, *FOREIGN) if isinstance(row.get(name), str)}
    return {name: spoken(text)[0] for name, text in said.items()}


def read_predictions(path: Path) -> tuple[list[Prediction], int]:
    """(the predictions of a file, how many of them have no id of their own).

    Raises EscError, naming the row, for whatever is not as it should be.
    """
    predictions, numbered = [], 0
    for named in named_rows(path):
        predictions.append(prediction_of(named))
        numbered += named.numbered
    return predictions, numbered


def prediction_of(named: Named) -> Prediction:
    """The row as a prediction; EscError, naming the row, where it is none."""
    row, where = named.row, named.where
    status = row.get("status")
    ours = OURS[1] in row or (status in ("failed", "invalid") and FOREIGN[1] not in row)
    strategy_field, reply_field = OURS if ours else FOREIGN
    needed = () if ours and status == "failed" else (strategy_field, reply_field)
    if not ours and FOREIGN[1] not in row:
        raise EscError(
            f"{where}: neither a prediction ({' and '.join(OURS)}) nor a foreign one "
            f"({' and '.join(FOREIGN)}); its columns are {named.columns}: rename those that are it"
        )
    for field in (*needed, "context") if ours else needed:
        if field not in row:
            raise EscError(f"{where}: no {field!r}")
        if field != "context" and not isinstance(row[field], str | None):
            raise EscError(f"{where}: {field!r} is no text")
    history, seeker = _conversation(row, where)
    reply = row.get(reply_field)
    said = row.get(strategy_field) or NOT_GIVEN
    known = parse(said)
    gold = next((row[name] for name in _GOLD if row.get(name)), None)
    return Prediction(
        id=named.id,
        history=tuple(history),
        seeker=seeker or NOT_GIVEN,
        strategy=known.value if known else said,
        reply=reply if reply and reply.strip() and status != "failed" else None,
        lacking=f"prediction {status}" if status in ("failed", "invalid") else "empty reply",
        gold=gold if isinstance(gold, str) and gold.strip() else None,
    )


def _conversation(row: Row, where: str) -> tuple[list[Exchange], str]:
    """(exchanges so far, the seeker's latest words); empty where the row holds none."""
    context = next((row[name] for name in CONTEXTS if row.get(name)), None)
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
