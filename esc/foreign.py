"""Files of predictions as people have them: their rows, under the names that this kit reads.

JSONL, a JSON array, pandas' object of columns (``DataFrame.to_json``), or CSV (commas, semicolons,
tabs). Beside the names of this kit and ``GT_strategy``, ``predict_strategy``, ``GT_content``,
``predict_content`` it knows LLaMA-Factory's ``generated_predictions.jsonl`` (``prompt``,
``predict``, ``label``) and ``prompt`` with ``response``.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson

from esc import sheets
from esc.exceptions import EscError
from esc.files import Row
from esc.strategies import strip_tag
from esc.thinking import spoken

OURS = ("predicted_strategy", "predicted_response")
FOREIGN = ("predict_strategy", "predict_content")
GOLD = (("gold_strategy", "gold_response"), ("GT_strategy", "GT_content"))
CONTEXTS = ("context", "history", "dialog_history", "dialogue_history", "conversation")
"""Where a foreign row may keep the conversation."""
WRITE_AS = 'pandas writes what is read here: to_json(FILE, orient="records", lines=True)'

_BETWEEN = re.compile(r"[\s,]*")
_MISSING = {"nan", "none", "null", "<na>"}
"""A missing value that was made text: what no system replies."""
_OTHERS: tuple[dict[str, str], ...] = (
    {"predict": FOREIGN[1], "label": GOLD[1][1], "prompt": CONTEXTS[0]},
    {"response": FOREIGN[1], "prompt": CONTEXTS[0]},
)
"""Other systems' names, by the one that holds the reply."""


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


def told(row: Row) -> str | None:
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
