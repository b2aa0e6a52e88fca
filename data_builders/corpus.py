"""Corpora, read by a mapping; the ESConv release: how it is recognised, and its two splits.

``mapping.yaml`` beside this file reads ESConv's layouts, another MAPPING whatever it describes.
``esconv_release.json`` holds, per dialogue of the release in its own order, the SHA-1 of its
utterances and its side in the paper (1,040 / 130 / 130) and on the Hugging Face hub (910 / 195 /
195). By the hashes a corpus is recognised as that release.
"""

import codecs
import csv
import hashlib
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from itertools import chain, groupby
from pathlib import Path
from typing import Annotated, Any, Self

import orjson
import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, model_validator

from esc import files
from esc.dialogue import Dialogue, Role, Utterance
from esc.files import EscError
from esc.strategies import Strategy, parse

FOLDER = Path(__file__).parent
RELEASE = FOLDER / "esconv_release.json"
SHIPPED = FOLDER / "mapping.yaml"
LINES, STOP = "lines", "stop"
_INTENSITIES = {"1", "2", "3", "4", "5"}
_OPTIONAL = (
    *("strategy", "situation", "emotion_type", "problem_type", "experience_type", "split"),
    *("intensity", "intensity_after"),
)
LAYOUTS = {
    **dict.fromkeys(("seeker", "supporter"), "release"),
    **dict.fromkeys(("speaker", "listener"), "failed"),
    **dict.fromkeys(("usr", "sys"), "hf"),
}
"""Name of a speaker to the layout of ESConv that has it."""
_SIDES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""Words in the name of a file, or of a side, to the side."""


def _several(value: Any) -> tuple[str, ...]:
    listed = value if isinstance(value, list | tuple) else [value]
    return tuple(str(one) for one in listed if one is not None)


Keys = Annotated[tuple[str, ...], BeforeValidator(_several)]


class Mapping(BaseModel):
    """Where a corpus keeps what the kit needs; ``mapping.yaml`` says what each field means."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    dialogues: Keys
    turns: Keys
    id: Keys
    utterance: Keys
    speaker: Keys
    seeker: Keys
    supporter: Keys
    text: Keys
    strategy: Keys
    labels: dict[str, str]
    unlabelled: str
    situation: Keys
    emotion_type: Keys
    problem_type: Keys
    experience_type: Keys
    split: Keys
    intensity: Keys
    intensity_after: Keys

    @model_validator(mode="before")
    @classmethod
    def _over_the_shipped(cls, found: Any) -> Any:
        shipped = yaml.safe_load(SHIPPED.read_text(encoding="utf-8"))
        return shipped | found if isinstance(found, dict) else found

    @model_validator(mode="after")
    def _sound(self) -> Self:
        names = [*self.labels.values(), *([] if self.unlabelled == STOP else [self.unlabelled])]
        if unknown := [name for name in names if parse(name) is None]:
            raise ValueError(f"{unknown[0]!r} is no strategy; known: {', '.join(Strategy)}")
        if self.turns == (LINES,) and not self.id:
            raise ValueError("'turns: lines' needs the key of a dialogue's id in 'id'")
        return self

    def label(self, said: Any) -> Strategy | None:
        """The strategy that a label means."""
        return parse(self.labels.get(str(said), str(said)))


def read_mapping(path: Path = SHIPPED) -> Mapping:
    """The mapping in a file; EscError where it is none."""
    return files.read_yaml(path, Mapping)


def found(row: Any, keys: Iterable[str]) -> Any:
    """What a row has under the first of ``keys`` that it has, None without any."""
    for key in keys:
        value = row
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if value is not None:
            return value
    return None


def values(path: Path) -> Iterator[Any]:
    """The elements of the JSON array in ``path``, the objects of its lines, or rows of CSV.

    Raises EscError, when it comes to it, with the line where the file is neither.
    """
    if path.suffix in (".csv", ".tsv"):
        csv.field_size_limit(sys.maxsize)
        try:
            with path.open(encoding="utf-8-sig", newline="") as lines:
                yield from csv.DictReader(lines, delimiter="\t" if path.suffix == ".tsv" else ",")
        except (UnicodeDecodeError, csv.Error) as error:
            raise EscError(f"{path} is no table in UTF-8 ({error})") from error
        return
    with path.open("rb") as stream:
        start = stream.read(1024).removeprefix(codecs.BOM_UTF8).lstrip()[:1]
    if start != b"[":
        yield from files.read_jsonl(path)
        return
    try:
        elements = orjson.loads(path.read_bytes().removeprefix(codecs.BOM_UTF8))
    except orjson.JSONDecodeError as error:
        raise EscError(f"{path} is no JSON array, or is incomplete ({error})") from error
    elements.reverse()
    while elements:
        # Out of the list, so that the whole corpus is not held twice.
        yield elements.pop()


def rows(path: Path, mapping: Mapping) -> Iterator[tuple[Any, list[Any]]]:
    """(a dialogue as the file has it, its utterances), one by one; EscError as `values`."""
    if mapping.turns == (LINES,):
        for number, row in enumerate(lines := list(values(path))):
            for keys in (mapping.id, mapping.utterance):
                if keys and found(row, keys) in (None, ""):
                    told = ", ".join(map(str, row)) if isinstance(row, dict) else f"{row!r:.60}"
                    raise EscError(f"{path.name}, row {number}: no {keys[0]!r} in it ({told})")
        for _, of_one in groupby(lines, key=lambda row: found(row, mapping.id)):
            said = list(of_one)
            if mapping.utterance:
                said = list({found(one, mapping.utterance): one for one in said[::-1]}.values())
                said.reverse()
            yield said[0], said
        return
    every: Iterable[Any] = values(path)
    if mapping.dialogues:
        whole = files.read_json(path)
        every = found(whole, mapping.dialogues)
        if not isinstance(every, list | dict):
            told = ", ".join(whole)
            raise EscError(
                f"{path.name}: no list of dialogues in {mapping.dialogues[0]!r} ({told})"
            )
        every = every.values() if isinstance(every, dict) else every
    for row in every:
        turns = found(row, mapping.turns)
        yield row, turns if isinstance(turns, list) else []


def read(paths: Sequence[Path], mapping: Mapping | None = None) -> tuple[str, Iterator[Dialogue]]:
    """(layout name, dialogues in file order) of the corpus in ``paths``, read as they are taken.

    Raises EscError with file, dialogue and utterance where anything is not as it should be: now
    where that is the first dialogue, else when it comes to it.
    """
    how, usual = mapping or read_mapping(), read_mapping()
    ids: dict[str, str] = {}
    # What a user's mapping names must be somewhere: a mistyped key would silently be no field.
    unseen = {name for name in _OPTIONAL if getattr(how, name) not in ((), getattr(usual, name))}

    def every() -> Iterator[tuple[str, Dialogue]]:
        position = 0
        for path in paths:
            for number, (row, said) in enumerate(rows(path, how)):
                where = f"{path.name}, dialogue {number}"
                if (named := found(row, how.id)) is not None:
                    if other := ids.get(str(named)):
                        raise EscError(f"{where}: its id {named!r} is that of {other} too")
                    ids[str(named)] = where
                unseen.difference_update(
                    name
                    for name in [*unseen]
                    for one in (said if name == "strategy" else [row])
                    if found(one, getattr(how, name)) is not None
                )
                yield _dialogue(position, where, path, row, said, how)
                position += 1
        for name in sorted(unseen):
            raise EscError(
                f"{', '.join(path.name for path in paths)}: no {name} under "
                f"{' or '.join(getattr(how, name))!r}, where the mapping has it"
            )

    dialogues = every()
    first = next(dialogues, None)
    if first is None:
        raise EscError(f"{', '.join(path.name for path in paths)}: no dialogues in it")
    return first[0] if mapping is None else "mapped", (one for _, one in chain([first], dialogues))


def _dialogue(
    position: int, where: str, path: Path, row: Any, said: list[Any], how: Mapping
) -> tuple[str, Dialogue]:
    if not said:
        told = f"its keys: {', '.join(row)}" if isinstance(row, dict) else f"it is {row!r:.60}"
        raise EscError(
            f"{where}: no utterances under {' or '.join(how.turns)!r} ({told}); say in "
            "MAPPING=file.yaml where they are ('python -m data_builders inspect' writes one)"
        )
    utterances = tuple(
        _utterance(one, f"{where}, utterance {number}", how) for number, one in enumerate(said)
    )
    if all(utterance.role is Role.SEEKER for utterance in utterances):
        raise EscError(f"{where}: no supporter utterance in it")
    about: dict[str, Any] = {
        name: " ".join(str(found(row, getattr(how, name)) or "").split())
        for name in ("situation", "emotion_type", "problem_type", "experience_type")
    }
    side = side_of(found(row, how.split) or path.stem)
    layout = LAYOUTS.get(str(found(said[0], how.speaker)), "other")
    felt = [str(found(row, keys)) for keys in (how.intensity, how.intensity_after)]
    strengths = (int(one) if one in _INTENSITIES else None for one in felt)
    about |= dict(zip(("intensity", "intensity_after"), strengths, strict=True))
    return layout, Dialogue(position, utterances=utterances, split=side, **about)


def side_of(named: Any) -> str | None:
    """``train``, ``validation`` or ``test`` where the name of a file or a side says one of them."""
    words = re.findall("[a-z]+", str(named).casefold())
    sides = {_SIDES[word] for word in words if word in _SIDES}
    return sides.pop() if len(sides) == 1 else None


def _utterance(one: Any, where: str, how: Mapping) -> Utterance:
    known = (*how.seeker, *how.supporter)
    if how.speaker:
        speaker, text = found(one, how.speaker), found(one, how.text)
    else:
        speaker = next((name for name in known if found(one, (name,)) is not None), None)
        text = found(one, (speaker,)) if speaker else None
    if speaker is None or not isinstance(text, str):
        lacking = "speaker" if speaker is None else "text"
        told = ", ".join(one) if isinstance(one, dict) else f"{one!r:.60}"
        raise EscError(f"{where}: no {lacking} where the mapping has it ({told})")
    if str(speaker) not in known:
        raise EscError(f"{where}: unknown speaker {speaker!r}; known: {', '.join(known)}")
    role = Role.SEEKER if str(speaker) in how.seeker else Role.SUPPORTER
    if not (text := text.strip()):
        raise EscError(f"{where}: the utterance is empty")
    if role is Role.SEEKER:
        return Utterance(role, text)
    label = found(one, how.strategy)
    if label in (None, "") and how.unlabelled != STOP:
        return Utterance(role, text, parse(how.unlabelled))
    strategy = how.label(label)
    if strategy is None:
        labels = ", ".join([*Strategy, *how.labels])
        raise EscError(f"{where}: unknown strategy {label!r}; known: {labels}")
    return Utterance(role, text, strategy)


def fingerprint(dialogue: Dialogue) -> bytes:
    """SHA-1 of the whitespace-normalised utterances, a line each; equal in every layout."""
    text = "\n".join(" ".join(utterance.text.split()) for utterance in dialogue.utterances)
    return hashlib.sha1(text.encode(), usedforsecurity=False).digest()


@cache
def release() -> dict[bytes, dict[str, str]]:
    """Fingerprint of every dialogue, in the release's order, to its side in either split."""
    rows = files.read_json(RELEASE)["dialogues"]
    return {bytes.fromhex(sha1): {"paper": paper, "hf": hf} for sha1, paper, hf in rows}


def at_release_positions(dialogues: Sequence[Dialogue]) -> list[Dialogue] | None:
    """The dialogues at their release positions; None where not all are of it, or one is twice."""
    places = {sha1: place for place, sha1 in enumerate(release())}
    found = {places.get(fingerprint(dialogue)): dialogue for dialogue in dialogues}
    if None in found or len(found) < len(dialogues):
        return None
    return [replace(one, position=place) for place, one in found.items() if place is not None]
