"""Which dialogue trains, validates and tests: the paper's split, or a seeded one; never by turn.

A dialogue is named by its position, which is also its place among the sides.
"""

import hashlib
import math
import random
import re
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, chain, pairwise

from data_builders import corpus
from esc import dialogue as draw
from esc.dialogue import Dialogue
from esc.exceptions import CorpusError, EscError
from esc.paths import SPLITS

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


class Survey:
    """What is known of a corpus after one reading; dialogues are named by their position."""

    def __init__(self, dialogues: Iterable[Dialogue]) -> None:
        rest = iter(dialogues)
        head, is_release = corpus.recognise(rest)
        self.released = head if is_release else None
        """The dialogues at their release positions and in that order; None for another corpus."""
        self.utterances = 0
        self.fingerprints = array("Q")
        """Of the utterances of every dialogue."""
        self._digest = hashlib.sha256()
        self.situations = WordSets(self._situations(chain(head, rest)))
        self.corpus = self._digest.hexdigest()
        """SHA-256 over all that the sets take, blanks too, in order: layouts may differ in it."""

    def _situations(self, dialogues: Iterable[Dialogue]) -> Iterator[str]:
        """The situation of every dialogue, once all else is noted of it."""
        for dialogue in dialogues:
            self.utterances += len(dialogue.utterances)
            self.fingerprints.append(int.from_bytes(corpus.fingerprint(dialogue)[:8]))
            self._digest.update(repr(dialogue).encode())
            yield dialogue.situation

    def __len__(self) -> int:
        return len(self.fingerprints)

    @cached_property
    def families(self) -> "array[int]":
        """For every dialogue the first one of its family.

        Dialogues with the same utterances or nearly the same situation are of one family, and so
        are those of a third one's.
        """
        first = array("I", range(len(self)))

        def of(place: int) -> int:
            while first[place] != place:
                first[place] = first[first[place]]
                place = first[place]
            return place

        for one, other in chain(equal(self.fingerprints), self.situations.links()):
            earlier, later = sorted((of(one), of(other)))
            first[later] = earlier
        return array("I", map(of, range(len(self))))


DEFAULT_SEED = 42
SHARES = (8, 1, 1)


@dataclass(frozen=True, slots=True)
class Leak:
    """Two dialogues on different sides of the split that should not be."""

    what: str
    """``dialogue`` (the same utterances) or ``situation`` (nearly the same description)."""
    ids: tuple[str, str]
    splits: tuple[str, str]
    similarity: float
    """Jaccard similarity of the word sets, 0 to 1."""


def resolve(spec: str | None, *, is_release: bool) -> str:
    """The split that ``spec`` names, ``paper`` or ``seed:N``; without one, the corpus's default.

    Raises EscError for another form, CorpusError for the paper's split on another corpus.
    """
    if spec is None:
        return "paper" if is_release else f"seed:{DEFAULT_SEED}"
    if spec == "paper":
        if not is_release:
            raise CorpusError(
                "SPLIT=paper needs the ESConv release, and this corpus is not it "
                "(its 1,300 dialogues are known by their hashes); use SPLIT=seed:N"
            )
        return spec
    if re.fullmatch(r"seed:\d{1,9}", spec):
        return spec
    raise EscError(f"SPLIT={spec!r} is not a split; use 'paper' or 'seed:N', such as seed:42")


def assign(survey: Survey, spec: str) -> list[str]:
    """``train``, ``validation`` or ``test`` of every dialogue, under a resolved ``spec``."""
    if spec == "paper":
        return corpus.paper_split()
    return _seeded(survey.families, int(spec.partition(":")[2]))


def _seeded(families: "array[int]", seed: int) -> list[str]:
    """A seeded 8:1:1 split; one dialogue or nearly one situation stays on one side."""
    total = len(families)
    sizes = array("I", bytes(4 * total))
    for first in families:
        sizes[first] += 1
    units = [first for first in range(total) if sizes[first]]
    random.Random(seed).shuffle(units)
    room = {name: total * share // sum(SHARES) for name, share in zip(SPLITS, SHARES, strict=True)}
    room["train"] = total - room["validation"] - room["test"]
    sides = [""] * total
    # Largest families first: the small ones then fill every side up to its exact size.
    for unit in sorted(units, key=sizes.__getitem__, reverse=True):
        size = sizes[unit]
        side = max(SPLITS, key=lambda name: (room[name] >= size, room[name] / total))
        room[side] -= size
        sides[unit] = side
    return [sides[first] for first in families]


def leaks(survey: Survey, sides: Sequence[str], chosen: Iterable[int]) -> Iterator[Leak]:
    """Every pair of ``chosen`` on two sides with the same utterances or near-same situations."""
    families = survey.families
    # A family that is on one side has none; those of a seeded split are.
    apart = {first for place, first in enumerate(families) if sides[place] != sides[first]}
    members = [place for place in chosen if families[place] in apart]
    seen: dict[int, int] = {}
    for place in members:
        twin = seen.setdefault(survey.fingerprints[place], place)
        if sides[twin] != sides[place]:
            yield _leak("dialogue", twin, place, sides, 1.0)
    pairs = sorted(survey.situations.pairs(members), key=lambda pair: (pair[1], pair[0]))
    for one, other, similarity in pairs:
        if sides[one] != sides[other]:
            yield _leak("situation", one, other, sides, similarity)


def _leak(what: str, one: int, other: int, sides: Sequence[str], similarity: float) -> Leak:
    names = (sides[one], sides[other])
    return Leak(what, (str(one), str(other)), names, round(similarity, 3))


def subset(sides: Sequence[str], limit: int | None) -> Sequence[int]:
    """At most ``limit`` dialogues of each split, in corpus order.

    Drawn by a hash of the id, so that a smaller subset is contained in every larger one.
    """
    if limit is None:
        return range(len(sides))
    chosen: list[int] = []
    for name in SPLITS:
        ids = (str(place) for place, side in enumerate(sides) if side == name)
        chosen += map(int, draw.first(limit, ids))
    return sorted(chosen)
