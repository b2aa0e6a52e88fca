"""Pairs of nearly identical short texts, found exactly and without comparing all with all."""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

THRESHOLD = 0.8
"""Jaccard similarity of two word sets from which the texts count as nearly identical."""


def pairs(texts: Sequence[str]) -> Iterator[tuple[int, int, float]]:
    """(index, larger index, Jaccard similarity) of every pair at or above the threshold.

    Prefix filtering: two sets this similar must share one of their rarest words, so only texts
    that share such a word are compared. Texts without a word match nothing.
    """
    sets = [frozenset(re.findall(r"\w+", text.casefold())) for text in texts]
    frequency = Counter(word for words in sets for word in words)
    by_word: defaultdict[str, list[int]] = defaultdict(list)
    for index, words in enumerate(sets):
        rarest_first = sorted(words, key=lambda word: (frequency[word], word))
        prefix = rarest_first[: len(words) - math.ceil(THRESHOLD * len(words)) + 1]
        for other in sorted({other for word in prefix for other in by_word[word]}):
            similarity = len(words & sets[other]) / len(words | sets[other])
            if similarity >= THRESHOLD:
                yield other, index, similarity
        for word in prefix:
            by_word[word].append(index)
