"""The four dimensions of a reply's quality, what a judge is asked about each, what it may answer.

Scores are 0 to 5 with the anchors of the paper's Table 8, in this project's own words, one prompt
a dimension. The paper's form asks for the number alone (Figures 17 to 20); the other has a reason
before it. Also the question of pairwise comparison: which of two replies is better.
"""

import hashlib
import json
import random
import re
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from esc import forms, prompts
from esc.chat.constraint import Constraint, JsonSchema, Regex
from esc.chat.message import Message
from esc.chat.request import Generation, Sampling
from esc.dialogue import Exchange
from esc.fence import mark
from esc.judge import NUMBER, REASON
from esc.verdicts import Reason, Unscored, Verdict, read, strict_schema

TEMPLATES = Path(__file__).parent / "prompts"
SCALE = range(6)
ANSWER_TOKENS = 256
REASON_CHARACTERS = 160
"""Room for the reason of a judge whose server holds it to that."""
NOTHING = "(nothing yet)"
DRAWN = "JUDGE=random: drawn, not judged"


class Dimension(StrEnum):
    """What is rated (section 6.1, Table 8)."""

    FLUENCY = "Fluency"
    PROFESSIONALISM = "Professionalism"
    EMPATHY = "Empathy"
    HELPFULNESS = "Helpfulness"

    @property
    def prompt(self) -> str:
        """The file of its system message."""
        return f"judge_{self.casefold()}.j2"

    @property
    def meaning(self) -> str:
        """What it asks, in one line for a person."""
        return _MEANINGS[self]


_MEANINGS = {
    Dimension.FLUENCY: "Which reply reads more naturally, and is easier to follow?",
    Dimension.PROFESSIONALISM: "Which shows more of sound, responsible psychological practice?",
    Dimension.EMPATHY: "Which understands and meets the seeker's feelings better?",
    Dimension.HELPFULNESS: "Which offers more that this very seeker can use?",
}
RATING_USER = "judge_user.j2"
_ALONE = r"[0-4](\.[0-9])?|5"
_TIES = ("tie", "a tie", "neither")
PAIRWISE = ("pairwise_system.j2", "pairwise_user.j2")


class Score(Verdict):
    """How good a reply is on one dimension."""

    not_offered: ClassVar[Reason] = Reason.OFF_SCALE

    reason: str = Field(default="", title="reason")
    score: float = Field(title="score")

    @field_validator("score", mode="before")
    @classmethod
    def _on_the_scale(cls, value: object) -> float:
        """A number of the scale, also written "4" or "4.5"; ValueError for anything else."""
        if isinstance(value, str) and re.fullmatch(r"\s*[0-9]+(\.[0-9]+)?\s*", value, re.ASCII):
            value = float(value)
        is_truth = isinstance(value, bool)
        if isinstance(value, int | float) and not is_truth and SCALE[0] <= value <= SCALE[-1]:
            return float(value)
        raise ValueError(f"{str(value)[:60]!r} is no number from 0 to 5")


class Preference(Verdict):
    """Which of two replies is better."""

    reason: str = Field(default="", title="reason")
    better: Literal["A", "B", "tie"] = Field(title="better")

    @field_validator("better", mode="before")
    @classmethod
    def _side(cls, value: object) -> str:
        words = re.findall(r"a tie|[a-z]+", str(value).casefold())
        named = {word for word in words if word in ("a", "b", *_TIES)}
        if len(named) != 1:
            raise ValueError(f"{str(value)[:60]!r} is none of A, B and tie")
        side: str = named.pop()
        return side.upper() if side in ("a", "b") else "tie"


# "Empathy score: **4.5** / 5" and its like: a number alone, for a person.
_NUMBER = re.compile(
    r"[\s*_`\"'(\[]*"
    r"(?:(?:the|my|final|overall|fluency|professionalism|empathy|helpfulness|score|rating|[\s*_])+"
    r"(?:[:=]|is)[\s*_]*)?"
    r"(?P<score>[-+]?[0-9]+(?:\.[0-9]+)?)"
    r"[\s*_]*(?:/\s*5|out\s+of\s+5|points?)?[\s*_`\"'.)\]]*",
    re.IGNORECASE | re.ASCII,
)


def read_score(text: str, form: str, *, truncated: bool) -> Score | Unscored:
    """The score in a judge's answer, or why there is none.

    A judge that is asked for the number alone may still answer with the object of the other form.
    """
    alone = _NUMBER.fullmatch(text)
    if form == NUMBER and alone and not truncated:
        text = f'{{"score": {json.dumps(alone["score"])}}}'
    return read(Score, text, truncated=truncated)


_PROPERTIES: dict[type[Verdict], dict[str, Any]] = {
    Score: {"reason": {"type": "string"}, "score": {"type": "number"}},
    Preference: {
        "reason": {"type": "string"},
        "better": {"type": "string", "enum": ["A", "B", "tie"]},
    },
}


def schema(kind: type[Score] | type[Preference], *, brief: bool = False) -> str:
    """The JSON schema of a verdict, as JSON text; a brief one bounds what a small model says."""
    properties = _PROPERTIES[kind]
    if brief:
        properties = properties | {"reason": {"type": "string", "maxLength": REASON_CHARACTERS}}
        if kind is Score:
            properties["score"] = {"type": "integer", "enum": list(SCALE)}
    return strict_schema(properties)


def rating(
    dimension: Dimension,
    history: Sequence[Exchange],
    seeker: str,
    reply: str,
    reference: str | None,
    form: str = NUMBER,
) -> tuple[Message, ...]:
    """The chat that asks for one score; ``reference`` is what a person replied, or None."""
    system = prompts.render(TEMPLATES, dimension.prompt, with_reason=form == REASON)
    said = {"seeker": seeker, "reply": reply, "reference": reference or ""}
    return _chat(system, RATING_USER, history, said, dimension=dimension.value)


def comparison(
    history: Sequence[Exchange], seeker: str, replies: tuple[str, str]
) -> tuple[Message, ...]:
    """The chat that asks which of two replies, in this order, is better."""
    system = prompts.render(TEMPLATES, PAIRWISE[0])
    said = {"seeker": seeker, "reply_a": replies[0], "reply_b": replies[1]}
    return _chat(system, PAIRWISE[1], history, said)


def _chat(
    system: str, user: str, history: Sequence[Exchange], said: dict[str, str], **words: str
) -> tuple[Message, ...]:
    conversation = forms.exchanges(history).strip() or NOTHING
    fence = mark(conversation, *said.values())
    asked = prompts.render(TEMPLATES, user, conversation=conversation, mark=fence, **said, **words)
    return Message("system", system), Message("user", asked)


def call(
    record: str,
    model: str,
    kind: type[Score] | type[Preference],
    chat: tuple[Message, ...],
    sample: int = 0,
    *,
    brief: bool,
    form: str = REASON,
) -> Generation:
    """The request for one verdict, at temperature 0, under the verdict's schema.

    The schema is a hint: whatever comes back is read as strictly as an answer without one. A
    ``brief`` one keeps a small model from rambling up to its length limit; hosted endpoints may
    refuse it. A number alone has no schema.
    """
    constraint: Constraint | None = JsonSchema("verdict", schema(kind, brief=brief), hint=True)
    if form == NUMBER:
        constraint = Regex(_ALONE, hint=True) if brief else None
    sampling = Sampling(ANSWER_TOKENS)
    return Generation(
        record, "judge", model, chat, sampling, constraint, sample=sample, expected="{}"
    )


def rating_files() -> list[Path]:
    """The prompt files behind the scores."""
    names = [*(dimension.prompt for dimension in Dimension), RATING_USER]
    return [prompts.source(TEMPLATES, name) for name in names]


def comparison_files() -> list[Path]:
    """The prompt files behind a comparison."""
    return [prompts.source(TEMPLATES, name) for name in PAIRWISE]


def draw_score(record: str, dimension: Dimension, sample: int) -> Score:
    """A score drawn by the record's id, for smoke runs."""
    return Score(score=_rng("score", record, dimension, sample).choice(SCALE), reason=DRAWN)


def draw_preference(record: str, order: int) -> Preference:
    """A preference drawn by the record's id, for smoke runs."""
    return Preference(better=_rng("better", record, order).choice(["A", "B", "tie"]), reason=DRAWN)


def _rng(*what: object) -> random.Random:
    digest = hashlib.sha256("\n".join(map(str, what)).encode()).digest()
    return random.Random(int.from_bytes(digest[:8]))
