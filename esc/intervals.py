"""Confidence intervals of a share."""

import math

Z95 = 1.959963984540054
"""Two-sided 95 % quantile of the normal distribution."""


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
