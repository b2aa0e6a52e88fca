"""A system's strategy and reply for every turn of a split, each on the gold history before it.

    python -m eval predict --model smollm2-135m --system decoupled --stage sft --limit 2

Reads the built sets, asks the running server (or one started for this run, or BASE_URL), writes
``runs/<model>/<system>_<stage>/``: ``calls.jsonl``, every answer as it comes, at the end
``predictions.jsonl``, and ``run.json`` where no record failed. The same command goes on after an
interruption and asks nothing twice. Answers are sampled, with a seed from the turn's id;
TEMPERATURE=0 takes the likeliest. The prompt baselines run on the base model; VARIANT and ROUND
say which DPO adapters predict, and add to the folder's name.
"""

import argparse
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from esc import adapters, backbones, cli, files, paths, policy_server, prompts
from esc import step as built
from esc.adapters import weights_of
from esc.backbones import DECODE
from esc.dialogue import GoldTurn, gold_turns
from esc.exceptions import EscError
from esc.files import Row
from esc.judging import Asking, Sending, ask_all
from esc.judging import add_arguments as add_sending
from esc.llm import Asks, Failure, FailureKind, derived_seed
from esc.paths import PROMPT_BASELINES, at_stage, of_suffix, tasks_of
from esc.plan_and_speak import TEMPERATURE, TOP_P
from esc.step import RunFolder, is_smoke
from eval import systems
from eval.systems import SYSTEMS, Outcome, Setting

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

    @property
    def models(self) -> list[str]:
        """The served names the system asks."""
        return sorted({self.setting.model(task) for task in tasks_of(self.system)})


def options_of(asked: Asked, weights: dict[str, str], turns: Sequence[GoldTurn]) -> Row:
    """Everything that decides the records, under the names a user knows."""
    manifest = built.manifest(asked.work)
    texts = built.system_prompts()
    if asked.system in PROMPT_BASELINES:
        stem = asked.system.replace("-", "_")
        names = sorted(path.name for path in systems.TEMPLATES.glob(f"{stem}*.j2"))
        texts += [prompts.source(systems.TEMPLATES, name) for name in names]
    return {
        "format": FORMAT,
        "MODEL": asked.model,
        "SYSTEM": asked.system,
        "STAGE": asked.setting.stage,
        "VARIANT": asked.setting.lineage.variant,
        "ROUND": asked.setting.lineage.round,
        "SET": asked.split,
        "LIMIT": asked.limit,
        "DECODE": asked.setting.decode,
        "reply_tokens": asked.setting.reply_tokens,
        "TEMPERATURE": asked.setting.temperature,
        "top_p": asked.setting.top_p,
        "turns": len(turns),
        "weights": weights,
        "prompts": files.sha256_of(texts),
        "data": manifest["sets"][paths.sft_file("rg", asked.split)]["sha256"],
        "smoke": is_smoke(asked.model, asked.work),
    }


PREDICTIONS = "predictions.jsonl"


async def one_record(asks: Asks, turn: GoldTurn, *, asked: Asked, weights: dict[str, str]) -> Row:
    """The record of one turn; CallFailed where a request of it has no answer."""
    outcome = await SYSTEMS[asked.system](asks, turn, asked.setting)
    return _record(turn, outcome, asked, weights)


def _record(turn: GoldTurn, outcome: Outcome, asked: Asked, weights: dict[str, str]) -> Row:
    spread = outcome.distribution
    return _gold(turn) | {
        "status": "ok" if outcome.strategy else "invalid",
        "predicted_strategy": outcome.strategy.value if outcome.strategy else None,
        "raw_strategy": outcome.raw_strategy,
        "distribution": {s.value: round(p, 6) for s, p in spread.items()} if spread else None,
        "predicted_response": outcome.response,
        "steps": outcome.steps,
        "decode": asked.setting.decode,
        "seed": derived_seed(turn.id, 0),
        "weights": weights,
    }


def _gold(turn: GoldTurn) -> Row:
    return {
        "id": turn.id,
        "dialogue_turns": turn.dialogue_turns,
        "context": {"history": [list(pair) for pair in turn.history], "seeker": turn.seeker},
        "gold_strategy": turn.strategy.value,
        "gold_response": turn.response,
    }


def _failed(turn: GoldTurn, failure: Failure) -> Row:
    return _gold(turn) | {"status": "failed", "failure": asdict(failure)}


def asking(asked: Asked) -> Asking[GoldTurn]:
    """The predictions of one system; EscError for whatever a user can mend."""
    weights = weights_of(asked.work, asked.model, asked.models, elsewhere=bool(asked.base_urls))
    turns = gold_turns(asked.work, asked.split, asked.limit)
    trained = asked.setting.trained
    return Asking(
        folder=RunFolder(asked.folder, options_of(asked, weights, turns), PREDICTIONS),
        what=f"{asked.system} {trained}",
        run={"model": asked.model, "system": asked.system, "stage": trained},
        records=lambda: turns,
        work=partial(one_record, asked=asked, weights=weights),
        without=_failed,
        told=partial(_told, asked),
        report=partial(_report, folder=asked.folder),
        models=asked.models,
        weights=weights,
        at=asked.base_urls,
    )


def _told(asked: Asked, records: Sequence[Row]) -> Row:
    count = Counter(record["status"] for record in records)
    answered = count["ok"] + count["invalid"]
    built = files.read_json(paths.data_manifest(asked.work))
    corpus, spec = built["corpus"]["origin"], built["options"]["SPLIT"]
    reasons = Counter(str(r["failure"]["kind"]) for r in records if r["status"] == "failed")
    return {
        "set": f"{asked.split} of {corpus}, SPLIT={spec}",
        "records": len(records),
        "ok": count["ok"],
        "invalid": count["invalid"],
        "invalid_rate": round(count["invalid"] / answered, 4) if answered else None,
        "failed": count["failed"],
        "truncated": sum(
            any(step["truncated"] for step in record.get("steps", [])) for record in records
        ),
        "decode": asked.setting.decode,
        "temperature": asked.setting.temperature,
        "top_p": asked.setting.top_p,
        # With BASE_URL, the weights named are this WORK's; what the server holds is its own matter.
        "asked": "BASE_URL" if asked.base_urls else "the server of this WORK",
        "smoke": is_smoke(asked.model, asked.work),
    } | ({"reasons": dict(reasons.most_common())} if reasons else {})


def _report(facts: Row, folder: Path) -> str:
    requests = facts["requests"]
    lines = [
        f"predictions {folder / PREDICTIONS}",
        f"set         {facts['set']}",
        f"records     {facts['records']:,}: {facts['ok']:,} ok, {facts['invalid']:,} invalid "
        f"(unparsable strategy, DECODE={facts['decode']}), {facts['failed']:,} failed; "
        f"{facts['truncated']:,} with an answer cut at its length limit",
        f"sampling    {_sampling(facts)}",
        f"requests    {requests['answered']:,} answered, {requests['cached']:,} from the cache, "
        f"{requests['failed']:,} failed; {facts['seconds']:,.1f} s",
    ]
    if facts["failed"]:
        told = ", ".join(f"{count} {reason}" for reason, count in facts["reasons"].items())
        lines.append(f"incomplete  {told}; the same command asks again for what is missing")
        if FailureKind.TOO_LONG.value in facts["reasons"]:
            lines.append(
                "too long    asking again does not help: it takes a server with a longer context "
                "(SERVE_ARGS='--max-model-len N'), or a model that has one"
            )
    if facts["smoke"]:
        lines.append("SMOKE       embedded model or sample corpus: it runs, it is no result")
    return "\n".join(lines)


def _sampling(facts: Row) -> str:
    if not facts["temperature"]:
        return "greedy"
    return f"temperature {facts['temperature']}, top-p {facts['top_p']}, seeded by the turn's id"


def main(argv: list[str]) -> int:
    """Command line of the step."""
    given = _parser().parse_args(argv)
    sending = Sending.of(given)
    wanted = [_asked(_of_folder(name, given)) for name in given.system]
    if len(wanted) == 1:
        return ask_all([asking(wanted[0])], sending)
    failed, codes = [], []
    with policy_server.one_server():
        for asked in wanted:
            print(f"--- {asked.folder.name}", flush=True)
            try:
                codes.append(ask_all([asking(asked)], sending))
            except EscError as error:
                # One system's adapter, or its options, are none of another's.
                failed.append(f"{asked.folder.name}: {error}")
    if failed:
        raise EscError("; ".join(failed))
    return max(codes)


def _of_folder(name: str, given: argparse.Namespace) -> argparse.Namespace:
    """The options for one system, which may be named as its folder is: ``vanilla_dpo_nsnr_r2``."""
    system, _, rest = name.partition("_")
    stage, mark, suffix = rest.partition("_")
    lineage = of_suffix(mark + suffix)
    if system not in SYSTEMS or stage not in ("", *adapters.STAGES) or lineage is None:
        known = ", ".join(SYSTEMS)
        raise EscError(f"SYSTEM={name} is none of {known}, nor one with its stage (vanilla_sft)")
    if not stage:
        return argparse.Namespace(**(vars(given) | {"system": system}))
    number = lineage.round if lineage.round > 1 else None
    own = {"system": system, "stage": stage, "variant": lineage.variant, "round": number}
    return argparse.Namespace(**(vars(given) | own))


def _asked(given: argparse.Namespace) -> Asked:
    return Asked(
        model=given.model,
        work=given.work,
        system=given.system,
        setting=_setting(given),
        split=given.set,
        limit=given.limit,
        base_urls=given.base_url,
    )


def _setting(given: argparse.Namespace) -> Setting:
    """How the system is run; EscError where that cannot be, whatever is trained."""
    backbone = backbones.get(given.model)
    decode = given.decode or backbone.decode
    is_prompt, names_training = given.system in PROMPT_BASELINES, given.variant or given.round
    stage = given.stage or (adapters.BASE if is_prompt else "sft")
    if is_prompt and (stage != adapters.BASE or names_training):
        raise EscError(
            f"SYSTEM={given.system} is a prompt on the base model; use STAGE=base"
            + (" without VARIANT and ROUND" if names_training else "")
        )
    lineage = at_stage(stage, given.variant, given.round)
    for task in tasks_of(given.system):
        lineage.checked(task)
    temperature = TEMPERATURE if given.temperature is None else given.temperature
    return Setting(stage, decode, backbone.reply_tokens, temperature, lineage)


def _parser() -> argparse.ArgumentParser:
    parser = cli.parser(
        prog="python -m eval predict",
        description=__doc__,
        examples=(
            "  python -m eval predict --system decoupled --stage sft --limit 2\n"
            "  python -m eval predict --system self-refine --limit 2 --dry-run\n"
            "  python -m eval predict --system decoupled --stage dpo --variant ipo --round 2\n"
            "  python -m eval predict --model qwen2.5-7b --system vanilla --stage sft "
            "--base-url http://gpu1:8000/v1,http://gpu2:8000/v1"
        ),
    )
    backbones.add_model(parser)
    cli.add_work(parser)
    system = parser.add_argument(
        "--system",
        nargs="+",
        default=["decoupled"],
        metavar="SYSTEM",
        help=f"{', '.join(SYSTEMS)}; one may have its stage and variant in its name, as in "
        "vanilla_dpo_nsnr; several are asked of one server",
    )
    cli.variable(system, "SYSTEMS", "SYSTEM")
    parser.add_argument(
        "--stage",
        type=cli.optional,
        choices=(*adapters.STAGES, None),
        help="base, sft or dpo (default: sft; base for the prompt baselines)",
    )
    parser.add_argument(
        "--variant", type=cli.optional, help="of the DPO training (default: the paper's own)"
    )
    parser.add_argument("--round", type=cli.optional_count, help="of that training; default: 1")
    parser.add_argument("--set", choices=paths.SPLITS, default="test", help="default: test")
    parser.add_argument("--limit", type=cli.optional_count, help="dialogues, drawn by their id")
    parser.add_argument(
        "--decode",
        type=cli.optional,
        choices=(*DECODE, None),
        help="how a strategy is drawn (default: as the table of backbones says)",
    )
    parser.add_argument(
        "--temperature",
        type=cli.optional_temperature,
        help=f"default: {TEMPERATURE} with top-p {TOP_P}, as the authors' code; 0 is greedy",
    )
    parser.add_argument("--base-url", type=cli.optional, help="one or several, separated by commas")
    add_sending(parser)
    return parser
