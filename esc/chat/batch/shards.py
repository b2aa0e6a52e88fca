"""The files of a batch: requests in shards, and the answers beside them."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import orjson

from esc import files
from esc.chat.request import Payload
from esc.exceptions import EscError
from esc.files import JsonlWriter, Row

FOLDER = "batch"
REQUESTS, ANSWERS = ".requests.jsonl", ".answers.jsonl"
STATE = ".batch.json"
"""Beside a shard that a service was given, and is paid for."""
URL: Final = "/v1/chat/completions"


def request_line(key: str, body: Payload) -> Row:
    """One line of a requests file, as OpenAI's Batch API and vLLM read it."""
    return {"custom_id": key, "method": "POST", "url": URL, "body": body}


@dataclass(frozen=True)
class Shard:
    """A file of requests, and the place of its answers."""

    requests: Path

    @property
    def name(self) -> str:
        """Its number, as its files have it."""
        return self.requests.name.removesuffix(REQUESTS)

    def beside(self, ending: str) -> Path:
        """Another file of the shard."""
        return self.requests.with_name(self.name + ending)

    @property
    def answers(self) -> Path:
        """The file of its answers."""
        return self.beside(ANSWERS)

    @cached_property
    def ids(self) -> frozenset[str]:
        """The ids its requests have; EscError where the file was cut or changed."""
        found = set()
        with self.requests.open("rb") as stream:
            for number, line in enumerate(stream, start=1):
                row = _parsed(line)
                if row is None:
                    raise EscError(
                        f"{self.requests}, line {number}: no whole request; delete {self.name}.* "
                        "there, its requests are written anew"
                    )
                found.add(row["custom_id"])
        return frozenset(found)

    def lines(self) -> Iterator[Row]:
        """Every whole line of its answers; a last one that is torn is left out.

        Raises EscError for a line that is no answer, or answers what this shard does not ask.
        """
        with self.answers.open("rb") as stream:
            for number, line in enumerate(stream, start=1):
                row = _parsed(line)
                if row is None and not line.endswith(b"\n"):
                    return
                where = f"{self.answers}, line {number}"
                if row is None:
                    raise EscError(f"{where}: no answer; delete that line, it is asked for again")
                if row["custom_id"] not in self.ids:
                    raise EscError(
                        f"{where}: an answer to {row['custom_id']}, which {self.requests.name} "
                        "does not ask: it is of another run; move that file away"
                    )
                yield row


def _parsed(line: bytes) -> Any:
    """The object with an id in a line, or None."""
    try:
        row = orjson.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and isinstance(row.get("custom_id"), str) else None


@dataclass
class Shards:
    """All shards of a run's folder, in the order of their numbers."""

    folder: Path
    all: list[Shard] = field(init=False)

    def __post_init__(self) -> None:
        found = [Shard(path) for path in self.folder.glob(f"*{REQUESTS}")]
        numbered = [shard for shard in found if shard.name.isdecimal()]
        self.all = sorted(numbered, key=lambda shard: int(shard.name))

    def answered(self) -> list[Shard]:
        """Those beside which answers lie, whole or not."""
        return [shard for shard in self.all if shard.answers.is_file()]

    def open(self, keys: Iterable[str]) -> list[Shard]:
        """Those without any answers whose requests are all among ``keys``: to be run as they are.

        One of which another run has answered a part is not, and its rest is asked in a new one;
        but where a service has it, its answers are paid for. No request is in two of them, but in
        what a service has twice.
        """
        wanted = frozenset(keys)
        waiting = [one for one in self.all if not one.answers.is_file()]
        paid = {one for one in waiting if one.beside(STATE).is_file() and one.ids & wanted}
        left = wanted.difference(*(one.ids for one in paid))
        found = []
        for one in waiting:
            if one in paid:
                found.append(one)
            elif one.ids <= left:
                found.append(one)
                left -= one.ids
        return found

    def write(self, requests: Sequence[tuple[str, Payload]], size: int) -> list[Shard]:
        """New shards of up to ``size`` requests, (cache key, body) each."""
        last = int(self.all[-1].name) if self.all else 0
        made = []
        for number, begin in enumerate(range(0, len(requests), size), start=last + 1):
            path = self.folder / f"{number:04}{REQUESTS}"
            with files.atomic_writer(path) as stream:
                writer = JsonlWriter(stream)
                for key, body in requests[begin : begin + size]:
                    writer.write(request_line(key, body))
            made.append(Shard(path))
        self.all += made
        return made
