"""Rows of scores to what one reads of them: means with intervals, and how far to trust the judge.

Only scored rows make a number; every other row is counted with its reason.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from esc.agreement import spearman
from esc.chat.failures import Failure
from esc.files import Row
from esc.means import Units, inside_the_noise, mean
from esc.verdicts import FOR_GOOD
from eval.items import SIDES, Key
from eval.ratings import SCALE, Dimension

SCORED, UNSCORED, FAILED, NOT_JUDGED = "scored", "unscored", "failed", "not judged"


def summary(rows: Sequence[Row], lengths: Mapping[Key, int], *, pairs: bool) -> Row:
    """What ``judge.json`` says of all rows; ``lengths`` has the characters of every reply.

    Per dimension the mean, 0 to 5, its 95 % interval, n, what has no score and why, how far a
    second asking agrees, and Spearman's correlation with length. For pairs the means of both sides,
    over the pairs whose two sides are scored, and their difference, as in the paper's Table 2.
    """
    units = Units.of(row["id"] for row in rows)
    told = _of_pairs if pairs else _of_predictions
    return {
        "scale": [SCALE[0], SCALE[-1]],
        "interval": units.said,
        "dimensions": {
            dimension.value: told([r for r in rows if r["dimension"] == dimension], units)
            | _trust([r for r in rows if r["dimension"] == dimension], lengths)
            for dimension in Dimension
        },
    }


def _of_predictions(rows: Iterable[Row], units: Units) -> Row:
    first = [row for row in rows if row["sample"] == 0]
    scored = [(row["id"], row["score"]) for row in first if row["status"] == SCORED]
    return mean(scored, units) | without_score(first)


def _of_pairs(rows: Iterable[Row], units: Units) -> Row:
    first = [row for row in rows if row["sample"] == 0]
    scores: dict[tuple[str, str | None], dict[str, float]] = defaultdict(dict)
    for row in first:
        if row["status"] == SCORED:
            scores[row["id"], row["quadrant"]][row["side"]] = row["score"]
    both = [(turn, one) for (turn, _), one in scores.items() if len(one) == len(SIDES)]
    told: Row = {side: mean([(turn, one[side]) for turn, one in both], units) for side in SIDES}
    apart = [(turn, one["chosen"] - one["rejected"]) for turn, one in both]
    difference = mean(apart, units)
    low = told["rejected"]["value"]
    told["difference"] = difference | {
        "percent": 100 * difference["value"] / low if low else None,
        "inside_the_noise": inside_the_noise(difference),
    }
    return told | {"n": len(both)} | without_score(first)


def lost(failure: Failure) -> tuple[str, str, str]:
    """(status, reason, detail) of a row whose request failed: for good, or worth asking again."""
    if failure.kind in FOR_GOOD:
        return UNSCORED, FOR_GOOD[failure.kind].value, failure.message
    return FAILED, failure.kind.value, failure.message


def without_score(rows: Iterable[Row]) -> Row:
    """How many rows have no score, and why."""
    rows = list(rows)

    def of(status: str) -> dict[str, int]:
        reasons = Counter(row["reason"] for row in rows if row["status"] == status)
        return {"total": reasons.total(), **dict(sorted(reasons.items()))}

    return {"unscored": of(UNSCORED), "failed": of(FAILED), "not_judged": of(NOT_JUDGED)}


def _trust(rows: Sequence[Row], lengths: Mapping[Key, int]) -> Row:
    first = {_key(row): row for row in rows if row["sample"] == 0}
    scored = {key: row["score"] for key, row in first.items() if row["status"] == SCORED}
    again = [row for row in rows if row["sample"] == 1]
    apart = [
        abs(row["score"] - scored[_key(row)])
        for row in again
        if row["status"] == SCORED and _key(row) in scored
    ]
    n = len(apart)
    rho = spearman(list(scored.values()), [lengths[key] for key in scored])
    why = "scores or lengths are all alike" if len(scored) > 1 else "fewer than two scores"
    return {
        "repeat": {
            "asked": len(again),
            "n": n,
            "exact": apart.count(0) / n if n else None,
            "mean_difference": sum(apart) / n if n else None,
        },
        "length": {
            "spearman": rho,
            "n": len(scored),
            "note": why if rho is None else None,
        },
    }


def _key(row: Row) -> Key:
    return row["id"], row["quadrant"], row["side"]


def report(found: Row) -> list[str]:
    """The numbers one should see."""
    lines = []
    for name, one in found["dimensions"].items():
        numbers = _pair_line(one) if "difference" in one else f"{_number(one)}  n {one['n']:,}"
        lines.append(f"{name:<16} {numbers}{_open(one)}")
    for name, one in found["dimensions"].items():
        again, length = one["repeat"], one["length"]
        told = "not asked again"
        if again["asked"]:
            told = f"0 of {again['asked']} asked again have both scores"
        if again["n"]:
            told = (
                f"{again['exact']:.0%} of {again['n']} asked again alike, "
                f"{again['mean_difference']:.2f} apart on average"
            )
        rho = length["note"] if length["spearman"] is None else f"{length['spearman']:+.2f}"
        lines.append(f"  {name:<16}{told}; Spearman with length: {rho}")
    return lines


def _number(one: Row) -> str:
    value = "  —  " if one["value"] is None else f"{one['value']:5.2f}"
    return value + ("" if one["low"] is None else f" [{one['low']:.2f}, {one['high']:.2f}]")


def _pair_line(one: Row) -> str:
    difference = one["difference"]
    noise = ", inside the noise" if difference["inside_the_noise"] else ""
    percent = "" if difference["percent"] is None else f" ({difference['percent']:+.1f} %)"
    return (
        f"chosen {_number(one['chosen'])}  rejected {_number(one['rejected'])}  "
        f"difference {_number(difference)}{percent}{noise}  n {one['n']:,}"
    )


def _open(one: Row) -> str:
    told = why_without(one)
    return f"  ({'; '.join(told)})" if told else ""


def why_without(one: Row) -> list[str]:
    """What `without_score` counted, in words."""
    return [
        f"{count:,} {status.replace('_', ' ')}: {why}"
        for status in ("unscored", "failed", "not_judged")
        for why, count in one[status].items()
        if why != "total"
    ]
