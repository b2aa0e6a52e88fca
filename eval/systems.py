"""The systems of the paper's Tables 3 and 4, and two beside them for conversations.

A system is a coroutine from the answering of a turn to its plan and reply; every intermediate
answer is kept. It asks and knows nothing of servers, retries or files.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from esc import adapters, paths, plan_and_speak, prompts
from esc.dialogue import GoldTurn
from esc.files import Row
from esc.llm import Asks, Generation, Reply, Sampling
from esc.paths import Lineage
from esc.plan_and_speak import PLAN_TOKENS, TEMPERATURE, TOP_P, Answer, Plan
from esc.prompts import Message
from esc.strategies import strip_tag, tag

TEMPLATES = Path(__file__).parent / "prompts"


@dataclass(frozen=True, slots=True)
class Setting:
    """How a system is run: ``base``, ``sft`` or ``dpo``, with which preference training."""

    stage: str
    decode: str
    reply_tokens: int
    """Room for a reply."""
    temperature: float = TEMPERATURE
    """As the authors' code samples; 0 is greedy."""
    lineage: Lineage = paths.PAPER
    external: str = ""
    """Of the system ``external``, its model."""

    @property
    def trained(self) -> str:
        """Stage and lineage in one word: ``sft``, ``dpo_ipo_r2`` …"""
        return f"{self.stage}{self.lineage.suffix}"

    @property
    def top_p(self) -> float:
        """The mass of the tokens that are drawn from; a greedy answer has no use for it."""
        return TOP_P if self.temperature else 1.0

    def model(self, task: str) -> str:
        """The served name of the policy of a task."""
        return adapters.served_name(task, self.stage, self.lineage.of(task))

    def trained_on(self, work: Path, model: str, system: str) -> list[Path]:
        """The folders of the adapters that a system of this kit asks, for the leak guard."""
        tasks = paths.tasks_of(system) if system in SYSTEMS and self.stage != "base" else ()
        return [work / paths.adapter(model, t, self.stage, self.lineage.of(t)) for t in tasks]


@dataclass(frozen=True, slots=True)
class Answering:
    """One turn that is being answered."""

    asks: Asks
    turn: GoldTurn
    setting: Setting
    sample: int = 0
    """Another one is another draw of every answer."""
    steps: list[Row] = field(default_factory=list)
    """Every answer on the way, in order: step, model, text, truncated."""

    def call(
        self, step: str, task: str, chat: tuple[Message, ...], room: int, held: str = ""
    ) -> Generation:
        """A question to a task's model; its answer is ``held`` to the form of this gold one."""
        return Generation(
            self.turn.id,
            step,
            self.setting.model(task),
            chat,
            Sampling(room, self.setting.temperature, self.setting.top_p),
            plan_and_speak.constraint_of(task, self.setting.decode) if held else None,
            self.sample,
            expected=held or self.turn.response,
        )

    def keep(self, call: Generation, answer: Reply) -> str:
        """The text of an answer that is noted."""
        told = {"step": call.step, "model": call.model, "text": answer.text}
        self.steps.append(told | {"truncated": answer.truncated})
        return answer.text


async def _decoupled(one: Answering, *, gold: bool = False) -> Answer:
    """Planner, or the gold strategy (Table 4); then the generator under it."""
    turn, before = one.turn, plan_and_speak.before(one.turn, one.setting.lineage.layout)
    plan = Plan(turn.strategy.value, turn.strategy, None)
    if not gold:
        chat = plan_and_speak.sp_chat(turn.history, turn.seeker, before)
        call = one.call("plan", "sp", chat, PLAN_TOKENS, turn.strategy.value)
        plan, answer = await plan_and_speak.plan(one.asks, call)
        one.keep(call, answer)
    chat = plan_and_speak.rg_chat(turn.history, turn.seeker, plan.strategy or plan.raw, before)
    call = one.call("speak", "rg", chat, one.setting.reply_tokens)
    return Answer(plan, one.keep(call, await one.asks.ask(call)).strip())


ENTANGLED = {
    "vanilla": {"respond": ""},
    "direct-refine": {"respond": "", "refine": "direct_refine.j2"},
    "self-refine": {
        "respond": "",
        "feedback": "self_refine_feedback.j2",
        "refine": "self_refine_revise.j2",
    },
    "emotional-cot": {
        "emotional state": "emotional_cot_state.j2",
        "respond": "emotional_cot_respond.j2",
    },
}
"""What the entangled model is asked one after the other, as {step: request}: alone, and as the
prompt baselines of appendix D.2 (Self-Refine is of Madaan et al., 2023)."""
_FREE = ("feedback", "emotional state")
"""Steps that are answered in any form; the others as ``[Strategy] reply``."""


async def _entangled(steps: Mapping[str, str], one: Answering) -> Answer:
    """The entangled model's last answer, taken apart; each step follows the answer before it."""
    chat = plan_and_speak.chat_and_gold("vanilla", one.turn)[0]
    text = ""
    for step, template in steps.items():
        request = prompts.render(TEMPLATES, template) if template else ""
        if one.steps:
            chat = (*chat, Message("assistant", text), Message("user", request))
        elif request:
            chat = (*chat[:-1], Message("user", f"{one.turn.seeker}\n\n{request}"))
        room, held = one.setting.reply_tokens, ""
        if step not in _FREE:
            room, held = room + PLAN_TOKENS, tag(one.turn.strategy, one.turn.response)
        call = one.call(step, "vanilla", chat, room, held)
        text = one.keep(call, await one.asks.ask(call))
    strategy, response = strip_tag(text)
    # What stands in the first brackets, or how an answer without any begins.
    bracket = text.partition("[")[2].partition("]")
    head = bracket[0] if bracket[1] else text.lstrip()
    return Answer(Plan(strategy.value if strategy else head[:80], strategy, None), response.strip())


EMPTY_WORDS = (
    "Thank you for telling me this. I am here for you.",
    "That sounds like a lot. You are doing your best, and that is what counts.",
    "I hear you. Things have a way of working out in the end.",
    "You are not alone. Every day is a new beginning.",
    "That is completely understandable. Be kind to yourself.",
    "You are stronger than you think. I believe in you.",
)
"""What the control says, one after the other and again: warm, and true of anything."""


async def _template(one: Answering) -> Answer:
    """The control: nothing of what it says depends on what it hears."""
    said = EMPTY_WORDS[len(one.turn.history) % len(EMPTY_WORDS)]
    return Answer(Plan("", None, None), said)


async def _external(one: Answering) -> Answer:
    """Any chat model, with a plain system prompt."""
    system = Message("system", prompts.render(TEMPLATES, EXTERNAL))
    chat = plan_and_speak.rg_chat(one.turn.history, one.turn.seeker, "")[1:]
    asked = one.call("respond", "rg", (system, *chat), one.setting.reply_tokens)
    call = replace(asked, model=one.setting.external)
    return Answer(Plan("", None, None), one.keep(call, await one.asks.ask(call)).strip())


System = Callable[[Answering], Awaitable[Answer]]
SYSTEMS: dict[str, System] = {
    "decoupled": _decoupled,
    "decoupled-gold": partial(_decoupled, gold=True),
    **{name: partial(_entangled, steps) for name, steps in ENTANGLED.items()},
}
EXTERNAL = "external_system.j2"
OTHERS: dict[str, System] = {"template": _template, "external": _external}
"""Those that are no policies of this kit, and have no stage."""
CONVERSING = {name: one for name, one in SYSTEMS.items() if name != "decoupled-gold"} | OTHERS
"""Those that need no gold, and so can talk."""
