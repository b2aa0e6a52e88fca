"""The judge's two questions as chats: is a pair fit for training, and which error has a reply.

Judged text is fenced by a mark that it cannot hold. A model's control tokens in it are broken by
`Message`.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from esc import forms, prompts
from esc.chat.constraint import JsonSchema
from esc.chat.message import Message
from esc.chat.request import Generation, Sampling
from esc.dialogue import Exchange
from esc.fence import mark
from esc.psych_errors import PsychError
from esc.verdicts import Verdict
from mining.verdicts import FILTER_MENU, BlindVerdict, ErrorVerdict, FilterVerdict, schema

TEMPLATES = Path(__file__).parent / "prompts"
PROMPTS = {
    FilterVerdict: ("filter_system.j2", "filter_user.j2"),
    BlindVerdict: ("blind_system.j2", "blind_user.j2"),
    ErrorVerdict: ("classify_system.j2", "classify_user.j2"),
}
"""Kind of verdict to the files of its system and user message."""
ANSWER_TOKENS = 512
NOTHING = "(nothing yet)"


def filter_pair(
    history: Sequence[Exchange], seeker: str, chosen: str, rejected: str
) -> tuple[Message, ...]:
    """The chat that asks whether a pair is fit for training."""
    said = {"seeker": seeker, "chosen": chosen, "rejected": rejected}
    return _chat(FilterVerdict, history, said)


def filter_blind(
    history: Sequence[Exchange], seeker: str, replies: tuple[str, str]
) -> tuple[Message, ...]:
    """The same of two replies in the given order, without a word on whose they are."""
    said = {"seeker": seeker, "reply_a": replies[0], "reply_b": replies[1]}
    return _chat(BlindVerdict, history, said)


def classify(
    history: Sequence[Exchange], seeker: str, strategy: str, reply: str
) -> tuple[Message, ...]:
    """The chat that asks which error a reply has."""
    return _chat(ErrorVerdict, history, {"seeker": seeker, "strategy": strategy, "reply": reply})


def call(
    record: str, model: str, kind: type[Verdict], chat: tuple[Message, ...], *, expected: str
) -> Generation:
    """The request for one verdict, greedy, under the verdict's schema.

    The schema is a hint: whatever comes back is read as strictly as an answer without one.
    """
    constraint = JsonSchema("verdict", schema(kind), hint=True)
    sampling = Sampling(ANSWER_TOKENS)
    return Generation(record, "judge", model, chat, sampling, constraint, expected=expected)


def chosen_side(record: str) -> Literal["A", "B"]:
    """Where the gold reply stands in a blind question: shuffled by the record's id."""
    return "A" if hashlib.sha256(f"side\n{record}".encode()).digest()[0] % 2 else "B"


def files_of(kind: type[Verdict]) -> list[Path]:
    """The prompt files behind a kind of question."""
    return [prompts.source(TEMPLATES, name) for name in PROMPTS[kind]]


def _chat(
    kind: type[Verdict], history: Sequence[Exchange], said: dict[str, str]
) -> tuple[Message, ...]:
    system, user = PROMPTS[kind]
    menu = tuple(PsychError) if kind is ErrorVerdict else FILTER_MENU
    conversation = forms.exchanges(history).strip() or NOTHING
    instructions = prompts.render(
        TEMPLATES,
        system,
        errors=[error for error in menu if error is not PsychError.NONE],
        menu=" or ".join(f'"{error}"' for error in menu),
    )
    asked = prompts.render(
        TEMPLATES,
        user,
        conversation=conversation,
        mark=mark(conversation, *said.values()),
        **said,
    )
    return Message("system", instructions), Message("user", asked)
