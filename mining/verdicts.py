"""What a judge answers, read strictly: a verdict that is whole and on the menu, or none at all.

The fields are those of the paper's Figures 15 and 16. Names of fields and of errors are read
tolerantly, since judges paraphrase them; whatever stays unclear is unscored, with the reason.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from esc.psych_errors import PsychError, parse

FILTER_MENU = (
    PsychError.NONE,
    PsychError.LACK_OF_EMPATHY,
    PsychError.EARLY_EMOTION_SHIFT,
    PsychError.TEMPLATE_RESPONSE,
)
"""The labels the filter offers for either side (Figure 15)."""


class Reason(StrEnum):
    """Why an answer is no verdict."""

    EMPTY = "empty answer"
    PROSE = "no verdict in the answer"
    CUT = "answer cut at its length limit"
    INCOMPLETE = "fields missing"
    OFF_MENU = "label not offered"
    TWO = "two verdicts that differ"
    CONTRADICTION = "verdict contradicts itself"
    REFUSED = "request refused"


@dataclass(frozen=True, slots=True)
class Unscored:
    """An answer that is no verdict."""

    reason: Reason
    detail: str = ""
    """What was said instead, shortened."""


class _Verdict(BaseModel):
    """A field's title is its name in the judge's answer, after the paper's figures."""

    model_config = ConfigDict(frozen=True, extra="ignore")


def _yes(value: object) -> bool:
    """Whether a judge's word is yes; ValueError where it is neither yes nor no."""
    words = re.findall(r"[a-z]+", str(value).casefold())
    if words[:1] in (["yes"], ["true"]):
        return True
    if words[:1] in (["no"], ["false"]):
        return False
    raise ValueError(f"{str(value)[:60]!r} is neither Yes nor No")


def _label(value: object, menu: tuple[PsychError, ...]) -> PsychError:
    """The error a judge names; ValueError where it names none of the menu."""
    found = parse(str(value)) if value is not None else PsychError.NONE
    if found not in menu:
        raise ValueError(f"{str(value)[:60]!r} is none of those offered")
    return found


class FilterVerdict(_Verdict):
    """Is this pair fit for training, and what is wrong with either side (Figure 15)?"""

    retain: bool = Field(title="Should the sample be retained")
    chosen_error: PsychError = Field(title="Error Type in chosen reply")
    chosen_explanation: str = Field(default="", title="Explanation for chosen reply error")
    rejected_error: PsychError = Field(title="Error Type in rejected reply")
    rejected_explanation: str = Field(default="", title="Explanation for rejected reply error")

    _retain = field_validator("retain", mode="before")(_yes)

    @field_validator("chosen_error", "rejected_error", mode="before")
    @classmethod
    def _on_the_menu(cls, value: object) -> PsychError:
        return _label(value, FILTER_MENU)


class BlindVerdict(_Verdict):
    """What is wrong with either of two replies, and which is better, not knowing whose they are."""

    better: Literal["A", "B", "neither"] = Field(title="Better reply")
    error_a: PsychError = Field(title="Error Type in reply A")
    explanation_a: str = Field(default="", title="Explanation for reply A")
    error_b: PsychError = Field(title="Error Type in reply B")
    explanation_b: str = Field(default="", title="Explanation for reply B")

    @field_validator("better", mode="before")
    @classmethod
    def _side(cls, value: object) -> str:
        words = re.findall(r"[a-z]+", str(value).casefold())
        named = {word for word in words if word in ("a", "b", "neither")}
        if len(named) != 1:
            raise ValueError(f"{str(value)[:60]!r} is none of A, B and neither")
        side: str = named.pop()
        return side if side == "neither" else side.upper()

    @field_validator("error_a", "error_b", mode="before")
    @classmethod
    def _on_the_menu(cls, value: object) -> PsychError:
        return _label(value, FILTER_MENU)

    def unblinded(self, chosen: Literal["A", "B"]) -> FilterVerdict:
        """The verdict on the pair, once it is known which side is the gold reply."""
        gold, sampled = (self.error_a, self.explanation_a), (self.error_b, self.explanation_b)
        if chosen == "B":
            gold, sampled = sampled, gold
        return FilterVerdict(
            retain=self.better == chosen,
            chosen_error=gold[0],
            chosen_explanation=gold[1],
            rejected_error=sampled[0],
            rejected_explanation=sampled[1],
        )


class ErrorVerdict(_Verdict):
    """Does this reply hold an error, which, why, and what would be better (Figure 16)?"""

    contains_error: bool = Field(title="Contains Empathy Error")
    error: PsychError = Field(title="Error Type")
    explanation: str = Field(default="", title="Brief Explanation")
    suggestion: str = Field(default="", title="Improvement Suggestion")

    _contains = field_validator("contains_error", mode="before")(_yes)

    @field_validator("error", mode="before")
    @classmethod
    def _on_the_menu(cls, value: object) -> PsychError:
        return _label(value if value != "" else None, tuple(PsychError))

    @property
    def contradicts_itself(self) -> bool:
        """Whether it names an error it denies, or none where it sees one."""
        return self.contains_error == (self.error is PsychError.NONE)


Verdict = FilterVerdict | BlindVerdict | ErrorVerdict


V = TypeVar("V", FilterVerdict, BlindVerdict, ErrorVerdict)
_OPENED = re.compile(r'\{\s*"([^"\n]{1,80})"\s*:')
"""The beginning of an object, with its first key."""


def read(kind: type[V], text: str, *, truncated: bool = False) -> V | Unscored:
    """The verdict of ``kind`` in a judge's answer, or why there is none.

    A judge may think aloud before it: objects that are not whole do not count. Two whole verdicts
    that differ are none, since one of them may be quoted from the text that was judged; nor is one
    that stands in a broken verdict, for the same reason.
    """
    if not text.strip():
        return Unscored(Reason.EMPTY)
    objects, broken = [], False
    for found in _objects(text):
        if isinstance(found, str):
            broken = broken or _key(found) in _names(kind)
        elif not broken:
            objects.append(_fields(kind, found))
    labels = _labels(kind)
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
        return Unscored(Reason.OFF_MENU, f"{first['loc'][0]}: {told}")
    if isinstance(verdict, ErrorVerdict) and verdict.contradicts_itself:
        return Unscored(Reason.CONTRADICTION, f"{verdict.contains_error}, {verdict.error}")
    return verdict


def _essence(kind: type[Verdict], one: Verdict | Unscored) -> object:
    """What makes two verdicts the same: the labels, not the words around them."""
    if isinstance(one, Unscored):
        return one
    return tuple(getattr(one, name) for name in kind.model_fields if _is_label(name))


def _is_label(name: str) -> bool:
    return not name.startswith(("explanation", "suggestion")) and not name.endswith("explanation")


def _labels(kind: type[Verdict]) -> set[str]:
    return {name for name in kind.model_fields if _is_label(name)}


def _fields(kind: type[Verdict], found: Mapping[str, Any]) -> dict[str, object]:
    """The object's values by the verdict's own field names."""
    names = _names(kind)
    fields = {names[_key(key)]: value for key, value in found.items() if _key(key) in names}
    return {name: value if _is_label(name) else _said(value) for name, value in fields.items()}


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


def _objects(text: str) -> Iterator[dict[str, Any] | str]:
    """Every JSON object in the text, outermost ones alone, in order; of a broken one its key."""
    decoder = json.JSONDecoder()
    position = text.find("{")
    while position >= 0:
        try:
            found, end = decoder.raw_decode(text, position)
        except (ValueError, RecursionError):
            end = position + 1
            if opened := _OPENED.match(text, position):
                yield opened[1]
        else:
            if isinstance(found, dict):
                yield found
        position = text.find("{", end)


def _short(text: str) -> str:
    return " ".join(text.split())[:120]


def schema(kind: type[Verdict]) -> str:
    """The JSON schema of a verdict under the paper's field names, as JSON text.

    Every field is required and no other allowed, which is what strict endpoints ask for.
    """
    menu = tuple(PsychError) if kind is ErrorVerdict else FILTER_MENU
    properties: dict[str, Any] = {}
    for name, field in kind.model_fields.items():
        if field.annotation is PsychError:
            of: dict[str, Any] = {"type": "string", "enum": [error.value for error in menu]}
        elif field.annotation is bool:
            of = {"type": "string", "enum": ["Yes", "No"]}
        elif name == "better":
            of = {"type": "string", "enum": ["A", "B", "neither"]}
        else:
            of = {"type": "string"}
        properties[str(field.title)] = of
    return json.dumps(
        {
            "type": "object",
            "properties": properties,
            "required": list(properties),
            "additionalProperties": False,
        }
    )
