"""The cards of simulated seekers: of the built corpus's dialogues, of this project, or of others.

A card of a dialogue has its emotion, problem, situation and how strong the feeling was before. What
a model is tested on is of the test side, and no situation of it is nearly one of the train side.
CARDS=file is a list of cards in YAML, JSON, JSON lines or CSV, or a YAML file that names such a
``file`` and, for ``id``, ``situation``, ``emotion``, ``problem`` and ``intensity``, where it has
them: keys inside keys joined with dots, one or a list.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from data_builders import corpus, leaks, source
from esc import dialogue, files, paths, step
from esc.files import EscError, Row, checked
from esc.seeker import Card

FOLDER = Path(__file__).parent / "cards"
SAMPLE, DANGER = "sample", "danger"
"""Those of this project: to try out, and with signs of danger."""
_KEYS = {
    "id": ("id",),
    "situation": ("situation",),
    "emotion": ("emotion", "emotion_type"),
    "problem": ("problem", "problem_type"),
    "intensity": ("intensity", "survey_score.seeker.initial_emotion_intensity"),
}


@dataclass(frozen=True, slots=True)
class Cards:
    """Cards, and what of."""

    cards: Sequence[Card]
    origin: str
    known: leaks.Known = field(default_factory=dict)
    """For the leak guard."""
    left_out: int = 0
    """Of the test side, since their situation is nearly one of the train side."""
    smoke: bool = False

    @property
    def sha256(self) -> str:
        """Of all that is played."""
        text = "\n".join(card.model_dump_json() for card in self.cards)
        return hashlib.sha256(text.encode()).hexdigest()


def cards(work: Path, named: str | None, limit: int | None, side: str = "test") -> Cards:
    """The cards that CARDS names, or those of a side of the built corpus, ``limit`` of them drawn.

    EscError where there is none, a card of others is none, or has a situation of the train side.
    """
    built = files.read_json(work / paths.DIALOGUES, made_by="make data")
    trained = [situation for _, situation in built["train"].values()]
    if named is None:
        found = _of_corpus(work, built[side], side)
    else:
        path = FOLDER / f"{named}.yaml" if named in (SAMPLE, DANGER) else Path(named)
        listed = _listed(path)
        found = Cards(listed, named)
    near = leaks.near([card.situation for card in found.cards], trained) if side == "test" else ()
    if near and named is not None:
        shown = ", ".join(found.cards[place].id for place in sorted(near)[:5])
        raise EscError(
            f"CARDS={named}: the situation of {len(near)} of {len(found.cards)} cards is nearly "
            f"that of a dialogue of the train set ({shown}); take them out: a model is not tested "
            "on what it has seen"
        )
    kept = [card for place, card in enumerate(found.cards) if place not in near]
    if limit and limit > len(kept):
        raise EscError(f"LIMIT={limit}, but there are {len(kept)} cards; use at most that many")
    drawn = set(dialogue.order(card.id for card in kept)[:limit])
    kept = [card for card in kept if card.id in drawn]
    if not kept:
        raise EscError(f"no card is left of {found.origin}; name others in CARDS")
    sha1 = {name: one for name, (one, _) in built[side].items()} if named is None else {}
    known = {sha1.get(card.id, card.id): card.situation for card in kept}
    return Cards(kept, found.origin, known, len(near), found.smoke)


def _of_corpus(work: Path, built: dict[str, Sequence[str]], side: str) -> Cards:
    """Of the dialogues of a side, as the sets were built."""
    manifest = step.built(work)
    kept = source.locate(None, work)
    mapping = corpus.read_mapping(kept.mapping) if kept.mapping else None
    ids = {sha1: name for name, (sha1, _) in built.items()}
    found, without = [], 0
    for one in corpus.read(kept.files, mapping)[1]:
        if name := ids.pop(corpus.fingerprint(one).hex(), None):
            without += not one.situation
            about: Row = {"emotion": one.emotion_type, "problem": one.problem_type}
            about |= {"intensity": one.intensity, "after": one.intensity_after}
            found += [Card(id=name, situation=one.situation, **about)] if one.situation else []
    if not found:
        raise EscError(
            f"no {side} dialogue of {manifest.corpus.origin} has a situation to make a card "
            f"of; name cards in CARDS=file, or take CARDS={SAMPLE}"
        )
    told = f"{side} of {manifest.corpus.origin}"
    told += f" ({without} without a situation left out)" if without else ""
    return Cards(found, told, smoke=manifest.smoke)


def _listed(path: Path) -> list[Card]:
    """The cards of a file; EscError, naming the card, where one is none or there twice."""
    if not path.is_file():
        raise EscError(f"CARDS={path}: no such file; name one, {SAMPLE} or {DANGER}")
    keys: dict[str, Iterable[str]] = dict(_KEYS)
    rows: Any = None
    if path.suffix in (".yaml", ".yml"):
        try:
            rows = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
        except (UnicodeDecodeError, yaml.YAMLError) as error:
            why = " ".join(str(error).split())
            raise EscError(f"{path} cannot be read as YAML: {why}") from error
        if isinstance(rows, dict):
            if "file" not in rows or (unknown := rows.keys() - {"file", *_KEYS}):
                wrong = "no 'file' in it" if "file" not in rows else f"unknown: {min(unknown)}"
                raise EscError(f"{path} is neither a list of cards nor a mapping of one ({wrong})")
            named = {k: v if isinstance(v, list) else [v] for k, v in rows.items() if k in _KEYS}
            keys |= {name: [*map(str, of)] for name, of in named.items()}
            path, rows = path.parent / str(rows["file"]), None
            if not path.is_file():
                raise EscError(f"{path}: no such file, though the mapping of its cards names it")
    if rows is None:
        rows = list(corpus.values(path))
    found: dict[str, Card] = {}
    for number, row in enumerate(rows or ()):
        about = {name: corpus.found(row, where) for name, where in keys.items()}
        about = {name: value for name, value in about.items() if value not in (None, "")}
        about["id"] = str(about.get("id", number))
        card = checked(Card, about, f"{path}, card {number} (from 0) is none")
        if found.setdefault(card.id, card) is not card:
            raise EscError(f"{path}: two cards have the id {card.id!r}")
    if not found:
        raise EscError(f"{path} holds no card")
    return [*found.values()]
