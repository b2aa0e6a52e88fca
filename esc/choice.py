"""The probability a model gives to each of a few whole answers, from token log-probabilities.

The answers' tokens form a tree of prefixes. One request holds a prompt for every inner node, with
one token to generate, and asks for the log-probabilities of the tokens that go on from there; an
answer's score is the sum along its path, the token that ends the turn included. The prompts share
their beginning, so a server with a prefix cache computes little more than the tree. Needs vLLM's
``/tokenize`` and ``logprob_token_ids``; elsewhere the score is None.
"""

import math
from dataclasses import dataclass

from esc.llm import Call, CallFailed, FailureKind, Payload, Pool

Scores = tuple[float, ...]
"""Natural log-probabilities, one for each answer, each at most 0."""


@dataclass(frozen=True, slots=True)
class Scoring(Call[Scores | None]):
    """A request for the log-probability of each of ``answers`` after a chat."""

    answers: tuple[str, ...]

    def identity(self) -> Payload:
        """Everything that decides the scores."""
        return {"model": self.model, "messages": self.wire, "answers": list(self.answers)}

    async def send(self, pool: Pool) -> Payload | None:
        """The log-probabilities, or None where the server does not give them."""
        paths = await pool.paths_of(self.model, self.answers)
        if not paths:
            return None
        prompt, _ = await pool.tokens_of(self.model, messages=self.wire)
        nodes = sorted({path[:depth] for path in paths for depth in range(len(path))})
        body = {
            "model": self.model,
            "prompt": [[*prompt, *node] for node in nodes],
            "max_tokens": 1,
            "temperature": 0,
            "logprobs": 1,
            "logprob_token_ids": sorted({token for path in paths for token in path}),
            "return_tokens_as_token_ids": True,
        }
        try:
            answer = await pool.post("/completions", body)
            choices = sorted(answer["choices"], key=lambda choice: int(choice["index"]))
            after = {
                node: choice["logprobs"]["top_logprobs"][0]
                for node, choice in zip(nodes, choices, strict=True)
            }
            scores = [
                sum(after[path[:depth]][f"token_id:{token}"] for depth, token in enumerate(path))
                for path in paths
            ]
        except CallFailed as failed:
            if failed.kind is FailureKind.NOT_OFFERED:
                return None
            raise
        except (KeyError, TypeError, IndexError, ValueError):
            return None
        return {"logprobs": scores, "prompt_tokens": len(prompt), "completion_tokens": 0}

    def read(self, payload: Payload) -> Scores | None:
        """The stored log-probabilities."""
        return tuple(payload["logprobs"])

    def rehearse(self) -> None:
        """Nothing: a dry run knows no probability, nor does a batch engine give any."""
        return


def normalised(scores: Scores) -> list[float]:
    """The scores as probabilities over these answers alone; they sum to 1."""
    top = max(scores)
    weights = [math.exp(score - top) for score in scores]
    total = sum(weights)
    return [weight / total for weight in weights]
