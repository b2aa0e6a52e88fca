"""Talk: the planner's distribution, a strategy that a person may change, the reply under it.

Nothing that is typed is kept but for the browser's session, unless the transcript is saved.
"""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gradio as gr

from esc import adapters, backbones, files, paths, plan_and_speak, policy_server
from esc.dialogue import GoldTurn
from esc.files import EscError, Row
from esc.llm import Cache, Chat, Failure, Generation, Sampling
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
    _starting: asyncio.Lock = field(default_factory=asyncio.Lock)

    def systems(self) -> list[str]:
        """Those that can be talked with: what is trained, and the base."""
        served = adapters.found(self.work, self.model)
        there = {adapters.parts(name.replace("-", "_")) for name in served}
        found = ["decoupled_base", "vanilla_base"]
        for _, stage, lineage in sorted(filter(None, there), key=str):
            for system in ("decoupled", "vanilla"):
                if {(task, stage, lineage.of(task)) for task in tasks_of(system)} <= there:
                    found.insert(-2, paths.run("", system, stage, lineage).name)
        return list(dict.fromkeys(found))

    def setting(self, name: str, warm: float) -> tuple[str, Setting]:
        """(system, how it is run) of a name such as ``decoupled_dpo``."""
        backbone = backbones.get(self.model)
        system, stage, lineage = system_of(name, None, None, None)
        how = self.decode or backbone.decode, backbone.reply_tokens, warm, lineage
        return system, Setting(stage, *how)

    async def chat(self, models: Sequence[str]) -> Chat:
        """Where these served names are asked; starts a server where none was."""
        # Each time anew: the server may be another one since.
        if self._served and not policy_server.running(self.model, self.work):
            self._served = False
            again = paths.make("serve", work=self.work, model=self.model)
            raise EscError(f"the server has ended; {again} starts one, then send again")
        of = self.model, self.work, self.base_url
        async with self._starting:  # two first messages at once: one server
            urls = tuple(await asyncio.to_thread(policy_server.servers, *of, {}))
        self._served = bool(not self.base_url and policy_server.running(self.model, self.work))
        if urls not in self._chats:
            self._chats[urls] = Chat(urls, _Forgetting(), timeout=TIMEOUT, connections=8)
        await self._chats[urls].connect(sorted({*models}))
        return self._chats[urls]


Turn = Row
"""Of a conversation: said, reply, strategy, raw, distribution, and whose choice, as ``mark``."""


def as_turn(turns: Sequence[Turn], words: str) -> GoldTurn:
    """What a system meets: all turns so far, and the words to answer."""
    strategies = (Strategy(one["strategy"]) if one["strategy"] else None for one in turns)
    return GoldTurn(
        id=f"talk-{len(turns)}",
        seeker=words,
        strategy=UNREADABLE,
        response="",
        history=tuple((one["said"], one["reply"]) for one in turns),
        history_strategies=tuple(strategies),
        dialogue_turns=0,
    )


def spoken(system: str, words: str, answer: Answer, *, chosen: bool = False) -> Turn:
    """A turn as it is shown and saved; ``chosen``: its strategy by a person."""
    plan, spread = answer.plan, answer.plan.distribution or {}
    strategy = plan.strategy.value if plan.strategy else ""
    mark = "your choice" if chosen else "" if strategy else f"no strategy in {plan.raw[:60]!r}"
    shares = {one.value: share for one, share in spread.items()}
    about = {"system": system, "said": words, "reply": answer.response}
    about |= {"strategy": strategy, "raw": plan.raw}
    return about | {"distribution": shares, "mark": mark}


async def answer(models: Models, name: str, warm: float, turn: GoldTurn, attempt: int) -> Answer:
    """What a system plans and says; another ``attempt`` is another draw."""
    system, setting = models.setting(name, warm)
    chat = await models.chat([setting.model(task) for task in tasks_of(system)])
    return await SYSTEMS[system](Answering(chat, turn, setting, attempt))


async def planned(models: Models, name: str, warm: float, turn: GoldTurn, attempt: int) -> Plan:
    """What the planner of a decoupled system says to a turn."""
    _, setting = models.setting(name, warm)
    chat = await models.chat([setting.model("sp"), setting.model("rg")])
    past, room = plan_and_speak.before(turn, setting.lineage.layout), plan_and_speak.PLAN_TOKENS
    messages = plan_and_speak.sp_chat(turn.history, turn.seeker, past)
    asked = Answering(chat, turn, setting, attempt)
    return (await plan_and_speak.plan(chat, asked.call("plan", "sp", messages, room, "held")))[0]


async def under(
    models: Models, name: str, warm: float, turn: GoldTurn, plan: Plan, attempt: int
) -> Answer:
    """The generator's reply under a plan."""
    _, setting = models.setting(name, warm)
    chat = await models.chat([setting.model("rg")])
    past, strategy = plan_and_speak.before(turn, setting.lineage.layout), plan.strategy or plan.raw
    messages = plan_and_speak.rg_chat(turn.history, turn.seeker, strategy, past)
    room = Sampling(setting.reply_tokens, warm, TOP_P if warm else 1.0)
    call = Generation(turn.id, "speak", setting.model("rg"), messages, room, sample=attempt)
    return Answer(plan, (await chat.ask(call)).text.strip())


def prompts_of(name: str, turns: Sequence[Turn]) -> list[tuple[str, tuple[Message, ...]]]:
    """The chats that the last turn was asked with, by who was asked."""
    if not turns:
        return []
    turn, last = as_turn(turns[:-1], turns[-1]["said"]), turns[-1]
    if not name.startswith("decoupled"):
        return [("entangled model", plan_and_speak.chat_and_gold("vanilla", turn)[0])]
    strategy = Strategy(last["strategy"]) if last["strategy"] else last["raw"]
    past = plan_and_speak.before(turn, system_of(name, None, None, None)[2].layout)
    rg = plan_and_speak.rg_chat(turn.history, turn.seeker, strategy, past)
    sp = plan_and_speak.sp_chat(turn.history, turn.seeker, past)
    return [("planner", sp), ("generator", rg)]


def save(work: Path, model: str, turns: Sequence[Turn]) -> Path:
    """The file that a transcript is saved to, under ``runs/<model>/transcripts``."""
    at = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
    path = work / "runs" / model / "transcripts" / f"{at}.json"
    about = {"model": model, "smoke": model == EMBEDDED, "turns": [*turns]}
    files.write_json(path, about)
    return path


def bars(turn: Turn) -> str:
    """The distribution of a turn, the strategy marked; a word where there is none."""
    if not turn["distribution"]:
        return said("no distribution: of the entangled model, or this server tells none")
    return shown("bars", bars=turn["distribution"], chosen=turn["strategy"])


def tab(models: Models, preferred: str) -> None:
    """The widgets."""
    systems, who = models.systems(), SMOKE if models.model == EMBEDDED else models.model
    if len(systems) == 2:
        train = paths.make("sft-sp", "sft-rg", work=models.work, model=models.model)
        gr.HTML(said(f"No adapters yet: this is the base model. {train} trains them."))
    turns, attempt = gr.State(list[Turn]()), gr.State(0)
    with gr.Row():
        first = preferred if preferred in systems else systems[0]
        name = gr.Dropdown(systems, value=first, label="system", elem_id="talk-system")
        warm = gr.Slider(0, 1.5, value=0.7, step=0.1, label="temperature")
    talk = gr.HTML(elem_id="talk-log")
    status = gr.HTML(said("Say something."), elem_id="talk-status")
    with gr.Row():
        words = gr.Textbox(label="you", elem_id="talk-words", scale=4, autofocus=True)
        send = gr.Button("Send", variant="primary", elem_id="talk-send", scale=1)
    spread = gr.HTML(elem_id="talk-bars")
    with gr.Row():
        every = [one.value for one in Strategy]
        other = gr.Dropdown(every, value=None, label="another strategy", elem_id="talk-strategy")
        anew = gr.Button("Reply anew", elem_id="talk-anew")
        clear, store = gr.Button("Start again"), gr.Button("Save transcript", elem_id="talk-save")
    with gr.Accordion("The exact prompt", open=False):
        prompt = gr.HTML(elem_id="talk-prompt")

    async def sent(
        words: str, turns: list[Turn], name: str, warm: float, attempt: int
    ) -> AsyncIterator[tuple[Any, ...]]:
        if not (words := " ".join(words.split())):
            yield turns, attempt, gr.skip(), said("Say something."), words, gr.skip()
            return
        running = models.base_url or policy_server.running(models.model, models.work)
        waits = "" if running else " No server runs: one is started, which takes a minute or so."
        waiting = [*turns, {"said": words, "reply": None, "strategy": "", "mark": ""}]
        open_ = shown("talk", turns=waiting)
        yield turns, attempt, open_, said(f"Asking.{waits}"), words, gr.skip()
        try:
            turn = as_turn(turns, words)
            if name.startswith("decoupled"):
                plan = await planned(models, name, warm, turn, attempt)
                draft = spoken(name, words, Answer(plan, ""))
                told = said(f"Speaking under {plan.strategy or plan.raw[:60]!r}.")
                yield turns, attempt, open_, told, words, bars(draft)
                found = await under(models, name, warm, turn, plan, attempt)
            else:
                found = await answer(models, name, warm, turn, attempt)
        except (EscError, Failure, OSError) as error:
            told = said(f"No answer: {error}", "smoke")
            yield turns, attempt, shown("talk", turns=turns), told, words, gr.skip()
            return
        turns = [*turns, spoken(name, words, found)]
        yield turns, attempt + 1, shown("talk", turns=turns), said(who), "", bars(turns[-1])

    async def again(
        turns: list[Turn], name: str, warm: float, attempt: int, other: str | None
    ) -> tuple[Any, ...]:
        with one_message():
            if not turns:
                raise EscError("there is no reply yet: say something first")
            *before, last = turns
            turn, chosen = as_turn(before, last["said"]), other or last["strategy"]
            if name.startswith("decoupled"):
                shares = {Strategy(one): share for one, share in last["distribution"].items()}
                strategy = Strategy(chosen) if chosen else None
                plan = Plan(last["raw"], strategy, shares or None)
                found = await under(models, name, warm, turn, plan, attempt)
            else:
                found, chosen = await answer(models, name, warm, turn, attempt), ""
        by_planner = chosen in ("", last["raw"], last["strategy"]) and last["mark"] != "your choice"
        turns = [*before, spoken(name, last["said"], found, chosen=not by_planner)]
        return turns, attempt + 1, shown("talk", turns=turns), said(who), bars(turns[-1])

    def stored(turns: list[Turn]) -> str:
        with one_message():
            if not turns:
                raise EscError("there is nothing to save")
            return said(f"Saved: {save(models.work, models.model, turns)}")

    how: Row = {"show_progress": "minimal", "api_name": False}
    into = [turns, attempt, talk, status, words, spread]
    asking = [words, turns, name, warm, attempt]
    speaking = [gr.on([words.submit, send.click], sent, asking, into, **how)]
    asked = [turns, name, warm, attempt, other]
    again_into = [turns, attempt, talk, status, spread]
    speaking.append(anew.click(again, asked, again_into, **how))
    store.click(stored, turns, status, queue=False, **how)
    empty = [turns, talk, status, spread, prompt]
    nothing: tuple[Any, ...] = ([], "", said("Say something."), "", "")
    how |= {"cancels": speaking}
    gr.on([clear.click, name.change], lambda: nothing, None, empty, **how)
    del how["cancels"]
    turns.change(
        lambda turns, name: shown("prompt", prompts=prompts_of(name, turns)),
        [turns, name],
        prompt,
        queue=False,
        **how,
    )
