"""The turns of a built split, as a system meets them: gold history, then the seeker's words."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from esc import commands, draw, files, paths
from esc.dialogue import Exchange
from esc.exceptions import EscError
from esc.strategies import Strategy


@dataclass(frozen=True, slots=True)
class GoldTurn:
    """One turn with everything said before it."""

    id: str
    history: tuple[Exchange, ...]
    history_strategies: tuple[Strategy, ...]
    """Of the replies in ``history``."""
    seeker: str
    strategy: Strategy
    response: str
    dialogue_turns: int
    """How many turns its dialogue has."""

    @property
    def entangled_history(self) -> list[tuple[str, Strategy, str]]:
        """The history as the entangled model sees it: (seeker's words, strategy, reply)."""
        past = zip(self.history, self.history_strategies, strict=True)
        return [(said, strategy, reply) for (said, reply), strategy in past]


def gold_turns(work: Path, split: str, limit: int | None) -> list[GoldTurn]:
    """All turns of ``limit`` dialogues of a split, in the order of the set.

    Raises EscError where the sets are not built, or hold fewer dialogues than ``limit``.
    """
    path = work / paths.sft_file("rg", split)
    if not path.is_file():
        raise EscError(f"{path} does not exist; {commands.make('data', work=work)} builds it")
    turns: list[GoldTurn] = []
    rows = list(files.read_jsonl(path))
    lengths = Counter(_dialogue(row["id"]) for row in rows)
    for row in rows:
        # The set holds a dialogue's turns one after the other.
        before = turns[-1] if row["history"] else None
        strategies = (*before.history_strategies, before.strategy) if before else ()
        turns.append(
            GoldTurn(
                id=row["id"],
                history=tuple((said, reply) for said, reply in row["history"]),
                history_strategies=strategies,
                seeker=row["instruction"],
                strategy=Strategy(row["strategy"]),
                response=row["output"],
                dialogue_turns=lengths[_dialogue(row["id"])],
            )
        )
    dialogues = list(lengths)
    if limit is None:
        return turns
    if limit > len(dialogues):
        raise EscError(
            f"LIMIT={limit}, but the {split} set in {paths.data(work)} has {len(dialogues)} "
            f"dialogues; use a LIMIT of at most {len(dialogues)}{_larger(work, limit)}"
        )
    chosen = set(draw.order(dialogues)[:limit])
    return [turn for turn in turns if _dialogue(turn.id) in chosen]


def _larger(work: Path, limit: int) -> str:
    """How to have more, where the sets were built with a LIMIT."""
    built = files.read_json(paths.data_manifest(work), made_by="make data")
    if built["options"]["LIMIT"] is None:
        return ""
    return f", or first {commands.make('data', work=work, LIMIT=limit)}"


def _dialogue(turn: str) -> str:
    return turn.rpartition("-")[0]
