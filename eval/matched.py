"""Two systems' replies to the same turns, matched by id, for a comparison."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from esc import draw, files, smoke
from esc.dialogue import Exchange
from esc.exceptions import EscError
from esc.files import Row
from esc.predictions import NOT_GIVEN, Prediction, read_predictions

SHOWN = 3


@dataclass(frozen=True, slots=True)
class Pair:
    """Two replies to one turn; None where a system has none."""

    id: str
    history: tuple[Exchange, ...]
    seeker: str
    a: str | None
    b: str | None
    lacking: str
    """Which system has no reply, and why."""

    @property
    def is_whole(self) -> bool:
        """Whether both systems have a reply."""
        return self.a is not None and self.b is not None

    @property
    def is_alike(self) -> bool:
        """Whether both replies are the same words."""
        return self.is_whole and str(self.a).split() == str(self.b).split()

    @property
    def a_is_left(self) -> bool:
        """Whether A's reply stands first where sides are shuffled: by the turn's id."""
        return bool(hashlib.sha256(f"left\n{self.id}".encode()).digest()[0] % 2)


@dataclass(frozen=True, slots=True)
class Matched:
    """The turns that both files hold."""

    pairs: tuple[Pair, ...]
    """All of them, in the order in which they are drawn: by id."""
    source: Row
    """What the two files are, and how many turns only one of them holds."""
    smoke: bool


def matched(a: Path, b: Path) -> Matched:
    """The turns of two predictions files, by id.

    Raises EscError where they share no turn, or one is of another conversation, or has another gold
    reply, in the other file.
    """
    (first, first_numbered), (second, second_numbered) = read_predictions(a), read_predictions(b)
    if (first_numbered or second_numbered) and len(first) != len(second):
        raise EscError(
            f"{a} has {len(first)} records and {b} {len(second)}, and some have no id to match "
            "them by; 'python -m eval align' gives them ids"
        )
    one, other = ({p.id: p for p in found} for found in (first, second))
    shared = draw.order(one.keys() & other.keys())
    if not shared:
        examples = ", ".join(sorted(one)[:SHOWN]), ", ".join(sorted(other)[:SHOWN])
        raise EscError(
            f"{a} and {b} share no turn (ids {examples[0]} … and {examples[1]} …); "
            "compare predictions of the same split"
        )
    pairs = tuple(_pair(one[name], other[name], a, b) for name in shared)
    source = {
        "a": {"name": name_of(a), "predictions": files.sha256(a), "alone": len(one) - len(pairs)},
        "b": {"name": name_of(b), "predictions": files.sha256(b), "alone": len(other) - len(pairs)},
        "shared": len(pairs),
        "numbered": first_numbered + second_numbered,
    }
    return Matched(pairs, source, smoke.made_beside(a) or smoke.made_beside(b))


def name_of(path: Path) -> str:
    """What to call a predictions file: its folder in this kit, else its own name."""
    return path.resolve().parent.name if path.name == "predictions.jsonl" else path.stem


def _pair(one: Prediction, other: Prediction, a: Path, b: Path) -> Pair:
    told = [p for p in (one, other) if p.history or p.seeker != NOT_GIVEN]
    if len(told) == 2 and _said(one) != _said(other):
        raise EscError(
            f"turn {one.id} is another conversation in {b} than in {a}; compare predictions of the "
            "same split and corpus"
        )
    if one.gold and other.gold and one.gold.split() != other.gold.split():
        # Without ids and conversations, the gold replies alone tell that rows are of other turns.
        raise EscError(
            f"turn {one.id} has another gold reply in {b} than in {a}; compare predictions of the "
            "same split and corpus; where they have no ids (a turn is its row, from 0), 'python -m "
            "eval align' gives them"
        )
    context = told[0] if told else one
    lacking = [f"{side}: {p.lacking}" for side, p in (("a", one), ("b", other)) if p.reply is None]
    return Pair(one.id, context.history, context.seeker, one.reply, other.reply, "; ".join(lacking))


def _said(one: Prediction) -> list[str]:
    """The conversation's words: blanks are no difference between two corpora's layouts."""
    texts = [text for exchange in one.history for text in exchange] + [one.seeker]
    return " ".join(texts).split()
