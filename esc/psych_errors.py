"""The psychological errors of a reply, from one list, and how a judge's words for them are read.

``psych_errors.yaml`` beside this file is the paper's; the environment variable ERRORS names another
file, which is read when this module is imported.
"""

import hashlib
import os
import re
import unicodedata
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field

from esc import files
from esc.files import EscError
from esc.strategies import Line, attribute, key

SHIPPED = Path(__file__).with_name("psych_errors.yaml")
VARIABLE = "ERRORS"


class Entry(BaseModel):
    """One error of a list."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: Line
    definition: Line
    example: str = ""
    feeds: Literal["sp", "rg"] | None = None
    aliases: list[Line] = []
    pattern: str = ""
    role: Literal["none", "other"] | None = Field(None, alias="is")

    @property
    def attribute(self) -> str:
        """The attribute of `PsychError`; that of a role, and of what feeds sp, is fixed."""
        fixed = "strategy mismatch" if self.feeds == "sp" else self.role
        own = attribute(fixed or self.name)
        return own if fixed or own not in ("STRATEGY_MISMATCH", "NONE", "OTHER") else f"{own}_ERROR"


class Listed(BaseModel):
    """A file of errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    good: Line
    """What sound help does."""
    stems: dict[str, str] = {}
    errors: list[Entry] = Field(min_length=4)


def _words(text: str) -> str:
    said = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(re.findall(r"[^\W\d_]+", said))


def read(path: Path) -> Listed:
    """The list in ``path``; EscError, one line, where it is none or two of its names are one."""
    listed = files.read_yaml(path, Listed)
    named: dict[str, Entry] = {}
    for one in listed.errors:
        for said in map(key, (one.name, *one.aliases)):
            if not said or (other := named.setdefault(said, one)) is not one:
                why = f"is {other.name!r} too" if said else "has no letter or digit"
                raise EscError(f"{path}: a name of {one.name!r}, {said!r}, {why}; rename one")
        try:
            re.compile(_pattern(listed, one))
        except (re.error, KeyError) as error:
            raise EscError(f"{path}: the pattern of {one.name!r} is wrong: {error}") from error
    roles = sorted(one.role for one in listed.errors if one.role)
    feeds = [one.feeds for one in listed.errors]
    if roles != ["none", "other"] or feeds.count("sp") != 1 or "rg" not in feeds:
        raise EscError(
            f"{path}: it takes one error with 'is: none', one with 'is: other', one with "
            "'feeds: sp', and at least one with 'feeds: rg'"
        )
    return listed


def _pattern(listed: Listed, one: Entry) -> str:
    return re.sub(r"\{([a-z_]+)\}", lambda name: listed.stems[name[1]], one.pattern)


_LIST = read(Path(os.environ.get(VARIABLE) or SHIPPED))
_ABOUT = {one.name: one for one in _LIST.errors}
GOOD = _LIST.good
HASH = hashlib.sha256(_LIST.model_dump_json().encode()).hexdigest()
"""Of the whole list."""


class PsychError(StrEnum):
    """An error type; the value is its name in verdicts, files and reports."""

    if TYPE_CHECKING:
        STRATEGY_MISMATCH = "Strategy Mismatch"
        OTHER = "Other"
        NONE = "None"
    else:
        vars().update({one.attribute: one.name for one in _ABOUT.values()})

    @classmethod
    def _missing_(cls, value: object) -> None:
        """A file of another list is a mistake of the user."""
        raise EscError(
            f"{str(value)[:60]!r} is none of the errors ({', '.join(cls)}); set ERRORS as it was "
            "when this was made"
        )

    @property
    def definition(self) -> str:
        """One sentence that says when a reply has this error."""
        return _ABOUT[self].definition

    @property
    def example(self) -> str:
        """What such a reply is like; empty where there is nothing to show."""
        return _ABOUT[self].example

    @property
    def feeds(self) -> str | None:
        """The task whose training can mend it."""
        return _ABOUT[self].feeds


_WHOLE = {
    key(said): PsychError(one.name) for one in _LIST.errors for said in (one.name, *one.aliases)
}
_STEMS = {
    PsychError(one.name): re.compile(_pattern(_LIST, one)) for one in _LIST.errors if one.pattern
}
# "No lack of empathy" names an error only to deny it; "no empathy" is the error itself.
_DENIED = re.compile(r"^(no|not|without|never)\b(?! empath)")
_CLAUSE = re.compile(r"[^\w\s'-]+|\s-+\s|\b(?:but|though|although|however|except)\b")


def _names_error(clause: str) -> bool:
    """Whether a part of a label that begins with none names an error, and not to deny it."""
    words = _words(clause).removeprefix("none").strip()
    if _DENIED.match(words):
        return False
    named = _WHOLE.get(words, PsychError.NONE) is not PsychError.NONE
    return named or any(stems.search(words) for stems in _STEMS.values())


def parse(text: str) -> PsychError | None:
    """The error that ``text`` names, or None where it names none, denies one, or names several.

    What begins with none is none, unless an error is named all the same.
    """
    if whole := _WHOLE.get(key(text)):
        return whole
    words = _words(text)
    if words.startswith("none "):
        return None if any(map(_names_error, _CLAUSE.split(text.casefold()))) else PsychError.NONE
    if _DENIED.match(words):
        return None
    found = [error for error, stems in _STEMS.items() if stems.search(words)]
    return found[0] if len(found) == 1 else None
