"""A system's strategy and reply for every turn of a split, each on the gold history before it.

    python -m eval predict --model smollm2-135m --system decoupled --stage sft --limit 2

Reads the built sets, asks the running server (or one started for this run, or BASE_URL), writes
``runs/<model>/<system>_<stage>/``: ``calls.jsonl``, every answer as it comes, at the end
``predictions.jsonl``, and ``run.json`` where no record failed. The same command goes on after an
interruption and asks nothing twice. The prompt baselines run on the base model.
"""

import argparse
import asyncio
import sys
import time
from collections import Counter
from collections.abc import Coroutine, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from esc import adapters, backbones, cli, files, paths, policy_server, smoke
from esc.backbones import DECODE
from esc.chat.budget import Budget, Price
from esc.chat.cache import Cache
from esc.chat.failures import Failure, FailureKind
from esc.chat.meter import Meter
from esc.chat.policy import Asks, Chat, Policy, Rehearsal
from esc.chat.request import derived_seed
from esc.chat.transport import Pool
from esc.exceptions import EscError
from esc.files import Row
from esc.plan_and_speak import TIMEOUT
from esc.run_folder import RunFolder
from esc.turns import GoldTurn, gold_turns
from eval.asked import Asked, options_of, weights_of
from eval.systems import PROMPT_BASELINES, SYSTEMS, Outcome, Setting

IN_FLIGHT = {"gpu": 256, "cpu": 32}
"""Requests at a time that keep an engine full, by where the backbone runs."""


Work = partial[Coroutine[Any, Any, Row]]
"""From somebody to ask and a turn to the turn's record."""


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
        "context": {"history": [list(pair) for pair in turn.history], "seeker": turn.seeker},
        "gold_strategy": turn.strategy.value,
        "gold_response": turn.response,
    }


def _failed(turn: GoldTurn, failure: Failure) -> Row:
    return _gold(turn) | {"status": "failed", "failure": asdict(failure)}


def predict(asked: Asked, *, force: bool, dry_run: bool) -> int:
    """Exit code: 0 where every record is there, 1 where some failed.

    Raises EscError for whatever a user can mend.
    """
    if asked.system in PROMPT_BASELINES and asked.setting.stage != adapters.BASE:
        raise EscError(f"SYSTEM={asked.system} is a prompt on the base model; use STAGE=base")
    weights = weights_of(asked)
    turns = gold_turns(asked.work, asked.split, asked.limit)
    folder = RunFolder(
        asked.work / paths.run(asked.model, asked.system, asked.setting.stage),
        options_of(asked, weights, turns),
    )
    of = {"model": asked.model, "system": asked.system, "stage": asked.setting.stage}
    with files.exclusive(folder.path):
        if not dry_run:
            folder.claim(force=force)
            if facts := folder.finished():
                print(f"{folder.path} is complete with these options; nothing to do")
                print(_report(facts, folder.path))
                return 0
        cache = folder.cache(of)
        if cache.repaired:
            print("the last stored answer was torn and is asked for again", file=sys.stderr)
        work = partial(one_record, asked=asked, weights=weights)
        rehearsal = Rehearsal(cache, weights)
        records: list[Row | Failure] = list(asyncio.run(_rehearse(rehearsal, turns, work)))
        if dry_run:
            print(rehearsal.report(asked.budget))
            return 0
        begin = time.monotonic()
        meter = Meter(asked.budget, cached=rehearsal.cached)
        if rehearsal.requests:
            with policy_server.servers(asked.model, asked.work, asked.base_urls, weights) as where:
                records, meter = asyncio.run(_ask(asked, where, cache, weights, turns, work))
        facts = _write(folder, asked, turns, records, meter, time.monotonic() - begin)
    print(_report(facts, folder.path))
    return 1 if facts["failed"] else 0


async def _rehearse(rehearsal: Rehearsal, turns: Sequence[GoldTurn], work: Work) -> list[Row]:
    return [await work(rehearsal, turn) for turn in turns]


async def _ask(
    asked: Asked,
    where: policy_server.Servers,
    cache: Cache,
    weights: dict[str, str],
    turns: Sequence[GoldTurn],
    work: Work,
) -> tuple[list[Row | Failure], Meter]:
    pool = Pool(
        where.urls,
        timeout=asked.timeout,
        connections=asked.policy.in_flight,
    )
    chat = Chat(pool, cache, weights=weights, policy=asked.policy, budget=asked.budget)
    try:
        await pool.connect(asked.models)
        records = await chat.run(turns, work, f"{asked.system} {asked.setting.stage}")
    finally:
        await pool.close()
    return records, chat.meter


def _write(
    folder: RunFolder,
    asked: Asked,
    turns: Sequence[GoldTurn],
    results: Sequence[Row | Failure],
    meter: Meter,
    seconds: float,
) -> Row:
    records = [
        _failed(turn, result) if isinstance(result, Failure) else result
        for turn, result in zip(turns, results, strict=True)
    ]
    count = Counter(record["status"] for record in records)
    answered = count["ok"] + count["invalid"]
    built = files.read_json(paths.data_manifest(asked.work))
    corpus, spec = built["corpus"]["origin"], built["options"]["SPLIT"]
    facts: Row = {
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
        "requests": {"answered": meter.answered, "cached": meter.cached, "failed": meter.failed},
        "seconds": round(seconds, 1),
        # With BASE_URL, the weights named are this WORK's; what the server holds is its own matter.
        "asked": "BASE_URL" if asked.base_urls else "the server of this WORK",
        "smoke": smoke.is_smoke(asked.model, asked.work),
    }
    folder.write(records, facts, complete=not count["failed"])
    if count["failed"]:
        reasons = Counter(str(r["failure"]["kind"]) for r in records if r["status"] == "failed")
        facts["reasons"] = dict(reasons.most_common())
    return facts


def _report(facts: Row, folder: Path) -> str:
    requests = facts["requests"]
    lines = [
        f"predictions {folder / 'predictions.jsonl'}",
        f"set         {facts['set']}",
        f"records     {facts['records']:,}: {facts['ok']:,} ok, {facts['invalid']:,} invalid "
        f"(unparsable strategy, DECODE={facts['decode']}), {facts['failed']:,} failed; "
        f"{facts['truncated']:,} with an answer cut at its length limit",
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


def main(argv: list[str]) -> int:
    """Command line of the step."""
    given = _parser().parse_args(argv)
    backbone = backbones.get(given.model)
    stage = given.stage or (adapters.BASE if given.system in PROMPT_BASELINES else "sft")
    decode = given.decode or backbone.decode
    where = "gpu" if backbone.settings["gpus"] else "cpu"
    asked = Asked(
        model=given.model,
        work=given.work,
        system=given.system,
        setting=Setting(stage, decode, given.temperature),
        split=given.set,
        limit=given.limit,
        base_urls=given.base_url,
        budget=Budget(Price.parse(given.price) if given.price else None, given.max_cost),
        policy=Policy(in_flight=given.in_flight or IN_FLIGHT[where]),
        timeout=given.timeout,
    )
    return predict(asked, force=given.force, dry_run=given.dry_run)


def _parser() -> argparse.ArgumentParser:
    parser = cli.parser(
        prog="python -m eval predict",
        description=__doc__,
        examples=(
            "  python -m eval predict --system decoupled --stage sft --limit 2\n"
            "  python -m eval predict --system self-refine --limit 2 --dry-run\n"
            "  python -m eval predict --model qwen2.5-7b --system vanilla --stage sft "
            "--base-url http://gpu1:8000/v1,http://gpu2:8000/v1"
        ),
    )
    parser.add_argument(
        "--model", default=backbones.EMBEDDED, help="folder of llamafactory_configs"
    )
    parser.add_argument("--work", type=Path, default=Path(), help="root of what is generated")
    parser.add_argument("--system", choices=SYSTEMS, default="decoupled")
    parser.add_argument(
        "--stage",
        type=cli.optional,
        choices=(*adapters.STAGES, None),
        help="base, sft or dpo (default: sft; base for the prompt baselines)",
    )
    parser.add_argument("--set", choices=paths.SPLITS, default="test", help="default: test")
    parser.add_argument("--limit", type=cli.optional_count, help="dialogues, drawn by their id")
    parser.add_argument(
        "--decode",
        type=cli.optional,
        choices=(*DECODE, None),
        help="how a strategy is drawn (default: as the table of backbones says)",
    )
    parser.add_argument("--temperature", type=float, default=0.0, help="default: 0, greedy")
    parser.add_argument("--base-url", type=cli.optional, help="one or several, separated by commas")
    parser.add_argument("--in-flight", type=cli.optional_count, help="requests at a time")
    parser.add_argument("--timeout", type=float, default=TIMEOUT, help="seconds for an answer")
    parser.add_argument("--price", type=cli.optional, help="money per million tokens: IN/OUT")
    parser.add_argument(
        "--max-cost", type=cli.optional_amount, help="stop before this very call costs more"
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be sent")
    parser.add_argument("--force", action="store_true", help="replace other options' predictions")
    return parser
