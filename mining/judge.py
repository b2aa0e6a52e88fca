"""A judge's verdict on every sampled reply: is it, beside the gold one, a pair to train on?

    python -m mining judge --task rg --limit 2 --judge random
    python -m mining judge --model qwen2.5-7b --task rg --price 0.40/1.60 --dry-run

Reads ``samples.jsonl``, writes ``judges/<judge>/`` beside it: ``calls.jsonl``, every answer as it
comes, ``verdicts.jsonl`` and ``run.json``. What is dropped without a verdict (equal to gold, seen
before, unparsable) is not asked about. Any OpenAI-compatible endpoint judges: the hosted one of the
paper with OPENAI_API_KEY, or JUDGE_BASE_URL. An answer that is no verdict is *unscored*, kept with
its reason. The planner's samples need no judge.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from esc import backbones, cli, files, smoke
from esc.chat.failures import Failure
from esc.chat.job import Job, Sending, Waits
from esc.chat.job import add_arguments as add_sending
from esc.chat.meter import Meter
from esc.chat.policy import Asks
from esc.exceptions import EscError
from esc.files import Row
from esc.judge import Judge, check_not_all_refused, judge_for, keyless
from esc.run_folder import RunFolder
from esc.turns import GoldTurn, gold_turns
from esc.verdicts import FOR_GOOD, Unscored, read
from mining import questions
from mining.candidates import SAMPLES, Candidate, read_turns
from mining.draws import draw_filter
from mining.folders import Mining
from mining.options import add_judge, add_mining, minings_of
from mining.routing import screen
from mining.samples import finished_samples
from mining.verdicts import BlindVerdict, FilterVerdict

FORMAT = 1
VERDICTS = "verdicts.jsonl"

Question = tuple[GoldTurn, Candidate]


@dataclass(frozen=True, slots=True)
class Asked:
    """What a user asks of the judge."""

    mining: Mining
    judge: Judge
    blind: bool

    @property
    def slug(self) -> str:
        """The name of the folder of its verdicts."""
        return self.judge.slug + ("_blind" if self.blind else "")

    def again(self, **variables: object) -> str:
        """The make command that goes on with this judging as it was begun."""
        blind = 1 if self.blind else None
        return self.mining.again(JUDGE=self.judge.name, BLIND=blind, **variables)


async def one_verdict(asks: Asks, question: Question, *, asked: Asked) -> Row:
    """The row of one verdict; CallFailed where its request has no answer."""
    turn, candidate = question
    if asked.judge.is_random:
        verdict: FilterVerdict | Unscored = draw_filter(_record(candidate))
        return verdict_row(asked, candidate, verdict)
    assert candidate.response is not None
    # By the turn, not the sample: two equal samples are one question.
    side = questions.chosen_side(f"{turn.id}\n{candidate.response}") if asked.blind else "A"
    if asked.blind:
        replies = (turn.response, candidate.response)
        chat = questions.filter_blind(
            turn.history, turn.seeker, replies if side == "A" else replies[::-1]
        )
    else:
        chat = questions.filter_pair(turn.history, turn.seeker, turn.response, candidate.response)
    kind = BlindVerdict if asked.blind else FilterVerdict
    call = questions.call(turn.id, asked.judge.name, kind, chat, expected="{}")
    answer = await asks.ask(call)
    if asked.blind:
        read_blind = read(BlindVerdict, answer.text, truncated=answer.truncated)
        verdict = read_blind.unblinded(side) if isinstance(read_blind, BlindVerdict) else read_blind
    else:
        verdict = read(FilterVerdict, answer.text, truncated=answer.truncated)
    return verdict_row(asked, candidate, verdict)


def _record(candidate: Candidate) -> str:
    return f"{candidate.id}/{candidate.sample}"


def verdict_row(asked: Asked, candidate: Candidate, verdict: FilterVerdict | Unscored) -> Row:
    """The row of a verdict on a candidate."""
    row = {"id": candidate.id, "sample": candidate.sample, "judge": asked.slug}
    if isinstance(verdict, Unscored):
        told = {"reason": verdict.reason.value, "detail": verdict.detail}
        return row | {"status": "unscored"} | told
    return row | {"status": "scored"} | verdict.model_dump(mode="json")


def _without_answer(asked: Asked, candidate: Candidate, failure: Failure) -> Row:
    reason = FOR_GOOD.get(failure.kind)
    if reason is not None:
        return verdict_row(asked, candidate, Unscored(reason, failure.message))
    told = {"kind": failure.kind.value, "message": failure.message}
    row = {"id": candidate.id, "sample": candidate.sample, "judge": asked.slug}
    return row | {"status": "failed", "failure": told}


def to_judge(mining: Mining, limit: int | None) -> Iterator[Question]:
    """Every sampled reply that needs a verdict, with its turn, in the order of the samples."""
    turns = {turn.id: turn for turn in gold_turns(mining.work, "train", limit)}
    for candidates in read_turns(mining.folder / SAMPLES):
        dropped = screen(mining.task, candidates)
        for candidate in candidates:
            if dropped[candidate.key] is None:
                yield turns[candidate.id], candidate


def options_of(asked: Asked, samples: Row) -> Row:
    """Everything that decides the verdicts, under the names a user knows."""
    kind = BlindVerdict if asked.blind else FilterVerdict
    texts = [] if asked.judge.is_random else questions.files_of(kind)
    mining = asked.mining
    return {
        "format": FORMAT,
        "MODEL": mining.model,
        "task": mining.task,
        "JUDGE": asked.judge.name,
        "BLIND": asked.blind,
        "samples": samples[SAMPLES]["sha256"],
        "prompts": files.sha256_of(texts),
        "smoke": smoke.is_smoke(mining.model, mining.work) or asked.judge.is_smoke,
    }


def judge(asked: Asked, sending: Sending, *, force: bool) -> int:
    """Exit code: 0 where every verdict is there or unscored for good, 1 where requests failed.

    Raises EscError for whatever a user can mend.
    """
    mining = asked.mining
    if sending.dry_run and not (mining.folder / SAMPLES).is_file():
        print(f"{mining.task}: not sampled yet; what the judge is asked is known once it is")
        return 0
    options, facts = finished_samples(mining)
    folder = RunFolder(mining.judged(asked.slug), options_of(asked, facts), VERDICTS)
    with files.exclusive(folder.path):
        if not sending.dry_run:
            folder.claim(force=force)
            if done := folder.finished():
                print(f"{folder.path / VERDICTS} is complete with these options; nothing to do")
                print(_report(asked, done))
                return 0
        cache = folder.cache({"judge": asked.slug, "task": mining.task, "model": mining.model})
        if cache.repaired:
            print("the last stored answer was torn and is asked for again", file=sys.stderr)
        to_ask = list(to_judge(mining, options["LIMIT"]))
        job = Job(
            what=f"judging {mining.task}",
            records=to_ask,
            work=partial(one_verdict, asked=asked),
            cache=cache,
            models=[asked.judge.name],
            weights={},
        )
        rehearsal, rows = job.rehearse()
        spent_before = sending.budget.spent
        if sending.dry_run:
            print(f"{mining.task}: {rehearsal.report(sending.budget)}")
            return 0
        results: Sequence[Row | Failure] = rows
        meter = Meter(sending.budget, cached=rehearsal.cached)
        if rehearsal.requests:
            results, meter = job.ask(asked.judge.urls, sending, listed=False)
            check_not_all_refused(", ".join(asked.judge.urls), results)
        done = _write(folder, asked, to_ask, results, meter, spent_before)
    print(_report(asked, done))
    return 1 if done["failed"] else 0


def _write(
    folder: RunFolder,
    asked: Asked,
    to_ask: Sequence[Question],
    results: Sequence[Row | Failure],
    meter: Meter,
    spent_before: float,
) -> Row:
    rows = [
        _without_answer(asked, candidate, result) if isinstance(result, Failure) else result
        for (_, candidate), result in zip(to_ask, results, strict=True)
    ]
    count = Counter(row["status"] for row in rows)
    reasons = Counter(row["reason"] for row in rows if row["status"] == "unscored")
    failures = Counter(row["failure"]["kind"] for row in rows if row["status"] == "failed")
    facts: Row = {
        "asked": len(rows),
        "scored": count["scored"],
        "unscored": count["unscored"],
        "failed": count["failed"],
        "reasons": dict(reasons.most_common()),
        "failures": dict(failures.most_common()),
        "kept": sum(row.get("retain", False) for row in rows),
        "requests": {
            "answered": meter.answered,
            "cached": meter.cached,
            "failed": meter.failed,
        },
        "cost": round(meter.budget.spent - spent_before, 4) if meter.budget.price else None,
        "smoke": folder.options["smoke"],
    }
    folder.write(rows, facts, complete=not count["failed"])
    return facts


def _report(asked: Asked, facts: Row) -> str:
    def listed(counts: dict[str, Any]) -> str:
        return ", ".join(f"{count} {what}" for what, count in counts.items())

    folder = asked.mining.judged(asked.slug)
    lines = [
        f"verdicts    {folder / VERDICTS}: {facts['asked']:,} asked = {facts['scored']:,} scored "
        f"+ {facts['unscored']:,} unscored + {facts['failed']:,} failed",
        f"            {facts['kept']:,} retained by the judge",
    ]
    if facts["reasons"]:
        lines.append(f"unscored    {listed(facts['reasons'])}")
    if facts["cost"] is not None:
        lines.append(f"cost        {facts['cost']:,.4f} by this call")
    if facts["failures"]:
        told = listed(facts["failures"])
        lines.append(f"incomplete  {told}; the same command asks again for what is missing")
    return "\n".join(lines)


def main(argv: list[str]) -> int:
    """Command line of the step."""
    given = _parser().parse_args(argv)
    backbones.get(given.model)
    if "sp" in given.task:
        raise EscError("the planner's errors are found by comparing names; judge rg or vanilla")
    codes, waits, sending = [0], Waits(), Sending.of(given)
    for mining in minings_of(given):
        asked_judge = judge_for(
            given.model, given.judge, given.judge_base_url, keyless=keyless(given)
        )
        asked = Asked(mining, asked_judge, given.blind)
        with waits.noted():
            codes.append(judge(asked, sending, force=given.force))
    waits.tell()
    return max(codes)


def _parser() -> argparse.ArgumentParser:
    parser = cli.parser(
        prog="python -m mining judge",
        description=__doc__,
        examples=(
            "  python -m mining judge --task rg --judge random\n"
            "  python -m mining judge --task rg vanilla --model qwen2.5-7b --price 0.40/1.60\n"
            "  python -m mining judge --task rg --judge my-model --judge-base-url "
            "http://127.0.0.1:8000/v1 --blind"
        ),
    )
    add_mining(parser)
    add_judge(parser)
    add_sending(parser, judge=True)
    parser.add_argument(
        "--force", action="store_true", help="make the verdicts anew; stored answers are kept"
    )
    return parser
