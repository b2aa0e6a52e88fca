"""Confidence intervals of a share, and how few dialogues have none."""

import math

Z95 = 1.959963984540054
"""Two-sided 95 % quantile of the normal distribution."""
FEWEST = 10
"""Dialogues, or rows where no dialogues are known, that an interval or a verdict takes: of 5
dialogues an interval of "95 %" holds the truth in 82 % of cases, of 2 in 53 %."""


def too_few(units: int, unit: str) -> str:
    """Why so few units have no interval: one sentence."""
    return f"{units} {unit}{'' if units == 1 else 's'}, and an interval takes {FEWEST} at least"


def wilson(successes: float, n: int) -> tuple[float, float] | None:
    """(low, high) of a share's 95 % interval, 0 to 1; None where ``n`` is 0.

    The score interval of Wilson (1927): unlike p ± 1.96·se it never leaves 0..1, and it is not of
    width 0 where all or none succeeded. Raises ValueError for impossible counts.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} of {n}")
    if n == 0:
        return None
    share, spread = successes / n, Z95 * Z95 / n
    centre = (share + spread / 2) / (1 + spread)
    half = Z95 / (1 + spread) * math.sqrt(share * (1 - share) / n + spread / (4 * n))
    # At 0 and n the ends are exactly 0 and 1; rounding must not put them beside.
    return (
        0.0 if successes == 0 else centre - half,
        1.0 if successes == n else centre + half,
    )
