"""A system's strategy and reply for every turn of a split, each on the gold history before it.

Asks the running server (or one started for this run, or BASE_URL); writes to
``runs/<model>/<system>_<stage>/`` ``calls.jsonl``, every answer as it comes, ``predictions.jsonl``,
and ``run.json`` where no record failed. The same command goes on and asks nothing twice.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Annotated, Literal

import typer

from data_builders import leaks
from esc import adapters, backbones, cli, files, paths, prompts, step
from esc.adapters import weights_of
from esc.dialogue import GoldTurn, gold_turns
from esc.files import EscError, Row
from esc.judging import Asking, Policies, Sending, ask_all
from esc.llm import Asks, Failure, Reason, derived_seed
from esc.paths import PROMPT_BASELINES, at_stage, of_suffix, tasks_of
from esc.plan_and_speak import TEMPERATURE, TOP_P
from esc.predictions import PREDICTIONS, gold_row
from esc.step import RunFolder
from eval import systems
from eval.systems import ENTANGLED, SYSTEMS, Answering, Setting

_FORMAT = 2  # raised with every change of a record's meaning


def _asking(
    sending: Sending, system: str, setting: Setting, split: str, limit: int | None, at: str | None
) -> Asking[GoldTurn]:
    """The predictions of one system; EscError for whatever a user can mend."""
    model, work = sending.model, sending.work
    models = sorted({setting.model(task) for task in tasks_of(system)})
    weights = weights_of(work, model, models, elsewhere=bool(at))
    turns, manifest = gold_turns(work, split, limit), step.manifest(work)
    requests = sorted(filter(None, ENTANGLED.get(system, {}).values()))
    names = prompts.PROMPTS + prompts.OF_DIALOGUES * (setting.lineage.layout != paths.TURN)
    texts = [prompts.source(prompts.TEMPLATES, name) for name in names]
    texts += [prompts.source(systems.TEMPLATES, name) for name in requests]
    options: Row = {
        "format": _FORMAT,
        "MODEL": model,
        "SYSTEM": system,
        "STAGE": setting.stage,
        "VARIANT": setting.lineage.variant,
        "ROUND": setting.lineage.round,
        "LAYOUT": setting.lineage.layout,
        "SET": split,
        "LIMIT": limit,
        "DECODE": setting.decode,
        "reply_tokens": setting.reply_tokens,
        "TEMPERATURE": setting.temperature,
        "top_p": setting.top_p,
        "turns": len(turns),
        "weights": weights,
        "prompts": files.sha256_of(texts),
        "data": manifest.sets[paths.sft_file("rg", split)].sha256,
        "smoke": step.is_smoke(model, work),
    }
    folder = work / paths.run(model, system, setting.stage, setting.lineage)
    tested = leaks.of_ids(work, (turn.id for turn in turns))
    seen = leaks.overlap(tested, setting.trained_on(work, model, system))

    async def ask(asks: Asks, turn: GoldTurn) -> Row:
        answering = Answering(asks, turn, setting)
        answer = await SYSTEMS[system](answering)
        strategy, spread = answer.plan.strategy, answer.plan.distribution or {}
        return {
            "status": "ok" if strategy else "invalid",
            "predicted_strategy": strategy.value if strategy else None,
            "raw_strategy": answer.plan.raw,
            "distribution": {s.value: round(p, 6) for s, p in spread.items()} or None,
            "predicted_response": answer.response,
            "steps": answering.steps,
            "decode": setting.decode,
            "seed": derived_seed(turn.id, 0),
            "weights": weights,
        }

    def row(turn: GoldTurn, said: Row | Failure) -> Row:
        if isinstance(said, Failure):
            said = {"status": "failed", "failure": said.row()}
        return gold_row(turn) | said

    def told(records: Sequence[Row]) -> Row:
        count = Counter(record["status"] for record in records)
        reasons = Counter(str(r["failure"]["kind"]) for r in records if r["status"] == "failed")
        cut = [any(one["truncated"] for one in record.get("steps", ())) for record in records]
        return {
            "set": step.set_of(manifest, split),
            "records": len(records),
            **{status: count[status] for status in ("ok", "invalid", "failed")},
            "reasons": dict(reasons.most_common()),
            "truncated": sum(cut),
            "seen": seen,
            # With BASE_URL, the weights named are this WORK's; what the server holds is its matter.
            "asked": "BASE_URL" if at else "the server of this WORK",
        }

    def report(facts: Row) -> str:
        requests, warm = facts["requests"], setting.temperature
        drawn = f"temperature {warm}, top-p {setting.top_p}, seeded by the turn's id"
        lines = [
            f"predictions {folder / PREDICTIONS}",
            f"set         {facts['set']}",
            f"records     {facts['records']:,}: {facts['ok']:,} ok, {facts['invalid']:,} invalid "
            f"(unparsable strategy, DECODE={setting.decode}), {facts['failed']:,} failed; "
            f"{facts['truncated']:,} with an answer cut at its length limit",
            f"sampling    {drawn if warm else 'greedy'}",
            *(f"leak        {one}" for one in [leaks.told(facts["seen"])] if one),
            f"requests    {requests['answered']:,} answered, {requests['cached']:,} from the "
            f"cache, {requests['failed']:,} failed; {facts['seconds']:,.1f} s",
        ]
        if facts["failed"]:
            why = ", ".join(f"{count} {reason}" for reason, count in facts["reasons"].items())
            lines.append(f"incomplete  {why}; the same command asks again for what is missing")
        if Reason.TOO_LONG in facts["reasons"]:
            lines.append("too long    it takes a longer context: SERVE_ARGS='--max-model-len N'")
        return "\n".join([*lines, *[step.SMOKE] * options["smoke"]])

    return Asking(
        folder=RunFolder(folder, options, PREDICTIONS),
        who=Policies(weights, at),
        records=lambda: turns,
        ask=ask,
        row=row,
        told=told,
        report=report,
    )


def system_of(
    name: str, stage: str | None, variant: str | None, number: int | None, layout: str | None = None
) -> tuple[str, str, paths.Lineage]:
    """(system, stage, lineage) of a name, which may be the folder's: ``vanilla_dpo_nsnr_r2``."""
    system, _, rest = name.partition("_")
    named, mark, suffix = rest.partition("_")
    lineage = of_suffix(mark + suffix)
    if system not in SYSTEMS or named not in ("", *adapters.STAGES) or lineage is None:
        known = ", ".join(SYSTEMS)
        raise EscError(f"SYSTEM={name} is none of {known}, nor one with its stage (vanilla_sft)")
    if not named:
        named = stage or ("base" if system in PROMPT_BASELINES else "sft")
        lineage = at_stage(named, variant, number, layout)
    elif layout and lineage.layout == paths.TURN:
        lineage = replace(lineage, layout=layout)
    if system in PROMPT_BASELINES and named != "base":
        raise EscError(f"SYSTEM={system} is a prompt on the base model; use STAGE=base")
    for task in tasks_of(system):
        lineage.of(task).checked(task)
    if "vanilla" in tasks_of(system):
        lineage = lineage.checked("vanilla")
    return system, named, lineage


@cli.command(
    examples="  python -m eval predict --system decoupled --stage sft --limit 2 --dry-run\n"
    "  python -m eval predict --model qwen2.5-7b --system self-refine vanilla_dpo_nsnr_r2 "
    "--base-url http://gpu1:8000/v1,http://gpu2:8000/v1"
)
def main(
    sending: Sending,
    system: Annotated[
        list[str],
        typer.Option(
            envvar=["SYSTEMS", "SYSTEM"],
            help=f"{', '.join(SYSTEMS)}, or with its stage and variant, as in vanilla_dpo_nsnr",
        ),
    ] = ["decoupled"],  # noqa: B006
    stage: Annotated[
        Literal["base", "sft", "dpo"] | None,
        typer.Option(envvar="STAGE", help="default: sft; base for the prompt baselines"),
    ] = None,
    variant: cli.Variant = None,
    round: Annotated[  # noqa: A002
        int | None, typer.Option(envvar="ROUND", min=1, help="of the DPO training [default: 1]")
    ] = None,
    layout: cli.Layout = "turn",
    split: Annotated[
        Literal["train", "validation", "test"], typer.Option("--set", envvar="SET")
    ] = "test",
    limit: cli.Limit = None,
    decode: cli.Decode = None,
    temperature: Annotated[
        float, typer.Option(envvar="TEMPERATURE", min=0, help=f"0 is greedy; top-p {TOP_P}")
    ] = TEMPERATURE,
    base_url: cli.BaseUrl = None,
) -> int:
    """A system's strategy and reply for every turn of a split, each on the gold history before it.

    The prompt baselines run on the base model; VARIANT and ROUND say which DPO adapters predict.
    """
    backbone = backbones.get(sending.model)
    wanted = {}
    for name in system:
        which, named, lineage = system_of(name, stage, variant, round, layout)
        mode, room = decode or backbone.decode, backbone.reply_tokens
        setting = Setting(named, mode, room, temperature, lineage)
        of = (sending, which, setting, split, limit, base_url)
        wanted[f"{which}_{setting.trained}"] = partial(_asking, *of)
    return ask_all(wanted, sending)
