"""What is judged: replies of a predictions file, or both sides of a mined preference set.

Which turns are drawn depends on their ids alone, so that every system of a comparison is judged on
the same ones, and a larger number holds a smaller one.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from esc import draw, files, paths, smoke
from esc.backbones import EMBEDDED
from esc.dialogue import Exchange
from esc.exceptions import EscError
from esc.judge import is_smoke
from esc.predictions import Prediction, read_predictions
from esc.strategies import parse, untagged

SIDES = ("chosen", "rejected")
Key = tuple[str, str | None, str | None]
"""(id, quadrant, side) of a reply."""


@dataclass(frozen=True, slots=True)
class Item:
    """One reply to judge, after what was said before it."""

    id: str
    """Of the turn."""
    quadrant: str | None
    """Of an entangled pair: a turn has one of each at most."""
    side: str | None
    """One of `SIDES`, or None for a prediction."""
    history: tuple[Exchange, ...]
    seeker: str
    reply: str | None
    """None where there is nothing to judge."""
    lacking: str
    """Why there is no reply."""
    reference: str | None
    """What a person replied; never shown beside a pair, one side of which it is."""

    @property
    def record(self) -> str:
        """What names it among all items."""
        return " ".join(filter(None, self.key))

    @property
    def key(self) -> Key:
        """What its scores are found by."""
        return self.id, self.quadrant, self.side


@dataclass(frozen=True, slots=True)
class Source:
    """The items of one file, as they are drawn."""

    items: tuple[Item, ...]
    """In the order of the draw, so that the order of the file changes nothing."""
    drawn: int
    of: int
    """Records of the file."""
    numbered: int
    """Records without an id of their own; theirs is the row's number, from 0."""
    smoke: bool


def of_predictions(path: Path, n: int) -> Source:
    """The replies of ``n`` turns of a predictions file, or of all where there are fewer.

    Raises EscError, naming the row, for whatever is not as it should be.
    """
    predictions, numbered = read_predictions(path)
    drawn = drawn_of(predictions, n)
    items = [
        Item(one.id, None, None, one.history, one.seeker, one.reply, one.lacking, one.gold)
        for one in drawn
    ]
    return Source(tuple(items), len(drawn), len(predictions), numbered, smoke.made_beside(path))


def drawn_of(predictions: Sequence[Prediction], n: int) -> list[Prediction]:
    """The first ``n`` in the order of the draw."""
    by_id = {one.id: one for one in predictions}
    return [by_id[name] for name in draw.order(by_id)[:n]]


def of_pairs(path: Path, n: int) -> Source:
    """Both sides of ``n`` pairs of a mined preference set, without a word on which is which.

    Turns are drawn; the pairs of one, of several quadrants, follow one another. Raises EscError,
    naming the line, where a row is no pair of replies.
    """
    turns: dict[str, dict[str, list[Item]]] = defaultdict(dict)
    marked = _is_smoke_set(path)
    for number, row in enumerate(files.read_jsonl(path), start=1):
        where = f"{path}, line {number}"
        sides = _pair(row, where)
        name, quadrant = sides[0].id, sides[0].quadrant or ""
        if quadrant in turns[name]:
            of = f" of {quadrant}" if quadrant else ""
            raise EscError(f"{where}: id {name!r}{of} is there twice")
        turns[name][quadrant] = sides
        provenance = row.get("provenance")
        marked |= isinstance(provenance, dict) and is_smoke(provenance.get("judge", ""))
    if not turns:
        raise EscError(f"{path} is empty; it takes one pair at least")
    pairs = [sides for name in draw.order(turns) for _, sides in sorted(turns[name].items())]
    items = [item for sides in pairs[:n] for item in sides]
    return Source(tuple(items), len(pairs[:n]), len(pairs), 0, marked)


def _pair(row: files.Row, where: str) -> list[Item]:
    try:
        said = [(one["from"], one["value"]) for one in row["conversations"]]
        replies = [row[side]["value"] for side in SIDES]
        name, quadrant = row["id"], row.get("quadrant")
    except (KeyError, TypeError) as error:
        raise EscError(
            f"{where}: no pair of a mined set (id, conversations, chosen, rejected): "
            f"{type(error).__name__} {error}"
        ) from error
    for side, reply in zip(SIDES, replies, strict=True):
        if not isinstance(reply, str):
            raise EscError(f"{where}: its {side!r} reply is {reply!r}, no text")
    speakers = ["human", "gpt"] * (len(said) // 2) + ["human"]
    whole = all(isinstance(text, str) for text in (name, *(text for _, text in said)))
    if not whole or [speaker for speaker, _ in said] != speakers:
        raise EscError(
            f"{where}: its conversation is not human and gpt by turns up to a human's words, or "
            "one of these or its id is no text"
        )
    if not isinstance(quadrant, str | None):
        raise EscError(f"{where}: its quadrant is no text")
    if all(parse(reply) for reply in replies):
        raise EscError(f"{where}: strategies, no replies; judge the set of rg or vanilla")
    texts = [text if speaker == "human" else untagged(text) for speaker, text in said]
    history = tuple(zip(texts[:-1:2], texts[1::2], strict=True))
    without_tags = [untagged(reply) or None for reply in replies]
    return [
        Item(name, quadrant, side, history, texts[-1], reply, "empty reply", None)
        for side, reply in zip(SIDES, without_tags, strict=True)
    ]


def _is_smoke_set(path: Path) -> bool:
    """Whether the set is the embedded model's, or its manifest marks it."""
    known = paths.preference_of(path.stem)
    if known is None:
        return False
    task, model, lineage = known
    manifest = path.parent / Path(paths.preference_manifest(task, model, lineage.mining)).name
    marked = manifest.is_file() and bool(files.read_json(manifest).get("smoke"))
    return model == EMBEDDED or marked
