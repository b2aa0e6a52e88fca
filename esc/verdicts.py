"""A judge's answer, read strictly: one verdict that is whole and as offered, or none at all.

A kind of verdict is a pydantic model: a field's title is its name in the judge's answer, a field
that may be missing is an explanation and decides nothing. Names of fields are read tolerantly,
since judges paraphrase them; whatever stays unclear is unscored, with the reason.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from esc.chat.failures import FailureKind


class Reason(StrEnum):
    """Why an answer is no verdict."""

    EMPTY = "empty answer"
    PROSE = "no verdict in the answer"
    CUT = "answer cut at its length limit"
    INCOMPLETE = "fields missing"
    OFF_MENU = "label not offered"
    OFF_SCALE = "score not on the scale"
    TWO = "two verdicts that differ"
    CONTRADICTION = "verdict contradicts itself"
    REFUSED = "request refused"


FOR_GOOD = {
    FailureKind.EMPTY: Reason.EMPTY,
    FailureKind.TOO_LONG: Reason.REFUSED,
    FailureKind.REFUSED: Reason.REFUSED,
}
"""Failures that another run would meet again: what was asked about stays without a verdict."""


@dataclass(frozen=True, slots=True)
class Unscored:
    """An answer that is no verdict."""

    reason: Reason
    detail: str = ""
    """What was said instead, shortened."""


class Verdict(BaseModel):
    """What every kind of verdict is."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    not_offered: ClassVar[Reason] = Reason.OFF_MENU
    """Why a value that its field does not allow is no verdict."""

    @property
    def contradiction(self) -> str:
        """What in it cannot both be so, or nothing."""
        return ""


V = TypeVar("V", bound=Verdict)
_OPENED = re.compile(r'\{\s*"([^"\n]{1,80})"\s*:')
"""The beginning of an object, with its first key."""
_BEGINS = re.compile(r"\s*(?:```\w*\s*)?\{")
"""The head of an answer that is the verdict itself."""
_Pairs = tuple[tuple[str, Any], ...]
"""An object as it was written: its keys may be there twice."""


def read(kind: type[V], text: str, *, truncated: bool = False) -> V | Unscored:
    """The verdict of ``kind`` in a judge's answer, or why there is none.

    A judge may think aloud before it, unless it was cut: objects that are not whole do not count.
    Two whole verdicts that differ are none, since one of them may be quoted from the text that was
    judged; nor is one that stands in a broken verdict, or one that names a field twice, for the
    same reason.
    """
    if not text.strip():
        return Unscored(Reason.CUT if truncated else Reason.EMPTY)
    if truncated and not _BEGINS.match(text):
        # Whatever stands in it may be the draft of a verdict that was still thought about.
        return Unscored(Reason.CUT, _short(text))
    objects: list[dict[str, object]] = []
    broken = False
    for found in _objects(text):
        if isinstance(found, str):
            broken = broken or _key(found) in _names(kind)
        elif not broken:
            objects += _readings(kind, found)
    labels = {name for name in kind.model_fields if _is_label(kind, name)}
    whole = [fields for fields in objects if labels <= fields.keys()]
    if not whole:
        named = broken or any(labels & fields.keys() for fields in objects)
        reason = Reason.CUT if truncated else Reason.INCOMPLETE if named else Reason.PROSE
        return Unscored(reason, _short(text))
    read_all = [_validated(kind, fields) for fields in whole]
    said = {_essence(kind, one) for one in read_all}
    if len(said) > 1:
        return Unscored(Reason.TWO, _short(text))
    return read_all[-1]


def _validated(kind: type[V], fields: Mapping[str, object]) -> V | Unscored:
    try:
        verdict = kind.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        told = str(first["msg"]).removeprefix("Value error, ")
        return Unscored(kind.not_offered, f"{first['loc'][0]}: {told}")
    if verdict.contradiction:
        return Unscored(Reason.CONTRADICTION, verdict.contradiction)
    return verdict


def _essence(kind: type[V], one: V | Unscored) -> object:
    """What makes two verdicts the same: the labels, not the words around them."""
    if isinstance(one, Unscored):
        return one
    return tuple(getattr(one, name) for name in kind.model_fields if _is_label(kind, name))


def _is_label(kind: type[Verdict], name: str) -> bool:
    return kind.model_fields[name].is_required()


def _readings(kind: type[Verdict], found: _Pairs) -> list[dict[str, object]]:
    """The object's values by the verdict's own field names.

    Two readings where a field is named twice, since one of the two may be quoted.
    """
    names = _names(kind)
    named = [(names[_key(key)], value) for key, value in found if _key(key) in names]
    readings = [dict(named)] if len(dict(named)) == len(named) else [dict(named[::-1]), dict(named)]
    return [
        {name: value if _is_label(kind, name) else _said(value) for name, value in one.items()}
        for one in readings
    ]


def _said(value: object) -> str:
    """An explanation as one line; half a character, which JSON can name, cannot be written."""
    return " ".join(str(value or "").split()).encode(errors="replace").decode()


def _names(kind: type[Verdict]) -> dict[str, str]:
    """Key of a name that a judge may use to the verdict's own field name."""
    return {_key(name): name for name in kind.model_fields} | {
        _key(field.title or name): name for name, field in kind.model_fields.items()
    }


def _key(name: str) -> str:
    return "".join(re.findall(r"[a-z]+", name.casefold()))


def _objects(text: str) -> Iterator[_Pairs | str]:
    """Every JSON object in the text, outermost ones alone, in order; of a broken one its key."""
    decoder = json.JSONDecoder(object_pairs_hook=tuple)
    position = text.find("{")
    while position >= 0:
        try:
            found, end = decoder.raw_decode(text, position)
        except (ValueError, RecursionError):
            end = position + 1
            if opened := _OPENED.match(text, position):
                yield opened[1]
        else:
            yield found
        position = text.find("{", end)


def _short(text: str) -> str:
    return " ".join(text.split())[:120].encode(errors="replace").decode()


def strict_schema(properties: Mapping[str, Any]) -> str:
    """The JSON schema of an object of these properties, as JSON text.

    Every field is required and no other allowed, which is what strict endpoints ask for.
    """
    return json.dumps(
        {
            "type": "object",
            "properties": properties,
            "required": list(properties),
            "additionalProperties": False,
        }
    )
