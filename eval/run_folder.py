"""The folder of one system's predictions: what it was made with, its answers, its records.

``options.json`` first, ``calls.jsonl`` while it runs, ``predictions.jsonl``, and ``run.json`` last,
which exists exactly when no record is missing.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from esc import files
from esc.chat.cache import Cache
from esc.exceptions import OptionsDiffer
from esc.files import JsonlWriter, Row

OPTIONS, CALLS, PREDICTIONS, DONE = "options.json", "calls.jsonl", "predictions.jsonl", "run.json"


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The folder and the options asked for."""

    path: Path
    options: Row

    def finished(self) -> Row | None:
        """What ``run.json`` says where these options are done and its records whole, or None."""
        done, predictions = self.path / DONE, self.path / PREDICTIONS
        if not done.is_file() or not predictions.is_file():
            return None
        facts: Row = files.read_json(done)
        return facts if facts[PREDICTIONS]["sha256"] == files.sha256(predictions) else None

    def claim(self, *, force: bool) -> None:
        """Leave the options in the folder.

        With ``force``, other options' records are deleted; stored answers never are, since an
        answer is found by what was asked. Raises OptionsDiffer where there are records of others.
        """
        path = self.path / OPTIONS
        changed = []
        if (self.path / PREDICTIONS).is_file() or (self.path / DONE).is_file():
            made_with = files.read_json(path) if path.is_file() else {"options": "unknown"}
            changed = files.differences(_flat(made_with), _flat(self.options))
        if changed and not force:
            raise OptionsDiffer(
                f"{self.path} was made with other options ({'; '.join(changed)}); use another "
                "WORK=folder, or FORCE=1 to make its predictions anew (stored answers are kept)"
            )
        if changed:
            for name in (DONE, PREDICTIONS):
                (self.path / name).unlink(missing_ok=True)
        files.write_json(path, self.options)

    def cache(self, run: Row) -> Cache:
        """The stored answers."""
        return Cache(self.path / CALLS, run)

    def write(self, records: list[Row], facts: Row, *, complete: bool) -> None:
        """Write the records, and ``run.json`` where none is missing."""
        (self.path / DONE).unlink(missing_ok=True)
        with files.atomic_writer(self.path / PREDICTIONS) as stream:
            writer = JsonlWriter(stream)
            for record in records:
                writer.write(record)
        if complete:
            written = writer.facts()
            files.write_json(
                self.path / DONE,
                facts | {PREDICTIONS: {"rows": written.rows, "sha256": written.sha256}},
            )


def _flat(options: Row) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in options.items():
        flat |= (
            {f"{key}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {key: value}
        )
    return flat
