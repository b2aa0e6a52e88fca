"""One generation: a chat, how to sample, and a constraint; and what comes back."""

import hashlib
from dataclasses import asdict, dataclass
from typing import Any

import orjson

from esc.chat.constraint import Choice, Constraint, JsonSchema, Regex
from esc.chat.failures import AttemptFailed, FailureKind, refusal_in
from esc.chat.message import Message, text_of
from esc.chat.tokens import choice_tokens, room_after
from esc.chat.transport import Endpoint
from esc.thinking import spoken

Payload = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How an answer is drawn."""

    max_tokens: int
    """At most; fewer where the context has no room for so many."""
    temperature: float = 0.0
    top_p: float = 1.0


@dataclass(frozen=True, slots=True)
class Reply:
    """A model's answer."""

    text: str
    """Without what a reasoning model thought before it; nothing where its thinking was cut."""
    truncated: bool
    """Whether ``max_tokens`` cut it; such an answer is kept, and counted."""
    prompt_tokens: int
    completion_tokens: int


def derived_seed(record: str, sample: int) -> int:
    """The seed of one sample of one record: the same in every run and in every order."""
    digest = hashlib.sha256(f"{record}\n{sample}".encode()).digest()
    return int.from_bytes(digest[:4]) >> 1


@dataclass(frozen=True, slots=True)
class Generation:
    """A request for one answer."""

    record: str
    """Id of the record it is for; the seed comes from it and ``sample``."""
    step: str
    """What it is for, such as ``plan``; for the audit trail."""
    model: str
    """The served name."""
    messages: tuple[Message, ...]
    sampling: Sampling
    constraint: Constraint | None = None
    sample: int = 0
    """0-based index among several samples of the same record."""
    expected: str = ""
    """An answer of the usual kind, for a dry run; decides nothing else."""

    @property
    def seed(self) -> int:
        """The seed sent with the request."""
        return derived_seed(self.record, self.sample)

    def identity(self) -> Payload:
        """Everything that decides the answer."""
        return {
            "model": self.model,
            "messages": [message.wire() for message in self.messages],
            "sampling": asdict(self.sampling),
            "constraint": self.constraint.body() if self.constraint else None,
            "seed": self.seed,
            "sample": self.sample,
        }

    def audit(self) -> Payload:
        """What the stored line says of the request besides its key."""
        return {"record": self.record, "step": self.step} | self.identity()

    def size(self) -> tuple[int, int]:
        """(characters of the prompt, largest number of answer tokens)."""
        return sum(len(m.content) for m in self.messages), self.sampling.max_tokens

    def body(self) -> Payload:
        """What is sent, but for the tokens of a choice, which are the engine's."""
        body = {
            "model": self.model,
            "messages": [message.wire() for message in self.messages],
            **asdict(self.sampling),
            "seed": self.seed,
        }
        return body | self.constraint.body() if self.constraint else body

    async def send(self, endpoint: Endpoint) -> Payload:
        """The answer as it is stored; AttemptFailed where the endpoint gives none."""
        body = self.body()
        if isinstance(self.constraint, Choice):
            body |= await choice_tokens(endpoint, self.model, self.constraint.options)
        is_hint = isinstance(self.constraint, JsonSchema | Regex) and self.constraint.hint
        hinted = self.constraint.body() if self.constraint and is_hint else {}
        try:
            return read_completion(await endpoint.complete(body, hinted))
        except AttemptFailed as failed:
            if failed.kind is not FailureKind.TOO_LONG:
                raise
            left = await room_after(endpoint, self.model, self.messages)
            if not 0 < left < self.sampling.max_tokens:
                raise
        return read_completion(await endpoint.complete(body | {"max_tokens": left}, hinted))

    def lasting(self, payload: Payload) -> bool:
        """Whether the answer is to be stored: always."""
        return True

    def read(self, payload: Payload) -> Reply:
        """The stored answer as a record."""
        text, is_cut = spoken(payload["text"])
        return Reply(
            text=text,
            truncated=is_cut or payload["finish"] == "length",
            prompt_tokens=payload["prompt_tokens"],
            completion_tokens=payload["completion_tokens"],
        )

    def rehearse(self) -> Reply:
        """The answer a dry run goes on with."""
        return Reply(self.expected, False, 0, 0)


def read_completion(answer: Any) -> Payload:
    """Text, finish reason and token counts of a completion.

    Raises AttemptFailed for another shape, and with what it used for an answer without text; where
    that was cut at its length, another attempt would be too.
    """
    try:
        if refused := refusal_in(answer):
            raise refused
        choices = answer["choices"]
        if not choices:
            raise AttemptFailed(FailureKind.EMPTY, "the answer has no choices", transient=True)
        text, finish = (
            text_of(choices[0]["message"].get("content")),
            choices[0].get("finish_reason"),
        )
        used = usage_of(answer)
    except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
        reason = f"no chat completion: {type(error).__name__} {error}"
        raise AttemptFailed(FailureKind.BAD_ANSWER, reason, transient=True) from error
    if text is None or (not text and finish == "length"):
        is_cut = finish == "length"
        reason = "the answer has no text" + (
            f", its {used[1]:,} tokens went into something else, such as thinking" if is_cut else ""
        )
        raise AttemptFailed(FailureKind.EMPTY, reason, transient=not is_cut, used=used)
    return {
        "text": text,
        "finish": finish,
        "prompt_tokens": used[0],
        "completion_tokens": used[1],
    }


def usage_of(answer: Any) -> tuple[int, int]:
    """(tokens of the prompt, of the answer) as a completion tells them, 0 where it does not.

    Raises AttributeError, TypeError or ValueError where what it tells is no number.
    """
    usage = answer.get("usage") or {}
    return int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)


def key_of(identity: Payload, weights: str | None) -> str:
    """The cache key: SHA-256 over what decides the answer, the model's weights included."""
    text = orjson.dumps([identity, weights], option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(text).hexdigest()
