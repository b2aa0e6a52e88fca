"""Win, tie and lose: their shares with intervals, and whether they could be chance."""

from collections.abc import Iterable, Mapping

from esc.agreement import sign_test
from esc.files import Row
from esc.shares import share_of_turns, shares

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
