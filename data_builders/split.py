"""Which dialogue trains, validates and tests: a known split, the corpus's own, or a seeded one.

A dialogue is named by its position, which is also its place among the sides.
"""

import hashlib
import math
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import chain

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from data_builders import corpus
from esc import dialogue as draw
from esc.dialogue import Dialogue
from esc.files import EscError, Row
from esc.languages import is_blankless
from esc.paths import SPLITS

THRESHOLD = 0.8
"""Jaccard similarity of two word sets from which the texts count as nearly identical."""


def words_of(text: str) -> frozenset[str]:
    """The different words of a text, whatever their case; runs of 5 letters without blanks."""
    words = re.findall(r"\w+", text.casefold())
    if is_blankless(text):
        run = "".join(words)
        return frozenset(run[start : start + 5] for start in range(max(len(run) - 4, 1)))
    return frozenset(words)


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
            similarity = len(words & sets[other]) / len(words | sets[other])
            if similarity >= THRESHOLD:
                yield other, index, similarity
        for word in rare:
            holders[word].append(index)


class Survey:
    """What is known of a corpus; dialogues are named by their position."""

    def __init__(self, dialogues: Sequence[Dialogue]) -> None:
        placed = corpus.at_release_positions(dialogues)
        self.is_release = placed is not None and len(placed) == len(corpus.release())
        if placed and self.is_release:
            dialogues = sorted(placed, key=lambda dialogue: dialogue.position)
        self.dialogues = dialogues
        """At their release positions and in that order, if they are the release."""
        self.fingerprints = [corpus.fingerprint(dialogue) for dialogue in dialogues]
        self.situations = [words_of(dialogue.situation) for dialogue in dialogues]
        digest = hashlib.sha256()
        for dialogue in dialogues:
            digest.update(f"{dialogue!r}{dialogue.split or ''}".encode())
        self.corpus = digest.hexdigest()
        """SHA-256 over all that the sets take, blanks too, in order: layouts may differ in it."""

    @cached_property
    def families(self) -> list[int]:
        """For every dialogue the first one of its family.

        Dialogues with the same utterances or nearly the same situation are of one family, and so
        are those of a third one's.
        """
        seen: dict[bytes | frozenset[str], int] = {}
        links = [
            (seen.setdefault(key, place), place)
            for place, keys in enumerate(zip(self.fingerprints, self.situations, strict=True))
            for key in keys
            if key
        ]
        different = [key for key in seen if isinstance(key, frozenset)]
        links += [(seen[different[a]], seen[different[b]]) for a, b, _ in alike(different)]
        size = len(self.dialogues)
        linked = coo_array((np.ones(len(links)), np.transpose(links)), (size, size))
        first: dict[int, int] = {}
        _, family = connected_components(linked, directed=False)
        return [first.setdefault(one, place) for place, one in enumerate(family.tolist())]


def resolve(spec: str | None, survey: Survey) -> str:
    """The split that ``spec`` names; without one that of the corpus: paper, files or seed:42.

    Raises EscError for another form, and where the corpus cannot be split so.
    """
    own = Counter(one.split for one in survey.dialogues)
    default = "files" if {*own} == {*SPLITS} else "seed:42"
    spec = spec or ("paper" if survey.is_release else default)
    if spec in ("paper", "hf") and not survey.is_release:
        raise EscError(
            f"SPLIT={spec} needs the ESConv release, and this corpus is not it (its 1,300 "
            "dialogues are known by their hashes); use SPLIT=seed:N"
        )
    if spec == "files":
        _check_own(survey, own)
    elif not re.fullmatch(r"paper|hf|seed:\d{1,9}", spec):
        raise EscError(
            f"SPLIT={spec!r} is not a split; use paper, hf, files or seed:N, such as seed:42"
        )
    return spec


def _check_own(survey: Survey, own: Counter[str | None]) -> None:
    """Raise EscError where the corpus's own split lacks a side, or has a dialogue twice."""
    if lacking := {*SPLITS} - {*own}:
        raise EscError(
            f"SPLIT=files, but no dialogue is on the side {sorted(lacking)[0]!r}; the corpus says "
            "sides by files named train, valid and test, or by a field that MAPPING names; "
            "SPLIT=seed:N splits it"
        )
    if None in own:
        raise EscError(f"SPLIT=files, but {own[None]:,} dialogues are on none of {SPLITS}")
    first: dict[bytes, Dialogue] = {}
    twice = [
        (first[sha1], one)
        for one, sha1 in zip(survey.dialogues, survey.fingerprints, strict=True)
        if first.setdefault(sha1, one) is not one
    ]
    if twice:
        twice.sort(key=lambda pair: pair[0].split == pair[1].split)
        a, b = twice[0]
        raise EscError(
            f"SPLIT=files, but {len(twice):,} dialogues are there twice, the first as dialogue "
            f"{a.id} of {a.split} and {b.id} of {b.split}; take one away, or use SPLIT=seed:N"
        )


def assign(survey: Survey, spec: str) -> list[str]:
    """``train``, ``validation`` or ``test`` of every dialogue, under a resolved ``spec``.

    A seeded split is 8:1:1; one dialogue or nearly one situation stays on one side.
    """
    if spec in ("paper", "hf"):
        return [sides[spec] for sides in corpus.release().values()]
    if spec == "files":
        return [str(one.split) for one in survey.dialogues]
    sizes = Counter(survey.families)
    units = sorted(sizes)
    random.Random(int(spec.removeprefix("seed:"))).shuffle(units)
    room = dict.fromkeys(SPLITS, sizes.total() // 10)
    room["train"] = sizes.total() - room["validation"] - room["test"]
    side_of: dict[int, str] = {}
    # Largest families first: the small ones then fill every side up to its exact size.
    for unit in sorted(units, key=sizes.__getitem__, reverse=True):
        side = max(SPLITS, key=lambda name: (room[name] >= sizes[unit], room[name]))
        room[side] -= sizes[unit]
        side_of[unit] = side
    return [side_of[first] for first in survey.families]


def leaks(survey: Survey, sides: Sequence[str], chosen: Iterable[int]) -> list[Row]:
    """Every pair of ``chosen`` on two sides with the same utterances or near-same situations.

    ``what`` is ``dialogue`` or ``situation``, ``similarity`` the Jaccard one of the word sets.
    """
    # A family that is on one side has none; those of a seeded split are.
    apart = {one for place, one in enumerate(survey.families) if sides[place] != sides[one]}
    members = [place for place in chosen if survey.families[place] in apart]
    seen: dict[bytes, int] = {}
    found = [
        ("dialogue", seen.setdefault(survey.fingerprints[place], place), place, 1.0)
        for place in members
    ]
    near = alike([survey.situations[place] for place in members])
    found += [("situation", members[one], members[other], how) for one, other, how in near]
    return [
        {
            "what": what,
            "ids": [str(one), str(other)],
            "splits": [sides[one], sides[other]],
            "similarity": round(similarity, 3),
        }
        for what, one, other, similarity in found
        if sides[one] != sides[other]
    ]


def subset(sides: Sequence[str], limit: int | None) -> list[int]:
    """At most ``limit`` dialogues of each split, in corpus order.

    Drawn by a hash of the id, so that a smaller subset is contained in every larger one.
    """
    of_side = (
        draw.order(str(place) for place, side in enumerate(sides) if side == name)
        for name in SPLITS
    )
    return sorted(int(place) for ids in of_side for place in ids[:limit])
