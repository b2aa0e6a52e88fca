"""All automatic numbers of one system: value, 95 % interval, n and signature of each.

Every metric family turns turns into columns, columns are summed, and sums become numbers; so the
numbers of 1,000 resamples come from the same functions as the numbers themselves.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from esc import bootstrap
from esc.bootstrap import Floats
from esc.files import Row
from esc.intervals import FEWEST, too_few
from esc.means import NARROW
from esc.strategies import UNREADABLE, Strategy
from eval import calibration, diversity, strategy_metrics, text_metrics, text_statistics
from eval.cases import Case, Cases
from eval.diversity import Diversity

Path = tuple[str, ...]
"""Where a number stands, such as ``("text", "paper", "bleu1")``."""
Numbers = dict[Path, Floats]
"""One value for each row of sums; NaN where undefined."""

ALL_TURNS = "all_turns"
"""The strategy numbers that leave out no turn."""
RAISED_BY_NOISE = ("bias", "bias_converged", "js_distance", "ece")
"""Numbers that cannot be negative, and are the higher the fewer turns there are."""
_DIGITS = 6
"""Of a number in a file; the rest is the order in which a machine adds."""
_WIDTHS = (strategy_metrics.WIDTH, calibration.WIDTH)
_SPREADS = ("preference", "f1", "predicted", "gold")


def columns(cases: Sequence[Case]) -> Floats:
    """What is summed over turns, of every family side by side; shape (n, k)."""
    texts = text_statistics.statistics((case.text, case.gold_text) for case in cases)
    return np.hstack([columns_of_strategies(cases), text_metrics.columns(texts)])


def columns_of_strategies(cases: Sequence[Case]) -> Floats:
    """The columns of strategies and their probabilities, which come first."""
    return np.hstack([strategy_metrics.columns(cases), calibration.columns(cases)])


def numbers(sums: Floats) -> Numbers:
    """Every number but those of `eval.diversity`, for each row of summed `columns`."""
    strategy, calibrated, text = np.split(sums, np.cumsum(_WIDTHS), axis=1)
    found = strategy_numbers(strategy)
    for name, values in calibration.numbers(calibrated).items():
        found["strategy", "calibration", name] = values
    for family, of_family in text_metrics.numbers(text).items():
        for name, values in of_family.items():
            found["text", family, name] = values
    return found


def strategy_numbers(sums: Floats) -> Numbers:
    """The numbers of `eval.strategy_metrics`, for each row of its summed columns."""
    found: Numbers = {("strategy", "invalid_rate"): strategy_metrics.invalid_rate(sums)}
    for place, all_turns in ((("strategy",), False), (("strategy", ALL_TURNS), True)):
        told = strategy_metrics.numbers(strategy_metrics.confusion(sums, all_turns=all_turns))
        for name in strategy_metrics.HEADLINE:
            found[*place, name] = told[name]
        for name in _SPREADS:
            where = ("distribution", name) if name in ("predicted", "gold") else (name,)
            for number, strategy in enumerate(Strategy):
                found[*place, *where, strategy.value] = told[name][:, number]
    return found


def measured(cases: Cases) -> Row:
    """``strategy`` and ``text`` of a system, as in ``metrics.json``."""
    by_unit = bootstrap.unit_sums(columns(cases.rows), cases.units)
    total = by_unit.sum(axis=0, keepdims=True)
    values, drawn = numbers(total), numbers(bootstrap.resampled(by_unit))
    unit = cases.resampled_by
    told = facts(cases.rows)
    for path, value in values.items():
        reverse = path[-1] in RAISED_BY_NOISE
        ends = bootstrap.interval(float(value[0]), drawn[path], len(by_unit), unit, reverse=reverse)
        if reverse and ends.low is not None:
            # None of them can be negative.
            ends = replace(ends, low=max(0.0, ends.low))
        number = _number(float(value[0]), ends, _n(path, total), why(path))
        by = bootstrap.said(unit, reverse=reverse)
        put(told, path, number | {"signature": f"{signature(path)}|{by}"})
    for name, found in diverse(cases).items():
        put(told, ("text", "corpus", name), _of_diversity(name, found, cases, len(by_unit)))
    return told


def facts(cases: Sequence[Case]) -> Row:
    """What of the strategies is no number with an interval."""
    own = columns_of_strategies(cases).sum(axis=0, keepdims=True)
    strategy, calibrated = np.split(own, [strategy_metrics.WIDTH], axis=1)
    invalid = sum(case.predicted is None for case in cases)
    counts = strategy_metrics.confusion(strategy, all_turns=False)[0].astype(int)
    return {
        "strategy": {
            "n": len(cases) - invalid,
            "invalid": invalid,
            ALL_TURNS: {"n": len(cases)},
            "calibration": {
                "n": int(calibrated[0, -1]),
                "bins": calibration.bins(calibrated[0]),
            },
            "confusion": confusion_told(counts.tolist()),
            "by_stage": strategy_metrics.by_stage(cases),
        }
    }


def diverse(cases: Cases) -> dict[str, Diversity]:
    """The numbers of `eval.diversity` for a system's replies."""
    replies = [text_statistics.words(case.text) for case in cases.rows]
    return diversity.diversity(replies, cases.units)


def _of_diversity(name: str, found: Diversity, cases: Cases, units: int) -> Row:
    unit, half = cases.resampled_by, found.half_width
    ends = bootstrap.Interval(None, None)
    if units < FEWEST:
        ends = bootstrap.Interval(None, None, too_few(units, unit))
    elif not np.isnan(half):
        ends = bootstrap.Interval(max(0.0, found.value - half), found.value + half)
    path = ("text", "corpus", name)
    told = _number(found.value, ends, len(cases.rows), why(path))
    by = unit if cases.by_dialogue else f"{unit} ({NARROW})"
    return told | {"signature": f"{signature(path)}|ci:95 % jackknife by {by}"}


def _number(value: float, ends: bootstrap.Interval, n: int, why_not: str) -> Row:
    told: Row = {
        "value": rounded(value),
        "low": rounded(ends.low),
        "high": rounded(ends.high),
        "n": n,
    }
    if told["value"] is None:
        told["reason"] = why_not
    elif ends.reason:
        told["reason"] = f"no interval: {ends.reason}"
    return told


def rounded(value: float | None) -> float | None:
    """The number as it stands in a file; None where it is undefined."""
    # Adding 0 turns a rounded -0.0 into 0.0.
    return None if value is None or np.isnan(value) else round(float(value), _DIGITS) + 0.0


def put(told: Row, path: Path, value: object) -> None:
    """Place a value in nested objects."""
    *above, name = path
    for part in above:
        told = told.setdefault(part, {})
    told[name] = value


def _n(path: Path, total: Floats) -> int:
    """How many turns a number is of."""
    strategy, calibrated, text = np.split(total[0], np.cumsum(_WIDTHS))
    if "calibration" in path:
        return int(calibrated[-1])
    if path[0] == "text" or ALL_TURNS in path or path[-1] == "invalid_rate":
        return int(text[-1])
    return int(text[-1] - strategy[-strategy_metrics.SIZE :].sum())


def confusion_told(counts: Sequence[Sequence[float]]) -> Row:
    """Counts of predicted (rows) and gold (columns), with the order of both."""
    return {"strategies": [strategy.value for strategy in Strategy], "predicted_by_gold": counts}


def paths() -> Iterator[Path]:
    """Where every number stands."""
    yield from numbers(np.zeros((1, columns(()).shape[1])))
    for name in diversity.METRICS:
        yield "text", "corpus", name


def why(path: Path) -> str:
    """Why the number at ``path`` is undefined, where it is."""
    if path[0] == "text":
        return text_metrics.WHY[path[1]]
    if "calibration" in path:
        return calibration.WHY
    if "f1" in path:
        return "the strategy is neither gold nor predicted"
    return strategy_metrics.why(path[-1])


def signature(path: Path) -> str:
    """Everything that decides the number at ``path``, but for its interval."""
    family, *_, name = path
    if family == "text":
        if name in diversity.METRICS and path[1] == "corpus":
            return f"{diversity.signature(name)}|{text_metrics.WORDS}"
        return _TEXT[path[1]][name]
    if "calibration" in path:
        return calibration.SIGNATURES[name]
    known = strategy_metrics.SIGNATURES
    said = known[name] if name in known else known[path[-2]]
    if name == "invalid_rate":
        return said
    counted = f"as predicted {UNREADABLE}" if ALL_TURNS in path else "left out"
    return f"{said}|{strategy_metrics.LIST}|invalid:{counted}"


_TEXT = text_metrics.signatures()
