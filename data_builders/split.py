"""Which dialogue trains, validates and tests: the paper's split, or a seeded one; never by turn.

A dialogue is named by its position, which is also its place among the sides.
"""

import random
import re
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from data_builders import release
from data_builders.survey import Survey
from esc import draw
from esc.exceptions import CorpusError, EscError
from esc.paths import SPLITS

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
        return release.paper_split()
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
