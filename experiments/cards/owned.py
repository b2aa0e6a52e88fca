"""A README.md that this kit wrote, told from one that a person wrote or changed."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import RepoCard
from yaml import YAMLError

from esc import files
from esc.exceptions import EscError

README = "README.md"
_MARK = re.compile(r"\n<!-- written by make card \(([0-9a-f]{64})\); [^\n]* -->\n")
_LEFT_BY_A_TRAINER = (
    "This model card has been generated automatically according to the information the Trainer had",
    "# Model Card for Model ID",
)
"""What LLaMA-Factory (by transformers) and PEFT put into the cards that they leave."""


@dataclass(frozen=True, slots=True)
class Told:
    """What became of a card."""

    line: str
    refusal: tuple[str, ...] = ()


def write(path: Path, text: str, *, force: bool) -> Told:
    """Write a card where there is none, or one that a program left; refuse to replace another.

    Raises EscError where the Hugging Face library does not read in it what was written.
    """
    whole = _marked(text)
    check(whole, path)
    there = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else None
    if there == whole:
        return Told(f"card        {path} is up to date")
    if there is not None and not force and not _is_a_programs(there):
        return Told(
            f"kept        {path}",
            (f"{path} was written or changed by hand; FORCE=1 replaces it, another name keeps it",),
        )
    files.write_text(path, whole)
    return Told(f"card        {path}")


def _marked(text: str) -> str:
    head, front, body = text.split("---\n", maxsplit=2)
    assert not head, "a card begins with its metadata"
    digest = hashlib.sha256(text.encode()).hexdigest()
    mark = (
        f"\n<!-- written by make card ({digest}); "
        "it writes the file anew unless you change something in it -->\n"
    )
    return f"---\n{front}---\n{mark}{body}"


def _is_a_programs(text: str) -> bool:
    mark = _MARK.search(text)
    if mark is None:
        return any(phrase in text for phrase in _LEFT_BY_A_TRAINER)
    without = text[: mark.start()] + text[mark.end() :]
    return hashlib.sha256(without.encode()).hexdigest() == mark[1]


def check(text: str, path: Path) -> None:
    """Raise EscError where the hub's own reader finds no metadata in a card, or other ones."""
    try:
        card = RepoCard(text, ignore_metadata_errors=False)
    except (ValueError, YAMLError) as error:
        reason = " ".join(str(error).split())
        raise EscError(f"{path}: the Hugging Face library does not read it ({reason})") from error
    again = RepoCard(str(card), ignore_metadata_errors=False)
    if not len(card.data) or again.data.to_yaml() != card.data.to_yaml():
        raise EscError(f"{path}: its metadata do not survive the Hugging Face library")
