r"""Which of two systems replies better to the same turns, by a judge that is asked in both orders.

    python -m eval pairwise --a runs/smollm2-135m/decoupled_dpo/predictions.jsonl \
        --b runs/smollm2-135m/vanilla_dpo/predictions.jsonl --out runs/smollm2-135m/pairwise

Matches turns by id, asks about each pair twice, with either reply first, and writes to FOLDER
``calls.jsonl``, ``comparisons.jsonl``, ``pairwise.json`` with win, tie and lose of A, and last
``run.json``. Two answers that disagree are a tie, counted as order-dependent too; equal replies are
a tie that nobody is asked about; an answer that is no verdict leaves the pair *unscored*.
"""

import argparse
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from esc import cli, files
from esc.exceptions import EscError
from esc.files import Row
from esc.judging import Asking, Sending, Unscored, ask_all, lost, read
from esc.llm import Asks, Failure
from esc.stats import share_of_turns, shares, sign_test
from esc.step import RunFolder
from eval import judge
from eval.cases import Matched, Pair, matched
from eval.judge import (
    NOT_JUDGED,
    SCORED,
    UNSCORED,
    Bench,
    Preference,
    why_without,
    without_score,
)

OUTCOMES = ("win", "tie", "lose")
"""Of system A against system B."""


def shares_by_dialogue(outcomes: Iterable[tuple[str, str]]) -> Row:
    """Per outcome its count, share and 95 % interval (0 to 1, None of nothing); n; sign test.

    ``outcomes`` are (turn, outcome). Intervals resample dialogues, or ``interval`` says what else.
    ``p`` is of the exact two-sided sign test on wins against losses, ties left out. It is over
    turns: where turns of one dialogue have one outcome, p is smaller than it should be. Where there
    are too few dialogues for intervals there is no test either.
    """
    found, interval = shares(outcomes, OUTCOMES)
    return _tested(found) | {"interval": interval}


def shares_by_turn(counts: Mapping[str, int]) -> Row:
    """The same of counted turns, each of which stands for itself; intervals are Wilson's."""
    n = sum(counts.get(outcome, 0) for outcome in OUTCOMES)
    return _tested({outcome: share_of_turns(counts.get(outcome, 0), n) for outcome in OUTCOMES})


def _tested(found: Mapping[str, Row]) -> Row:
    counts = {outcome: one["count"] for outcome, one in found.items()}
    why = found["win"].get("reason")
    p = None if why else sign_test(counts["win"], counts["lose"])
    tested = {"p": p, "said": why.replace("interval", "verdict", 1) if why else _said(p)}
    return dict(found) | {"n": sum(counts.values()), "sign_test": tested}


def _said(p: float | None) -> str:
    if p is None:
        return "no win and no loss to test"
    if p < 0.05:
        return "the two differ more than chance would explain (p < 0.05)"
    return "inside the noise (p >= 0.05)"


def line(told: Row) -> str:
    """The shares in one line."""
    parts = []
    for outcome in OUTCOMES:
        one = told[outcome]
        share = "—" if one["share"] is None else f"{one['share']:.1%}"
        interval = "" if one["low"] is None else f" [{one['low']:.1%}, {one['high']:.1%}]"
        parts.append(f"{outcome} {one['count']:,} {share}{interval}")
    p = told["sign_test"]["p"]
    tested = "" if p is None else f"; sign test over turns p = {p:.4f}"
    return f"{', '.join(parts)}; n {told['n']:,}{tested}: {told['sign_test']['said']}"


FORMAT = 2
"""Raised with every change of what its files mean."""
COMPARISONS, SUMMARY = "comparisons.jsonl", "pairwise.json"
ORDERS = ("ab", "ba")
"""Which system's reply is shown first."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a user asks of the step."""

    found: Matched
    pairs: tuple[Pair, ...]
    """Those drawn."""
    bench: Bench
    n: int

    @property
    def is_smoke(self) -> bool:
        """Whether the embedded model, a random judge or the sample corpus is in it."""
        return self.found.smoke or self.bench.is_smoke


async def one_pair(asks: Asks, pair: Pair, *, bench: Bench) -> Row:
    """The row of one pair; CallFailed where a request of it has no answer."""
    return row_of(pair, bench, [await _answer(asks, pair, order, bench) for order in ORDERS])


async def _answer(asks: Asks, pair: Pair, order: str, bench: Bench) -> Preference | Unscored:
    if bench.judge.is_random:
        return judge.draw_preference(pair.id, ORDERS.index(order))
    replies = str(pair.a), str(pair.b)
    shown = replies if order == "ab" else replies[::-1]
    chat = judge.comparison(pair.history, pair.seeker, shown)
    answer = await asks.ask(
        judge.rating_request(pair.id, bench.judge.name, Preference, chat, brief=bench.is_own)
    )
    return read(Preference, answer.text, truncated=answer.truncated)


def row_of(pair: Pair, bench: Bench, said: Sequence[Preference | Unscored]) -> Row:
    """The row of ``comparisons.jsonl`` of the answers in both orders."""
    for one in said:
        if isinstance(one, Unscored):
            return _without(pair, bench, UNSCORED, one.reason.value, one.detail)
    answers = [one for one in said if isinstance(one, Preference)]
    first, second = (
        "tie" if one.better == "tie" else order["AB".index(one.better)]
        for order, one in zip(ORDERS, answers, strict=True)
    )
    return {
        "id": pair.id,
        "status": SCORED,
        "outcome": outcome_of(first, second),
        "order_dependent": first != second,
        "identical": False,
        "better": dict(zip(ORDERS, (first, second), strict=True)),
        "reason": None,
        "explanation": dict(zip(ORDERS, (one.reason for one in answers), strict=True)),
        "judge": bench.name,
    }


def outcome_of(first: str, second: str) -> str:
    """Win, tie or lose of A, from the better system in either order: a disagreement is a tie."""
    if first != second:
        return "tie"
    return {"a": "win", "b": "lose"}.get(first, "tie")


def _without(
    pair: Pair, bench: Bench, status: str, reason: str | None, detail: str | None = None
) -> Row:
    """The row of a pair without answers; one of equal replies is scored all the same."""
    return {
        "id": pair.id,
        "status": status,
        "outcome": "tie" if status == SCORED else None,
        "order_dependent": False,
        "identical": status == SCORED,
        "better": None,
        "reason": reason,
        "explanation": detail,
        "judge": bench.name,
    }


def _without_answers(bench: Bench, pair: Pair, failure: Failure | None) -> Row:
    if failure:
        return _without(pair, bench, *lost(failure))
    if pair.is_whole:
        return _without(pair, bench, SCORED, None)
    return _without(pair, bench, NOT_JUDGED, pair.lacking)


def summary(asked: Asked, rows: Sequence[Row], prompts: str) -> Row:
    """What ``pairwise.json`` says of all rows."""
    outcomes = [(row["id"], row["outcome"]) for row in rows if row["status"] == SCORED]
    return {
        **asked.found.source,
        "drawn": len(rows),
        "judge": asked.bench.name,
        "signature": f"judge:{asked.bench.name}|prompts:{prompts[:12]}|temperature:0|both orders"
        f"|turns:{len(rows)} of {asked.found.source['shared']} by hash of id",
        **shares_by_dialogue(outcomes),
        "order_dependent": sum(row["order_dependent"] for row in rows),
        "identical": sum(row["identical"] for row in rows),
        **without_score(rows),
        "smoke": asked.is_smoke,
    }


def options_of(asked: Asked) -> Row:
    """Everything that decides the comparisons, under the names a user knows."""
    is_random = asked.bench.judge.is_random
    return {
        "format": FORMAT,
        "step": "pairwise",
        "a": asked.found.source["a"]["predictions"],
        "b": asked.found.source["b"]["predictions"],
        "JUDGE": asked.bench.name,
        "JUDGE_N": asked.n,
        "weights": asked.bench.weights,
        "prompts": None if is_random else files.sha256_of(judge.comparison_files()),
        "smoke": asked.is_smoke,
    }


def asking(asked: Asked, out: Path) -> Asking[Pair]:
    """The comparison of two systems."""
    bench, options = asked.bench, options_of(asked)
    return Asking(
        folder=RunFolder(out, options, COMPARISONS),
        what="comparisons",
        run={"judge": bench.name, "question": "comparisons"},
        records=lambda: asked.pairs,
        work=partial(one_pair, bench=bench),
        without=partial(_without_answers, bench),
        told=lambda rows: summary(asked, rows, options["prompts"] or "none"),
        report=partial(report, out),
        models=[bench.judge.name],
        weights=bench.weights,
        is_asked=lambda pair: pair.is_whole and not pair.is_alike,
        summary=SUMMARY,
        judge=bench.name,
    )


def report(out: Path, told: Row) -> str:
    """The numbers one should see: every pair once."""
    a, b = told["a"], told["b"]
    lines = [
        f"comparisons {out / COMPARISONS}: {told['drawn']:,} of {told['shared']:,} shared turns = "
        f"{told['n']:,} scored + {told['unscored']['total']:,} unscored "
        f"+ {told['failed']['total']:,} failed + {told['not_judged']['total']:,} not judged",
        f"A against B {a['name']} against {b['name']}; judge {told['judge']}",
        f"            {line(told)}",
        f"interval    {told['interval']}",
        f"ties        {told['order_dependent']:,} order-dependent, {told['identical']:,} of equal "
        "replies",
    ]
    if a["alone"] or b["alone"]:
        lines.append(f"alone       {a['alone']:,} turns only in A, {b['alone']:,} only in B")
    lines += [f"            {why}" for why in why_without(told)]
    if told["failed"]["total"]:
        lines.append("incomplete  the same command asks again for what is missing")
    if told["smoke"]:
        lines.append("SMOKE       embedded model, sample corpus or random judge: no result")
    return "\n".join(lines)


def main(argv: list[str]) -> int:
    """Command line of the step."""
    given = _parser().parse_args(argv)
    bench = judge.bench_of(given)
    n = given.n or bench.turns
    for path in (given.a, given.b):
        if path.resolve().parent == given.out.resolve():
            raise EscError(f"--out {given.out} holds {path}; name a folder of its own")
    found = matched(given.a, given.b)
    asked = Asked(found, found.pairs[:n], bench, n)
    sending = Sending.of(given)
    return ask_all([asking(asked, given.out)], bench.at(sending), sending)


def _parser() -> argparse.ArgumentParser:
    parser = cli.parser(
        prog="python -m eval pairwise",
        description=__doc__,
        examples=(
            "  python -m eval pairwise --a a.jsonl --b b.jsonl --out compared --judge random\n"
            "  python -m eval pairwise --a a.jsonl --b b.jsonl --out compared --model qwen2.5-7b "
            "--n 200 --dry-run"
        ),
    )
    parser.add_argument("--a", type=Path, required=True, metavar="FILE")
    parser.add_argument("--b", type=Path, required=True, metavar="FILE")
    judge.add_arguments(parser)
    return parser
