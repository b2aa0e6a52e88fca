"""The ESConv release: how it is recognised in any layout and order, and its split in the paper.

``esconv_release.json`` holds, per dialogue of the release in its own order, the SHA-1 of its
utterances and its split (1,040 / 130 / 130). By the hashes a corpus is recognised as that release,
and its dialogues get their release positions as ids.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

from esc.dialogue import Dialogue, Role, Utterance
from esc.exceptions import CorpusError
from esc.files import read_json
from esc.strategies import parse


@dataclass(frozen=True, slots=True)
class Layout:
    """How one release of the corpus names things."""

    name: str
    text: str
    """Key of an utterance's words."""
    roles: dict[str, Role]


LAYOUTS = (
    Layout("release", "content", {"seeker": Role.SEEKER, "supporter": Role.SUPPORTER}),
    Layout("failed", "content", {"speaker": Role.SEEKER, "listener": Role.SUPPORTER}),
    Layout("hf", "text", {"usr": Role.SEEKER, "sys": Role.SUPPORTER}),
)


_BLANKS = re.compile(r"[ \t\n\r]*")
_LINE = re.compile(r"[^\n]+")


def values(path: Path) -> Iterator[Any]:
    """The elements of the JSON array in ``path``, or the values of its lines, one by one.

    Raises CorpusError, when it comes to it, with the line where the file is neither.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        yield from _elements(path, text) if text.lstrip()[:1] == "[" else _lines(path, text)
    except FileNotFoundError:
        raise CorpusError(f"{path} does not exist") from None
    except UnicodeDecodeError as error:
        raise CorpusError(f"{path} is not UTF-8 text: byte {error.start}") from error
    except RecursionError:
        raise CorpusError(f"{path} is nested too deeply to be a corpus") from None


def _elements(path: Path, text: str) -> Iterator[Any]:
    # One by one: as Python's objects all of them are many times as large as the text.
    number, at = 0, _skip(text, _skip(text, 0) + 1)
    mark = text[at : at + 1]
    while mark != "]":
        value, at = _value(path, text, number, text, at)
        yield value
        number, at = number + 1, _skip(text, at)
        mark = text[at : at + 1]
        if mark == ",":
            at = _skip(text, at + 1)
        elif mark != "]":
            raise _broken(path, text, at, number, "Expecting ',' delimiter")
    if (end := _skip(text, at + 1)) < len(text):
        raise _broken(path, text, end, number, "Extra data")


def _lines(path: Path, text: str) -> Iterator[Any]:
    # No other separator of lines: a string may hold those.
    lines = (found for found in _LINE.finditer(text) if found[0].strip())
    for number, found in enumerate(lines):
        line, start = found[0], found.start()
        value, at = _value(path, text, number, line, start=start)
        if (end := _skip(line, at)) < len(line):
            raise _broken(path, text, start + end, number, "Extra data")
        yield value


def _value(
    path: Path, text: str, number: int, part: str, at: int = 0, *, start: int = 0
) -> tuple[Any, int]:
    """(value, its end) at a place in a part of the text that begins at ``start``."""
    try:
        return json.JSONDecoder().raw_decode(part, _skip(part, at))
    except json.JSONDecodeError as error:
        raise _broken(path, text, start + error.pos, number, error.msg) from error
    except ValueError as error:
        # An integer that Python refuses; without its advice to programmers.
        told = str(error).partition(" for integer")[0]
        raise _broken(path, text, start + at, number, told) from error


def _skip(text: str, at: int) -> int:
    blanks = _BLANKS.match(text, at)
    return blanks.end() if blanks else at


def _broken(path: Path, text: str, at: int, number: int, what: str) -> CorpusError:
    line, column = text.count("\n", 0, at) + 1, at - text.rfind("\n", 0, at)
    return CorpusError(
        f"{path} is neither a JSON array nor JSON lines, or is incomplete "
        f"(line {line}, column {column}, after {number:,} dialogues: {what})"
    )


def read(files: Sequence[Path]) -> tuple[str, Iterator[Dialogue]]:
    """(layout name, dialogues in file order) of the corpus in ``files``, read as they are taken.

    Raises CorpusError with file, dialogue and utterance where anything is not as it should be:
    now where that is the first dialogue, else when it comes to it.
    """
    rows = ((path, number, row) for path in files for number, row in enumerate(values(path)))
    first = next(rows, None)
    if first is None:
        raise CorpusError(f"{', '.join(path.name for path in files)}: no dialogues in it")
    layout = _detect(*first)
    return layout.name, (
        _dialogue(row, layout, position, f"{path.name}, dialogue {number}")
        for position, (path, number, row) in enumerate(chain([first], rows))
    )


def _detect(path: Path, number: int, row: Any) -> Layout:
    said = row.get("dialog") if isinstance(row, dict) else None
    utterances = [item for item in said if isinstance(item, dict)] if isinstance(said, list) else []
    # The first utterance that is whole tells: what is wrong with another is reported as its fault.
    for item in utterances:
        for layout in LAYOUTS:
            if layout.text in item and str(item.get("speaker")) in layout.roles:
                return layout
    if said == []:
        raise CorpusError(f"{path.name}, dialogue {number}: the dialogue is empty")
    known = "; ".join(f"{x.name}: {'/'.join(x.roles)}, {x.text!r}" for x in LAYOUTS)
    raise CorpusError(f"{path.name}, dialogue {number}: not a layout of ESConv (known: {known})")


def _dialogue(row: Any, layout: Layout, position: int, where: str) -> Dialogue:
    if not isinstance(row, dict) or not isinstance(row.get("dialog"), list):
        raise CorpusError(f"{where}: no 'dialog' list")
    if not row["dialog"]:
        raise CorpusError(f"{where}: the dialogue is empty")
    utterances = tuple(
        _utterance(item, layout, f"{where}, utterance {number}")
        for number, item in enumerate(row["dialog"])
    )
    if all(utterance.role is Role.SEEKER for utterance in utterances):
        raise CorpusError(f"{where}: no supporter utterance in it")
    return Dialogue(
        position=position,
        situation=_about(row, "situation", where),
        emotion_type=_about(row, "emotion_type", where),
        problem_type=_about(row, "problem_type", where),
        experience_type=_about(row, "experience_type", where),
        utterances=utterances,
    )


def _about(row: dict[str, Any], key: str, where: str) -> str:
    text = " ".join(str(row.get(key) or "").split())
    _check_whole(text, f"{where}, {key}")
    return text


def _check_whole(text: str, where: str) -> None:
    if not text.isprintable() and any("\ud800" <= letter <= "\udfff" for letter in text):
        raise CorpusError(f"{where}: half of a surrogate pair, which is no text")


def _utterance(item: Any, layout: Layout, where: str) -> Utterance:
    if not isinstance(item, dict) or not isinstance(item.get(layout.text), str):
        raise CorpusError(f"{where}: no {layout.text!r} text (layout {layout.name})")
    role = layout.roles.get(str(item.get("speaker")))
    if role is None:
        raise CorpusError(
            f"{where}: unknown speaker {item.get('speaker')!r}; "
            f"layout {layout.name} has {' and '.join(layout.roles)}"
        )
    text = item[layout.text].strip()
    if not text:
        raise CorpusError(f"{where}: the utterance is empty")
    _check_whole(text, where)
    if role is Role.SEEKER:
        return Utterance(role, text)
    annotation = item.get("annotation")
    said = annotation.get("strategy") if isinstance(annotation, dict) else None
    label = item.get("strategy") if said is None else said
    strategy = parse(label) if isinstance(label, str) else None
    if strategy is None:
        raise CorpusError(f"{where}: unknown strategy {label!r}")
    return Utterance(role, text, strategy)


RELEASE = Path(__file__).parent / "esconv_release.json"


def fingerprint(dialogue: Dialogue) -> bytes:
    """SHA-1 of the whitespace-normalised utterances, a line each; equal in every layout."""
    text = "\n".join(" ".join(utterance.text.split()) for utterance in dialogue.utterances)
    return hashlib.sha1(text.encode(), usedforsecurity=False).digest()


@cache
def _positions() -> dict[bytes, int]:
    return {bytes.fromhex(sha1): place for place, (sha1, _) in enumerate(_dialogues())}


def _dialogues() -> list[tuple[str, str]]:
    """(SHA-1, split) of every dialogue."""
    rows: list[tuple[str, str]] = read_json(RELEASE)["dialogues"]
    return rows


def paper_split() -> list[str]:
    """The side of every dialogue in the paper's split, by release position."""
    return [side for _, side in _dialogues()]


def position_of(dialogue: Dialogue) -> int | None:
    """The release position of a dialogue in any layout, or None where it is not of the release."""
    return _positions().get(fingerprint(dialogue))


def at_release_positions(dialogues: Sequence[Dialogue]) -> list[Dialogue] | None:
    """The dialogues at their release positions; None where not all are of it, or one is twice."""
    found = {place: one for one in dialogues if (place := position_of(one)) is not None}
    if len(found) < len(dialogues):
        return None
    return [replace(dialogue, position=place) for place, dialogue in found.items()]


def recognise(dialogues: Sequence[Dialogue]) -> list[Dialogue] | None:
    """The dialogues in release order, at their positions; None if they are not the release."""
    if len(dialogues) != len(_positions()):
        return None
    placed = at_release_positions(dialogues)
    return placed and sorted(placed, key=lambda dialogue: dialogue.position)
