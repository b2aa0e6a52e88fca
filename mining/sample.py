"""Sampled answers of the trained models to train turns, each on the gold history before it.

    python -m mining sample --task sp --limit 2

``sp`` samples strategies, ``rg`` several replies under the gold strategy, ``vanilla`` entangled
answers, at temperature 0.7 and top-p 0.95. Reads the built train set, asks the running server (or
one started for this run, or BASE_URL), writes ``runs/<model>/mining/<task>/``: ``calls.jsonl``,
every answer as it comes, ``samples.jsonl`` and ``run.json``. From round 2 on it samples the models
that the round before trained. The same command goes on after an interruption, asking nothing twice.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

from esc import backbones, cli, files
from esc.backbones import DECODE
from esc.chat.failures import Failure
from esc.chat.job import Job, Sending, Waits
from esc.chat.job import add_arguments as add_sending
from esc.chat.meter import Meter
from esc.files import Row
from esc.run_folder import RunFolder
from esc.turns import gold_turns
from esc.verdicts import FOR_GOOD
from esc.weights import weights_of
from mining.candidates import SAMPLES
from mining.options import add_mining, minings_of
from mining.sampled import COUNTS, Asked, Draw, failed_row, one_sample, options_of, report


@dataclass(frozen=True, slots=True)
class _Prepared:
    asked: Asked
    folder: RunFolder
    job: Job[Draw]
    records: list[Row | Failure]
    requests: int
    cached: int


def sample(wanted: Sequence[Asked], sending: Sending, *, force: bool) -> int:
    """Exit code: 0 where every sample of every mining is there, 1 where some failed.

    One server is used for all of them. Raises EscError for whatever a user can mend.
    """
    with ExitStack() as stack:
        prepared = [
            one for asked in wanted if (one := _prepare(asked, sending, force, stack)) is not None
        ]
        if sending.dry_run:
            return 0
        to_ask = [one for one in prepared if one.requests]
        meters: dict[str, Meter] = {}
        waits, waiting = Waits(), {one.asked.mining.task for one in to_ask}
        if to_ask:
            first = to_ask[0].asked
            weights = {name: sha for one in to_ask for name, sha in one.job.weights.items()}
            where = stack.enter_context(
                sending.servers(first.mining.model, first.mining.work, first.base_urls, weights)
            )
            for one in to_ask:
                with waits.noted():
                    task = one.asked.mining.task
                    one.records[:], meters[task] = one.job.ask(where.urls, sending)
                    waiting.remove(task)
        failed = [
            _finish(one, meters.get(one.asked.mining.task), sending)
            for one in prepared
            if one.asked.mining.task not in waiting
        ]
        waits.tell()
    return 1 if any(failed) else 0


def _prepare(asked: Asked, sending: Sending, force: bool, stack: ExitStack) -> _Prepared | None:
    """What is to be asked, or None where all is there."""
    mining = asked.mining
    weights = weights_of(
        mining.work, mining.model, [mining.sampler], elsewhere=bool(asked.base_urls)
    )
    turns = gold_turns(mining.work, "train", asked.limit)
    folder = RunFolder(mining.folder, options_of(asked, weights, turns), SAMPLES)
    stack.enter_context(files.exclusive(folder.path))
    if not sending.dry_run:
        folder.claim(force=force)
        if facts := folder.finished():
            print(f"{folder.path / SAMPLES} is complete with these options; nothing to do")
            print(report(asked, facts))
            return None
    cache = folder.cache({"model": mining.model, "sampler": mining.sampler, "task": mining.task})
    if cache.repaired:
        print("the last stored answer was torn and is asked for again", file=sys.stderr)
    draws = [(turn, index) for turn in turns for index in range(asked.samples)]
    job = Job(
        what=f"sampling {mining.sampler}",
        records=draws,
        work=partial(one_sample, asked=asked),
        cache=cache,
        models=[mining.sampler],
        weights=weights,
    )
    rehearsal, rows = job.rehearse()
    if sending.dry_run:
        print(f"{mining.task}: {rehearsal.report(sending.budget)}")
    return _Prepared(asked, folder, job, list(rows), rehearsal.requests, rehearsal.cached)


def _finish(one: _Prepared, meter: Meter | None, sending: Sending) -> int:
    """Write the samples; the number of those to ask for again."""
    rows = [
        failed_row(draw, result) if isinstance(result, Failure) else result
        for draw, result in zip(one.job.records, one.records, strict=True)
    ]
    meter = meter or Meter(sending.budget, cached=one.cached)
    failed = Counter(str(row["failure"]["kind"]) for row in rows if row["status"] == "failed")
    # Another run would meet these again; where all are refused, it is the request that is at fault.
    for_good = {kind.value for kind in FOR_GOOD} if failed.total() < len(rows) else set()
    missing = Counter({kind: n for kind, n in failed.items() if kind not in for_good})
    facts: Row = {
        "samples": len(rows),
        "turns": len({row["id"] for row in rows}),
        "failed": failed.total(),
        "unparsable": sum(row["status"] == "ok" and row["strategy"] is None for row in rows),
        "truncated": sum(row["truncated"] for row in rows),
        "decode": one.asked.decode,
        "requests": {
            "answered": meter.answered,
            "cached": meter.cached,
            "failed": meter.failed,
        },
        "smoke": one.folder.options["smoke"],
    }
    one.folder.write(rows, facts, complete=not missing)
    print(report(one.asked, facts))
    if missing:
        told = ", ".join(f"{count} {reason}" for reason, count in missing.most_common())
        print(f"incomplete  {told}; the same command asks again for what is missing")
    return missing.total()


def main(argv: list[str]) -> int:
    """Command line of the step."""
    parser = _parser()
    given = parser.parse_args(argv)
    decode = given.decode or backbones.get(given.model).decode
    wanted = [
        Asked(
            mining=mining,
            limit=given.limit,
            samples=given.samples or COUNTS[mining.task],
            decode=decode,
            base_urls=given.base_url,
        )
        for mining in minings_of(given)
    ]
    return sample(wanted, Sending.of(given), force=given.force)


def _parser() -> argparse.ArgumentParser:
    parser = cli.parser(
        prog="python -m mining sample",
        description=__doc__,
        examples=(
            "  python -m mining sample --task sp --limit 2\n"
            "  python -m mining sample --task sp rg vanilla --model qwen2.5-7b\n"
            "  python -m mining sample --task rg --samples 5 --dry-run"
        ),
    )
    add_mining(parser)
    parser.add_argument("--limit", type=cli.optional_count, help="dialogues, drawn by their id")
    parser.add_argument(
        "--samples", type=cli.optional_count, help="of each turn (default: sp 1, rg 3, vanilla 1)"
    )
    parser.add_argument(
        "--decode",
        type=cli.optional,
        choices=(*DECODE, None),
        help="how a strategy is drawn (default: as the table of backbones says)",
    )
    parser.add_argument("--base-url", type=cli.optional, help="one or several, separated by commas")
    add_sending(parser)
    parser.add_argument("--force", action="store_true", help="replace other options' samples")
    return parser
