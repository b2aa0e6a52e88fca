"""The verdicts a judge of replies can give, with the fields of the paper's Figures 15 and 16.

Names of errors are read tolerantly, since judges paraphrase them; `esc.judging` reads the answers.
"""

import re
from functools import lru_cache
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from esc.judging import Verdict, strict_schema
from esc.psych_errors import PsychError, parse

FILTER_MENU = (
    PsychError.NONE,
    PsychError.LACK_OF_EMPATHY,
    PsychError.EARLY_EMOTION_SHIFT,
    PsychError.TEMPLATE_RESPONSE,
)
"""The labels the filter offers for either side (Figure 15)."""


_YES, _NO = {"yes", "true"}, {"no", "false"}
_REMARK = r"(?:\W*|(?:\s*[.,:;(]|\s+[-\u2013\u2014]\s).*|\s+(?:{said})\b.*)"
"""What may follow a side: nothing, a remark set apart, or a word that says the same again."""
_NAMED = re.compile(
    r"\W*(?:(?:the\s+)?(?:reply|answer|option|response)\W+)?(?P<side>[ab])"
    + _REMARK.format(
        said=r"wins|(?:is|was)\s+(?:(?:\w+ly|much|far|the)\s+)*(?:better|best|preferred|winner)"
    ),
    re.IGNORECASE | re.DOTALL,
)
_NEITHER = re.compile(
    r"\W*(?:it(?:'s|\s+is)\s+)?(?:an?\s+)?(?P<side>neither|tie|none|draw|equal)"
    + _REMARK.format(said=r"of|is|are|reply|answer|option|response"),
    re.IGNORECASE | re.DOTALL,
)
# An "a" before another word is the article.
_SIDES = re.compile(r"\bA\b|\ba\b(?!\s+[a-z])|\b[Bb]\b")
_DOUBT = re.compile(
    r"\?|n['\u2019]t\b|\b(?:no|not|never|nor|or|both|neither|none|tie|draw|equal\w*|less|worse|worst|but|"
    r"though|although|however|except|second|other)\b",
    re.IGNORECASE,
)
"""What makes a remark after a side more than a remark."""


def _side(text: str) -> Literal["A", "B", "neither"] | None:
    """The side that an answer names at its head, or None where it is not clear which."""
    found = _NAMED.fullmatch(text) or _NEITHER.fullmatch(text)
    if found is None or _DOUBT.search(text, found.end("side")):
        return None
    said = found["side"].upper()
    side: Literal["A", "B", "neither"] = "A" if said == "A" else "B" if said == "B" else "neither"
    others = {one.upper() for one in _SIDES.findall(text, found.end("side"))} - {side}
    return None if others else side


def _yes(value: object) -> bool:
    """Whether a judge's word is yes; ValueError where it is neither yes nor no, or both."""
    words = re.findall(r"[a-z]+", str(value).casefold())
    if words and not (_YES & {*words} and _NO & {*words}):
        if words[0] in _YES:
            return True
        if words[0] in _NO:
            return False
    raise ValueError(f"{str(value)[:60]!r} is neither Yes nor No")


def _says_no(value: object) -> bool:
    try:
        return not _yes(value)
    except ValueError:
        return False


# Stored verdicts hold the same few names over and over.
_parsed = lru_cache(maxsize=64)(parse)


def _label(value: object, menu: tuple[PsychError, ...]) -> PsychError:
    """The error a judge names; ValueError where it names none of the menu."""
    found = _parsed(str(value)) if value is not None else PsychError.NONE
    if found not in menu:
        raise ValueError(f"{str(value)[:60]!r} is none of those offered")
    return found


class FilterVerdict(Verdict):
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


class BlindVerdict(Verdict):
    """What is wrong with either of two replies, and which is better, not knowing whose they are."""

    better: Literal["A", "B", "neither"] = Field(title="Better reply")
    error_a: PsychError = Field(title="Error Type in reply A")
    explanation_a: str = Field(default="", title="Explanation for reply A")
    error_b: PsychError = Field(title="Error Type in reply B")
    explanation_b: str = Field(default="", title="Explanation for reply B")

    @field_validator("better", mode="before")
    @classmethod
    def _offered(cls, value: object) -> str:
        side = _side(value) if isinstance(value, str) else None
        if side is None:
            raise ValueError(f"{str(value)[:60]!r} is none of A, B and neither")
        return side

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


class ErrorVerdict(Verdict):
    """Does this reply hold an error, which, why, and what would be better (Figure 16)?"""

    contains_error: bool = Field(title="Contains Empathy Error")
    error: PsychError = Field(title="Error Type")
    explanation: str = Field(default="", title="Brief Explanation")
    suggestion: str = Field(default="", title="Improvement Suggestion")

    @model_validator(mode="before")
    @classmethod
    def _as_meant(cls, said: dict[str, Any]) -> dict[str, Any]:
        """A label in the yes/no field says yes to that label; "No" beside "Others" means None."""
        contains, error = said.get("contains_error"), said.get("error")
        label = _parsed(str(contains))
        if label is not None and _parsed(str(error)) is label:
            contains = label is not PsychError.NONE
        elif _parsed(str(error)) is PsychError.OTHER and _says_no(contains):
            error = PsychError.NONE
        return said | {"contains_error": contains, "error": error}

    _contains = field_validator("contains_error", mode="before")(_yes)

    @field_validator("error", mode="before")
    @classmethod
    def _on_the_menu(cls, value: object) -> PsychError:
        return _label(value if value != "" else None, tuple(PsychError))

    @property
    def contradiction(self) -> str:
        """An error it denies, or none where it sees one."""
        denied = self.contains_error == (self.error is PsychError.NONE)
        return f"{self.contains_error}, {self.error}" if denied else ""


def schema(kind: type[Verdict]) -> str:
    """The JSON schema of a verdict under the paper's field names, as JSON text."""
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
    return strict_schema(properties)
