"""The probability a model gives to each of a few whole answers, from token log-probabilities.

The answers' tokens form a tree of prefixes. One request holds a prompt for every inner node, with
one token to generate, and asks for the log-probabilities of the tokens that go on from there; an
answer's score is the sum along its path, the token that ends the turn included. The prompts share
their beginning, so a server with a prefix cache computes little more than the tree. Needs vLLM's
``/tokenize`` and ``logprob_token_ids``; elsewhere the score is None.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from esc.llm import AttemptFailed, Endpoint, FailureKind, Payload, Tokens, paths_of, tokens_of
from esc.prompts import Message

Scores = tuple[float, ...]
"""Natural log-probabilities, one for each answer, each at most 0."""


@dataclass(frozen=True, slots=True)
class Scoring:
    """A request for the log-probability of each of ``answers`` after a chat."""

    record: str
    step: str
    model: str
    messages: tuple[Message, ...]
    answers: tuple[str, ...]

    def identity(self) -> Payload:
        """Everything that decides the scores."""
        return {
            "model": self.model,
            "messages": [message.wire() for message in self.messages],
            "answers": list(self.answers),
        }

    def audit(self) -> Payload:
        """The record and the step; the chat stands with the generation it goes with."""
        return {"record": self.record, "step": self.step, "model": self.model}

    def size(self) -> tuple[int, int]:
        """(characters of the prompt, largest number of answer tokens)."""
        return sum(len(message.content) for message in self.messages), 0

    def body(self) -> None:
        """None: a batch engine gives no log-probabilities of given tokens."""
        return

    async def send(self, endpoint: Endpoint) -> Payload:
        """The log-probabilities, or None where the endpoint does not give them."""
        try:
            paths = await paths_of(endpoint, self.model, self.answers)
            prompt = await tokens_of(endpoint, self.model, self.messages)
            return await _walk(endpoint, self.model, prompt, paths)
        except AttemptFailed as failed:
            if failed.kind is not FailureKind.NOT_OFFERED:
                raise
            return {"logprobs": None, "prompt_tokens": 0, "completion_tokens": 0}

    def lasting(self, payload: Payload) -> bool:
        """Whether the answer is to be stored: not where this endpoint gives none."""
        return payload["logprobs"] is not None

    def read(self, payload: Payload) -> Scores | None:
        """The stored log-probabilities."""
        logprobs = payload["logprobs"]
        return None if logprobs is None else tuple(logprobs)

    def rehearse(self) -> None:
        """Nothing: a dry run knows no probability."""
        return


def normalised(scores: Scores) -> list[float]:
    """The scores as probabilities over these answers alone; they sum to 1."""
    top = max(scores)
    weights = [math.exp(score - top) for score in scores]
    total = sum(weights)
    return [weight / total for weight in weights]


async def _walk(endpoint: Endpoint, model: str, prompt: Tokens, paths: Sequence[Tokens]) -> Payload:
    nodes = sorted({path[:depth] for path in paths for depth in range(len(path))})
    body = {
        "model": model,
        "prompt": [[*prompt, *node] for node in nodes],
        "max_tokens": 1,
        "temperature": 0,
        "logprobs": 1,
        "logprob_token_ids": sorted({token for path in paths for token in path}),
        "return_tokens_as_token_ids": True,
    }
    answer = await endpoint.post("completions", body)
    try:
        choices = sorted(answer["choices"], key=lambda choice: int(choice["index"]))
        after = {
            node: choice["logprobs"]["top_logprobs"][0]
            for node, choice in zip(nodes, choices, strict=True)
        }
        scores = [
            sum(after[path[:depth]][f"token_id:{token}"] for depth, token in enumerate(path))
            for path in paths
        ]
    except (KeyError, TypeError, IndexError, ValueError) as error:
        raise AttemptFailed(
            FailureKind.NOT_OFFERED, "no log-probabilities of given tokens", transient=False
        ) from error
    return {"logprobs": scores, "prompt_tokens": len(prompt), "completion_tokens": 0}
