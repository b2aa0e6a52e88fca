"""Win, tie and lose: their shares with intervals, and whether they could be chance."""

from collections.abc import Mapping

from esc.agreement import sign_test
from esc.files import Row
from esc.intervals import wilson

OUTCOMES = ("win", "tie", "lose")
"""Of system A against system B."""


def shares(counts: Mapping[str, int]) -> Row:
    """Per outcome its count, share and 95 % Wilson interval (0 to 1, None of nothing); n; p.

    ``p`` is of the exact two-sided sign test on wins against losses, ties left out.
    """
    n = sum(counts.get(outcome, 0) for outcome in OUTCOMES)
    told: Row = {}
    for outcome in OUTCOMES:
        count = counts.get(outcome, 0)
        low, high = wilson(count, n) or (None, None)
        share = count / n if n else None
        told[outcome] = {"count": count, "share": share, "low": low, "high": high}
    p = sign_test(counts.get("win", 0), counts.get("lose", 0))
    return told | {"n": n, "sign_test": {"p": p, "said": _said(p)}}


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
    tested = "" if p is None else f"; sign test p = {p:.4f}"
    return f"{', '.join(parts)}; n {told['n']:,}{tested}: {told['sign_test']['said']}"
