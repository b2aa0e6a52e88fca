"""The turns that are measured: what the corpus says to each, and what a system says.

Reads files of predictions, this kit's or foreign ones, strictly. The order that follows knows the
records' content only, so that neither the order of the rows nor their ids decide a number.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from esc import progress
from esc.exceptions import EscError
from esc.means import Units
from esc.predictions import Named, named_rows
from esc.strategies import Strategy, parse

Spread = tuple[float, ...]
"""A probability per strategy, in their canonical order."""
STATUSES = ("ok", "invalid", "failed")
_FIELDS = {
    "ours": ("gold_strategy", "predicted_strategy", "gold_response", "predicted_response"),
    "foreign": ("GT_strategy", "predict_strategy", "GT_content", "predict_content"),
}
_NONE = np.zeros(0, dtype=np.int64)
_SUM_TOLERANCE = 1e-3
"""Of eight probabilities that are rounded in the file."""


@dataclass(frozen=True, slots=True)
class Case:
    """One turn with what the corpus and the system say."""

    id: str
    gold: Strategy
    gold_text: str
    predicted: Strategy | None
    """None where the system's words name no strategy."""
    text: str
    """The reply; empty where there is none."""
    spread: Spread | None = None
    """The planner's probabilities."""
    stage: int | None = None
    """How far its dialogue has come (`esc.progress`); None where its length is unknown."""

    @property
    def content(self) -> tuple[Any, ...]:
        """What it says, without its id: equal contents are interchangeable."""
        return (
            self.gold.value,
            self.gold_text,
            self.predicted.value if self.predicted else "",
            self.text,
            self.spread or (),
            -1 if self.stage is None else self.stage,
        )


@dataclass(frozen=True, slots=True)
class Cases:
    """A system's turns in an order that depends on their content alone."""

    rows: tuple[Case, ...]
    units: NDArray[np.int64]
    """Per row, the number of what is resampled: its dialogue, or itself."""
    by_dialogue: bool
    failed: int = 0
    """Records without an answer, which are left out."""
    numbered: int = 0
    """Records without an id of their own."""

    @property
    def resampled_by(self) -> str:
        """What the intervals resample: ``dialogue`` or ``row``."""
        return "dialogue" if self.by_dialogue else "row"


def read_cases(paths: Sequence[Path]) -> Cases:
    """The turns of one system, from one file or from the parts of one.

    Raises EscError, naming the row, for whatever is not as it should be; also where every record
    failed.
    """
    found: dict[str, Case | None] = {}
    numbered = 0
    for path in paths:
        begin = len(found)
        for number, named in enumerate(named_rows(path)):
            # Rows without an id go on counting where the last part ended.
            name = f"row {begin + number}" if named.numbered else named.id
            if name in found:
                raise EscError(f"{named.where}: id {name!r} is there twice")
            found[name] = case_of(replace(named, id=name))
            numbered += named.numbered
    cases = [case for case in found.values() if case]
    if not cases:
        raise EscError(f"{paths[0]}: all {len(found)} records failed; 'make predict' asks again")
    failed = len(found) - len(cases)
    return arranged(cases, ids=list(found), failed=failed, numbered=numbered)


def arranged(
    cases: Iterable[Case], *, ids: Sequence[str], failed: int = 0, numbered: int = 0
) -> Cases:
    """The cases by dialogue, where all ``ids`` name one (`esc.means.Units`).

    ``ids`` are those of all records, failed ones too.
    """
    units = Units.of(ids)
    by_dialogue = units.by_dialogue and not numbered
    groups: dict[str, list[Case]] = defaultdict(list)
    for case in cases:
        groups[units.unit(case.id) if by_dialogue else case.id].append(case)
    return _in_order(groups.values(), Cases((), _NONE, by_dialogue, failed, numbered))


def changed(cases: Cases, change: Callable[[Case], Case]) -> Cases:
    """The same turns with each case changed, in the order of what they say then."""
    groups: dict[int, list[Case]] = defaultdict(list)
    for unit, one in zip(cases.units.tolist(), cases.rows, strict=True):
        groups[unit].append(change(one))
    return _in_order(groups.values(), cases)


def _in_order(groups: Iterable[list[Case]], of: Cases) -> Cases:
    ordered = sorted(
        (sorted(group, key=lambda one: one.content) for group in groups),
        key=lambda group: [one.content for one in group],
    )
    return replace(
        of,
        rows=tuple(one for group in ordered for one in group),
        units=np.repeat(np.arange(len(ordered)), [len(group) for group in ordered]),
    )


def case_of(named: Named) -> Case | None:
    """The row as a case, or None where it is a record of a failed request.

    Raises EscError, naming the row, where it is neither.
    """
    row, where = named.row, named.where
    form = "foreign" if {*_FIELDS["foreign"]} & row.keys() else "ours"
    status = row.get("status", "ok")
    if status not in STATUSES:
        raise EscError(f"{where}: its status {status!r} is none of {', '.join(STATUSES)}")
    if status == "failed":
        return None
    gold, predicted, gold_text, text = _FIELDS[form]
    for field in _FIELDS[form]:
        if field not in row:
            raise EscError(
                f"{where}: no {field!r}; metrics take {', '.join(_FIELDS['ours'])}, or "
                f"{', '.join(_FIELDS['foreign'])}: add it, or rename one of {named.columns}"
            )
        if not isinstance(row[field], str if field in (gold, gold_text) else str | None):
            lost = ", but null or NaN: fill it in, or leave the row out"
            raise EscError(f"{where}: {field!r} is no text{lost if row[field] is None else ''}")
    strategy = parse(row[gold])
    if strategy is None:
        known = ", ".join(Strategy)
        raise EscError(f"{where}: unknown {gold} {row[gold]!r}; it takes one of {known}")
    return Case(
        id=named.id,
        gold=strategy,
        gold_text=row[gold_text],
        predicted=parse(row[predicted] or ""),
        text=(row[text] or "").strip(),
        spread=_spread(row.get("distribution"), where),
        stage=_stage(named.id, row.get("dialogue_turns"), where),
    )


def _stage(name: str, turns: object, where: str) -> int | None:
    """How far the dialogue has come; the length of it is what a part of a file does not show."""
    turn = name.rpartition("-")[2]
    if turns is None or not turn.isdecimal():
        return None
    if isinstance(turns, bool) or not isinstance(turns, int) or turns <= int(turn):
        raise EscError(f"{where}: dialogue_turns {turns!r} is no number of turns that has {name!r}")
    return progress.interval(int(turn), turns)


def _spread(given: object, where: str) -> Spread | None:
    if given is None:
        return None
    if not isinstance(given, dict):
        raise EscError(f"{where}: its distribution is no object of eight probabilities")
    shares: dict[Strategy, float] = {}
    for name, share in given.items():
        strategy = parse(name)
        if strategy is None or strategy in shares:
            raise EscError(f"{where}: its distribution has an unknown or double strategy {name!r}")
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
            raise EscError(f"{where}: its distribution gives {name} {share!r}, no probability")
        shares[strategy] = float(share)
    if len(shares) != len(Strategy) or abs(sum(shares.values()) - 1) > _SUM_TOLERANCE:
        raise EscError(
            f"{where}: its distribution has {len(shares)} strategies that sum to "
            f"{sum(shares.values()):.4g}; it takes {len(Strategy)} that sum to 1"
        )
    return tuple(shares[strategy] for strategy in Strategy)
