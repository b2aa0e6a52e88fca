"""The append-only file of answers: at once what a restarted run goes on from and the audit trail.

Its first line names the run it belongs to. Failures are never stored. One line is one write, so a
kill loses at most what was in flight; a last line torn by it is cut off.
"""

import errno
import os
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from esc.exceptions import EscError

Payload = dict[str, Any]
_HEADER = "calls of"


class Cache:
    """Stored answers by key, and the file new ones go to."""

    def __init__(self, path: Path | None, run: Payload) -> None:
        """Read ``path`` where it exists; without one, answers are kept in memory alone.

        Raises EscError where it is of another run or a line is not JSON.
        """
        self._path, self._run = path, run
        self._stream: BinaryIO | None = None
        self._answers: dict[str, Payload] = {}
        self.repaired = False
        """Whether a torn last line was cut off."""
        if path is not None and path.exists():
            self._read(path)

    @property
    def folder(self) -> Path:
        """The folder its file lies in."""
        assert self._path is not None, "answers in memory alone lie in no folder"
        return self._path.parent

    def __len__(self) -> int:
        return len(self._answers)

    def get(self, key: str) -> Payload | None:
        """The stored answer, or None."""
        return self._answers.get(key)

    def put(self, key: str, audit: Payload, answer: Payload) -> None:
        """Store one answer, at once and for good."""
        self._answers[key] = answer
        if self._path is None:
            return
        if self._stream is None:
            self._stream = self._open(self._path)
        row = {"key": key} | audit | {"answer": answer}
        line = orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE)
        begin = self._stream.tell()
        if self._stream.write(line) != len(line):
            self._stream.truncate(begin)
            raise OSError(errno.ENOSPC, "no space left on device", str(self._path))

    def close(self) -> None:
        """Hand everything to the disk."""
        if self._stream is not None:
            os.fsync(self._stream.fileno())
            self._stream.close()
            self._stream = None

    def _open(self, path: Path) -> BinaryIO:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Unbuffered: one line is one write.
        stream: BinaryIO = path.open("ab", buffering=0)
        if stream.tell() == 0:
            stream.write(orjson.dumps({_HEADER: self._run}, option=orjson.OPT_APPEND_NEWLINE))
        return stream

    def _read(self, path: Path) -> None:
        self._cut_torn_line(path)
        with path.open("rb") as stream:
            for number, line in enumerate(stream, start=1):
                try:
                    row = orjson.loads(line)
                    if number == 1:
                        self._check_header(path, row)
                    else:
                        self._answers[row["key"]] = row["answer"]
                except (ValueError, KeyError, TypeError) as error:
                    raise EscError(
                        f"{path}, line {number}: no stored answer; delete that line, "
                        "the answer is asked for again"
                    ) from error

    def _check_header(self, path: Path, row: Any) -> None:
        of = row.get(_HEADER) if isinstance(row, dict) else None
        if of != self._run:
            known = of.items() if isinstance(of, dict) else ()
            told = "; ".join(f"{k} {v}" for k, v in known) or "no run"
            raise EscError(
                f"{path} holds answers of another run ({told}); move it away, or use "
                "another WORK=folder"
            )

    def _cut_torn_line(self, path: Path) -> None:
        with path.open("rb+") as stream:
            end = stream.seek(0, os.SEEK_END)
            kept = end
            while kept:
                begin = max(kept - 65536, 0)
                stream.seek(begin)
                newline = stream.read(kept - begin).rfind(b"\n")
                if newline >= 0:
                    kept = begin + newline + 1
                    break
                kept = begin
            if kept < end:
                stream.truncate(kept)
                self.repaired = True
