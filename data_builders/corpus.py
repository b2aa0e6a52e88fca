"""Corpora in ESConv's layouts; the ESConv release: how it is recognised, its split in the paper.

``esconv_release.json`` holds, per dialogue of the release in its own order, the SHA-1 of its
utterances and its split (1,040 / 130 / 130). By the hashes a corpus is recognised as that release.
"""

import codecs
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, TypeVar

import orjson
from pydantic import AliasChoices, BaseModel, BeforeValidator, Field, ValidationError

from esc.dialogue import Dialogue, Role, Utterance
from esc.files import EscError, read_json, read_jsonl
from esc.strategies import parse

RELEASE = Path(__file__).parent / "esconv_release.json"
ROLES = {
    "seeker": ("release", Role.SEEKER),
    "supporter": ("release", Role.SUPPORTER),
    "speaker": ("failed", Role.SEEKER),
    "listener": ("failed", Role.SUPPORTER),
    "usr": ("hf", Role.SEEKER),
    "sys": ("hf", Role.SUPPORTER),
}
"""Name of a speaker to the layout that has it and the role: ESConv, FailedESConv, Hugging Face."""

_About = Annotated[str, BeforeValidator(lambda text: " ".join(str(text or "").split()))]
_Model = TypeVar("_Model", bound=BaseModel)


class _Said(BaseModel):
    """An utterance in any layout."""

    speaker: str
    text: str = Field(validation_alias=AliasChoices("content", "text"))
    annotation: Any = None
    strategy: Any = None


class _Row(BaseModel):
    """A dialogue in any layout."""

    dialog: list[_Said] = Field(min_length=1)
    situation: _About = ""
    emotion_type: _About = ""
    problem_type: _About = ""
    experience_type: _About = ""


def values(path: Path) -> Iterator[Any]:
    """The elements of the JSON array in ``path``, or the objects of its lines, one by one.

    Raises EscError, when it comes to it, with the line where the file is neither.
    """
    with path.open("rb") as stream:
        start = stream.read(1024).removeprefix(codecs.BOM_UTF8).lstrip()[:1]
    if start != b"[":
        yield from read_jsonl(path)
        return
    try:
        elements = orjson.loads(path.read_bytes().removeprefix(codecs.BOM_UTF8))
    except orjson.JSONDecodeError as error:
        raise EscError(f"{path} is no JSON array, or is incomplete ({error})") from error
    elements.reverse()
    while elements:
        # Out of the list, so that the whole corpus is not held twice.
        yield elements.pop()


def checked(model: type[_Model], value: Any, fault: str) -> _Model:
    """``value`` as a ``model``; EscError that says ``fault`` and the place of the first one."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        wrong = error.errors()[0]
        place = ".".join(map(str, wrong["loc"])) or "all of it"
        raise EscError(f"{fault} ({place}: {wrong['msg'].lower()})") from error


def read(files: Sequence[Path]) -> tuple[str, Iterator[Dialogue]]:
    """(layout name, dialogues in file order) of the corpus in ``files``, read as they are taken.

    Raises EscError with file, dialogue and utterance where anything is not as it should be:
    now where that is the first dialogue, else when it comes to it.
    """
    rows = (
        (f"{path.name}, dialogue {number}", row)
        for path in files
        for number, row in enumerate(values(path))
    )
    dialogues = (_dialogue(position, *row) for position, row in enumerate(rows))
    first = next(dialogues, None)
    if first is None:
        raise EscError(f"{', '.join(path.name for path in files)}: no dialogues in it")
    return first[0], (dialogue for _, dialogue in chain([first], dialogues))


def _dialogue(position: int, where: str, value: Any) -> tuple[str, Dialogue]:
    row = checked(_Row, value, f"{where}: not a layout of ESConv")
    utterances = tuple(
        _utterance(said, f"{where}, utterance {number}") for number, said in enumerate(row.dialog)
    )
    if all(utterance.role is Role.SEEKER for utterance in utterances):
        raise EscError(f"{where}: no supporter utterance in it")
    about = row.model_dump(exclude={"dialog"})
    return ROLES[row.dialog[0].speaker][0], Dialogue(position, utterances=utterances, **about)


def _utterance(said: _Said, where: str) -> Utterance:
    if said.speaker not in ROLES:
        raise EscError(f"{where}: unknown speaker {said.speaker!r}; known: {', '.join(ROLES)}")
    text, role = said.text.strip(), ROLES[said.speaker][1]
    if not text:
        raise EscError(f"{where}: the utterance is empty")
    if role is Role.SEEKER:
        return Utterance(role, text)
    annotated = said.annotation.get("strategy") if isinstance(said.annotation, dict) else None
    label = said.strategy if annotated is None else annotated
    strategy = parse(label) if isinstance(label, str) else None
    if strategy is None:
        raise EscError(f"{where}: unknown strategy {label!r}")
    return Utterance(role, text, strategy)


def fingerprint(dialogue: Dialogue) -> bytes:
    """SHA-1 of the whitespace-normalised utterances, a line each; equal in every layout."""
    text = "\n".join(" ".join(utterance.text.split()) for utterance in dialogue.utterances)
    return hashlib.sha1(text.encode(), usedforsecurity=False).digest()


@cache
def release() -> dict[bytes, str]:
    """Fingerprint to the side in the paper's split of every dialogue, in the release's order."""
    return {bytes.fromhex(sha1): side for sha1, side in read_json(RELEASE)["dialogues"]}


def at_release_positions(dialogues: Sequence[Dialogue]) -> list[Dialogue] | None:
    """The dialogues at their release positions; None where not all are of it, or one is twice."""
    places = {sha1: place for place, sha1 in enumerate(release())}
    found = {places.get(fingerprint(dialogue)): dialogue for dialogue in dialogues}
    if None in found or len(found) < len(dialogues):
        return None
    return [replace(one, position=place) for place, one in found.items() if place is not None]
