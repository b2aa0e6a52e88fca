"""From a request to an answer that is not lost: cache, bounded retries, concurrency, budget.

A task awaits ``Chat.ask`` and knows nothing of it. All records of a run are in flight at once; what
limits them is the number of requests at a time.
"""

import asyncio
import random
import time
import weakref
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from esc.chat.budget import CHARACTERS_PER_TOKEN, Budget
from esc.chat.cache import Cache
from esc.chat.failures import AttemptFailed, CallFailed, Failure, FailureKind, RunStopped
from esc.chat.meter import Meter
from esc.chat.request import Payload, key_of
from esc.chat.transport import Endpoint, Pool
from esc.exceptions import EscError
from esc.thinking import spoken

Answer = TypeVar("Answer", covariant=True)
Record = TypeVar("Record")
Result = TypeVar("Result")
MUTE = 20
"""Requests that end without a word, until a run does not wait for one any more."""


class Call(Protocol[Answer]):
    """A kind of request: a generation, or the score of given answers."""

    @property
    def model(self) -> str:
        """The served name."""

    def identity(self) -> Payload:
        """Everything that decides the answer."""

    def audit(self) -> Payload:
        """What the stored line says besides the key."""

    def size(self) -> tuple[int, int]:
        """(characters of the prompt, largest number of answer tokens)."""

    def body(self) -> Payload | None:
        """What a line of a batch file asks, or None where no batch engine has an answer to it."""

    async def send(self, endpoint: Endpoint) -> Payload:
        """The answer as it is stored."""

    def lasting(self, payload: Payload) -> bool:
        """Whether the answer is to be stored."""

    def read(self, payload: Payload) -> Answer:
        """The stored answer as the task sees it."""

    def rehearse(self) -> Answer:
        """The answer a dry run goes on with."""


class Asks(Protocol):
    """What a task needs: somebody to ask."""

    async def ask(self, call: Call[Answer]) -> Answer:
        """The answer to one call; CallFailed where there is none."""


@dataclass(frozen=True, slots=True)
class Policy:
    """How hard to try."""

    in_flight: int = 32
    """Requests at a time, over all endpoints."""
    attempts: int = 6
    """Of one request, the first included; those that a rate limit refuses do not count."""
    patience: float = 900.0
    """Seconds without any answer, after which a rate limit is a failure."""
    first_wait: float = 0.5
    """Seconds before the second attempt; doubled with each one after, with jitter."""
    longest_wait: float = 60.0
    """Seconds; also the most a Retry-After is followed."""

    def wait(self, attempt: int, retry_after: float | None) -> float:
        """Seconds to wait after the given attempt (1-based)."""
        if retry_after:
            # Not all at the same moment.
            return min(retry_after, self.longest_wait) * random.uniform(1.0, 1.3)
        longest: float = min(self.first_wait * 2.0 ** min(attempt - 1, 30), self.longest_wait)
        return longest * random.uniform(0.5, 1.0)


class Chat:
    """Asks models, each thing once."""

    def __init__(
        self,
        pool: Pool,
        cache: Cache,
        *,
        weights: Mapping[str, str],
        policy: Policy,
        budget: Budget,
    ) -> None:
        """``weights`` maps a served name to a hash of what answers under it."""
        self._pool, self._cache, self._weights = pool, cache, weights
        self._policy, self._budget = policy, budget
        self._slots = asyncio.Semaphore(policy.in_flight)
        self._asking: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()
        self._heard = time.monotonic()
        """When somebody last had an answer, or the start."""
        self._stopped: EscError | OSError | None = None
        self._stop = asyncio.Event()
        self._mute: Counter[str] = Counter()
        self._speaks: set[str] = set()
        """Models that have said something; of the others, how often they have not."""
        self.meter = Meter(budget)

    async def ask(self, call: Call[Answer]) -> Answer:
        """The answer to one call, from the cache where it is there.

        Raises CallFailed where it has none for good, RunStopped where no call of the run would.
        """
        key = key_of(call.identity(), self._weights.get(call.model))
        if not self._asking:
            # Where nobody asked, as between a person's two messages, nobody was refused either.
            self._heard = time.monotonic()
        # A second call of the same key waits for the first one's answer.
        async with self._asking.setdefault(key, asyncio.Lock()):
            stored = self._cache.get(key)
            was_stored = stored is not None
            if stored is None:
                async with self._slots:
                    stored = await self._answer(call)
                    if call.lasting(stored):
                        self._cache.put(key, call.audit(), stored)
            else:
                self.meter.cached += 1
        if stored.get("finish") == "length":
            self.meter.truncated += 1
        self.meter.tick()
        said, is_cut = spoken(stored.get("text", ""))
        if said:
            self._speaks.add(call.model)
        elif is_cut and not was_stored:
            self._check_not_mute(call.model, "cut while the model thought")
        return call.read(stored)

    async def run(
        self,
        records: Sequence[Record],
        work: Callable[[Asks, Record], Awaitable[Result]],
        what: str,
    ) -> list[Result | Failure]:
        """The result of ``work`` for every record, in order, or its final failure.

        Raises RunStopped, or another EscError of ``work``, after the requests already sent have
        been answered and kept.
        """
        self.meter.begin(len(records), what)

        async def one(record: Record) -> Result | Failure:
            try:
                return await work(self, record)
            except CallFailed as failed:
                return failed.failure
            except (EscError, OSError) as stopped:
                # RunStopped, or what every record meets, such as a prompt that does not render or
                # a full disk: raised below, when nothing is in flight any more.
                self._stopped = self._stopped or stopped
                self._stop.set()
                return Failure(FailureKind.REFUSED, str(stopped), 0)
            finally:
                self.meter.tick(records=1)

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one(record)) for record in records]
        finally:
            self.meter.end()
            self._cache.close()
        if self._stopped is not None:
            raise self._stopped
        return [task.result() for task in tasks]

    async def _answer(self, call: Call[Any]) -> Payload:
        try:
            answer = await self._attempts(call)
        except CallFailed as failed:
            self.meter.failed += 1
            if failed.failure.kind in (FailureKind.EMPTY, FailureKind.REFUSED):
                self._check_not_mute(call.model, failed.failure.message)
            raise
        self._heard = time.monotonic()
        self.meter.answered += 1
        return answer

    async def _send(self, call: Call[Any], endpoint: Endpoint) -> Payload:
        """The answer to one request; what it can cost is set aside until that is known."""
        characters, max_tokens = call.size()
        while (reserved := self._budget.reserve(characters, max_tokens)) is None:
            # What runs may turn out cheaper than it can be at most.
            await asyncio.sleep(0.1)
            if self._stopped is not None:
                raise self._stopped
        used = 0, 0
        try:
            answer = await call.send(endpoint)
            used = answer["prompt_tokens"], answer["completion_tokens"]
            if not any(used) and call.lasting(answer):
                # A server that tells no usage is not one that costs nothing.
                self._budget.spent += reserved
            return answer
        except AttemptFailed as failed:
            used = failed.used
            raise
        finally:
            self._budget.settle(reserved, *used)
            self.meter.prompt_tokens += used[0]
            self.meter.completion_tokens += used[1]

    def _check_not_mute(self, model: str, why: str) -> None:
        """Raise RunStopped where all that a model was asked ended without a word of it."""
        self._mute[model] += 1
        if model not in self._speaks and self._mute[model] >= MUTE:
            raise RunStopped(
                f"the first {MUTE} requests to {model} brought no answer ({why}), nor would the "
                f"others{self._budget.told()}; all answers are kept"
            )

    async def _attempts(self, call: Call[Any]) -> Payload:
        attempt = limited = 0
        while True:
            attempt += 1
            if self._stopped is not None:
                raise self._stopped
            try:
                async with self._pool.endpoint() as endpoint:
                    return await self._attempt(call, endpoint)
            except AttemptFailed as failed:
                if self._stopped is not None:
                    raise self._stopped from failed
                is_limit = failed.kind is FailureKind.RATE_LIMITED
                limited += is_limit
                if not self._again(failed, attempt - limited):
                    failure = Failure(failed.kind, failed.message, attempt)
                    raise CallFailed(failure) from failed
                self.meter.retries += 1
                count = limited if is_limit else attempt - limited
                await self._pause(self._policy.wait(count, failed.retry_after))

    async def _attempt(self, call: Call[Any], endpoint: Endpoint) -> Payload:
        if endpoint.is_limited:
            async with endpoint.turn:
                await self._pause(endpoint.due())
                endpoint.ask()
            if self._stopped is not None:
                raise self._stopped
        with endpoint.watched():
            constraint = getattr(call, "constraint", None)
            # What is checked in any case is worth no canary.
            if constraint is not None and not getattr(constraint, "hint", False):
                await self._pool.verify(endpoint, type(constraint), call.model)
            return await self._send(call, endpoint)

    def _again(self, failed: AttemptFailed, attempts: int) -> bool:
        """Whether another attempt is worth it: after a rate limit by time, else by their number."""
        if failed.kind is FailureKind.RATE_LIMITED:
            return time.monotonic() - self._heard < self._policy.patience
        return failed.transient and attempts < self._policy.attempts

    async def _pause(self, seconds: float) -> None:
        """Wait, or until the run is stopped."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), seconds)


class Rehearsal:
    """Asks nobody: counts what a run would send, for ``--dry-run``."""

    def __init__(self, cache: Cache, weights: Mapping[str, str]) -> None:
        self._cache, self._weights = cache, weights
        self.requests = self.cached = 0
        self.prompt_tokens = self.completion_tokens = 0

    async def ask(self, call: Call[Answer]) -> Answer:
        """The stored answer, or one of the usual kind."""
        stored = self._cache.get(key_of(call.identity(), self._weights.get(call.model)))
        if stored is not None:
            self.cached += 1
            return call.read(stored)
        characters, max_tokens = call.size()
        self.requests += 1
        self.prompt_tokens += characters // CHARACTERS_PER_TOKEN
        self.completion_tokens += max_tokens
        return call.rehearse()

    def report(self, budget: Budget) -> str:
        """What would be sent, and at most paid."""
        lines = [
            f"dry run: {self.requests:,} requests to send, {self.cached:,} answered already",
            f"about {self.prompt_tokens:,} prompt tokens (4 characters each), at most "
            f"{self.completion_tokens:,} answer tokens",
        ]
        if budget.price is not None:
            most = budget.price.of(self.prompt_tokens, self.completion_tokens)
            lines.append(f"about {most:,.4f} at most, at the given price")
        return "\n".join(lines)
