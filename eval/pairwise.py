"""Which of two systems replies better to the same turns, by a judge that is asked in both orders.

Matches turns by id, asks about each pair twice, with either reply first, and writes to FOLDER
``calls.jsonl``, ``comparisons.jsonl``, ``pairwise.json`` with win, tie and lose of A, and last
``run.json``. Two answers that disagree are a tie, counted as order-dependent too; equal replies are
a tie that nobody is asked about; an answer that is no verdict leaves the pair *unscored*.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer
from pydantic import Field, field_validator

from esc import cli, prompts, step
from esc.files import Row
from esc.judging import (
    Asking,
    Unscored,
    Verdict,
    ask_all,
    closing,
    every_row,
    lost,
    read,
    without_score,
)
from esc.llm import Asks
from esc.stats import share_of_turns, shares, sign_test
from esc.step import RunFolder
from eval import judge
from eval.cases import Matched, Pair, matched
from eval.judge import NOT_JUDGED, SCORED, UNSCORED, Judging

OUTCOMES = ("win", "tie", "lose")
"""Of system A against system B."""
PROMPTS = ("pairwise_system.j2", "pairwise_user.j2")
FORMAT = 2
"""Raised with every change of what its files mean."""
COMPARISONS, SUMMARY = "comparisons.jsonl", "pairwise.json"
ORDERS = ("ab", "ba")
"""Which system's reply is shown first."""


class Preference(Verdict):
    """Which of two replies is better."""

    reason: str = Field(default="", title="reason")
    better: Literal["A", "B", "tie"] = Field(
        title="better", json_schema_extra={"enum": ["A", "B", "tie"]}
    )

    @field_validator("better", mode="before")
    @classmethod
    def _side(cls, value: object) -> str:
        words = re.findall(r"a tie|[a-z]+", str(value).casefold())
        sides = {"a": "A", "b": "B", "tie": "tie", "a tie": "tie", "neither": "tie"}
        named = [sides[word] for word in dict.fromkeys(words) if word in sides]
        if len(named) != 1:
            raise ValueError(f"{str(value)[:60]!r} is none of A, B and tie")
        return named[0]


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
    p, said = None, str(found["win"].get("reason") or "").replace("interval", "verdict", 1)
    if not said:
        p = sign_test(counts["win"], counts["lose"])
        said = "no win and no loss to test"
    if p is not None:
        differ = "the two differ more than chance would explain (p < 0.05)"
        said = differ if p < 0.05 else "inside the noise (p >= 0.05)"
    return dict(found) | {"n": sum(counts.values()), "sign_test": {"p": p, "said": said}}


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


async def one_pair(asks: Asks, pair: Pair, *, how: Judging) -> Row:
    """The row of one pair; CallFailed where a request of it has no answer."""
    if not pair.is_whole:
        return row_of(pair, how, NOT_JUDGED, pair.lacking)
    if pair.is_alike:
        return row_of(pair, how, SCORED, None)
    said = [await _answer(asks, pair, order, how) for order in ORDERS]
    better, reasons = {}, {}
    for order, one in zip(ORDERS, said, strict=True):
        if isinstance(one, Unscored):
            return row_of(pair, how, UNSCORED, one.reason.value, one.detail)
        better[order] = "tie" if one.better == "tie" else order["AB".index(one.better)]
        reasons[order] = one.reason
    first, second = better.values()
    return row_of(pair, how, SCORED, None, reasons) | {
        "outcome": {"a": "win", "b": "lose"}.get(first, "tie") if first == second else "tie",
        "order_dependent": first != second,
        "identical": False,
        "better": better,
    }


async def _answer(asks: Asks, pair: Pair, order: str, how: Judging) -> Preference | Unscored:
    if how.judge_of.is_random:
        drawn = judge.drawn_by("better", pair.id, ORDERS.index(order)).choice(["A", "B", "tie"])
        return Preference.model_validate({"better": drawn, "reason": judge.DRAWN})
    replies = [str(pair.a), str(pair.b)][:: 1 if order == "ab" else -1]
    call = judge.request(how, pair.id, question(pair, *replies), Preference)
    answer = await asks.ask(call)
    return read(Preference, answer.text, truncated=answer.truncated)


def question(pair: Pair, first: str, second: str) -> tuple[prompts.Message, ...]:
    """The chat that asks which of two replies, in this order, is better."""
    said = {"seeker": pair.seeker, "reply_a": first, "reply_b": second}
    system = prompts.render(judge.TEMPLATES, PROMPTS[0])
    return judge.chat(system, PROMPTS[1], pair.history, said)


def row_of(pair: Pair, how: Judging, status: str, reason: str | None, told: object = None) -> Row:
    """The row of a pair without answers; one of equal replies is scored all the same."""
    return {
        "id": pair.id,
        "status": status,
        "outcome": "tie" if status == SCORED else None,
        "order_dependent": False,
        "identical": status == SCORED,
        "better": None,
        "reason": reason,
        "explanation": told,
        "judge": how.name,
    }


def asking(found: Matched, out: Path, how: Judging) -> Asking[Pair]:
    """The comparison of two systems."""
    pairs = found.pairs[: how.turns]
    options: Row = {
        "format": FORMAT,
        "step": "pairwise",
        "a": found.source["a"]["predictions"],
        "b": found.source["b"]["predictions"],
        "JUDGE": how.name,
        "JUDGE_N": how.turns,
        "weights": how.weights,
        "prompts": how.prompts(PROMPTS),
        "smoke": found.smoke or how.is_smoke,
    }

    def told(rows: Sequence[Row]) -> Row:
        of = f"{len(rows)} of {found.source['shared']}"
        return {
            **found.source,
            "drawn": len(rows),
            "judge": how.name,
            "signature": f"judge:{how.name}|prompts:{(options['prompts'] or 'none')[:12]}"
            f"|temperature:0|both orders|turns:{of} by hash of id",
            **shares_by_dialogue((r["id"], r["outcome"]) for r in rows if r["status"] == SCORED),
            "order_dependent": sum(row["order_dependent"] for row in rows),
            "identical": sum(row["identical"] for row in rows),
            **without_score(rows),
            "smoke": options["smoke"],
        }

    return Asking(
        folder=RunFolder(out, options, COMPARISONS),
        what="comparisons",
        run={"judge": how.name, "question": "comparisons"},
        records=lambda: pairs,
        work=partial(one_pair, how=how),
        without=lambda pair, failure: row_of(pair, how, *lost(failure)),
        told=told,
        report=partial(report, out),
        models=[how.judge_of.name],
        weights=how.weights,
        at=how.judge_of.urls,
        summary=SUMMARY,
        judge=how.name,
    )


def report(out: Path, told: Row) -> str:
    """The numbers one should see: every pair once."""
    a, b = told["a"], told["b"]
    lines = [
        f"comparisons {out / COMPARISONS}: {told['drawn']:,} of {told['shared']:,} shared turns = "
        + every_row(told, told["n"]),
        f"A against B {a['name']} against {b['name']}; judge {told['judge']}",
        f"            {line(told)}",
        f"ties        {told['order_dependent']:,} order-dependent, {told['identical']:,} of equal "
        "replies",
    ]
    if a["alone"] or b["alone"]:
        lines.append(f"alone       {a['alone']:,} turns only in A, {b['alone']:,} only in B")
    return "\n".join([*lines, *closing(told)])


@cli.command(
    examples="  python -m eval pairwise --a a.jsonl --b b.jsonl --out compared --judge random\n"
    "  python -m eval pairwise --a a.jsonl --b b.jsonl --out compared --model qwen2.5-7b --n 200 "
    "--dry-run"
)
def main(
    how: Judging,
    a: Annotated[Path, typer.Option(help="predictions of a system")],
    b: Annotated[Path, typer.Option(help="predictions of another")],
    out: Annotated[Path, typer.Option(help="a folder")],
) -> int:
    """Which of two systems replies better to the same turns, by a judge asked in both orders."""
    step.check_apart(out, a, b)
    return ask_all([asking(matched(a, b), out, how)], how)
