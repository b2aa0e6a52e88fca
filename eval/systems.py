"""The systems of the paper's Tables 3 and 4: how each one comes to a strategy and a reply.

A system is a coroutine from a turn to an outcome; every intermediate answer is kept. It asks and
knows nothing of servers, retries or files.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from esc import adapters, paths, plan_and_speak, prompts
from esc.dialogue import GoldTurn
from esc.files import Row
from esc.llm import Asks, Generation, Reply, Sampling
from esc.paths import Lineage
from esc.plan_and_speak import PLAN_TOKENS, TEMPERATURE, TOP_P
from esc.prompts import Message
from esc.strategies import Strategy, strip_tag, tag

TEMPLATES = Path(__file__).parent / "prompts"


@dataclass(frozen=True, slots=True)
class Setting:
    """How a system is run."""

    stage: str
    """``base``, ``sft`` or ``dpo``."""
    decode: str
    reply_tokens: int
    """Room for a reply."""
    temperature: float = TEMPERATURE
    """As the authors' code samples; 0 is greedy."""
    lineage: Lineage = paths.PAPER
    """Which preference training, at stage ``dpo``."""

    @property
    def trained(self) -> str:
        """Stage and lineage in one word: ``sft``, ``dpo_ipo_r2`` …"""
        return f"{self.stage}{self.lineage.suffix}"

    @property
    def top_p(self) -> float:
        """The mass of the tokens that are drawn from; a greedy answer has no use for it."""
        return TOP_P if self.temperature else 1.0

    def sampling(self, tokens: int) -> Sampling:
        """How an answer of so many tokens at most is drawn."""
        return Sampling(tokens, self.temperature, self.top_p)

    def model(self, task: str) -> str:
        """The served name of the policy of a task."""
        return adapters.served_name(task, self.stage, self.lineage)


@dataclass(slots=True)
class Outcome:
    """What a system says to one turn."""

    strategy: Strategy | None
    """None where the raw text names none."""
    raw_strategy: str
    response: str
    distribution: dict[Strategy, float] | None = None
    """Of the planner; entangled systems have none."""
    steps: list[Row] = field(default_factory=list)
    """Every answer on the way, in order: step, model, text, truncated."""


System = Callable[[Asks, GoldTurn, Setting], Awaitable[Outcome]]


async def decoupled(asks: Asks, turn: GoldTurn, setting: Setting) -> Outcome:
    """Planner, then generator under the planned strategy, or under what the planner said."""
    model = setting.model("sp")
    chat = plan_and_speak.sp_chat(turn.history, turn.seeker)
    call = Generation(
        turn.id,
        "plan",
        model,
        chat,
        setting.sampling(PLAN_TOKENS),
        plan_and_speak.constraint_of("sp", setting.decode),
        expected=turn.strategy.value,
    )
    plan, answer = await plan_and_speak.plan(asks, call)
    response, spoken = await _speak(asks, turn, setting, plan.strategy or plan.raw)
    steps = [_step("plan", model, answer), spoken]
    return Outcome(plan.strategy, plan.raw, response, plan.distribution, steps)


async def decoupled_gold(asks: Asks, turn: GoldTurn, setting: Setting) -> Outcome:
    """The generator under the gold strategy (Table 4)."""
    response, spoken = await _speak(asks, turn, setting, turn.strategy)
    return Outcome(turn.strategy, turn.strategy.value, response, steps=[spoken])


async def vanilla(asks: Asks, turn: GoldTurn, setting: Setting) -> Outcome:
    """The entangled model: strategy and reply in one answer."""
    return await _tagged(asks, turn, setting, "respond", _vanilla_chat(turn), [])


async def direct_refine(asks: Asks, turn: GoldTurn, setting: Setting) -> Outcome:
    """A first reply, then its revision without any further input (appendix D.2)."""
    draft = await vanilla(asks, turn, setting)
    request = prompts.render(TEMPLATES, "direct_refine.j2")
    return await _tagged(asks, turn, setting, "refine", _after(turn, draft, request), draft.steps)


async def self_refine(asks: Asks, turn: GoldTurn, setting: Setting) -> Outcome:
    """A first reply, feedback on it, then the revision (Madaan et al., appendix D.2)."""
    draft = await vanilla(asks, turn, setting)
    request = prompts.render(TEMPLATES, "self_refine_feedback.j2")
    chat = _after(turn, draft, request)
    model = setting.model("vanilla")
    feedback = await asks.ask(_generation(turn, "feedback", model, chat, setting))
    steps = [*draft.steps, _step("feedback", model, feedback)]
    revise = prompts.render(TEMPLATES, "self_refine_revise.j2")
    chat = (*chat, Message("assistant", feedback.text), Message("user", revise))
    return await _tagged(asks, turn, setting, "refine", chat, steps)


async def emotional_cot(asks: Asks, turn: GoldTurn, setting: Setting) -> Outcome:
    """The seeker's emotional state first, then strategy and reply from it (appendix D.2)."""
    chat = _vanilla_chat(turn)
    request = prompts.render(TEMPLATES, "emotional_cot_state.j2")
    asked = (*chat[:-1], Message("user", f"{turn.seeker}\n\n{request}"))
    model = setting.model("vanilla")
    state = await asks.ask(_generation(turn, "emotional state", model, asked, setting))
    steps = [_step("emotional state", model, state)]
    respond = prompts.render(TEMPLATES, "emotional_cot_respond.j2")
    chat = (*asked, Message("assistant", state.text), Message("user", respond))
    return await _tagged(asks, turn, setting, "respond", chat, steps)


SYSTEMS: dict[str, System] = {
    "decoupled": decoupled,
    "decoupled-gold": decoupled_gold,
    "vanilla": vanilla,
    "direct-refine": direct_refine,
    "self-refine": self_refine,
    "emotional-cot": emotional_cot,
}
"""Name to system."""


def _vanilla_chat(turn: GoldTurn) -> tuple[Message, ...]:
    return plan_and_speak.vanilla_chat(turn.entangled_history, turn.seeker)


def _after(turn: GoldTurn, draft: Outcome, request: str) -> tuple[Message, ...]:
    said = Message("assistant", draft.steps[-1]["text"])
    return (*_vanilla_chat(turn), said, Message("user", request))


def _generation(
    turn: GoldTurn, step: str, model: str, chat: tuple[Message, ...], setting: Setting
) -> Generation:
    sampling = setting.sampling(setting.reply_tokens)
    return Generation(turn.id, step, model, chat, sampling, expected=turn.response)


async def _speak(
    asks: Asks, turn: GoldTurn, setting: Setting, strategy: Strategy | str
) -> tuple[str, Row]:
    """(the generator's reply, its step)."""
    model = setting.model("rg")
    chat = plan_and_speak.rg_chat(turn.history, turn.seeker, strategy)
    answer = await asks.ask(_generation(turn, "speak", model, chat, setting))
    return answer.text.strip(), _step("speak", model, answer)


async def _tagged(
    asks: Asks,
    turn: GoldTurn,
    setting: Setting,
    step: str,
    chat: tuple[Message, ...],
    steps: list[Row],
) -> Outcome:
    """The outcome of a last step whose answer is ``[Strategy] reply``."""
    model = setting.model("vanilla")
    call = Generation(
        turn.id,
        step,
        model,
        chat,
        setting.sampling(PLAN_TOKENS + setting.reply_tokens),
        plan_and_speak.constraint_of("vanilla", setting.decode),
        expected=tag(turn.strategy, turn.response),
    )
    answer = await asks.ask(call)
    strategy, response = strip_tag(answer.text)
    # What stands in the first brackets, or how an answer without any begins.
    bracket = answer.text.partition("[")[2].partition("]")
    head = bracket[0] if bracket[1] else answer.text.lstrip()
    return Outcome(
        strategy=strategy,
        raw_strategy=head[:80],
        response=response.strip(),
        steps=[*steps, _step(step, model, answer)],
    )


def _step(name: str, model: str, answer: Reply) -> Row:
    return {"step": name, "model": model, "text": answer.text, "truncated": answer.truncated}
