"""A system's strategy and reply for every turn of a split, each on the gold history before it.

    python -m eval predict --model smollm2-135m --system decoupled --stage sft --limit 2

Reads the built sets, asks the running server (or one started for this run, or BASE_URL), writes
``runs/<model>/<system>_<stage>/``: ``calls.jsonl``, every answer as it comes, at the end
``predictions.jsonl``, and ``run.json`` where no record failed. The same command goes on after an
interruption and asks nothing twice.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

from esc import adapters, backbones, cli, files, paths, policy_server, prompts
from esc import step as built
from esc.adapters import weights_of
from esc.dialogue import GoldTurn, gold_turns
from esc.files import EscError, Row
from esc.judging import Asking, Sending, ask_all
from esc.llm import Asks, Failure, FailureKind, derived_seed
from esc.paths import PROMPT_BASELINES, at_stage, of_suffix, tasks_of
from esc.plan_and_speak import TEMPERATURE, TOP_P
from esc.predictions import PREDICTIONS, gold_row
from esc.step import RunFolder, is_smoke
from eval import systems
from eval.systems import SYSTEMS, Answering, Setting

FORMAT = 2
"""Raised with every change of a record's meaning."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a user asks of a prediction."""

    model: str
    work: Path
    system: str
    setting: Setting
    split: str
    limit: int | None
    base_urls: str | None

    @property
    def folder(self) -> Path:
        """Of the predictions."""
        setting = self.setting
        return self.work / paths.run(self.model, self.system, setting.stage, setting.lineage)

    def options(self, weights: dict[str, str], turns: Sequence[GoldTurn]) -> Row:
        """Everything that decides the records, under the names a user knows."""
        manifest, texts = built.manifest(self.work), built.system_prompts()
        if self.system in PROMPT_BASELINES:
            found = systems.TEMPLATES.glob(f"{self.system.replace('-', '_')}*.j2")
            texts += [prompts.source(systems.TEMPLATES, path.name) for path in sorted(found)]
        return {
            "format": FORMAT,
            "MODEL": self.model,
            "SYSTEM": self.system,
            "STAGE": self.setting.stage,
            "VARIANT": self.setting.lineage.variant,
            "ROUND": self.setting.lineage.round,
            "SET": self.split,
            "LIMIT": self.limit,
            "DECODE": self.setting.decode,
            "reply_tokens": self.setting.reply_tokens,
            "TEMPERATURE": self.setting.temperature,
            "top_p": self.setting.top_p,
            "turns": len(turns),
            "weights": weights,
            "prompts": files.sha256_of(texts),
            "data": manifest["sets"][paths.sft_file("rg", self.split)]["sha256"],
            "smoke": is_smoke(self.model, self.work),
        }

    def told(self, records: Sequence[Row]) -> Row:
        """What the records come to, for ``run.json``."""
        count = Counter(record["status"] for record in records)
        answered = count["ok"] + count["invalid"]
        made = files.read_json(self.work / paths.MANIFEST)
        reasons = Counter(str(r["failure"]["kind"]) for r in records if r["status"] == "failed")
        return {
            "set": f"{self.split} of {made['corpus']['origin']}, SPLIT={made['options']['SPLIT']}",
            "records": len(records),
            "ok": count["ok"],
            "invalid": count["invalid"],
            "invalid_rate": round(count["invalid"] / answered, 4) if answered else None,
            "failed": count["failed"],
            "truncated": sum(
                any(step["truncated"] for step in record.get("steps", [])) for record in records
            ),
            "decode": self.setting.decode,
            "temperature": self.setting.temperature,
            "top_p": self.setting.top_p,
            # With BASE_URL, the weights named are this WORK's; what the server holds is its matter.
            "asked": "BASE_URL" if self.base_urls else "the server of this WORK",
            "smoke": is_smoke(self.model, self.work),
        } | ({"reasons": dict(reasons.most_common())} if reasons else {})

    def report(self, facts: Row) -> str:
        """The numbers one should see."""
        requests, warm = facts["requests"], facts["temperature"]
        drawn = f"temperature {warm}, top-p {facts['top_p']}, seeded by the turn's id"
        lines = [
            f"predictions {self.folder / PREDICTIONS}",
            f"set         {facts['set']}",
            f"records     {facts['records']:,}: {facts['ok']:,} ok, {facts['invalid']:,} invalid "
            f"(unparsable strategy, DECODE={facts['decode']}), {facts['failed']:,} failed; "
            f"{facts['truncated']:,} with an answer cut at its length limit",
            f"sampling    {drawn if warm else 'greedy'}",
            f"requests    {requests['answered']:,} answered, {requests['cached']:,} from the "
            f"cache, {requests['failed']:,} failed; {facts['seconds']:,.1f} s",
        ]
        if facts["failed"]:
            told = ", ".join(f"{count} {reason}" for reason, count in facts["reasons"].items())
            lines.append(f"incomplete  {told}; the same command asks again for what is missing")
            if FailureKind.TOO_LONG.value in facts["reasons"]:
                lines.append(
                    "too long    asking again does not help: it takes a server with a longer "
                    "context (SERVE_ARGS='--max-model-len N'), or a model that has one"
                )
        if facts["smoke"]:
            lines.append("SMOKE       embedded model or sample corpus: it runs, it is no result")
        return "\n".join(lines)

    def asking(self) -> Asking[GoldTurn]:
        """The predictions of one system; EscError for whatever a user can mend."""
        setting = self.setting
        models = sorted({setting.model(task) for task in tasks_of(self.system)})
        weights = weights_of(self.work, self.model, models, elsewhere=bool(self.base_urls))
        turns = gold_turns(self.work, self.split, self.limit)

        async def one(asks: Asks, turn: GoldTurn) -> Row:
            answering = Answering(asks, turn, setting)
            outcome = await SYSTEMS[self.system](answering)
            spread = (outcome.distribution or {}).items()
            return gold_row(turn) | {
                "status": "ok" if outcome.strategy else "invalid",
                "predicted_strategy": outcome.strategy.value if outcome.strategy else None,
                "raw_strategy": outcome.raw_strategy,
                "distribution": {s.value: round(p, 6) for s, p in spread} or None,
                "predicted_response": outcome.response,
                "steps": answering.steps,
                "decode": setting.decode,
                "seed": derived_seed(turn.id, 0),
                "weights": weights,
            }

        def without(turn: GoldTurn, failure: Failure) -> Row:
            return gold_row(turn) | {"status": "failed", "failure": asdict(failure)}

        return Asking(
            folder=RunFolder(self.folder, self.options(weights, turns), PREDICTIONS),
            what=f"{self.system} {setting.trained}",
            run={"model": self.model, "system": self.system, "stage": setting.trained},
            records=lambda: turns,
            work=one,
            without=without,
            told=self.told,
            report=self.report,
            models=models,
            weights=weights,
            at=self.base_urls,
        )


def _temperature(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < math.inf:
        raise typer.BadParameter(f"{text!r} is not a number of at least 0")
    return value


def _setting(
    sending: Sending,
    name: str,
    stage: str | None,
    variant: str | None,
    number: int | None,
    decode: str | None,
    temperature: float,
) -> tuple[str, Setting]:
    """(the system, how it is run); EscError where that cannot be, whatever is trained.

    A name may be that of the folder: ``vanilla_dpo_nsnr_r2``.
    """
    system, _, rest = name.partition("_")
    named, mark, suffix = rest.partition("_")
    lineage = of_suffix(mark + suffix)
    if system not in SYSTEMS or named not in ("", *adapters.STAGES) or lineage is None:
        known = ", ".join(SYSTEMS)
        raise EscError(f"SYSTEM={name} is none of {known}, nor one with its stage (vanilla_sft)")
    if named:
        stage, variant = named, lineage.variant
        number = lineage.round if lineage.round > 1 else None
    is_prompt = system in PROMPT_BASELINES
    stage = stage or (adapters.BASE if is_prompt else "sft")
    if is_prompt and (stage != adapters.BASE or variant or number):
        raise EscError(
            f"SYSTEM={system} is a prompt on the base model; use STAGE=base"
            + (" without VARIANT and ROUND" if variant or number else "")
        )
    lineage = at_stage(stage, variant, number)
    for task in tasks_of(system):
        lineage.checked(task)
    backbone = backbones.get(sending.model)
    decode = decode or backbone.decode
    return system, Setting(stage, decode, backbone.reply_tokens, temperature, lineage)


@cli.command(
    examples="  python -m eval predict --system decoupled --stage sft --limit 2\n"
    "  python -m eval predict --system self-refine --limit 2 --dry-run\n"
    "  python -m eval predict --system decoupled --stage dpo --variant ipo --round 2\n"
    "  python -m eval predict --model qwen2.5-7b --system vanilla --stage sft "
    "--base-url http://gpu1:8000/v1,http://gpu2:8000/v1"
)
def main(
    sending: Sending,
    system: Annotated[
        list[str],
        typer.Option(
            envvar=["SYSTEMS", "SYSTEM"],
            help=f"{', '.join(SYSTEMS)}; one may have its stage and variant in its name, as in "
            "vanilla_dpo_nsnr; several are asked of one server",
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
    split: Annotated[
        Literal["train", "validation", "test"], typer.Option("--set", envvar="SET")
    ] = "test",
    limit: cli.Limit = None,
    decode: Annotated[
        Literal["free", "choice"] | None,
        typer.Option(envvar="DECODE", help="default: as the table of backbones says"),
    ] = None,
    temperature: Annotated[
        float,
        typer.Option(
            envvar="TEMPERATURE",
            parser=_temperature,
            help=f"with top-p {TOP_P}, as the authors' code; 0 is greedy",
        ),
    ] = TEMPERATURE,
    base_url: cli.BaseUrl = None,
) -> int:
    """A system's strategy and reply for every turn of a split, each on the gold history before it.

    Answers are sampled, with a seed from the turn's id. The prompt baselines run on the base model;
    VARIANT and ROUND say which DPO adapters predict, and add to the folder's name.
    """
    wanted = []
    for name in system:
        how = _setting(sending, name, stage, variant, round, decode, temperature)
        wanted.append(Asked(sending.model, sending.work, *how, split, limit, base_url))
    if len(wanted) == 1:
        return ask_all([wanted[0].asking()], sending)
    failed, codes = [], []
    with policy_server.one_server():
        for asked in wanted:
            print(f"--- {asked.folder.name}", flush=True)
            try:
                codes.append(ask_all([asked.asking()], sending))
            except EscError as error:
                # One system's adapter, or its options, are none of another's.
                failed.append(f"{asked.folder.name}: {error}")
    if failed:
        raise EscError("; ".join(failed))
    return max(codes)
