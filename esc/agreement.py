"""Agreement, association and the sign test: small exact functions, each with its source."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence


def kappa(cells: Mapping[tuple[str, str], int]) -> float | None:
    """Cohen's kappa (1960), or None where both sides are constant, which tells nothing.

    ``cells`` maps (what the first says, what the second says) to how often.
    """
    n = sum(cells.values())
    first, second = Counter[str](), Counter[str]()
    for (one, other), count in cells.items():
        first[one] += count
        second[other] += count
    if len(+first) < 2 and len(+second) < 2:
        return None
    observed = sum(count for (one, other), count in cells.items() if one == other) / n
    chance = sum(first[label] * second[label] for label in first) / n**2
    return (observed - chance) / (1 - chance)


def fleiss_kappa(subjects: Sequence[Mapping[str, int]]) -> float | str:
    """Fleiss' kappa (1971) for any number of raters, or in words why there is none.

    ``subjects`` holds, per thing rated, how many raters chose each category. Every one must have
    the same number of raters. Raises ValueError where one has not.
    """
    raters = {sum(one.values()) for one in subjects}
    if not subjects:
        return "nothing is rated by all annotators"
    if len(raters) > 1:
        raise ValueError(f"subjects with {sorted(raters)} raters")
    (m,) = raters
    if m < 2:
        return "one annotator agrees with nobody; it takes two"
    n = len(subjects)
    total: Counter[str] = Counter()
    for one in subjects:
        total.update(one)
    if len(+total) < 2:
        return "all annotators give one answer throughout, so it cannot be told from chance"
    alike = sum(count * (count - 1) for one in subjects for count in one.values())
    observed = alike / (n * m * (m - 1))
    chance = sum(count**2 for count in total.values()) / (n * m) ** 2
    return (observed - chance) / (1 - chance)


def sign_test(wins: int, losses: int) -> float | None:
    """Two-sided p of the exact sign test (Dixon and Mood, 1946); None where there are ties alone.

    The chance, were wins and losses equally likely, of a split at least as uneven as this one.
    Raises ValueError for negative counts.
    """
    if wins < 0 or losses < 0:
        raise ValueError(f"{wins} wins, {losses} losses")
    n = wins + losses
    if n == 0:
        return None
    tail = sum(math.comb(n, k) for k in range(min(wins, losses) + 1))
    return min(1.0, 2 * tail / (1 << n))


def spearman(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Spearman's rank correlation (1904), -1 to 1, with mean ranks where values are tied.

    None where one side is constant, or there are fewer than two pairs. Raises ValueError for sides
    of different length.
    """
    if len(first) != len(second):
        raise ValueError(f"{len(first)} values beside {len(second)}")
    # Twice the rank is a whole number, so that all sums below are exact.
    one, other = _doubled_ranks(first), _doubled_ranks(second)
    n = len(one)
    mean = n + 1
    covariance = sum((a - mean) * (b - mean) for a, b in zip(one, other, strict=True))
    spread = sum((a - mean) ** 2 for a in one) * sum((b - mean) ** 2 for b in other)
    return covariance / math.sqrt(spread) if spread else None


def _doubled_ranks(values: Sequence[float]) -> list[int]:
    """Twice the rank of each value, from 2; equal values share the mean of their places."""
    below: dict[float, int] = {}
    counts = Counter(values)
    before = 0
    for value in sorted(counts):
        below[value] = 2 * before + counts[value] + 1
        before += counts[value]
    return [below[value] for value in values]
