"""Pairs of nearly identical short texts, found exactly and without comparing all with all.

A text is kept as the numbers of its words, 4 bytes a word and 8 a text, beside one dictionary of
all words. Only texts that share one of their rarest words are compared, and of equal texts only
one: the work grows with the number of texts, not its square, as long as most have a word that few
others have. Where thousands of texts that are not equal share nearly all of their words, as those
written after one template do, every two of them are compared.
"""

import math
import re
from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, pairwise

THRESHOLD = 0.8
"""Jaccard similarity of two word sets from which the texts count as nearly identical."""
_WORD = re.compile(r"\w+")


class WordSets:
    """The word sets of many texts, numbered from 0."""

    def __init__(self, texts: Iterable[str] = ()) -> None:
        self._numbers: dict[str, int] = {}
        self._words, self._ends = array("I"), array("Q", [0])
        for text in texts:
            self.add(text)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> "array[int]":
        """The numbers of a text's words, ascending."""
        return self._words[self._ends[index] : self._ends[index + 1]]

    def add(self, text: str) -> None:
        """Take one more text."""
        numbers = self._numbers
        words = {numbers.setdefault(w, len(numbers)) for w in _WORD.findall(text.casefold())}
        self._words.extend(sorted(words))
        self._ends.append(len(self._words))

    def pairs(self, among: Sequence[int] | None = None) -> Iterator[tuple[int, int, float]]:
        """(index, larger index, Jaccard similarity) of every pair at or above the threshold.

        ``among`` names the texts that are looked at, ascending; all without it. Prefix filtering:
        two sets this similar must share one of their rarest words. Texts without a word match
        nothing.
        """
        among = range(len(self)) if among is None else among
        prefixes = _Prefixes(self, among, len(self._numbers))
        for place, index in enumerate(among):
            words = frozenset(self[index])
            for other in sorted({among[one] for one in prefixes.sharing(place)}):
                theirs = self._ends[other + 1] - self._ends[other]
                if min(len(words), theirs) < THRESHOLD * max(len(words), theirs):
                    continue
                shared = len(words.intersection(self[other]))
                similarity = shared / (len(words) + theirs - shared)
                if similarity >= THRESHOLD:
                    yield other, index, similarity

    def links(self) -> Iterator[tuple[int, int]]:
        """Pairs enough to connect all that are nearly identical, be it over others.

        Of equal texts each is paired with the one before it alone, and the first of them with
        whatever is like it.
        """
        repeated = bytearray(len(self))
        for first, second in equal(
            array("q", (hash(self[index].tobytes()) for index in range(len(self))))
        ):
            if self[first] == self[second] and self[first]:
                repeated[second] = True
                yield first, second
        firsts = array("I", (index for index, again in enumerate(repeated) if not again))
        for first, second, _ in self.pairs(firsts):
            yield first, second


class _Prefixes:
    """The rarest words of texts, and which of those taken so far share one of them."""

    def __init__(self, sets: WordSets, among: Sequence[int], words: int) -> None:
        frequency = array("I", bytes(4 * words))
        for index in among:
            for word in sets[index]:
                frequency[word] += 1
        self._words, self._ends = array("I"), array("Q", [0])
        for index in among:
            rarest = sorted(sets[index], key=frequency.__getitem__)
            prefix = rarest[: len(rarest) - math.ceil(THRESHOLD * len(rarest)) + 1]
            # Nobody shares a word that is there once.
            self._words.extend(word for word in prefix if frequency[word] > 1)
            self._ends.append(len(self._words))
        # One row for every word, in one array: the places of the texts in whose prefix it is.
        room = array("Q", bytes(8 * (words + 1)))
        for word in self._words:
            room[word + 1] += 1
        self._begins = array("Q", accumulate(room))
        self._filled = self._begins[:]
        self._rows = array("I", bytes(4 * len(self._words)))

    def sharing(self, place: int) -> set[int]:
        """Take the text at ``place``; the places before it with one of its rarest words."""
        found: set[int] = set()
        for word in self._words[self._ends[place] : self._ends[place + 1]]:
            end = self._filled[word]
            found.update(self._rows[self._begins[word] : end])
            self._rows[end] = place
            self._filled[word] = end + 1
        return found


def equal(values: "array[int]") -> Iterator[tuple[int, int]]:
    """(index, next index) of neighbours among those of equal value."""
    order = sorted(range(len(values)), key=values.__getitem__)
    return ((one, other) for one, other in pairwise(order) if values[one] == values[other])
