"""Two systems on the same turns: every difference with a paired interval, and what it amounts to.

from eval.cases import read_cases
from eval.compare import compare
compare(read_cases([first]), read_cases([second]))["numbers"]["text.paper.bleu1"]
"""

from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from esc import bootstrap, files
from esc.exceptions import EscError
from esc.files import Row
from esc.intervals import FEWEST, too_few
from esc.means import Units
from esc.psych_errors import PsychError
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
        "interval": _interval(
            len(by_unit[0]),
            unit,
            f"{bootstrap.said(unit)}; reverse percentile of {', '.join(RAISED_BY_NOISE)}",
        ),
        "numbers": told,
    }


def _interval(units: int, unit: str, said: str) -> str:
    """How the intervals were made, which is ``said``, or why there is none."""
    return f"no interval: {too_few(units, unit)}" if units < FEWEST else said


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


def compare_errors(a: Path, b: Path) -> Row:
    """What b has more than a of every psychological error (RQ4, section 6.2), paired by turn.

    ``a`` and ``b`` are files of `mining classify`. ``shares`` maps an error to its shares in points
    of 100, their difference (b − a) with interval and verdict, of the ``n`` turns that both have a
    scored reply to; ``reason`` says why there are none. Raises EscError for a file of another form.
    """
    none: Row = {"n": 0, "shares": {}, "interval": "", "judge": None}
    if missing := [path for path in (a, b) if not path.is_file()]:
        return none | {
            "reason": f"the errors of {missing[0].parent.parent.name} are not classified"
        }
    (first, by_first), (second, by_second) = _errors_in(a), _errors_in(b)
    shared = sorted(first.keys() & second.keys())
    if not shared or by_first != by_second:
        reason = f"judged by {by_first} and {by_second}" if shared else "no turn is scored in both"
        return none | {"reason": reason}
    units = Units.of(shared)
    kinds = [error.value for error in PsychError]
    found = np.array(
        [
            [one[name] == kind for one in (first, second) for kind in kinds] + [True]
            for name in shared
        ]
    )
    names = [units.unit(name) for name in shared]
    order = np.argsort(names, kind="stable")
    numbered = np.unique(names, return_inverse=True)[1]
    sums = bootstrap.unit_sums(found[order].astype(np.float64), numbered[order])
    drawn = bootstrap.resampled(sums)
    unit = "dialogue" if units.by_dialogue else "row"
    told: Row = {}
    one, other = np.split(100 * sums[:, :-1].sum(axis=0) / len(shared), 2)
    lower, upper = np.split(100 * drawn[:, :-1] / drawn[:, -1:], 2, axis=1)
    for place, kind in enumerate(kinds):
        difference = float(other[place] - one[place])
        spread = upper[:, place] - lower[:, place]
        ends = bootstrap.interval(difference, spread, len(sums), unit)
        told[kind] = _told(float(one[place]), float(other[place]), ends.low, ends.high)
    return {
        "n": len(shared),
        "shares": told,
        "interval": _interval(len(sums), unit, bootstrap.said(unit)),
        "judge": by_first,
        "reason": None,
    }


def _errors_in(path: Path) -> tuple[dict[str, str], str]:
    """(error by turn, of the replies that are scored; who judged)."""
    rows = [row for row in files.read_jsonl(path) if row.get("status") == "scored"]
    try:
        judges = ", ".join(sorted({row["judge"] for row in rows}))
        return {row["id"]: PsychError(row["error"]).value for row in rows}, judges
    except (KeyError, ValueError, TypeError) as error:
        raise EscError(f"{path} is no file of psychological errors ({error})") from error
