"""Shares of turns with their intervals, which resample dialogues where dialogues are known.

Turns of one dialogue resemble one another, so that an interval that takes them for independent, as
Wilson's does, would be too narrow.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

import numpy as np

from esc import bootstrap
from esc.files import Row
from esc.intervals import FEWEST, too_few, wilson
from esc.means import NARROW, RESAMPLES, SEED, Units

BY_DIALOGUE = (
    f"{Units(by_dialogue=True).said}; Wilson's score interval over dialogues where all have one "
    "share"
)
BY_TURN = f"95 %, Wilson's score interval over turns, since the ids name no dialogues ({NARROW})"
"""The kinds of interval, in words."""


def shares(turns: Iterable[tuple[str, str]], labels: Iterable[str]) -> tuple[dict[str, Row], str]:
    """(label to what `share` says of it; the kind of interval in words).

    ``turns`` are (id, label).
    """
    turns = list(turns)
    units = Units.of(name for name, _ in turns)
    if not units.by_dialogue:
        count = Counter(label for _, label in turns)
        return {label: share_of_turns(count[label], len(turns)) for label in labels}, BY_TURN
    by_unit: dict[str, Counter[str]] = defaultdict(Counter)
    for name, label in turns:
        by_unit[units.unit(name)][label] += 1
    found = {
        label: share(Counter((counts[label], counts.total()) for counts in by_unit.values()))
        for label in labels
    }
    return found, BY_DIALOGUE


def share(dialogues: Mapping[tuple[int, int], int]) -> Row:
    """Count, share, and low and high of its 95 % interval; shares are 0 to 1, and None of nothing.

    ``dialogues`` maps (successes, n) of a dialogue to how many dialogues have them. The interval is
    the percentile bootstrap of dialogues. Where all have the same share, as where none or all of
    the turns succeeded, every resample has it too: then it is Wilson's over as many trials as there
    are dialogues. Fewer than `FEWEST` have none, and then ``reason`` says so.
    """
    count, n = (sum(one[side] * times for one, times in dialogues.items()) for side in (0, 1))
    units = sum(dialogues.values())
    ends = _interval(dialogues, count, n) if units >= FEWEST else None
    return _told(count, n, ends, units, "dialogue")


def share_of_turns(count: int, n: int) -> Row:
    """The same of turns each of which stands for itself; the interval is Wilson's."""
    return _told(count, n, wilson(count, n) if n >= FEWEST else None, n, "turn")


def _told(
    count: int, n: int, ends: tuple[float | None, float | None] | None, units: int, unit: str
) -> Row:
    low, high = ends or (None, None)
    told: Row = {"count": count, "share": count / n if n else None, "low": low, "high": high}
    if n and units < FEWEST:
        told["reason"] = f"no interval: {too_few(units, unit)}"
    return told


def _interval(
    dialogues: Mapping[tuple[int, int], int], count: int, n: int
) -> tuple[float | None, float | None] | None:
    units = sum(dialogues.values())
    if all(successes * n == count * trials for successes, trials in dialogues):
        return wilson(units * count / n, units)
    # Equal dialogues stand for one another, so it is enough to draw how often each kind occurs.
    kinds, times = (np.array(side) for side in zip(*sorted(dialogues.items()), strict=True))
    rng = np.random.default_rng(SEED)
    drawn = rng.multinomial(units, times / units, size=RESAMPLES) @ kinds
    ends = bootstrap.interval(count / n, drawn[:, 0] / drawn[:, 1], units, "dialogue")
    return ends.low, ends.high
