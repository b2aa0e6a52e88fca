"""A model that plays a seeker: its card, what it is told, and its answers, read strictly.

It is no seeker. What it feels is what it says that it feels, after every reply, from 1 to 5.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import typer
from pydantic import BaseModel, ConfigDict, Field, field_validator

from esc import judging, prompts
from esc.files import Row
from esc.judging import Judge, Sending, Unscored, Verdict
from esc.llm import Asks, Constraint, Failure, Generation, Reason, Sampling
from esc.plan_and_speak import TEMPERATURE, TOP_P
from esc.prompts import Message
from esc.strategies import Line

SCALE = range(1, 6)
"""Of how strong a feeling is: ESConv's, whose seekers were asked before and after."""
EASED = 2
"""A conversation has eased its seeker that ends there or below."""
STEP = "seeker"
TEMPLATES = ("seeker_system.j2", "seeker_begins.j2")
ANSWER_TOKENS, LONGEST = 200, 400  # of an answer, and characters of what our own small model says
SILENT = "(says nothing)"  # what the seeker is told of an empty reply

Intensity = Annotated[int, Field(ge=SCALE[0], le=SCALE[-1])]


class Card(BaseModel):
    """Who is played; ``after`` is how strong a person's feeling was in the end, and not told."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: Line
    situation: Line
    emotion: str = ""
    problem: str = ""
    intensity: Intensity | None = None
    after: Intensity | None = None

    @field_validator("id", "situation", "emotion", "problem", mode="before")
    @classmethod
    def _one_line(cls, value: Any) -> Any:
        return " ".join(value.split()) if isinstance(value, str) else value


class Said(Verdict):
    """One answer of a seeker."""

    not_offered: ClassVar[Reason] = Reason.OFF_SCALE

    say: str = Field(title="say", min_length=1)
    intensity: Intensity = Field(
        title="intensity", json_schema_extra={"type": "integer", "enum": [*SCALE]}
    )
    done: bool = Field(title="done", json_schema_extra={"type": "boolean"})

    @field_validator("say", mode="before")
    @classmethod
    def _words(cls, said: Any) -> Any:
        # Half a character, which JSON can name, cannot be written.
        return said.encode(errors="replace").decode().strip() if isinstance(said, str) else said

    @field_validator("intensity", mode="before")
    @classmethod
    def _no_truth(cls, value: Any) -> Any:
        return str(value) if isinstance(value, bool) else value

    @classmethod
    def constraint(cls, *, is_own: bool) -> Constraint | None:
        """The form; a small model of ours would fill the whole answer with one text."""
        held = super().constraint(is_own=is_own)
        if held is None or not is_own:
            return held
        form = json.loads(held.schema)
        form["properties"]["say"] |= {"minLength": 1, "maxLength": LONGEST}
        return Constraint(schema=json.dumps(form), hint=True)


TURNS = 8
"""The most replies of a conversation."""


def _option(variable: str, **more: Any) -> Any:
    return typer.Option(envvar=variable, **more)


@dataclass(frozen=True)
class Playing:
    """Who plays the seekers and for how long, as options of a step."""

    seeker: Annotated[
        str | None, _option("SEEKER", help="model that plays [default: the backbone's judge]")
    ] = None
    seeker_base_url: Annotated[
        str | None, _option("SEEKER_BASE_URL", help="where it answers [default: the hosted one]")
    ] = None
    turns: Annotated[int, _option("TURNS", help="the most replies", min=1)] = TURNS
    seed: Annotated[int, _option("SEED", help="another is another draw of all", min=0)] = 0

    def who(self, sending: Sending) -> Judge:
        """Who plays, of the embedded model its base; EscError as `judging.judge_for`."""
        how: Row = {"keyless": sending.dry_run, "variable": "SEEKER"}
        of = sending.model, sending.work, self.seeker, self.seeker_base_url
        return judging.base_or(*of, **how)


Heard = tuple[Said, str]
"""What a seeker said, and the reply it got."""


@dataclass(frozen=True, slots=True)
class Seeker:
    """Who plays, and in which of its ways: another ``seed`` is another draw."""

    who: Judge
    seed: int = 0

    async def says(self, asks: Asks, card: Card, heard: Sequence[Heard]) -> Said | Unscored:
        """Its next words, or why they cannot be read. Raises Failure where there is no answer."""
        told = {k: prompts.harmless(str(v)) for k, v in card.model_dump(exclude_none=True).items()}
        of = {name: told.get(name, "") for name in ("situation", "emotion", "problem", "intensity")}
        mark = prompts.mark(*of.values())
        system = prompts.render(prompts.TEMPLATES, TEMPLATES[0], card=of, mark=mark)
        begin = prompts.render(prompts.TEMPLATES, TEMPLATES[1])
        chat = [Message("system", system), Message("user", begin)]
        for said, reply in heard:
            chat.append(Message("assistant", said.model_dump_json()))
            chat.append(Message("user", reply or SILENT))
        held = Said.constraint(is_own=bool(self.who.weights))
        call = Generation(
            f"{card.id}-{len(heard)}",
            STEP,
            self.who.served or self.who.name,
            tuple(chat),
            Sampling(ANSWER_TOKENS, TEMPERATURE, TOP_P),
            held,
            self.seed,
            expected=json.dumps({"say": "x" * 80, "intensity": SCALE[-1], "done": False}),
        )
        try:
            answer = await asks.ask(call)
        except Failure as failed:
            if failed.kind is Reason.EMPTY:
                return Unscored.of(failed)
            raise
        return Said.read(answer.text, truncated=answer.truncated)
