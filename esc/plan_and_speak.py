"""The two-stage pipeline: a planner chooses a strategy, a generator writes the reply under it.

    from esc.plan_and_speak import PlanAndSpeak

    with PlanAndSpeak(["http://127.0.0.1:8000/v1"], stage="sft", decode="choice") as pipeline:
        answer = pipeline.reply([], "I lost my job last week.")
        print(answer.plan.strategy, answer.plan.probability, answer.response)

The strategies are those of STRATEGIES (`esc.strategies`), which is read when this is imported.
Research software: what it says is no counselling.
"""

import asyncio
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from esc import adapters, prompts
from esc.dialogue import Exchange, GoldTurn, Role
from esc.files import EscError
from esc.llm import Asks, Chat, Constraint, Generation, Reply, Sampling
from esc.paths import DIALOGUE, PAPER, TURN, Lineage
from esc.prompts import Message
from esc.strategies import UNREADABLE, Strategy, parse, tag

Strategies = Sequence[Strategy | None]
"""Of the replies so far; None of a model's own that named none."""
NAMES = tuple(strategy.value for strategy in Strategy)
# Room for the answer: the longest shipped name has 8 tokens; in another script it may be one a
# byte. ESConv's longest reply is below 256; a backbone's own stands in the table of backbones.
PLAN_TOKENS = max(24, *(len(n) // 2 if n.isascii() else len(n.encode()) for n in NAMES))
REPLY_TOKENS = 256
TEMPERATURE, TOP_P = 0.7, 0.95  # with which the authors' code samples
TIMEOUT = 600.0  # seconds for one answer, waiting behind other requests included


@dataclass(frozen=True, slots=True)
class Plan:
    """What the planner says of one turn; no strategy where its raw answer names none."""

    raw: str
    strategy: Strategy | None
    distribution: dict[Strategy, float] | None  # None where a server gives no figures

    @property
    def probability(self) -> float | None:
        """Of the chosen strategy."""
        return self.distribution[self.strategy] if self.strategy and self.distribution else None


@dataclass(frozen=True, slots=True)
class Answer:
    """A plan, and the reply under it: under the planner's words where they name no strategy."""

    plan: Plan
    response: str


def sp_chat(
    history: Sequence[Exchange], seeker: str, before: Strategies | None = None
) -> tuple[Message, ...]:
    """The planner's chat: one message with the whole transcript.

    In the dialogue layout, with the strategies ``before`` of the replies so far, each message has
    the reply before and the seeker's words, and each answer is a strategy.
    """
    if before is None:
        transcript = prompts.sp_transcript(history, seeker)
        return Message("system", prompts.sp_system()), Message("user", transcript)
    replies = ["", *(prompts.transcript_line(Role.SUPPORTER, reply) for _, reply in history)]
    words = [
        prompts.transcript_line(Role.SEEKER, said)
        for said in (*(one for one, _ in history), seeker)
    ]
    messages = [reply + said for reply, said in zip(replies, words, strict=True)]
    answers = [(of or UNREADABLE).value for of in before]
    past = list(zip(messages[:-1], answers, strict=True))
    return _turns(prompts.sp_system(DIALOGUE), past, messages[-1])


def rg_chat(
    history: Sequence[Exchange],
    seeker: str,
    strategy: Strategy | str,
    before: Strategies | None = None,
) -> tuple[Message, ...]:
    """The generator's chat under a strategy, or a planner's words that name none.

    In the dialogue layout, with the strategies ``before`` of the replies so far, each message of
    the seeker ends with the strategy of the reply to it.
    """
    if before is None:
        return _turns(prompts.rg_system(strategy), history, seeker)
    past = zip(history, before, strict=True)
    told = [(_under(said, of or UNREADABLE), reply) for (said, reply), of in past]
    return _turns(prompts.rg_system_dialogue(), told, _under(seeker, strategy))


def _under(said: str, strategy: Strategy | str) -> str:
    return f"{said}\n{prompts.strategy_line(strategy)}"


def _turns(system: str, history: Sequence[Exchange], seeker: str) -> tuple[Message, ...]:
    chat = [Message("system", system)]
    for said, reply in history:
        chat += [Message("user", said), Message("assistant", reply)]
    return (*chat, Message("user", seeker))


def before(turn: GoldTurn, layout: str) -> Strategies | None:
    """What planner and generator see of the strategies so far: in the turn layout nothing."""
    return None if layout == TURN else turn.history_strategies


def chat_and_gold(task: str, turn: GoldTurn, layout: str = TURN) -> tuple[tuple[Message, ...], str]:
    """(the chat that a task's model meets at a gold turn, the gold answer in its form)."""
    past_strategies = before(turn, layout)
    if task == "sp":
        return sp_chat(turn.history, turn.seeker, past_strategies), turn.strategy.value
    if task == "rg":
        chat = rg_chat(turn.history, turn.seeker, turn.strategy, past_strategies)
        return chat, turn.response
    past = zip(turn.history, turn.history_strategies, strict=True)
    # What a model said itself may have had no tag that could be read.
    tagged = [(said, tag(of, reply) if of else reply) for (said, reply), of in past]
    return _turns(prompts.vanilla_system(), tagged, turn.seeker), tag(turn.strategy, turn.response)


def sharegpt(chat: Sequence[Message]) -> dict[str, Any]:
    """A chat that ends before an answer, in sharegpt form."""
    system, *said = chat
    who = {"user": "human", "assistant": "gpt"}
    conversations = [{"from": who[one.role], "value": one.content} for one in said]
    return {"system": system.content, "conversations": conversations}


def constraint_of(task: str, decode: str) -> Constraint | None:
    """What a task's answer is held to under DECODE: a strategy, or ``[Strategy] reply``."""
    if decode != "choice" or task == "rg":
        return None
    # What means more in an expression; a blank escaped is none to every engine.
    names = (re.sub(r"[][\\.^$*+?{}|()]", r"\\\g<0>", name) for name in NAMES)
    tagged = rf"\[({'|'.join(names)})\] .+"
    return Constraint(choice=NAMES) if task == "sp" else Constraint(regex=tagged)


def normalised(scores: Sequence[float]) -> list[float]:
    """Log-probabilities as probabilities over these answers alone; they sum to 1."""
    weights = [math.exp(score - max(scores)) for score in scores]
    return [weight / sum(weights) for weight in weights]


async def plan(asks: Asks, call: Generation) -> tuple[Plan, Reply]:
    """(what the planner says to a call, with its distribution over the strategies, the answer)."""
    answer = await asks.ask(call)
    scoring = Generation(call.record, "distribution", call.model, call.messages, answers=NAMES)
    scores = (await asks.ask(scoring)).scores
    distribution = dict(zip(Strategy, normalised(scores), strict=True)) if scores else None
    return Plan(answer.text, parse(answer.text), distribution), answer


class PlanAndSpeak:
    """Plans and speaks through the policies that a server has; a context manager.

    Nothing that is said is kept. Whatever is asked raises Failure where the server gives no answer.
    """

    def __init__(
        self,
        base_urls: Sequence[str],
        *,
        stage: str,
        lineage: Lineage = PAPER,
        decode: str = "free",
        temperature: float = 0.0,
        reply_tokens: int = REPLY_TOKENS,
    ) -> None:
        """``stage`` is ``base``, ``sft`` or ``dpo``; ``decode`` as in the table of backbones."""
        self._models = [adapters.served_name(task, stage, lineage) for task in ("sp", "rg")]
        self._layout = lineage.layout
        self._decode, self._sampling = decode, Sampling(reply_tokens, temperature)
        self._runner = asyncio.Runner()
        self._chat = Chat(base_urls, timeout=TIMEOUT, connections=4)

    def __enter__(self) -> Self:
        self._runner.run(self._chat.connect(sorted({*self._models})))
        return self

    def __exit__(self, *_: object) -> None:
        self._runner.run(self._chat.aclose())
        self._runner.close()

    def _before(self, history: Sequence[Exchange], strategies: Strategies) -> Strategies | None:
        if self._layout == TURN:
            return None
        if len(strategies) != len(history):
            known = f"{len(strategies)} strategies of them"
            raise EscError(f"{len(history)} replies so far, and {known}")
        return strategies

    def plan(self, history: Sequence[Exchange], seeker: str, strategies: Strategies = ()) -> Plan:
        """The strategy for the next reply; of dialogues, after the ``strategies`` so far."""
        record, sampling = str(len(history)), Sampling(PLAN_TOKENS, self._sampling.temperature)
        before = self._before(history, strategies)
        chat, held = sp_chat(history, seeker, before), constraint_of("sp", self._decode)
        call = Generation(record, "plan", self._models[0], chat, sampling, held)
        return self._runner.run(plan(self._chat, call))[0]

    def speak(
        self,
        history: Sequence[Exchange],
        seeker: str,
        strategy: Strategy | str,
        strategies: Strategies = (),
    ) -> str:
        """The reply under a strategy, or a planner's words that name none; the rest as `plan`."""
        chat = rg_chat(history, seeker, strategy, self._before(history, strategies))
        call = Generation(str(len(history)), "speak", self._models[1], chat, self._sampling)
        return self._runner.run(self._chat.ask(call)).text.strip()

    def reply(
        self, history: Sequence[Exchange], seeker: str, strategies: Strategies = ()
    ) -> Answer:
        """Plan, then speak; the rest as `plan`."""
        planned = self.plan(history, seeker, strategies)
        under = planned.strategy or planned.raw
        return Answer(planned, self.speak(history, seeker, under, strategies))
