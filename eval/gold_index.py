"""The gold turns of a split, found by what another system's file says of them."""

import re
from collections import defaultdict
from collections.abc import Container, Mapping, Sequence

from esc.files import Row
from esc.strategies import parse, untagged
from esc.turns import GoldTurn

OPENING = "Hi"
"""The seeker's first words in a dialogue that the supporter opens (the rules of the turns)."""
_SPEAKER = re.compile(
    r"\s*(?:seeker|supporter|user|usr|assistant|system|sys|human|gpt|speaker|listener)\s*:\s*", re.I
)


class Turns:
    """The gold turns of a split, by what a record may know of them."""

    def __init__(self, turns: Sequence[GoldTurn]) -> None:
        self.all = turns
        self.by_id = {turn.id: turn for turn in turns}
        self._by_context: Mapping[str, list[GoldTurn]] = defaultdict(list)
        for turn in turns:
            for context in _contexts(turn):
                self._by_context[context].append(turn)

    def of_context(self, context: str, row: Row, taken: Container[str]) -> list[GoldTurn]:
        """The turns that follow these words, and have the row's gold where several do.

        Of turns that are alike in all of this the first that is not taken.
        """
        found = self._by_context.get(context, [])
        strategy, reply = gold_of(row)
        if len(found) < 2 or reply is None:
            return found
        found = [turn for turn in found if plain(turn.response) == plain(reply)]
        if strategy is not None:
            found = [turn for turn in found if turn.strategy is parse(strategy)]
        alike = len({turn.strategy for turn in found}) == 1
        return ([turn for turn in found if turn.id not in taken] or found)[:1] if alike else found


def gold_of(row: Row) -> tuple[str | None, str | None]:
    """(strategy, reply) that a row says are gold, as far as it says so."""
    strategy = row.get("gold_strategy", row.get("GT_strategy"))
    reply = row.get("gold_response", row.get("GT_content"))
    return None if strategy is None else str(strategy), None if reply is None else str(reply)


def _contexts(turn: GoldTurn) -> set[str]:
    """What another system's file may hold before a turn."""
    history = turn.history
    said = {plain_context(history, turn.seeker)}
    # The "Hi" that is put before a supporter who opens is in no file but this kit's.
    if history and history[0][0] == OPENING:
        said.add(plain_context([("", history[0][1]), *history[1:]], turn.seeker))
    elif not history and turn.seeker == OPENING:
        said.add("")
    return said


def plain_context(history: Sequence[tuple[str, str]], seeker: str) -> str:
    """The conversation's words, without a layout's blanks, case, speakers and strategy tags."""
    lines = "\n".join([*(text for pair in history for text in pair), seeker]).split("\n")
    return plain(" ".join(untagged(_SPEAKER.sub("", line)) for line in lines))


def plain(text: str) -> str:
    """A text without case and a layout's blanks."""
    return " ".join(text.casefold().split())
