"""Which dialogue trains, validates and tests: the paper's split, or a seeded one; never by turn.

``esconv_release.json`` holds, per dialogue of the ESConv release in its own order, the SHA-1 of its
utterances and its split in the paper (1,040 / 130 / 130). By the hashes a corpus is recognised as
that release in any layout and order, and its dialogues get their release positions as ids.
"""

import hashlib
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from data_builders import similar
from esc import draw
from esc.dialogue import Dialogue
from esc.exceptions import CorpusError, EscError
from esc.files import read_json
from esc.paths import SPLITS

RELEASE = Path(__file__).parent / "esconv_release.json"
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


def fingerprint(dialogue: Dialogue) -> str:
    """SHA-1 of the whitespace-normalised utterances, a line each; equal in every layout."""
    text = "\n".join(utterance.text for utterance in dialogue.utterances)
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


def corpus_fingerprint(dialogues: Sequence[Dialogue]) -> str:
    """SHA-256 over all that the sets take from a corpus, in order; the same for every layout."""
    digest = hashlib.sha256()
    for dialogue in dialogues:
        digest.update(repr(dialogue).encode())
    return digest.hexdigest()


@cache
def _release() -> dict[str, tuple[int, str]]:
    """Fingerprint to (release position, split of the paper)."""
    rows = read_json(RELEASE)["dialogues"]
    return {sha1: (position, split) for position, (sha1, split) in enumerate(rows)}


def recognise(dialogues: Sequence[Dialogue]) -> list[Dialogue] | None:
    """The dialogues with release positions and in release order, or None if not that release."""
    release = _release()
    found = [release.get(fingerprint(dialogue)) for dialogue in dialogues]
    positions = {entry[0] for entry in found if entry}
    if not len(dialogues) == len(positions) == len(release):
        return None
    moved = (
        replace(dialogue, position=entry[0])
        for dialogue, entry in zip(dialogues, found, strict=True)
        if entry
    )
    return sorted(moved, key=lambda dialogue: dialogue.position)


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


def assign(dialogues: Sequence[Dialogue], spec: str) -> dict[str, str]:
    """Dialogue id to ``train``, ``validation`` or ``test``, under a resolved ``spec``."""
    if spec == "paper":
        release = _release()
        return {dialogue.id: release[fingerprint(dialogue)][1] for dialogue in dialogues}
    return _seeded(dialogues, int(spec.partition(":")[2]))


def _seeded(dialogues: Sequence[Dialogue], seed: int) -> dict[str, str]:
    """A seeded 8:1:1 split; one dialogue or nearly one situation stays on one side."""
    groups: dict[int, list[int]] = {index: [index] for index in range(len(dialogues))}
    seen: dict[str, int] = {}
    twins = [(seen.setdefault(fingerprint(d), index), index) for index, d in enumerate(dialogues)]
    alike = [(one, other) for one, other, _ in similar.pairs([d.situation for d in dialogues])]
    for first, second in twins + alike:
        if groups[first] is not groups[second]:
            groups[first] += groups[second]
            for index in groups[second]:
                groups[index] = groups[first]
    units = list({id(group): group for group in groups.values()}.values())
    random.Random(seed).shuffle(units)
    total = len(dialogues)
    room = {name: total * share // sum(SHARES) for name, share in zip(SPLITS, SHARES, strict=True)}
    room["train"] = total - room["validation"] - room["test"]
    result: dict[str, str] = {}
    # Largest groups first: the small ones then fill every side up to its exact size.
    for unit in sorted(units, key=len, reverse=True):
        side = max(SPLITS, key=lambda name: (room[name] >= len(unit), room[name] / (total or 1)))
        room[side] -= len(unit)
        result |= {dialogues[index].id: side for index in unit}
    return result


def leaks(dialogues: Sequence[Dialogue], splits: dict[str, str]) -> Iterator[Leak]:
    """Every pair of dialogues on two sides with the same utterances or near-same situations."""
    seen: dict[str, Dialogue] = {}
    for dialogue in dialogues:
        twin = seen.setdefault(fingerprint(dialogue), dialogue)
        if splits[twin.id] != splits[dialogue.id]:
            yield _leak("dialogue", twin, dialogue, splits, 1.0)
    for first, second, similarity in similar.pairs([d.situation for d in dialogues]):
        one, other = dialogues[first], dialogues[second]
        if splits[one.id] != splits[other.id]:
            yield _leak("situation", one, other, splits, similarity)


def _leak(
    what: str, one: Dialogue, other: Dialogue, splits: dict[str, str], similarity: float
) -> Leak:
    sides = (splits[one.id], splits[other.id])
    return Leak(what, (one.id, other.id), sides, round(similarity, 3))


def subset(
    dialogues: Sequence[Dialogue], splits: dict[str, str], limit: int | None
) -> list[Dialogue]:
    """At most ``limit`` dialogues of each split, in corpus order.

    Drawn by a hash of the id, so that a smaller subset is contained in every larger one.
    """
    if limit is None:
        return list(dialogues)
    drawn = draw.order(dialogue.id for dialogue in dialogues)
    chosen: set[str] = set()
    for name in SPLITS:
        chosen |= set([one for one in drawn if splits[one] == name][:limit])
    return [dialogue for dialogue in dialogues if dialogue.id in chosen]
