"""A file of predictions, this kit's own or another system's, row by row and strictly.

Foreign rows hold ``GT_strategy``, ``predict_strategy``, ``GT_content`` and ``predict_content``, or
what `foreign` reads as these, and may name the conversation ``context`` or ``history`` (text,
utterances, or pairs) and the latest message ``seeker``.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from esc import paths, sheets
from esc.dialogue import Exchange
from esc.exceptions import EscError
from esc.files import Row
from esc.llm import spoken
from esc.step import DONE
from esc.strategies import parse, strip_tag

OURS = ("predicted_strategy", "predicted_response")
FOREIGN = ("predict_strategy", "predict_content")
GOLD = (("gold_strategy", "gold_response"), ("GT_strategy", "GT_content"))
CONTEXTS = ("context", "history", "dialog_history", "dialogue_history", "conversation")
"""Where a foreign row may keep the conversation."""
PREDICTIONS = "predictions.jsonl"
"""The records of a run; whole where its ``run.json`` is beside them."""
WRITE_AS = 'pandas writes what is read here: to_json(FILE, orient="records", lines=True)'

_BETWEEN = re.compile(r"[\s,]*")
_MISSING = {"nan", "none", "null", "<na>"}
"""A missing value that was made text: what no system replies."""
_OTHERS: tuple[dict[str, str], ...] = (
    {"predict": FOREIGN[1], "label": GOLD[1][1], "prompt": CONTEXTS[0]},
    {"response": FOREIGN[1], "prompt": CONTEXTS[0]},
)
"""Other systems' names, by the one that holds the reply."""


def complete_runs(work: Path, model: str) -> list[Path]:
    """The folders of a model's runs whose predictions are whole, by name; tells of others.

    Raises EscError where there is none.
    """
    root = work / "runs" / model
    found = []
    for path in sorted(root.glob(f"*/{PREDICTIONS}")):
        if (path.parent / DONE).is_file():
            found.append(path.parent)
        else:
            print(f"note: {path} is not complete and left out; make predict goes on with it")
    if not found:
        make = paths.make("predict", work=work, model=model)
        raise EscError(f"no complete predictions in {root}; {make} makes them")
    return found


def rows(path: Path) -> Iterator[Any]:
    """The values of a file, one by one, under the names they have there.

    Raises EscError with the line or row where it cannot be read.
    """
    if path.suffix.casefold() in (".csv", ".tsv"):
        yield from _of_csv(path)
        return
    content = path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise EscError(f"{path} is not UTF-8 text: byte {error.start}") from error
    if text.lstrip().startswith("["):
        try:
            yield from _loads(text)
        except orjson.JSONDecodeError as error:
            row = _row_at(text, error.pos)
            raise EscError(f"{path} is no JSON array, row {row} (from 0): {error.msg}") from error
        return
    try:
        value = _loads(text)
    except orjson.JSONDecodeError:
        yield from _of_lines(path, text)
    else:
        yield from _of_columns(path, value) if _is_columns(value) else [value]


def _of_lines(path: Path, text: str) -> Iterator[Any]:
    # Not str.splitlines: a JSON string may hold the line separators that it knows beyond "\n".
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                yield _loads(line)
            except orjson.JSONDecodeError as error:
                raise EscError(f"{path}, line {number}: not JSON ({error.msg})") from error


def _loads(text: str) -> Any:
    """The value of a JSON text, with null for the NaN that pandas and numpy mean by it."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        if "NaN" not in text:
            raise
        try:
            value = json.loads(text, parse_constant={"NaN": None}.__getitem__)
        except (ValueError, KeyError, RecursionError):
            raise error from None
        return orjson.loads(json.dumps(value))


def _row_at(text: str, place: int) -> int:
    """The number of the array's element, from 0, that a character belongs to."""
    row, begin = 0, text.index("[") + 1
    while True:
        begin = _BETWEEN.match(text, begin).end()  # type: ignore[union-attr]  # matches nothing too
        try:
            # Python's own decoder takes NaN, and so gets past what is wrong elsewhere.
            _, end = json.JSONDecoder().raw_decode(text, begin)
        except (ValueError, RecursionError):
            return row
        if end > place:
            return row
        row, begin = row + 1, end


def _is_columns(value: object) -> bool:
    return (
        isinstance(value, dict)
        and bool(value)
        and all(isinstance(column, dict) for column in value.values())
    )


def _of_columns(path: Path, columns: Mapping[str, Row]) -> Iterator[Row]:
    """The rows of pandas' object of columns, each a mapping of row labels to values."""
    labels = next(iter(columns.values())).keys()
    for name, column in columns.items():
        if column.keys() != labels:
            raise EscError(f"{path}: column {name!r} has other rows than the first; {WRITE_AS}")
    for label in labels:
        yield {name: column[label] for name, column in columns.items()}


def _of_csv(path: Path) -> Iterator[Row]:
    head, *records = sheets.table(path) or [[]]
    names = [name.strip() for name in head]
    for name in filter(None, names):
        if names.count(name) > 1:
            raise EscError(f"{path}: two columns are named {name!r}; rename one")
    for number, record in enumerate(records, start=2):
        if len(record) > len(names):
            raise EscError(
                f"{path}, row {number} of the sheet: {len(record)} cells under {len(names)} names; "
                "quote cells that hold the delimiter"
            )
        cells = dict(zip(names, record + [""] * (len(names) - len(record)), strict=True))
        # A column without a name is pandas' index.
        cells.pop("", None)
        if any(cells.values()):
            yield cells | ({"id": cells["id"] or None} if "id" in cells else {})


def known_names(row: Row) -> Row:
    """The row with its reply, gold and conversation under the names that this kit reads.

    What another name holds is there under both. A missing value made text is null. Rows with a
    ``status`` are this kit's own, and stay as they are.
    """
    if "status" in row:
        return row
    found = row | {ours: row[name] for name, ours in _taken(row).items()}
    if found.keys() != row.keys():
        found.setdefault(FOREIGN[0], None)
        found |= _of_tags(found)
    for name in (*OURS, *FOREIGN, *GOLD[0], *GOLD[1]):
        said = found.get(name)
        if isinstance(said, str) and said.strip().casefold() in _MISSING:
            found[name] = None
    return found


def _taken(row: Row) -> dict[str, str]:
    """Another system's names in the row, each with the one that this kit reads for it."""
    if row.keys() & {OURS[1], FOREIGN[1]}:
        return {}
    names = next((names for names in _OTHERS if next(iter(names)) in row), {})
    return {name: ours for name, ours in names.items() if name in row and ours not in row}


def _of_tags(row: Row) -> Row:
    """Strategy and reply, predicted and gold, where the gold reply begins with its strategy."""
    (strategy, reply), gold = GOLD[1], row.get(GOLD[1][1])
    named, text = strip_tag(gold) if isinstance(gold, str) else (None, "")
    if strategy in row or named is None:
        return {}
    found: Row = {strategy: named.value, reply: text}
    if isinstance(row[FOREIGN[1]], str):
        said, text = strip_tag(spoken(row[FOREIGN[1]])[0])
        found |= {FOREIGN[0]: said.value if said else None, FOREIGN[1]: text}
    return found


def columns_told(row: Row) -> str | None:
    """Which names of a foreign row are taken for what, and which are not read; None of our own."""
    taken = {ours: name for name, ours in _taken(row).items()}
    known = (OURS[1] in row and FOREIGN[1] not in row) or "status" in row
    if known or not (taken or FOREIGN[1] in row):
        return None
    roles = {
        "id": ("id",),
        "conversation": (*CONTEXTS, "seeker"),
        "gold strategy": ("GT_strategy",),
        "gold reply": ("GT_content",),
        "strategy": (FOREIGN[0],),
        "reply": (FOREIGN[1],),
        "distribution": ("distribution",),
    }
    found = {
        role: [taken.get(name, name) for name in names if name in row or name in taken]
        for role, names in roles.items()
    }
    lines = [f"{role} {', '.join(map(repr, names))}" for role, names in found.items() if names]
    read = {name for names in found.values() for name in names}
    rest = [repr(name) for name in row if name not in read]
    return "; ".join([*lines, *([f"not read: {', '.join(rest)}"] if rest else [])])


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
    for number, row in enumerate(rows(path)):
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
        if not seen and (told := columns_told(row)):
            print(f"columns     {path}: {told}")
        seen.add(name)
        known = known_names(row)
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
