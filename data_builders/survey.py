"""The first reading of a corpus: what the split and its checks need of every dialogue, and no text.

Kept are, per dialogue, 8 bytes of its fingerprint, 4 for each different word of its situation and 8
for where they end: some 100 bytes a dialogue of ESConv's kind, and 12 more for its family and side.
Only the release, 1,300 dialogues, is held as it is, since its files may be in another order.
"""

import hashlib
from array import array
from collections.abc import Iterable, Iterator
from functools import cached_property
from itertools import chain

from data_builders import release
from data_builders.similar import WordSets, equal
from esc.dialogue import Dialogue


class Survey:
    """What is known of a corpus after one reading; dialogues are named by their position."""

    def __init__(self, dialogues: Iterable[Dialogue]) -> None:
        rest = iter(dialogues)
        head, is_release = release.recognise(rest)
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
            self.fingerprints.append(int.from_bytes(release.fingerprint(dialogue)[:8]))
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
