"""The records that cross file boundaries: utterances, dialogues, turns."""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import groupby
from pathlib import Path
from typing import Literal

from esc import files, paths
from esc.files import EscError
from esc.strategies import Strategy


class Role(StrEnum):
    """Who speaks."""

    SEEKER = "seeker"
    SUPPORTER = "supporter"


@dataclass(frozen=True, slots=True)
class Utterance:
    """One message of one speaker."""

    role: Role
    text: str
    """With the corpus's own white space inside and none at its ends; never empty."""
    strategy: Strategy | None = None
    """Set exactly for supporter utterances."""


@dataclass(frozen=True, slots=True)
class Dialogue:
    """One conversation of the corpus."""

    position: int
    """0-based position in the corpus; for ESConv, in the release's own order in every layout."""
    situation: str
    emotion_type: str
    problem_type: str
    experience_type: str
    utterances: tuple[Utterance, ...]
    split: str | None = field(default=None, repr=False)
    """The side that the corpus itself puts it on, where it says one."""
    intensity: int | None = field(default=None, repr=False)
    """How strong the seeker's feeling was before, 1 to 5, where the corpus says so."""
    intensity_after: int | None = field(default=None, repr=False)

    @property
    def id(self) -> str:
        """The position as text; the first half of every turn's id."""
        return str(self.position)


@dataclass(frozen=True, slots=True)
class Turn:
    """One exchange: what the seeker says, and the supporter's strategy and reply."""

    id: str
    """``<position of the dialogue>-<supporter turn>``, both 0-based, such as ``231-7``."""
    seeker: str
    strategy: Strategy
    response: str


Exchange = tuple[str, str]
"""(seeker's words, supporter's reply without a tag)."""


BLANK = " "
OPENER = "Hi"
Consecutive = Literal["separate", "merge-same", "merge"]
"""What becomes of consecutive supporter utterances. ``separate`` is the paper's way (rules 2, 3);
``merge-same`` joins neighbours of one strategy, ``merge`` the run under its first strategy."""
_JOINED: dict[Consecutive, Callable[[tuple[int, Utterance]], object]] = {
    "separate": lambda placed: placed[0],
    "merge-same": lambda placed: placed[1].strategy,
    "merge": lambda placed: None,
}
"""What neighbours of a run, (place, utterance), have in common that are joined."""


def turns(dialogue: Dialogue, *, consecutive: Consecutive = "separate") -> list[Turn]:
    """The turns of a dialogue, oldest first; never empty, since a dialogue has a supporter."""
    result: list[Turn] = []
    said = OPENER
    for role, run in groupby(dialogue.utterances, key=lambda utterance: utterance.role):
        if role is Role.SEEKER:
            said = "\n".join(utterance.text for utterance in run)
            continue
        for _, group in groupby(enumerate(run), key=_JOINED[consecutive]):
            replies = [reply for _, reply in group]
            strategy, text = replies[0].strategy, "\n".join(reply.text for reply in replies)
            assert strategy is not None
            result.append(Turn(f"{dialogue.id}-{len(result)}", said, strategy, text))
            said = BLANK
    return result


def order(ids: Iterable[str]) -> list[str]:
    """The ids as they are drawn, by their hashes: a larger LIMIT holds every smaller one."""
    return sorted(ids, key=lambda one: hashlib.sha256(one.encode()).digest())


JUDGED, JUDGED_BY_EMBEDDED = 100, 2
"""Of each system (section 6.1); by the embedded model, which is no judge, a few."""
REPEATED = 10
"""Of those, asked a second time; by the embedded model, none."""
DRIFT = {"gpu": 200, "cpu": 2}
"""Validation turns by which a preference training is measured, by where the backbone runs."""


INTERVALS = ("0–20 %", "20–40 %", "40–60 %", "60–80 %", "80–100 %", "last turn")
"""Progress of a turn k of n is k/n: five equal intervals below 1, and 1 itself (the last turn), as
in the corpus's own paper (Liu et al. 2021). The paper prints no numbers for its Figure 8."""


def interval(turn: int, turns: int) -> int:
    """The interval (0 to 5) of the 0-based supporter turn ``turn`` of ``turns``."""
    last = len(INTERVALS) - 1
    return min((turn + 1) * last // turns, last)


@dataclass(frozen=True, slots=True)
class GoldTurn(Turn):
    """One turn with everything said before it."""

    history: tuple[Exchange, ...]
    history_strategies: tuple[Strategy | None, ...]
    """Of the replies in ``history``; None of a model's own that named none."""
    dialogue_turns: int
    """How many turns its dialogue has."""


def gold_turns(work: Path, split: str, limit: int | None) -> list[GoldTurn]:
    """All turns of ``limit`` dialogues of a split, in order; EscError without them."""
    path = work / paths.sft_file("rg", split)
    if not path.is_file():
        raise EscError(f"{path} does not exist; {paths.make('data', work=work)} builds it")
    turns: dict[str, list[GoldTurn]] = {}
    for row in files.read_jsonl(path):
        # The set holds a dialogue's turns one after the other.
        before = turns.setdefault(row["id"].rpartition("-")[0], [])
        turn = GoldTurn(
            id=row["id"],
            history=tuple((said, reply) for said, reply in row["history"]),
            history_strategies=tuple(turn.strategy for turn in before),
            seeker=row["instruction"],
            strategy=Strategy(row["strategy"]),
            response=row["output"],
            dialogue_turns=row["provenance"]["turns"],
        )
        before.append(turn)
    if limit and limit > len(turns):
        raise EscError(
            f"LIMIT={limit}, but the {split} set in {path.parent} has {len(turns)} dialogues; "
            f"use a LIMIT of at most {len(turns)}, or, where the sets were built with one, first "
            f"{paths.make('data', work=work, LIMIT=limit)}"
        )
    chosen = set(order(turns)[:limit])
    return [turn for dialogue, said in turns.items() if dialogue in chosen for turn in said]
