"""Which of two systems replies better to the same turns, by a judge that is asked in both orders.

Matches turns by id, asks about each pair twice, with either reply first, and writes to FOLDER
``calls.jsonl``, ``comparisons.jsonl``, ``pairwise.json`` with win, tie and lose of A, and last
``run.json``. Two answers that disagree are a tie, counted as order-dependent too; equal replies are
a tie that nobody is asked about; an answer that is no verdict leaves the pair *unscored*.
"""

import random
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Literal, Self

import typer
from pydantic import BeforeValidator, Field

from esc import cli, judging, prompts, step
from esc.files import Row
from esc.judging import DRAWN, SCORED, Asking, Judge, Unscored, Verdict
from esc.llm import Asks
from esc.prompts import Message
from esc.stats import share_of_turns, shares
from esc.step import RunFolder
from eval.cases import Matched, Pair, matched
from eval.judge import ANSWER_TOKENS, TEMPLATES, Judging

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
    better: Annotated[
        Literal["A", "B", "tie"], BeforeValidator(partial(judging.side, neither="tie"))
    ] = Field(title="better", json_schema_extra={"enum": ["A", "B", "tie"]})

    @classmethod
    def drawn(cls, chance: random.Random) -> Self:
        """Any of the three."""
        return cls.model_validate({"better": chance.choice(["A", "B", "tie"]), "reason": DRAWN})


def shares_by_dialogue(outcomes: Iterable[tuple[str, str]]) -> Row:
    """Per outcome of (turn, outcome)s its count, share (0 to 1) and 95 % interval; n; sign test.

    ``p`` is of the exact two-sided sign test on wins against losses, over turns: where those of one
    dialogue have one outcome, it is too small. Too few dialogues have neither interval nor test.
    """
    found, interval = shares(outcomes, OUTCOMES)
    return _tested(found) | {"interval": interval}


def shares_by_turn(counts: Mapping[str, int]) -> Row:
    """The same of counted turns, each of which stands for itself; intervals are Wilson's."""
    n = sum(counts.get(outcome, 0) for outcome in OUTCOMES)
    return _tested({outcome: share_of_turns(counts.get(outcome, 0), n) for outcome in OUTCOMES})


def _tested(found: Mapping[str, Row]) -> Row:
    from scipy.stats import binomtest

    counts = {outcome: one["count"] for outcome, one in found.items()}
    p, said = None, str(found["win"].get("reason") or "").replace("interval", "verdict", 1)
    if not said:
        # The exact sign test (Dixon and Mood, 1946), of which ties are no part.
        decided = counts["win"] + counts["lose"]
        p = float(binomtest(counts["win"], decided).pvalue) if decided else None
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


def question(pair: Pair, order: str) -> tuple[Message, ...]:
    """The chat that asks which of two replies, in this order, is better."""
    first, second = (str(getattr(pair, system)) for system in order)
    said = {"seeker": pair.seeker, "reply_a": first, "reply_b": second}
    system = prompts.render(TEMPLATES, PROMPTS[0])
    return judging.question(system, TEMPLATES / PROMPTS[1], pair.history, said)


async def ask(asks: Asks, pair: Pair, *, judge: Judge) -> dict[str, Preference] | Unscored:
    """What is said in either order, nothing of equal replies; or why there is no outcome."""
    if not pair.is_whole:
        return Unscored(pair.lacking, status=judging.NOT_JUDGED)
    said = {}
    for place, order in enumerate(ORDERS if not pair.is_alike else ()):
        chat, drawn_by = question(pair, order), f"better\n{pair.id}\n{place}"
        about = (asks, judge, Preference, pair.id, chat, drawn_by)
        said[order] = await judging.verdict(*about, tokens=ANSWER_TOKENS)
    found = {order: one for order, one in said.items() if isinstance(one, Preference)}
    return next((one for one in said.values() if isinstance(one, Unscored)), found)


def row_of(pair: Pair, said: Mapping[str, Preference] | Unscored) -> Row:
    """The row of one pair."""
    row: Row = {"id": pair.id, "status": SCORED, "outcome": "tie", "order_dependent": False}
    row |= dict.fromkeys(("better", "reason", "explanation")) | {"identical": not said}
    if isinstance(said, Unscored):
        told = {"status": said.status, "reason": said.reason, "explanation": said.detail or None}
        return row | {"outcome": None} | told
    if not said:
        return row
    # Which system's reply stands at A depends on the order.
    better = {
        order: {"A": order[0], "B": order[1], "tie": "tie"}[one.better]
        for order, one in said.items()
    }
    first, second = better.values()
    return row | {
        "outcome": {"a": "win", "b": "lose"}.get(first, "tie") if first == second else "tie",
        "order_dependent": first != second,
        "better": better,
        "explanation": {order: one.reason for order, one in said.items()},
    }


def asking(found: Matched, out: Path, how: Judging) -> Asking[Pair]:
    """The comparison of two systems."""
    judge = how.who()
    turns = how.turns(judge)
    options: Row = {
        "format": FORMAT,
        "step": "pairwise",
        "a": found.source["a"]["predictions"],
        "b": found.source["b"]["predictions"],
        "JUDGE": judge.name,
        "JUDGE_N": turns,
        "weights": judge.weights,
        "prompts": judge.prompts(TEMPLATES, PROMPTS),
        "smoke": found.smoke or judging.is_smoke(judge.name),
    }

    def told(rows: Sequence[Row]) -> Row:
        wording = (options["prompts"] or "none")[:12]
        return {
            **found.source,
            "drawn": len(rows),
            "judge": judge.name,
            "signature": f"judge:{judge.name}|prompts:{wording}|temperature:0|both orders"
            f"|turns:{len(rows)} of {found.source['shared']} by hash of id",
            **shares_by_dialogue((r["id"], r["outcome"]) for r in rows if r["status"] == SCORED),
            "order_dependent": sum(row["order_dependent"] for row in rows),
            "identical": sum(row["identical"] for row in rows),
            **judging.without_score(rows),
            "smoke": options["smoke"],
        }

    return Asking(
        folder=RunFolder(out, options, COMPARISONS),
        who=judge,
        records=lambda: found.pairs[:turns],
        ask=partial(ask, judge=judge),
        row=row_of,
        told=told,
        report=partial(report, out),
        summary=SUMMARY,
    )


def report(out: Path, told: Row) -> str:
    """The numbers one should see: every pair once."""
    a, b = told["a"], told["b"]
    lines = [
        f"comparisons {out / COMPARISONS}: {told['drawn']:,} of {told['shared']:,} shared turns = "
        + judging.every_row(told, told["n"]),
        f"A against B {a['name']} against {b['name']}; judge {told['judge']}",
        f"            {line(told)}",
        f"ties        {told['order_dependent']:,} order-dependent, {told['identical']:,} of equal "
        "replies",
    ]
    if a["alone"] or b["alone"]:
        lines.append(f"alone       {a['alone']:,} turns only in A, {b['alone']:,} only in B")
    return "\n".join([*lines, *judging.closing(told)])


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
    return judging.ask_all({"comparisons": lambda: asking(matched(a, b), out, how)}, how)
