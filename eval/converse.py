"""Systems in conversation with simulated seekers, each card once, all at the same time.

    make converse SYSTEMS="decoupled template" CARDS=sample

Writes ``runs/<model>/conversations/<system>_<stage>/``: ``calls.jsonl``, every answer as it comes,
``conversations.jsonl``, ``measures.json`` and last ``run.json``; and beside the folders
``compared.json``. A seeker ends its conversation, or ``turns`` replies do. Where an answer of the
seeker cannot be read, a request is refused for good, or the context is full, the conversation ends
there, marked. A model that plays a seeker is no seeker: research software, no counselling.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer

from data_builders import leaks, seekers
from data_builders.seekers import DANGER, Cards
from esc import backbones, cli, files, judging, paths, prompts, step
from esc.adapters import weights_of
from esc.dialogue import GoldTurn
from esc.files import EscError, Row
from esc.judging import FOR_GOOD, Asking, Policies, Sending
from esc.llm import Asks, Failure, Reason
from esc.plan_and_speak import TEMPERATURE, Answer
from esc.seeker import STEP, Card, Heard, Playing, Said, Seeker
from esc.seeker import TEMPLATES as SEEKER_PROMPTS
from esc.step import CALLS, RunFolder
from esc.strategies import UNREADABLE
from eval import conversation_measures as measures
from eval import systems
from eval.conversation_measures import COMPARED, CONTROL, CONVERSATIONS, ENDED, MEASURES, SECOND
from eval.predict import system_of
from eval.systems import CONVERSING, ENTANGLED, EXTERNAL, OTHERS, SYSTEMS, Answering, Setting

_PROMPTS = (*prompts.PROMPTS, *prompts.OF_DIALOGUES, *SEEKER_PROMPTS)
_OWN_PROMPTS = (
    EXTERNAL,
    *(name for steps in ENTANGLED.values() for name in steps.values() if name),
)
_FORMAT = 1  # raised with every change of a record's meaning
_EXPECTED = "x" * 112  # a reply, for a dry run


def _turn(card: Card, heard: Sequence[Heard], plans: Sequence[Answer], said: Said) -> GoldTurn:
    """What a system meets: the conversation so far, in the form of a turn without gold."""
    return GoldTurn(
        id=f"{card.id}-{len(heard)}",
        seeker=said.say,
        strategy=UNREADABLE,
        response=_EXPECTED,
        history=tuple((before.say, reply) for before, reply in heard),
        history_strategies=tuple(answer.plan.strategy for answer in plans),
        dialogue_turns=0,
    )


async def talk(
    asks: Asks, card: Card, *, system: str, setting: Setting, seeker: Seeker, turns: int
) -> Row:
    """One conversation as its record has it; raises Failure where it may go on another time."""
    heard, answers, rows = list[Heard](), list[Answer](), list[Row]()
    ended = detail = ""
    last: Said | None = None  # the seeker's words that no reply has followed
    try:
        said = await seeker.says(asks, card, heard)
        while isinstance(said, Said):
            last = said
            # Who has heard nothing yet cannot be done.
            if (rows and said.done) or len(rows) == turns:
                ended = "done" if rows and said.done else "turns"
                break
            turn = _turn(card, heard, answers, said)
            asked = Answering(asks, turn, setting, seeker.seed)
            try:
                answer = await CONVERSING[system](asked)
            except Failure as failed:
                if failed.kind is not Reason.EMPTY:
                    raise
                ended, detail = "silent", failed.message
                break
            cut = any(step["truncated"] for step in asked.steps)
            felt = {"said": said.say, "intensity": said.intensity}
            rows.append(felt | _row(answer) | {"truncated": cut})
            answers.append(answer)
            heard.append((said, answer.response))
            last = None
            said = await seeker.says(asks, card, heard)
        else:
            ended, detail = "unreadable", f"{said.reason}: {said.detail}"
    except Failure as failed:
        if failed.kind not in FOR_GOOD:
            raise
        ended = "too long" if failed.kind is Reason.TOO_LONG else "refused"
        detail = failed.message
    final = {"said": last.say, "intensity": last.intensity} if last else None
    return {"ended": ended, "detail": detail, "turns": rows, "last": final}


def _row(answer: Answer) -> Row:
    plan, spread = answer.plan, answer.plan.distribution or {}
    return {
        "strategy": plan.strategy.value if plan.strategy else None,
        "raw_strategy": plan.raw,
        "distribution": {s.value: round(p, 6) for s, p in spread.items()} or None,
        "reply": answer.response,
    }


def _asking(
    sending: Sending,
    system: str,
    setting: Setting,
    cards: Cards,
    turns: int,
    seeker: Seeker,
    at: Policies,
    folder: Path,
) -> Asking[Card]:
    """The conversations of one system with one seeker."""
    model, work = sending.model, sending.work
    seen = leaks.overlap(cards.known, setting.trained_on(work, model, system))
    smoke = judging.is_smoke(seeker.who.name) or cards.smoke
    smoke |= system in SYSTEMS and step.is_smoke(model, work)
    # Systems are compared that talked under the same.
    under: Row = {
        "CARDS": cards.sha256,
        "SEEKER": seeker.who.name,
        "SEED": seeker.seed,
        "TURNS": turns,
        "seeker's prompts": prompts.hash_of(SEEKER_PROMPTS),
    }
    how: Row = {
        "STAGE": setting.stage,
        "VARIANT": setting.lineage.variant,
        "ROUND": setting.lineage.round,
        "LAYOUT": setting.lineage.layout,
        "EXTERNAL": setting.external if system == "external" else None,
        "DECODE": setting.decode,
        "reply_tokens": setting.reply_tokens,
        "TEMPERATURE": setting.temperature,
        "top_p": setting.top_p,
    }
    options: Row = {
        "format": _FORMAT,
        "MODEL": model,
        "SYSTEM": system,
        # Nothing of it reaches the control.
        **({} if system == CONTROL else how),
        **under,
        "weights": {**seeker.who.weights, **at.weights},
        "prompts": prompts.hash_of(_PROMPTS) + prompts.hash_of(_OWN_PROMPTS, systems.TEMPLATES),
        "smoke": smoke,
    }

    def row(card: Card, said: Row | Failure) -> Row:
        own: Row = {"id": card.id, "card": card.model_dump()}
        if isinstance(said, Failure):
            return own | {"status": "failed", "failure": said.row()}
        return own | {"status": "ok"} | said

    def told(rows: Sequence[Row]) -> Row:
        found = measures.measured(rows)
        about: Row = {"system": system, "cards": cards.origin, "seeker": seeker.who.name}
        about |= {"under": under, "seen": seen, "left_out": cards.left_out}
        return about | found | {"smoke": smoke}

    return Asking(
        folder=RunFolder(folder, options, CONVERSATIONS),
        who=at,
        records=lambda: cards.cards,
        ask=partial(talk, system=system, setting=setting, seeker=seeker, turns=turns),
        row=row,
        told=told,
        report=partial(_report, folder),
        summary=MEASURES,
        others={} if system == CONTROL else {STEP: seeker.who},
        free=frozenset(at.weights),
        # A seeker's first words are the same whoever listens.
        known=[one / CALLS for one in _beside(folder) if one != folder],
    )


def _beside(folder: Path) -> list[Path]:
    """The folders of all systems with the same seeker, this one among them."""
    is_second = folder.name == SECOND
    root = folder.parent.parent if is_second else folder.parent
    return sorted(root.glob(f"*/{SECOND}" if is_second else "*"))


def _report(folder: Path, found: Row) -> str:
    ended = ", ".join(f"{n} {ENDED[name]}" for name, n in found["ended"].items() if n)
    lines = [
        f"talked      {folder / CONVERSATIONS}: {found['conversations']} of {found['cards']}, with "
        f"{found['seeker']}; {ended or 'none ended'}"
    ]
    for name in ("relief", "eased", "dropped_out", "replies", "words", "repeated"):
        of = found["numbers"][name]
        value = of.get("share", of.get("value"))
        ends = "" if of["low"] is None else f" [{of['low']:.2f}, {of['high']:.2f}]"
        shown = "undefined" if value is None else f"{value:.2f}{ends}"
        lines.append(f"{name.replace('_', ' '):<12}{shown}")
    if people := found["human"]:
        lines.append(
            f"people      relief {people['relief']['value']:.2f}, eased "
            f"{people['eased']['share']:.2f} ({people['n']} of the same cards' dialogues)"
        )
    if found["left_out"]:
        lines.append(f"left out    {found['left_out']} cards, nearly a situation of the train set")
    if seen := leaks.told(found["seen"]):
        lines.append(f"leak        {seen}")
    if found["failed"]:
        lines.append("incomplete  the same command goes on with what is missing")
    return "\n".join(lines + [step.SMOKE] * found["smoke"])


@cli.command(
    examples="  python -m eval converse --system decoupled template --cards sample --limit 4\n"
    "  python -m eval converse --model qwen2.5-7b --system decoupled_dpo vanilla_dpo template "
    "--seeker gpt-4.1-mini --price 0.40/1.60 --dry-run"
)
def main(
    sending: Sending,
    playing: Playing,
    system: Annotated[
        list[str],
        typer.Option(
            envvar=["SYSTEMS", "SYSTEM"], help=f"{', '.join(CONVERSING)}, or with a stage"
        ),
    ] = ["decoupled", CONTROL],  # noqa: B006
    stage: Annotated[
        Literal["base", "sft", "dpo"] | None, typer.Option(envvar="STAGE", help="default: sft")
    ] = None,
    variant: cli.Variant = None,
    round: Annotated[  # noqa: A002
        int | None, typer.Option(envvar="ROUND", min=1, help="of the DPO training [default: 1]")
    ] = None,
    layout: cli.Layout = "turn",
    decode: cli.Decode = None,
    temperature: Annotated[
        float, typer.Option(envvar="TEMPERATURE", min=0, help="of the systems; 0 is greedy")
    ] = TEMPERATURE,
    base_url: cli.BaseUrl = None,
    cards: Annotated[
        str | None,
        typer.Option(envvar="CARDS", help="file, sample or danger [default: the test dialogues']"),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(envvar="LIMIT", help="cards, drawn by their id", min=1)
    ] = None,
    seeker2: Annotated[
        str | None, typer.Option(envvar="SEEKER2", help="another one, for how far they agree")
    ] = None,
    seeker2_base_url: Annotated[
        str | None, typer.Option(envvar="SEEKER2_BASE_URL", help="where it answers")
    ] = None,
    external: Annotated[
        str | None, typer.Option(envvar="EXTERNAL", help="model of the system external")
    ] = None,
    external_base_url: Annotated[
        str | None, typer.Option(envvar="EXTERNAL_BASE_URL", help="where it answers")
    ] = None,
) -> int:
    """Systems in conversation with simulated seekers, who say how they feel after every reply.

    A model that plays a seeker is no seeker: these numbers are about systems under one simulation.
    """
    model, work = sending.model, sending.work
    backbone, drawn = backbones.get(model), seekers.cards(work, cards, limit)
    base = work / paths.conversations(model, danger=cards == DANGER)
    players = {"": playing.who(sending)}
    if seeker2:
        how: Row = {"keyless": sending.dry_run, "variable": "SEEKER2"}
        players[SECOND] = judging.base_or(model, work, seeker2, seeker2_base_url, **how)
    wanted = {}
    for name in dict.fromkeys(system):
        which, at, lineage = (name, "base", paths.PAPER)
        if name not in OTHERS:
            which, at, lineage = system_of(name, stage, variant, round, layout)
        if which not in CONVERSING:
            raise EscError(f"SYSTEM={name} takes gold strategies, and a conversation has none")
        setting = Setting(
            at,
            decode or backbone.decode,
            backbone.reply_tokens,
            temperature,
            lineage,
            external or "",
        )
        folder = base / (name if name in OTHERS else f"{which}_{setting.trained}")
        for second, who in players.items():
            if which == CONTROL:
                # It asks nobody, but for its seeker.
                policies = Policies(who.weights, who.urls or None)
            elif which == "external":
                if not external:
                    raise EscError("SYSTEM=external takes EXTERNAL=model, and EXTERNAL_BASE_URL")
                at_url = external_base_url or base_url
                asked = judging.judge_for(
                    model, external, at_url, keyless=sending.dry_run, variable="EXTERNAL"
                )
                policies = Policies({}, asked.urls)
            else:
                models = sorted({setting.model(task) for task in paths.tasks_of(which)})
                weights = weights_of(work, model, models, elsewhere=bool(base_url))
                policies = Policies(weights, base_url)
            of = (sending, which, setting, drawn, playing.turns, Seeker(who, playing.seed))
            label = f"{folder.name}, {second}" if second else folder.name
            wanted[label] = partial(_asking, *of, policies, folder / second)
    if sending.dry_run:
        print("judge       not in it: python -m eval rate --dry-run, once they have talked")
    try:
        return judging.ask_all(wanted, sending)
    finally:
        # Also where one system failed: the others may have talked anew.
        if not sending.dry_run and base.is_dir():
            found = measures.compared(base)
            files.write_json(base / COMPARED, found)
            print(f"compared    {base / COMPARED}: {found['tells']['said']}")
