"""Which of two systems replies better to the same turns, by a judge that is asked in both orders.

Writes ``calls.jsonl``, ``comparisons.jsonl``, ``pairwise.json`` with win, tie and lose of A, and
last ``run.json``. Two answers that disagree are a tie, counted as order-dependent too; equal
replies are a tie that nobody is asked about; what is no verdict leaves the pair *unscored*.
"""

import random
from collections.abc import Mapping, Sequence
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
from esc.stats import shares
from esc.step import RunFolder
from eval.cases import Pair, matched
from eval.judge import ANSWER_TOKENS, TEMPLATES, Judging, signature

OUTCOMES = ("win", "tie", "lose")
"""Of system A against system B."""
_PROMPTS = ("pairwise_system.j2", "pairwise_user.j2")
_COMPARISONS, _SUMMARY = "comparisons.jsonl", "pairwise.json"
_ORDERS = ("ab", "ba")
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


def tested(found: Mapping[str, Row]) -> Row:
    """Shares of the outcomes, their ``n``, the exact sign test (Dixon and Mood, 1946) over turns.

    Where those of one dialogue have one outcome, its ``p`` is too small; too few have none.
    """
    from scipy.stats import binomtest

    counts = {outcome: one["count"] for outcome, one in found.items()}
    p, said = None, str(found["win"].get("reason") or "").replace("interval", "verdict", 1)
    if not said:
        decided = counts["win"] + counts["lose"]
        p = float(binomtest(counts["win"], decided).pvalue) if decided else None
        said = "no win and no loss to test"
    if p is not None:
        differ = "the two differ more than chance would explain (p < 0.05)"
        said = differ if p < 0.05 else "inside the noise (p >= 0.05)"
    return dict(found) | {"n": sum(counts.values()), "sign_test": {"p": p, "said": said}}


def line(told: Row) -> str:
    """The shares and the test in one line."""
    parts = []
    for outcome in OUTCOMES:
        one = told[outcome]
        share = "—" if one["share"] is None else f"{one['share']:.1%}"
        interval = "" if one["low"] is None else f" [{one['low']:.1%}, {one['high']:.1%}]"
        parts.append(f"{outcome} {one['count']:,} {share}{interval}")
    p = told["sign_test"]["p"]
    test = "" if p is None else f"; sign test over turns p = {p:.4f}"
    return f"{', '.join(parts)}; n {told['n']:,}{test}: {told['sign_test']['said']}"


def question(pair: Pair, order: str) -> tuple[Message, ...]:
    """The chat that asks which of two replies, in this order, is better."""
    first, second = (str(getattr(pair, system).reply) for system in order)
    said = {"seeker": pair.told.seeker, "reply_a": first, "reply_b": second}
    system = prompts.render(TEMPLATES, _PROMPTS[0])
    return judging.question(system, TEMPLATES / _PROMPTS[1], pair.told.history, said)


async def _ask(asks: Asks, pair: Pair, *, judge: Judge) -> dict[str, Preference] | Unscored:
    """What is said in either order, nothing of equal replies; or why there is no outcome."""
    if pair.lacking:
        return Unscored(pair.lacking, status=judging.NOT_JUDGED)
    said, wrong = {}, None
    for place, order in enumerate(_ORDERS if not pair.is_alike else ()):
        chat, drawn_by = question(pair, order), f"better\n{pair.a.id}\n{place}"
        about = (asks, judge, Preference, pair.a.id, chat, drawn_by)
        one = await judging.verdict(*about, tokens=ANSWER_TOKENS)
        if isinstance(one, Unscored):
            wrong = wrong or one
        else:
            said[order] = one
    return wrong or said


def _row(pair: Pair, said: Mapping[str, Preference] | Unscored) -> Row:
    row: Row = {"id": pair.a.id, "status": SCORED, "outcome": "tie", "order_dependent": False}
    row |= dict.fromkeys(("better", "reason", "explanation")) | {"identical": not said}
    if isinstance(said, Unscored):
        told = {"status": said.status, "reason": said.reason, "explanation": said.detail or None}
        return row | {"outcome": None} | told
    if not said:
        return row
    # Which system's reply stands at A depends on the order.
    better = {o: {"A": o[0], "B": o[1], "tie": "tie"}[one.better] for o, one in said.items()}
    first, second = better.values()
    return row | {
        "outcome": {"a": "win", "b": "lose"}.get(first, "tie") if first == second else "tie",
        "order_dependent": first != second,
        "better": better,
        "explanation": {order: one.reason for order, one in said.items()},
    }


def _asking(a: Path, b: Path, out: Path, how: Judging) -> Asking[Pair]:
    (pairs, source), judge = matched(a, b), how.who()
    options = how.options(judge, "pairwise", _PROMPTS, smoke=source["smoke"])
    options |= {side: source[side]["predictions"] for side in ("a", "b")}

    def told(rows: Sequence[Row]) -> Row:
        turns = f"turns:{len(rows)} of {source['shared']} by hash of id{source['sees']}"
        counted = [(row["id"], row["outcome"]) for row in rows if row["status"] == SCORED]
        found, interval = shares(counted, OUTCOMES)
        return {
            **source,
            "drawn": len(rows),
            "judge": judge.name,
            "signature": signature(options, "temperature:0", "both orders", turns),
            **tested(found),
            "interval": interval,
            "order_dependent": sum(row["order_dependent"] for row in rows),
            "identical": sum(row["identical"] for row in rows),
            **judging.without_score(rows),
            "smoke": options["smoke"],
        }

    return Asking(
        folder=RunFolder(out, options, _COMPARISONS),
        who=judge,
        records=lambda: pairs[: how.turns(judge)],
        ask=partial(_ask, judge=judge),
        row=_row,
        told=told,
        report=partial(_report, out),
        summary=_SUMMARY,
    )


def _report(out: Path, told: Row) -> str:
    a, b = told["a"], told["b"]
    lines = [
        f"comparisons {out / _COMPARISONS}: {told['drawn']:,} of {told['shared']:,} shared turns = "
        + judging.every_row(told, told["n"]),
        f"A against B {a['name']} against {b['name']}; judge {told['judge']}",
        f"            {line(told)}",
        f"ties        {told['order_dependent']:,} order-dependent, {told['identical']:,} of equal "
        "replies",
        f"alone       {a['alone']:,} turns only in A, {b['alone']:,} only in B",
    ]
    return "\n".join([*lines, *judging.closing(told)])


@cli.command(
    examples="  python -m eval pairwise --a a.jsonl --b b.jsonl --out compared --n 200 --dry-run"
)
def main(
    how: Judging,
    a: Annotated[Path, typer.Option(help="predictions of a system")],
    b: Annotated[Path, typer.Option(help="predictions of another")],
    out: Annotated[Path, typer.Option(help="a folder")],
) -> int:
    """Which of two systems replies better to the same turns, by a judge asked in both orders."""
    step.check_apart(out, a, b)
    return judging.ask_all({"comparisons": partial(_asking, a, b, out, how)}, how)
