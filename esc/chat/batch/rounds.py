"""Rounds of collecting, running and taking in, until every record has its row.

A later call of a record depends on earlier answers, so each round asks the first call of each
record that has none yet: a system of three steps takes three rounds.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from esc.chat.batch.answer import outcome_of, paid_for
from esc.chat.batch.collect import Collecting, Pending
from esc.chat.batch.shards import FOLDER, Shard, Shards
from esc.chat.cache import Cache
from esc.chat.constraint import Choice, Regex
from esc.chat.failures import Failure, RunStopped
from esc.chat.meter import Meter
from esc.chat.policy import Asks, Call
from esc.chat.request import Payload
from esc.exceptions import EscError
from esc.thinking import spoken

Record = TypeVar("Record")
Result = TypeVar("Result")
Asked = Mapping[str, Call[Any]]
"""What has to be asked, by cache key."""


class Engine(Protocol):
    """Whatever leaves answers beside requests."""

    @property
    def writes(self) -> bool:
        """Whether requests that no shard holds are written; otherwise answers are only taken in."""

    def body(self, call: Call[Any]) -> Payload:
        """What a request's line asks; EscError where the engine cannot be asked that."""

    def run(self, shards: Sequence[Shard], pending: Asked) -> None:
        """Leave an answers file beside each of ``shards``, which hold ``pending``.

        Raises EscError where it cannot, and Waiting where somebody else has to; what is answered
        until then stays.
        """


@dataclass
class Rounds:
    """One run's requests through an engine."""

    cache: Cache
    weights: Mapping[str, str]
    engine: Engine
    size: int
    """Requests of a shard."""
    meter: Meter
    _failures: dict[str, Failure] = field(default_factory=dict)
    _ran: set[Shard] = field(default_factory=set)
    _taken: set[str] = field(default_factory=set)

    def ask(
        self, records: Sequence[Record], work: Callable[[Asks, Record], Awaitable[Result]]
    ) -> list[Result | Failure]:
        """The result of ``work`` for every record, in order, or its final failure.

        Raises EscError or Waiting where answers are missing; those that are there are stored.
        """
        shards = Shards(self.cache.folder / FOLDER)
        try:
            while True:
                asked = Collecting(self.cache, self.weights, self._failures)
                results = asyncio.run(asked.all(records, work))
                self.meter.cached = len(asked.stored - self._taken)
                if not asked.pending:
                    return [one for one in results if not isinstance(one, Pending)]
                if not self._take(shards, asked.pending):
                    self._run(shards, asked.pending)
        finally:
            self.cache.close()

    def _run(self, shards: Shards, pending: Asked) -> None:
        todo = shards.open(pending)
        if self.engine.writes:
            held = frozenset[str]().union(*(shard.ids for shard in todo))
            new = [
                (key, self.engine.body(call)) for key, call in pending.items() if key not in held
            ]
            todo += shards.write(new, self.size)
        self.engine.run(todo, pending)
        self._ran.update(todo)

    def _take(self, shards: Shards, pending: Asked) -> bool:
        """Whether answers or failures of what is pending were in the answers files.

        A failure counts where it is of this run, or nobody is going to ask again. Raises EscError
        for one that others would meet too, or for missing answers, when all that are there are
        stored.
        """
        failures: dict[str, tuple[Failure, tuple[int, int]]] = {}
        stops: dict[str, RunStopped] = {}
        lacking = None
        taken: set[str] = set()
        waits = frozenset[str]().union(*(shard.ids for shard in shards.open(pending)))
        for shard in shards.answered():
            counts, seen = shard in self._ran or not self.engine.writes, set()
            for row in shard.lines():
                key = row["custom_id"]
                seen.add(key)
                if key not in pending or key in taken:
                    continue
                try:
                    outcome = _within(pending[key], outcome_of(row))
                except RunStopped as stopped:
                    if counts:
                        stops[key] = RunStopped(f"{shard.answers}: {stopped}")
                    continue
                if not isinstance(outcome, Failure):
                    self._store(key, pending[key], outcome)
                    taken.add(key)
                    self._taken.add(key)
                elif counts:
                    failures[key] = outcome, paid_for(row)
            if shard in self._ran and (lacks := shard.ids & pending.keys() - seen):
                lacking = lacking or EscError(
                    f"{shard.answers} lacks {len(lacks):,} of {len(shard.ids):,} answers; what is "
                    "there is kept: the same command asks for the others alone"
                )
        for key, stop in stops.items():
            if key not in taken | waits:
                raise stop
        if lacking:
            raise lacking
        final = {k: failure for k, (failure, _) in failures.items() if k not in taken | waits}
        self._failures |= final
        for key in final:
            self._pay(failures[key][1])
        self.meter.failed += len(final)
        return bool(taken or final)

    def _store(self, key: str, call: Call[Any], answer: Payload) -> None:
        self.cache.put(key, call.audit(), answer)
        self._pay((answer["prompt_tokens"], answer["completion_tokens"]))
        self.meter.answered += 1

    def _pay(self, used: tuple[int, int]) -> None:
        self.meter.budget.settle(0.0, *used)
        self.meter.prompt_tokens += used[0]
        self.meter.completion_tokens += used[1]


def _within(call: Call[Any], outcome: Payload | Failure) -> Payload | Failure:
    """The outcome; RunStopped where it is an answer that its constraint does not let through."""
    constraint = getattr(call, "constraint", None)
    if not isinstance(outcome, Failure) and _breaks(constraint, outcome):
        raise RunStopped(
            "the engine answers, but ignores the constraint; use DECODE=free, or an engine with "
            "structured outputs, such as vLLM"
        )
    return outcome


def _breaks(constraint: object, answer: Payload) -> bool:
    """Whether a whole answer is none that its constraint lets through."""
    text, is_cut = spoken(answer["text"])
    if is_cut or answer["finish"] == "length" or getattr(constraint, "hint", False):
        return False
    if isinstance(constraint, Choice):
        return text not in constraint.options
    if isinstance(constraint, Regex):
        return re.match(constraint.pattern, text, re.DOTALL) is None
    return False
