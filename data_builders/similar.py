"""Pairs of nearly identical short texts, found exactly and without comparing all with all.

A text is kept as the numbers of its words, 4 bytes a word and 8 a text; the dictionary of all words
is dropped once they are read. Only texts that share one of their rarest words are compared, and of
equal texts only one: the work grows with the number of texts, not its square, as long as most have
a word that few others have. Where thousands of texts that are not equal share nearly all of their
words, as those written after one template do, every two of them are compared.
"""

import math
import re
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, pairwise

THRESHOLD = 0.8
"""Jaccard similarity of two word sets from which the texts count as nearly identical."""
_WORD = re.compile(r"\w+")


class WordSets:
    """The word sets of many texts, numbered from 0."""

    def __init__(self, texts: Iterable[str]) -> None:
        numbers: dict[str, int] = {}
        self._words, self._ends = array("I"), array("Q", [0])
        for text in texts:
            words = {numbers.setdefault(w, len(numbers)) for w in _WORD.findall(text.casefold())}
            self._words.extend(sorted(words))
            self._ends.append(len(self._words))
        self._different = len(numbers)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> "array[int]":
        """The numbers of a text's words, ascending."""
        return self._words[self._ends[index] : self._ends[index + 1]]

    def pairs(self, among: Sequence[int] | None = None) -> Iterator[tuple[int, int, float]]:
        """(index, larger index, Jaccard similarity) of every pair at or above the threshold.

        ``among`` names the texts that are looked at; all without it. In no particular order. Texts
        without a word match nothing.
        """
        among = range(len(self)) if among is None else among
        # A text is compared with those before it: none has more words.
        order = array("I", sorted(among, key=self._size))
        rarest = _Rarest(self, order, self._different)
        for place, index in enumerate(order):
            words = frozenset(self[index])
            for other in (order[one] for one in rarest.sharing(place)):
                shared = len(words.intersection(self[other]))
                similarity = shared / (len(words) + self._size(other) - shared)
                if similarity >= THRESHOLD:
                    yield min(index, other), max(index, other), similarity

    def _size(self, index: int) -> int:
        return self._ends[index + 1] - self._ends[index]

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


class _Rarest:
    """Texts by their rarest words, taken from the shortest to the longest.

    Two sets as similar as the threshold must share a word of the longer one's ``1 - t`` rarest and
    of the shorter one's ``1 - 2t/(1 + t)`` rarest (prefix filtering), and the shorter one cannot
    have fewer than ``t`` times the words.
    """

    def __init__(self, sets: WordSets, order: "array[int]", words: int) -> None:
        frequency = array("I", bytes(4 * words))
        for index in order:
            for word in sets[index]:
                frequency[word] += 1
        self._sizes = array("I")
        self._words, self._ends, self._row_ends = array("I"), array("Q", [0]), array("Q")
        # One row for every word, all in one array: the places of the texts that it is a rarest of.
        room = array("Q", bytes(8 * (words + 1)))
        for index in order:
            ordered = sorted(sets[index], key=frequency.__getitem__)
            size = len(ordered)
            self._sizes.append(size)
            # Nobody shares a word that is there once.
            alone = sum(frequency[word] == 1 for word in ordered)
            begin = self._ends[-1]
            self._words.extend(ordered[alone : _prefix(size, THRESHOLD)])
            self._ends.append(len(self._words))
            in_rows = _prefix(size, 2 * THRESHOLD / (1 + THRESHOLD)) - alone
            self._row_ends.append(begin + max(in_rows, 0))
            for word in self._words[begin : self._row_ends[-1]]:
                room[word + 1] += 1
        self._begins = array("Q", accumulate(room))
        self._filled = self._begins[:]
        self._rows = array("I", bytes(4 * self._begins[-1]))
        self._shortest = 0

    def sharing(self, place: int) -> set[int]:
        """Take the text at ``place``; the places before it that it has to be compared with."""
        while self._sizes[self._shortest] < THRESHOLD * self._sizes[place]:
            self._shortest += 1
        found: set[int] = set()
        for at in range(self._ends[place], self._ends[place + 1]):
            word = self._words[at]
            end = self._filled[word]
            begin = bisect_left(self._rows, self._shortest, self._begins[word], end)
            found.update(self._rows[begin:end])
            self._begins[word] = begin
            if at < self._row_ends[place]:
                self._rows[end] = place
                self._filled[word] = end + 1
        return found


def _prefix(size: int, overlap: float) -> int:
    """How many words of a set are its rarest, where it must share ``overlap`` of all."""
    # Less a little: a product that is whole must not be rounded up.
    return size - math.ceil(overlap * size - 1e-9) + 1


def equal(values: "array[int]") -> Iterator[tuple[int, int]]:
    """(index, next index) of neighbours among those of equal value."""
    order = sorted(range(len(values)), key=values.__getitem__)
    return ((one, other) for one, other in pairwise(order) if values[one] == values[other])
