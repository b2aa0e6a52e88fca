"""What a step reads that another made: the built sets, rendered with the prompts of now; pairs."""

import hashlib
from pathlib import Path
from typing import Any

from esc import files, forms, paths, prompts
from esc.exceptions import EscError
from esc.lineage import Lineage
from esc.stages import CounselingStage
from esc.strategies import Strategy


def manifest(work: Path) -> dict[str, Any]:
    """The manifest of the built sets.

    Raises EscError where there is none, or the system prompts have changed since.
    """
    found: dict[str, Any] = files.read_json(paths.data_manifest(work), made_by="make data")
    if wording() != found["options"]["prompts"]:
        raise EscError(
            f"the sets in {paths.data(work)} were built with other system prompts or strategies; "
            "set PROMPTS_DIR (or esc/strategies.py) as it was then, or build and train again"
        )
    return found


def wording() -> str:
    """One hash over all that words the system prompts: their files, strategies and stages."""
    named = [(one.value, one.definition) for one in (*Strategy, *CounselingStage)]
    digest = hashlib.sha256(files.sha256_of(system_prompts()).encode())
    digest.update(repr(named).encode())
    return digest.hexdigest()


def system_prompts() -> list[Path]:
    """The files of the three system prompts."""
    return [prompts.source(forms.TEMPLATES, name) for name in forms.PROMPTS]


def train_set(manifest: dict[str, Any]) -> dict[str, Any]:
    """What names the train turns: corpus, split, how turns were made, and the set's own hash."""
    options = {name: manifest["options"][name] for name in ("ESCONV", "SPLIT", "CONSECUTIVE")}
    return options | {"train set": manifest["sets"][paths.sft_file("rg", "train")]["sha256"]}


def refuse_without_pairs(work: Path, model: str, task: str, lineage: Lineage) -> None:
    """Raise EscError where the last mining ended with no pair: those there are of one before it."""
    none = work / paths.no_pairs(model, task, lineage)
    if none.is_file():
        raise EscError(f"{none}: {files.read_json(none)['told']}")
