"""The strategies of a conversation and the words of its prompts, from one list.

``strategies.yaml`` beside this file is ESConv's; the environment variable STRATEGIES names another
file, which is read when this module is imported. A list is checked as a whole: see `read`.
"""

import hashlib
import os
import re
import unicodedata
from collections.abc import Iterator
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from esc import files
from esc.files import EscError

SHIPPED = Path(__file__).with_name("strategies.yaml")
VARIABLE = "STRATEGIES"

Line = Annotated[str, StringConstraints(strip_whitespace=True, pattern=r"^[^\r\n]+$")]


class Conversation(BaseModel):
    """The words of the prompts; what a list leaves out is as in ESConv, but for the stages."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    kind: Line
    seeker: Line
    supporter: Line
    who_asks: Line
    who_answers: Line
    field: Line
    practice: Line
    help: Line
    stages: dict[Line, Line] = {}
    """Name to what happens in it, in the usual order."""


class Entry(BaseModel):
    """One strategy of a list."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: Line
    code: Annotated[str, StringConstraints(pattern=r"^[^\W\d_]{2}$")]
    about: Line
    aliases: list[Line] = []
    unreadable: bool = False


class Listed(BaseModel):
    """A file of strategies."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    conversation: Conversation
    strategies: list[Entry] = Field(min_length=2, max_length=30)

    @model_validator(mode="before")
    @classmethod
    def _whole(cls, found: Any) -> Any:
        """A list alone, or one with words; those that it leaves out are the shipped ones."""
        found = {"strategies": found} if isinstance(found, list) else found
        if not isinstance(found, dict):
            return found
        words = yaml.safe_load(SHIPPED.read_text(encoding="utf-8"))["conversation"]
        if isinstance(given := found.get("conversation", {}), dict):
            given = words | ({"stages": {}} if given else {}) | given
        return found | {"conversation": given}

    def names(self) -> Iterator[tuple[str, Entry]]:
        """(what an answer is known by, the strategy it names)."""
        for one in self.strategies:
            for said in (one.name, one.code, *one.aliases):
                yield key(said), one


@lru_cache(maxsize=4096)
def key(text: str) -> str:
    """A name as it is compared: NFKC, case folded, without what joins or stands around words."""
    letters = (
        one if unicodedata.category(one)[0] in "LMN" else " "
        for one in unicodedata.normalize("NFKC", text).casefold()
    )
    # "Affirmation & Reassurance", "Restatement/Paraphrasing": what joins two words is no word.
    return " ".join(word for word in "".join(letters).split() if word not in ("and", "or"))


def attribute(name: str) -> str:
    """The name in capitals, as a member of an enumeration."""
    return key(name).upper().replace(" ", "_")


def read(path: Path) -> Listed:
    """The list in ``path``; EscError, one line, where it is none or two of its names are one."""
    listed = files.read_yaml(path, Listed)
    named: dict[str, Entry] = {}
    for said, one in listed.names():
        if not said:
            raise EscError(f"{path}: a name of {one.name!r} has no letter or digit to know it by")
        if (other := named.setdefault(said, one)) is not one:
            raise EscError(
                f"{path}: {one.name!r} and {other.name!r} share the name {said!r} (names, codes "
                "and aliases are compared without case and punctuation); rename one"
            )
    if len({attribute(one.name) for one in listed.strategies}) < len(listed.strategies):
        raise EscError(f"{path}: two names are one in capitals; rename one")
    if sum(one.unreadable for one in listed.strategies) != 1:
        raise EscError(f"{path}: mark one strategy with 'unreadable: true', and no other")
    return listed


_LIST = read(Path(os.environ.get(VARIABLE) or SHIPPED))
_ABOUT = {one.name: one for one in _LIST.strategies}
CONVERSATION = _LIST.conversation
HASH = hashlib.sha256(_LIST.model_dump_json().encode()).hexdigest()
"""Of the whole list, the words of the prompts included."""
IS_SHIPPED = read(SHIPPED) == _LIST


class Strategy(StrEnum):
    """A strategy; the value is the label as it stands in the corpus and in every file.

    Its attribute is the name in capitals, such as ``Strategy.REFLECTION_OF_FEELINGS``.
    """

    vars().update({attribute(name): name for name in _ABOUT})

    @classmethod
    def _missing_(cls, value: object) -> None:
        """A file of another list is a mistake of the user."""
        raise EscError(
            f"{str(value)[:60]!r} is none of the strategies ({', '.join(cls)}); set STRATEGIES as "
            "it was when this was made"
        )

    @property
    def code(self) -> str:
        """The two-letter form, such as ``Qu``."""
        return _ABOUT[self].code

    @property
    def definition(self) -> str:
        """One sentence that says what is done under this strategy."""
        return _ABOUT[self].about


UNREADABLE = next(Strategy(one.name) for one in _LIST.strategies if one.unreadable)
"""What an answer counts as that names no strategy, where a number has to count it."""
_NAMES = {said: Strategy(one.name) for said, one in _LIST.names()}
_LABEL = re.compile(r"\A\W*(?:the\s+)?(?:\w+\s+)?(?:strategy|answer)\W*(?::|\bis\b)", re.I)
"""What an answer may put before the name, as in ``Strategy: Question``."""
_BRACKET = re.compile(r"\[(.*?)\]")
_WITH_BRACKETS = re.compile(r"\[((?:[^\[\]\n]|\[[^\[\]\n]*\])*)\]")
_TAG = re.compile(
    rf"\[({'|'.join(map(re.escape, sorted(Strategy, key=len, reverse=True)))})\]", re.I
)
"""A whole known name in brackets, which may hold brackets of its own; the longest one first."""


def parse(text: str) -> Strategy | None:
    """The strategy that ``text`` names, or None.

    Case, brackets, punctuation and what joins two words (``&``, ``/``, "or") do not matter; aliases
    are read, and a label before the name (``Strategy:``) is passed over.
    """
    return _NAMES.get(key(text)) or _NAMES.get(key(_LABEL.sub("", text, count=1)))


def tag(strategy: Strategy, response: str) -> str:
    """The entangled form of a reply, ``[Strategy] response``."""
    return f"[{strategy}] {response}"


def strip_tag(text: str) -> tuple[Strategy | None, str]:
    """(strategy, response) of an entangled reply, as the authors' code reads it.

    The first bracket is its tag, wherever it stands and whatever it says; one that holds a whole
    known name with brackets of its own is one. Without any the text is the response.
    """
    bracket = _BRACKET.search(text)
    if bracket is None:
        return None, text
    for whole in (_WITH_BRACKETS, _TAG):
        if (found := whole.match(text, bracket.start())) and parse(found[1]):
            bracket = found
    before, after = text[: bracket.start()].rstrip(" \t"), text[bracket.end() :].lstrip(" \t")
    if not before.strip():
        return parse(bracket[1]), after
    apart = "" if before.endswith("\n") or after.startswith("\n") or not after else " "
    return parse(bracket[1]), f"{before}{apart}{after}"


def untagged(text: str) -> str:
    """A text without its tag; whole where its first bracket names no strategy, as people's do."""
    strategy, response = strip_tag(text)
    return text if strategy is None else response
