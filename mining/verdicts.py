"""The verdicts a judge of replies can give, with the fields of the paper's Figures 15 and 16.

Names of errors are read tolerantly, since judges paraphrase them; `esc.judging` reads the answers.
"""

import random
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from esc import judging, prompts
from esc.dialogue import Exchange
from esc.judging import DRAWN, Verdict
from esc.llm import Reason
from esc.prompts import Message
from esc.psych_errors import PsychError, parse

TEMPLATES = Path(__file__).parent / "prompts"
FILTER_MENU = (PsychError.NONE, *(error for error in PsychError if error.feeds == "rg"))
"""The labels the filter offers for either side (Figure 15)."""

_YES, _NO = {"yes", "true"}, {"no", "false"}


def _yes(value: object) -> bool:
    """Whether a judge's word is yes; ValueError where it is neither yes nor no, or both."""
    words = re.findall(r"[a-z]+", str(value).casefold())
    if words and words[0] in _YES | _NO and not (_YES & {*words} and _NO & {*words}):
        return words[0] in _YES
    raise ValueError(f"{str(value)[:60]!r} is neither Yes nor No")


def _label(value: object, menu: Sequence[PsychError]) -> PsychError:
    """The error a judge names; ValueError where it names none of the menu."""
    found = parse(str(value)) if value is not None else PsychError.NONE
    if found is None or found not in menu:
        raise ValueError(f"{str(value)[:60]!r} is none of those offered")
    return found


def _read(reader: Any, *offered: str) -> Any:
    """A field of a verdict: how it is read, and what is offered."""
    return BeforeValidator(reader), Field(json_schema_extra={"enum": [*offered]})


YesNo = Annotated[bool, *_read(_yes, "Yes", "No")]
Side = Annotated[Literal["A", "B", "neither"], *_read(judging.side, "A", "B", "neither")]
Filtered = Annotated[PsychError, *_read(partial(_label, menu=FILTER_MENU), *FILTER_MENU)]
Classified = Annotated[PsychError, *_read(partial(_label, menu=[*PsychError]), *PsychError)]


class FilterVerdict(Verdict):
    """Is this pair fit for training, and what is wrong with either side (Figure 15)?"""

    prompts: ClassVar = ("filter_system.j2", "filter_user.j2")

    retain: YesNo = Field(title="Should the sample be retained")
    chosen_error: Filtered = Field(title="Error Type in chosen reply")
    chosen_explanation: str = Field(default="", title="Explanation for chosen reply error")
    rejected_error: Filtered = Field(title="Error Type in rejected reply")
    rejected_explanation: str = Field(default="", title="Explanation for rejected reply error")

    @classmethod
    def drawn(cls, chance: random.Random) -> Self:
        """About one in two keeps the pair."""
        none, *errors = FILTER_MENU
        one, another, in_gold = (chance.choice(errors) for _ in range(3))
        kept = [(True, none, one), (True, none, another)]
        keep, gold, sampled = chance.choice([*kept, (False, in_gold, none), (False, none, none)])
        why = {"chosen_explanation": DRAWN, "rejected_explanation": DRAWN}
        return cls(retain=keep, chosen_error=gold, rejected_error=sampled, **why)


class BlindVerdict(Verdict):
    """What is wrong with either of two replies, and which is better, not knowing whose they are."""

    prompts: ClassVar = ("blind_system.j2", "blind_user.j2")

    better: Side = Field(title="Better reply")
    error_a: Filtered = Field(title="Error Type in reply A")
    explanation_a: str = Field(default="", title="Explanation for reply A")
    error_b: Filtered = Field(title="Error Type in reply B")
    explanation_b: str = Field(default="", title="Explanation for reply B")

    def unblinded(self, chosen: str) -> FilterVerdict:
        """The verdict on the pair, once it is known which side, A or B, is the gold reply."""
        said = self.model_dump()
        sides = {"chosen": chosen.lower(), "rejected": "b" if chosen == "A" else "a"}
        told = {
            f"{side}_{what}": said[f"{what}_{letter}"]
            for side, letter in sides.items()
            for what in ("error", "explanation")
        }
        return FilterVerdict(retain=self.better == chosen, **told)


class ErrorVerdict(Verdict):
    """Does this reply hold an error, which, why, and what would be better (Figure 16)?"""

    prompts: ClassVar = ("classify_system.j2", "classify_user.j2")

    contains_error: YesNo = Field(title="Contains Empathy Error")
    error: Classified = Field(title="Error Type")
    explanation: str = Field(default="", title="Brief Explanation")
    suggestion: str = Field(default="", title="Improvement Suggestion")

    @classmethod
    def drawn(cls, chance: random.Random) -> Self:
        """Any error, or none."""
        error = chance.choice(list(PsychError))
        return cls(contains_error=error is not PsychError.NONE, error=error, explanation=DRAWN)

    @model_validator(mode="before")
    @classmethod
    def _as_meant(cls, said: dict[str, Any]) -> dict[str, Any]:
        """A label in the yes/no field says yes to that label; "No" beside "Others" means None."""
        contains, error = said.get("contains_error"), said.get("error") or PsychError.NONE
        label, named = parse(str(contains)), parse(str(error))
        if label is not None and named is label:
            contains = label is not PsychError.NONE
        elif named is PsychError.OTHER and re.match(r"\W*(?:no|false)\b", str(contains), re.I):
            error = PsychError.NONE
        return said | {"contains_error": contains, "error": error}

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if self.contains_error == (self.error is PsychError.NONE):
            raise PydanticCustomError(Reason.CONTRADICTION, f"{self.contains_error}, {self.error}")
        return self


def question(
    kind: type[FilterVerdict | BlindVerdict | ErrorVerdict],
    history: Sequence[Exchange],
    **said: str,
) -> tuple[Message, ...]:
    """The chat that asks for a verdict on what is ``said`` after a conversation."""
    menu = tuple(PsychError) if kind is ErrorVerdict else FILTER_MENU
    errors = [error for error in menu if error is not PsychError.NONE]
    offered = " or ".join(f'"{error}"' for error in menu)
    system = prompts.render(TEMPLATES, kind.prompts[0], errors=errors, menu=offered)
    return judging.question(system, TEMPLATES / kind.prompts[1], history, said)
