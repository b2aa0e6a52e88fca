"""Talk: the planner's distribution, a strategy that a person may change, the reply under it.

Nothing that is typed is kept but in the browser's own session, unless the transcript is saved.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import gradio as gr

from esc import adapters, backbones, files, paths, plan_and_speak, policy_server
from esc.adapters import BASE, parts
from esc.dialogue import GoldTurn
from esc.files import EscError, Row
from esc.llm import Cache, Chat, Generation, Sampling
from esc.paths import EMBEDDED, tasks_of
from esc.plan_and_speak import TIMEOUT, TOP_P, Answer, Plan
from esc.prompts import Message
from esc.step import SMOKE
from esc.strategies import UNREADABLE, Strategy
from eval.predict import system_of
from eval.systems import SYSTEMS, Answering, Setting
from eval.ui.parts import one_message, said, shown


class _Forgetting(Cache):
    """Keeps no answer: what people type is nobody else's."""

    def put(self, key: str, audit: Row, answer: Row) -> None:
        """Store nothing."""


@dataclass
class Models:
    """The policies of a backbone, on the running server or one of this page's own."""

    model: str
    work: Path
    base_url: str | None
    decode: str | None = None
    _chats: dict[tuple[str, ...], Chat] = field(default_factory=dict)
    _served: bool = False  # by make serve, when last asked

    def systems(self) -> list[str]:
        """Those that can be talked with: the base, and what is trained."""
        there = {parts(name.replace("-", "_")) for name in adapters.found(self.work, self.model)}
        trained = {one for one in there if one}
        found = ["decoupled_base", "vanilla_base"]
        for stage, lineage in sorted({one[1:] for one in trained}, key=str):
            for system in ("decoupled", "vanilla"):
                if all((task, stage, lineage) in trained for task in tasks_of(system)):
                    found.append(paths.run("", system, stage, lineage).name)
        return sorted(found, key=lambda name: (name.split("_")[1] == BASE, name))

    def setting(self, name: str, temperature: float) -> tuple[str, Setting]:
        """(system, how it is run) of a name such as ``decoupled_dpo``."""
        backbone = backbones.get(self.model)
        system, stage, lineage = system_of(name, None, None, None)
        how = self.decode or backbone.decode, backbone.reply_tokens, temperature, lineage
        return system, Setting(stage, *how)

    async def chat(self, models: Sequence[str]) -> Chat:
        """Where these served names are asked; starts a server where none runs."""
        # Each time anew: the server may be another one since.
        if self._served and not policy_server.running(self.model, self.work):
            self._served = False
            again = paths.make("serve", work=self.work, model=self.model)
            raise EscError(f"the server has ended; {again} starts one, then send again")
        urls = await asyncio.to_thread(
            policy_server.servers, self.model, self.work, self.base_url, {}
        )
        running = policy_server.running(self.model, self.work)
        self._served = not self.base_url and running is not None
        chat = self._chats.get(tuple(urls))
        if chat is None:
            chat = Chat(urls, _Forgetting(), timeout=TIMEOUT, connections=8)
        await chat.connect(sorted({*models}))
        self._chats[tuple(urls)] = chat
        return chat


Turn = Row
"""Of a conversation: said, reply, strategy, raw, distribution, by (planner or you), and mark."""


def as_turn(turns: Sequence[Turn], words: str) -> GoldTurn:
    """What a system meets: all turns so far, and the words to answer."""
    return GoldTurn(
        id=f"talk-{len(turns)}",
        seeker=words,
        strategy=UNREADABLE,
        response="",
        history=tuple((one["said"], one["reply"]) for one in turns),
        history_strategies=tuple(
            Strategy(one["strategy"]) if one["strategy"] else None for one in turns
        ),
        dialogue_turns=0,
    )


def spoken(words: str, answer: Answer, by: str = "planner") -> Turn:
    """A turn as it is shown and saved."""
    plan, spread = answer.plan, answer.plan.distribution or {}
    strategy = plan.strategy.value if plan.strategy else ""
    unread = "" if strategy or by == "you" else f"no strategy in {plan.raw[:60]!r}"
    return {
        "said": words,
        "reply": answer.response,
        "strategy": strategy,
        "raw": plan.raw,
        "distribution": {one.value: share for one, share in spread.items()},
        "by": by,
        "mark": "your choice" if by == "you" else unread,
    }


async def plan(models: Models, name: str, warm: float, turn: GoldTurn, attempt: int) -> Plan:
    """What the planner says to a turn."""
    _, setting = models.setting(name, warm)
    chat = await models.chat([setting.model("sp"), setting.model("rg")])
    asked = Answering(chat, turn, setting, attempt)
    messages = plan_and_speak.sp_chat(turn.history, turn.seeker)
    call = asked.call("plan", "sp", messages, plan_and_speak.PLAN_TOKENS, UNREADABLE.value)
    return (await plan_and_speak.plan(chat, call))[0]


async def speak(
    models: Models, name: str, warm: float, turn: GoldTurn, plan: Plan, attempt: int
) -> str:
    """The reply under a plan."""
    _, setting = models.setting(name, warm)
    chat = await models.chat([setting.model("rg")])
    messages = plan_and_speak.rg_chat(turn.history, turn.seeker, plan.strategy or plan.raw)
    room = Sampling(setting.reply_tokens, warm, TOP_P if warm else 1.0)
    call = Generation(turn.id, "speak", setting.model("rg"), messages, room, sample=attempt)
    return (await chat.ask(call)).text.strip()


async def answer(models: Models, name: str, warm: float, turn: GoldTurn, attempt: int) -> Answer:
    """What a system plans and says."""
    system, setting = models.setting(name, warm)
    chat = await models.chat([setting.model(task) for task in tasks_of(system)])
    return await SYSTEMS[system](Answering(chat, turn, setting, attempt))


def prompts_of(name: str, turns: Sequence[Turn]) -> list[tuple[str, tuple[Message, ...]]]:
    """The chats that the last turn was asked with, by step."""
    if not turns:
        return []
    turn, last = as_turn(turns[:-1], turns[-1]["said"]), turns[-1]
    if not name.startswith("decoupled"):
        return [("entangled model", plan_and_speak.chat_and_gold("vanilla", turn)[0])]
    strategy = Strategy(last["strategy"]) if last["strategy"] else last["raw"]
    planner = plan_and_speak.sp_chat(turn.history, turn.seeker)
    return [
        ("planner", planner),
        ("generator", plan_and_speak.rg_chat(turn.history, turn.seeker, strategy)),
    ]


def save(work: Path, model: str, name: str, turns: Sequence[Turn]) -> Path:
    """The file that a transcript is saved to, under ``runs/<model>/transcripts``."""
    folder = work / "runs" / model / "transcripts"
    path = folder / f"{time.strftime('%Y%m%d-%H%M%S')}_{name}.json"
    about = {"model": model, "system": name, "smoke": model == EMBEDDED, "turns": [*turns]}
    files.write_json(path, about)
    return path


def bars(turn: Mapping[str, Any]) -> str:
    """The distribution of a turn; a word where there is none."""
    if not turn["distribution"]:
        told = "the entangled model, or this server, gives no distribution over the strategies"
        return said(told)
    return shown("bars", bars=turn["distribution"], chosen=turn["strategy"])


def tab(models: Models, preferred: str) -> None:
    """The widgets."""
    systems = models.systems()
    first = preferred if preferred in systems else systems[0]
    if len(systems) == 2:
        train = paths.make("sft-sp", "sft-rg", work=models.work, model=models.model)
        gr.HTML(said(f"No adapters yet: this is the base model. {train} trains them."))
    turns, attempt = gr.State(list[Turn]()), gr.State(0)
    with gr.Row():
        name = gr.Dropdown(systems, value=first, label="system", elem_id="talk-system")
        warm = gr.Slider(0, 1.5, value=0.7, step=0.1, label="temperature")
    talk = gr.HTML(shown("talk", turns=[]), elem_id="talk-log")
    status = gr.HTML(said("Say something."), elem_id="talk-status")
    with gr.Row():
        words = gr.Textbox(label="you", elem_id="talk-words", scale=4, lines=1, autofocus=True)
        send = gr.Button("Send", variant="primary", elem_id="talk-send", scale=1)
    spread = gr.HTML(elem_id="talk-bars", label="strategies")
    with gr.Row():
        other = gr.Dropdown(
            [one.value for one in Strategy], label="another strategy", elem_id="talk-strategy"
        )
        anew = gr.Button("Reply anew", elem_id="talk-anew")
    with gr.Row():
        clear, store = gr.Button("Start again"), gr.Button("Save transcript", elem_id="talk-save")
    with gr.Accordion("The exact prompt", open=False):
        prompt = gr.HTML(elem_id="talk-prompt")

    async def sent(
        words: str, turns: list[Turn], name: str, warm: float, attempt: int
    ) -> AsyncIterator[tuple[Any, ...]]:
        if not (words := " ".join(words.split())):
            yield turns, attempt, gr.skip(), said("Say something."), words, gr.skip()
            return
        waiting = [*turns, {"said": words, "reply": None, "strategy": "", "mark": ""}]
        yield turns, attempt, shown("talk", turns=waiting), _asking(models), words, gr.skip()
        with one_message():
            turn = as_turn(turns, words)
            if name.startswith("decoupled"):
                planned = await plan(models, name, warm, turn, attempt)
                draft = spoken(words, Answer(planned, ""))
                waiting[-1] = draft | {"reply": "…"}
                speaking = said(f"Speaking under: {planned.strategy or planned.raw[:60]}")
                yield turns, attempt, shown("talk", turns=waiting), speaking, words, bars(draft)
                reply = await speak(models, name, warm, turn, planned, attempt)
                found = Answer(planned, reply)
            else:
                found = await answer(models, name, warm, turn, attempt)
        turns = [*turns, spoken(words, found)]
        yield turns, attempt + 1, shown("talk", turns=turns), _who(models), "", bars(turns[-1])

    async def again(
        turns: list[Turn], name: str, warm: float, attempt: int, chosen: str | None
    ) -> tuple[Any, ...]:
        if not turns:
            return turns, attempt, gr.skip(), said("There is no reply yet."), gr.skip()
        *before, last = turns
        with one_message():
            turn = as_turn(before, last["said"])
            if name.startswith("decoupled"):
                strategy = Strategy(chosen or last["strategy"] or UNREADABLE)
                spread = {Strategy(k): v for k, v in last["distribution"].items()}
                planned = Plan(last["raw"], strategy, spread or None)
                reply = await speak(models, name, warm, turn, planned, attempt)
                found = Answer(replace(planned, strategy=strategy), reply)
                by = "planner" if strategy == last["strategy"] else "you"
            else:
                found, by = await answer(models, name, warm, turn, attempt), "planner"
        turns = [*before, spoken(last["said"], found, by)]
        return turns, attempt + 1, shown("talk", turns=turns), _who(models), bars(turns[-1])

    def stored(turns: list[Turn], name: str) -> str:
        with one_message():
            path = save(models.work, models.model, name, turns) if turns else None
        return said(f"Saved: {path}" if path else "There is nothing to save.")

    def empty() -> tuple[Any, ...]:
        return [], shown("talk", turns=[]), said("Say something."), "", ""

    how: Row = {"show_progress": "minimal", "api_name": False}
    sending = [words, turns, name, warm, attempt]
    into = [turns, attempt, talk, status, words, spread]
    gr.on([words.submit, send.click], sent, sending, into, **how)
    asked = [turns, name, warm, attempt, other]
    anew.click(again, asked, [turns, attempt, talk, status, spread], **how)
    store.click(stored, [turns, name], status, **how)
    gr.on([clear.click, name.change], empty, None, [turns, talk, status, spread, prompt], **how)

    def prompted(turns: list[Turn], name: str) -> str:
        return shown("prompt", prompts=prompts_of(name, turns))

    turns.change(prompted, [turns, name], prompt, **how)


def _asking(models: Models) -> str:
    running = models.base_url or policy_server.running(models.model, models.work)
    starts = "" if running else " No server runs: one is started, which takes a minute or so."
    return said(f"Asking.{starts}")


def _who(models: Models) -> str:
    return said(SMOKE if models.model == EMBEDDED else models.model)
