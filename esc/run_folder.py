"""The folder of one run over many records: what it was made with, its answers, its records.

``options.json`` first, ``calls.jsonl`` while it runs, the records (``predictions.jsonl`` for a
prediction), and ``run.json`` last, which exists exactly when no record is missing.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from esc import files
from esc.chat.cache import Cache
from esc.exceptions import EscError, OptionsDiffer
from esc.files import JsonlWriter, Row

OPTIONS, CALLS, DONE = "options.json", "calls.jsonl", "run.json"


def check_own_file(out: Path, mark: str) -> Row:
    """The options beside ``out``, a file that a user names; empty where there are none.

    For the steps that write one file, and beside it what it is of: options that hold ``mark`` and,
    as ``files``, the names of what the step wrote there. Raises EscError where ``out`` is there and
    is none of these.
    """
    path = out.with_name(OPTIONS)
    if out.is_dir() or out.name == OPTIONS:
        raise EscError(f"--out {out} is no name for a file of records; name another")
    options = files.read_json(path) if path.is_file() else {}
    # Options from before they named the files are of one file.
    if out.exists() and not (mark in options and out.name in options.get("files", [out.name])):
        raise EscError(f"--out {out} is there and was not written by this step; name another file")
    return options


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The folder and the options asked for."""

    path: Path
    options: Row
    records: str
    """The name of the file of records."""
    ways_out: str = "use another WORK=folder, or FORCE=1"
    """What a user can do where there are records of other options."""

    def finished(self) -> Row | None:
        """What ``run.json`` says where these options are done and its records whole, or None."""
        done, records = self.path / DONE, self.path / self.records
        if not done.is_file() or not records.is_file():
            return None
        facts: Row = files.read_json(done)
        return facts if facts[self.records]["sha256"] == files.sha256(records) else None

    def check_own(self) -> None:
        """Raise EscError where another step left its options: they are never replaced.

        For the steps whose folder a user names; their options hold ``step``.
        """
        path = self.path / OPTIONS
        there = [name for name in (self.records, DONE) if (self.path / name).exists()]
        if there and not path.is_file():
            raise EscError(
                f"{self.path / there[0]} is there, and no {OPTIONS} that says it is of this step; "
                "name a folder of its own in --out"
            )
        found = files.read_json(path) if path.is_file() else self.options
        step = self.options["step"]
        # Answers paid for before the options named their step are still this step's own.
        ours = {*found, "step"} == set(self.options)
        if found.get("step", step if ours else None) != step:
            raise EscError(
                f"--out {self.path} is the folder of another step ({path} is not of {step}), which "
                "--force does not replace either; name a folder of its own"
            )

    def claim(self, *, force: bool) -> None:
        """Leave the options in the folder.

        With ``force``, records are deleted and made anew, so that what was refused is asked again;
        stored answers never are, since an answer is found by what was asked. Raises OptionsDiffer
        where there are records of others.
        """
        path = self.path / OPTIONS
        changed = []
        if (self.path / self.records).is_file() or (self.path / DONE).is_file():
            made_with = files.read_json(path) if path.is_file() else {"options": "unknown"}
            changed = files.differences(_flat(made_with), _flat(self.options))
        if changed and not force:
            raise OptionsDiffer(
                f"{self.path} was made with other options ({'; '.join(changed)}); "
                f"{self.ways_out} to make its {Path(self.records).stem} anew (stored "
                "answers are kept)"
            )
        if force:
            for name in (DONE, self.records):
                (self.path / name).unlink(missing_ok=True)
        files.write_json(path, self.options)

    def cache(self, run: Row) -> Cache:
        """The stored answers."""
        return Cache(self.path / CALLS, run)

    def write(self, records: Iterable[Row], facts: Row, *, complete: bool) -> None:
        """Write the records, and ``run.json`` where none is missing."""
        (self.path / DONE).unlink(missing_ok=True)
        with files.atomic_writer(self.path / self.records) as stream:
            writer = JsonlWriter(stream)
            for record in records:
                writer.write(record)
        if complete:
            written = writer.facts()
            files.write_json(
                self.path / DONE,
                facts | {self.records: {"rows": written.rows, "sha256": written.sha256}},
            )


def _flat(options: Row) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in options.items():
        flat |= (
            {f"{key}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {key: value}
        )
    return flat
