"""The ESConv release: how it is recognised in any layout and order, and its split in the paper.

``esconv_release.json`` holds, per dialogue of the release in its own order, the SHA-1 of its
utterances and its split (1,040 / 130 / 130). By the hashes a corpus is recognised as that release,
and its dialogues get their release positions as ids.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

from esc.dialogue import Dialogue
from esc.files import read_json

RELEASE = Path(__file__).parent / "esconv_release.json"


def fingerprint(dialogue: Dialogue) -> bytes:
    """SHA-1 of the whitespace-normalised utterances, a line each; equal in every layout."""
    text = "\n".join(" ".join(utterance.text.split()) for utterance in dialogue.utterances)
    return hashlib.sha1(text.encode(), usedforsecurity=False).digest()


@cache
def _positions() -> dict[bytes, int]:
    return {bytes.fromhex(sha1): place for place, (sha1, _) in enumerate(_dialogues())}


def _dialogues() -> list[tuple[str, str]]:
    """(SHA-1, split) of every dialogue."""
    rows: list[tuple[str, str]] = read_json(RELEASE)["dialogues"]
    return rows


def paper_split() -> list[str]:
    """The side of every dialogue in the paper's split, by release position."""
    return [side for _, side in _dialogues()]


def position_of(dialogue: Dialogue) -> int | None:
    """The release position of a dialogue in any layout, or None where it is not of the release."""
    return _positions().get(fingerprint(dialogue))


def recognise(dialogues: Iterator[Dialogue]) -> tuple[list[Dialogue], bool]:
    """(all dialogues with release positions and in release order, True) if they are the release.

    Else (those up to the first that shows it, as they are, False): never more than the release has
    and one. The rest is left to be taken.
    """
    taken: list[Dialogue] = []
    found: dict[int, Dialogue] = {}
    for dialogue in dialogues:
        taken.append(dialogue)
        position = position_of(dialogue)
        if position is None or position in found:
            return taken, False
        found[position] = replace(dialogue, position=position)
    if len(found) < len(_positions()):
        return taken, False
    return [found[position] for position in range(len(found))], True
