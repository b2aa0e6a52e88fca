"""How far a dialogue has come at a turn: the stages of Figure 8."""

INTERVALS = 6
"""Progress of a turn k of n is k/n: five equal intervals below 1, and 1 itself (the last turn), as
in the corpus's own paper (Liu et al. 2021). The paper prints no numbers for its Figure 8."""


def interval(turn: int, turns: int) -> int:
    """The interval (0 to 5) of the 0-based supporter turn ``turn`` of ``turns``."""
    return min((turn + 1) * (INTERVALS - 1) // turns, INTERVALS - 1)


def interval_names() -> list[str]:
    """Labels of the intervals of progress."""
    step = 100 // (INTERVALS - 1)
    return [f"{k * step}–{(k + 1) * step} %" for k in range(INTERVALS - 1)] + ["last turn"]
