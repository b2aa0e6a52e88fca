"""Somebody to ask who has stored answers alone, and notes what else is asked."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

from esc.chat.cache import Cache
from esc.chat.failures import CallFailed, Failure
from esc.chat.policy import Asks, Call
from esc.chat.request import key_of

Answer = TypeVar("Answer", covariant=True)
Record = TypeVar("Record")
Result = TypeVar("Result")


class Pending(Exception):
    """Raised to a task whose answer is not there yet: its record goes on in a later round."""


class Collecting:
    """Gives stored answers and known failures; collects the first other call of each record."""

    def __init__(
        self, cache: Cache, weights: Mapping[str, str], failures: Mapping[str, Failure]
    ) -> None:
        self._cache, self._weights, self._failures = cache, weights, failures
        self.pending: dict[str, Call[Any]] = {}
        """What has to be asked now, by cache key, in the records' order."""
        self.stored: set[str] = set()
        """The cache keys whose answers were there."""

    async def ask(self, call: Call[Answer]) -> Answer:
        """The stored answer; CallFailed where it failed in this run, Pending where it is to come.

        What no batch engine offers is answered as by a live endpoint that does not.
        """
        key = key_of(call.identity(), self._weights.get(call.model))
        stored = self._cache.get(key)
        if stored is not None:
            self.stored.add(key)
            return call.read(stored)
        if call.body() is None:
            return call.rehearse()
        if key in self._failures:
            raise CallFailed(self._failures[key])
        self.pending.setdefault(key, call)
        raise Pending

    async def all(
        self, records: Sequence[Record], work: Callable[[Asks, Record], Awaitable[Result]]
    ) -> list[Result | Failure | Pending]:
        """For every record its result, its final failure, or Pending where an answer is to come."""
        return [await self._one(record, work) for record in records]

    async def _one(
        self, record: Record, work: Callable[[Asks, Record], Awaitable[Result]]
    ) -> Result | Failure | Pending:
        try:
            return await work(self, record)
        except CallFailed as failed:
            return failed.failure
        except Pending as pending:
            return pending
