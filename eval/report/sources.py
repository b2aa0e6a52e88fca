"""The files a report is made of: read once, checked, and remembered with their hashes."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from esc import commands, files
from esc.backbones import EMBEDDED
from esc.exceptions import EscError
from esc.files import Row
from eval.report.shapes import Shape

Known = TypeVar("Known", bound=Shape)
MANIFEST = Path("data/manifest.json")


@dataclass
class Sources:
    """What is read under one ``work``."""

    work: Path
    hashes: dict[str, str] = field(default_factory=dict)
    """Path relative to ``work`` to the SHA-256 of every file that was read."""
    options: dict[str, Row] = field(default_factory=dict)
    """Folder to what it was made with."""

    def make(self, target: str, model: str = EMBEDDED, **variables: object) -> str:
        """The make command of a step here."""
        return commands.make(target, work=self.work, model=model, **variables)

    def raw(self, path: Path) -> Any:
        """The JSON value of a file under ``work``, or None where there is no such file."""
        whole = self.work / path
        if not whole.is_file():
            return None
        self._keep(path)
        return files.read_value(whole)

    def known(self, path: Path, shape: type[Known], renew: str) -> Known | None:
        """The file as a shape, or None where there is no such file.

        Raises EscError, with ``renew``, the command that makes it anew, where it is another thing.
        """
        found = self.raw(path)
        if found is None:
            return None
        try:
            return shape.model_validate(found)
        except ValidationError as error:
            raise EscError(f"{self.work / path}: {first(error)}; {renew} renews it") from error

    def rows(self, path: Path) -> Iterator[Row]:
        """The rows of a JSONL file under ``work``."""
        self._keep(path)
        yield from files.read_jsonl(self.work / path)

    def options_of(self, folder: Path) -> Row:
        """What ``options.json`` of a folder says; empty where there is none."""
        found = self.raw(folder / "options.json")
        if isinstance(found, dict):
            self.options[folder.as_posix()] = found
            return found
        return {}

    def built(self) -> Row | None:
        """The manifest of the built sets, or None where there is none."""
        found = self.raw(MANIFEST)
        return found if isinstance(found, dict) else None

    def build_variables(self) -> dict[str, object]:
        """Make's variables that keep those sets as they are, None for what is the default.

        A target that builds them needs all: without, it builds the default's in their place.
        """
        options = (self.built() or {}).get("options")
        if not isinstance(options, dict):
            return {}
        # Only the ESConv release can have the paper's split, and it has no other by itself.
        usual = {"SPLIT": "paper", "LIMIT": None, "CONSECUTIVE": "separate"}
        return {
            name: None if options.get(name) == value else options.get(name)
            for name, value in usual.items()
        }

    def hash_of(self, path: Path) -> str | None:
        """The SHA-256 of a file under ``work``, or None where there is no such file."""
        if not (self.work / path).is_file():
            return None
        self._keep(path)
        return self.hashes[path.as_posix()]

    def _keep(self, path: Path) -> None:
        if path.as_posix() not in self.hashes:
            self.hashes[path.as_posix()] = files.sha256(self.work / path)


def first(error: ValidationError) -> str:
    """The first fault in one line: where it is and what is wrong."""
    fault = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in fault["loc"]) or "the whole file"
    if fault["type"] == "missing":
        return f"no {where!r} in it"
    return f"{where} is {json.dumps(fault['input'], default=str)[:60]} ({fault['msg']})"
