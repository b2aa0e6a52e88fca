"""Which dialogue trains, validates and tests: the paper's split, or a seeded one; never by turn.

A dialogue is named by its position, which is also its place among the sides.
"""

import hashlib
import math
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

from data_builders import corpus
from esc import dialogue as draw
from esc.dialogue import Dialogue
from esc.exceptions import CorpusError, EscError
from esc.paths import SPLITS

THRESHOLD = 0.8
"""Jaccard similarity of two word sets from which the texts count as nearly identical."""
_WORD = re.compile(r"\w+")


def words_of(text: str) -> frozenset[str]:
    """The different words of a text, whatever their case."""
    return frozenset(_WORD.findall(text.casefold()))


def alike(sets: Sequence[frozenset[str]]) -> Iterator[tuple[int, int, float]]:
    """(index, larger index, Jaccard similarity) of every pair at or above the threshold.

    Sets without a word match nothing.
    """
    frequency = Counter(chain.from_iterable(sets))
    holders: dict[str, list[int]] = defaultdict(list)
    for index, words in enumerate(sets):
        # Two sets as alike as that share one of the rarest words of both. Less a little: a product
        # that is whole must not be rounded up.
        rarest = len(words) - math.ceil(THRESHOLD * len(words) - 1e-9) + 1
        rare = sorted(words, key=lambda word: (frequency[word], word))[:rarest]
        for other in sorted({index for word in rare for index in holders[word]}):
            shared = len(words & sets[other])
            similarity = shared / (len(words) + len(sets[other]) - shared)
            if similarity >= THRESHOLD:
                yield other, index, similarity
        for word in rare:
            holders[word].append(index)


class Survey:
    """What is known of a corpus; dialogues are named by their position."""

    def __init__(self, dialogues: Sequence[Dialogue]) -> None:
        released = corpus.recognise(dialogues)
        self.is_release = released is not None
        self.dialogues = released or dialogues
        """At their release positions and in that order, if they are the release."""
        self.utterances = sum(len(dialogue.utterances) for dialogue in self.dialogues)
        self.fingerprints = [corpus.fingerprint(dialogue) for dialogue in self.dialogues]
        self.situations = [words_of(dialogue.situation) for dialogue in self.dialogues]
        digest = hashlib.sha256()
        for dialogue in self.dialogues:
            digest.update(repr(dialogue).encode())
        self.corpus = digest.hexdigest()
        """SHA-256 over all that the sets take, blanks too, in order: layouts may differ in it."""

    def __len__(self) -> int:
        return len(self.dialogues)

    @cached_property
    def families(self) -> list[int]:
        """For every dialogue the first one of its family.

        Dialogues with the same utterances or nearly the same situation are of one family, and so
        are those of a third one's.
        """
        first = list(range(len(self)))

        def of(place: int) -> int:
            while first[place] != place:
                first[place] = first[first[place]]
                place = first[place]
            return place

        def join(one: int, other: int) -> None:
            earlier, later = sorted((of(one), of(other)))
            first[later] = earlier

        twins: dict[bytes, int] = {}
        different: dict[frozenset[str], int] = {}
        for place, (said, words) in enumerate(zip(self.fingerprints, self.situations, strict=True)):
            join(twins.setdefault(said, place), place)
            if words:
                join(different.setdefault(words, place), place)
        places = list(different.values())
        for one, other, _ in alike(list(different)):
            join(places[one], places[other])
        return [of(place) for place in range(len(self))]


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


def _seeded(families: Sequence[int], seed: int) -> list[str]:
    """A seeded 8:1:1 split; one dialogue or nearly one situation stays on one side."""
    total, sizes = len(families), Counter(families)
    units = [first for first in range(total) if sizes[first]]
    random.Random(seed).shuffle(units)
    room = {name: total * share // sum(SHARES) for name, share in zip(SPLITS, SHARES, strict=True)}
    room["train"] = total - room["validation"] - room["test"]
    sides = [""] * total
    # Largest families first: the small ones then fill every side up to its exact size.
    for unit in sorted(units, key=lambda unit: sizes[unit], reverse=True):
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
    seen: dict[bytes, int] = {}
    for place in members:
        twin = seen.setdefault(survey.fingerprints[place], place)
        if sides[twin] != sides[place]:
            yield _leak("dialogue", twin, place, sides, 1.0)
    for first, second, similarity in alike([survey.situations[place] for place in members]):
        one, other = members[first], members[second]
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
