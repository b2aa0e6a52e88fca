"""Drawing some of the dialogues: by a hash of the id, so that every step draws the same ones."""

import hashlib
from collections.abc import Iterable
from heapq import nsmallest


def order(ids: Iterable[str]) -> list[str]:
    """The ids in the order in which they are drawn.

    The first N of a set are also the first N of every subset that holds them: a smaller LIMIT is
    contained in every larger one.
    """
    return sorted(ids, key=_place)


def first(count: int, ids: Iterable[str]) -> list[str]:
    """The first ``count`` of that order, without holding the others."""
    return nsmallest(count, ids, key=_place)


def _place(one: str) -> bytes:
    return hashlib.sha256(one.encode()).digest()
