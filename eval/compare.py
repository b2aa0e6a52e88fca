"""Two systems on the same turns: every difference with a paired interval, and what it amounts to.

from eval.cases import read_cases
from eval.compare import compare
compare(read_cases([first]), read_cases([second]))["numbers"]["text.paper.bleu1"]
"""

from collections import defaultdict
from dataclasses import replace
from typing import Any

import numpy as np

from esc import bootstrap
from esc.exceptions import EscError
from esc.files import Row
from esc.intervals import FEWEST, too_few
from esc.means import Units
from eval.cases import Case, Cases
from eval.diversity import half_width
from eval.measured import RAISED_BY_NOISE, columns, diverse, numbers, rounded


def compare(a: Cases, b: Cases) -> Row:
    """What b has more than a, on the turns that both answered.

    ``n`` turns, ``alone`` what only one of them has, ``resampled_by``, and ``numbers``: by the
    dotted name a number has in ``metrics.json``, ``a``, ``b``, ``difference`` (b − a), ``low`` and
    ``high`` of its 95 % interval, and ``verdict`` in words, such as ``inside the noise``. Both
    systems are resampled by the same draws. Fewer than `FEWEST` dialogues have no interval, which
    ``interval`` says. Turns are matched by id, or by their place in the file where there are no
    ids. The order of the rows changes nothing.

    Raises EscError where they share no turn, or an id has another gold turn in the other.
    """
    first, second = _matched(a, b)
    unit = first.resampled_by
    both = (first, second)
    width = 0
    by_unit = []
    for cases in both:
        sums = bootstrap.unit_sums(columns(cases.rows), cases.units)
        width = sums.shape[1]
        by_unit.append(sums)
    drawn = np.split(bootstrap.resampled(np.hstack(by_unit)), [width], axis=1)
    values = [numbers(sums.sum(axis=0, keepdims=True)) for sums in by_unit]
    resamples = [numbers(one) for one in drawn]
    told: Row = {}
    for path in values[0]:
        one, other = (float(value[path][0]) for value in values)
        spread = resamples[1][path] - resamples[0][path]
        reverse = path[-1] in RAISED_BY_NOISE
        ends = bootstrap.interval(other - one, spread, len(by_unit[0]), unit, reverse=reverse)
        told[".".join(path)] = _told(one, other, ends.low, ends.high)
    told |= _of_diversity(first, second)
    return {
        "n": len(first.rows),
        "alone": {"a": len(a.rows) - len(first.rows), "b": len(b.rows) - len(first.rows)},
        "resampled_by": unit,
        "interval": _interval(len(by_unit[0]), unit),
        "numbers": told,
    }


def _interval(units: int, unit: str) -> str:
    """How the intervals were made, or why there is none."""
    if units < FEWEST:
        return f"no interval: {too_few(units, unit)}"
    return f"{bootstrap.said(unit)}; reverse percentile of {', '.join(RAISED_BY_NOISE)}"


def _of_diversity(first: Cases, second: Cases) -> Row:
    told: Row = {}
    others = diverse(second)
    for name, one in diverse(first).items():
        other = others[name]
        half = half_width(other.left_out - one.left_out)
        difference = other.value - one.value
        none = np.isnan(half) or len(one.left_out) < FEWEST
        ends = (None, None) if none else (difference - half, difference + half)
        told[f"text.corpus.{name}"] = _told(one.value, other.value, *ends)
    return told


def _told(one: float, other: float, low: float | None, high: float | None) -> Row:
    difference = rounded(other - one)
    return {
        "a": rounded(one),
        "b": rounded(other),
        "difference": difference,
        "low": rounded(low),
        "high": rounded(high),
        "verdict": bootstrap.verdict(difference, low, high),
    }


def _matched(a: Cases, b: Cases) -> tuple[Cases, Cases]:
    """The shared turns of both, in one order that depends on what both say."""
    first, second = ({case.id: case for case in cases.rows} for cases in (a, b))
    shared = first.keys() & second.keys()
    if not shared:
        examples = ", ".join(sorted(first)[:3]), ", ".join(sorted(second)[:3])
        raise EscError(
            f"the two share no turn (ids {examples[0]} … and {examples[1]} …); compare predictions "
            "of the same split"
        )
    for name in sorted(shared):
        if _gold(first[name]) != _gold(second[name]):
            raise EscError(
                f"turn {name!r} has another gold strategy or reply in the other file; compare "
                "predictions of the same split and corpus"
            )
    by_dialogue = a.by_dialogue and b.by_dialogue
    units = Units(by_dialogue)
    groups: dict[str, list[tuple[Case, Case]]] = defaultdict(list)
    for name in shared:
        groups[units.unit(name)].append((first[name], second[name]))
    ordered = sorted((sorted(group, key=_said) for group in groups.values()), key=_all_said)
    pairs = [pair for group in ordered for pair in group]
    numbered = np.repeat(np.arange(len(ordered)), [len(group) for group in ordered])
    one, other = (
        replace(
            cases, rows=tuple(pair[side] for pair in pairs), units=numbered, by_dialogue=by_dialogue
        )
        for side, cases in enumerate((a, b))
    )
    return one, other


def _gold(case: Case) -> tuple[str, list[str]]:
    return case.gold.value, case.gold_text.split()


def _said(pair: tuple[Case, Case]) -> tuple[Any, ...]:
    return pair[0].content + pair[1].content


def _all_said(group: list[tuple[Case, Case]]) -> list[tuple[Any, ...]]:
    return [_said(pair) for pair in group]
