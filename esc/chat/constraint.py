"""Constraints on an answer's form, and the canary that shows whether an endpoint obeys them.

vLLM takes them as ``structured_outputs`` (the older ``guided_*`` fields are answered 200 and
ignored); a JSON schema goes as the standard ``response_format``, which other endpoints know too.
"""

from dataclasses import dataclass
from typing import Any

import orjson


@dataclass(frozen=True, slots=True)
class Choice:
    """The answer is one of these texts."""

    options: tuple[str, ...]

    def body(self) -> dict[str, Any]:
        """The fields of a chat completion request."""
        return {"structured_outputs": {"choice": list(self.options)}}


@dataclass(frozen=True, slots=True)
class Regex:
    """The answer matches this expression."""

    pattern: str
    hint: bool = False
    """Whether the answer is checked in any case, so that an endpoint may ignore it."""

    def body(self) -> dict[str, Any]:
        """The fields of a chat completion request."""
        return {"structured_outputs": {"regex": self.pattern}}


@dataclass(frozen=True, slots=True)
class JsonSchema:
    """The answer is JSON of this schema."""

    name: str
    schema: str
    """The JSON schema, as JSON text (so that a request stays hashable)."""
    hint: bool = False
    """Whether the answer is checked in any case, so that an endpoint may ignore the schema."""

    def body(self) -> dict[str, Any]:
        """The fields of a chat completion request."""
        described = {"name": self.name, "schema": orjson.loads(self.schema), "strict": True}
        return {"response_format": {"type": "json_schema", "json_schema": described}}


Constraint = Choice | Regex | JsonSchema

_WORD = "zxqv-canary"
_CANARIES: dict[type, Constraint] = {
    Choice: Choice((_WORD,)),
    Regex: Regex(r"zxqv-canary"),
    JsonSchema: JsonSchema(
        "canary",
        '{"type":"object","properties":{"canary":{"const":"zxqv-canary"}},'
        '"required":["canary"],"additionalProperties":false}',
    ),
}


def canary(kind: type) -> dict[str, Any]:
    """The request fields of a constraint of ``kind`` that no free answer meets by chance."""
    asked = "Greet me in one word."
    return {"messages": [{"role": "user", "content": asked}]} | _CANARIES[kind].body()


def obeyed(text: str | None) -> bool:
    """Whether the answer to a canary shows that the constraint was kept."""
    return _WORD in (text or "")
