"""One run over many records: what it would send, then asking, with every answer kept.

What the steps that ask models share: their options on the command line, the rehearsal that counts
what is still to be asked, and the asking itself.
"""

import argparse
import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from esc import backbones, cli
from esc.chat.budget import Budget, Price
from esc.chat.cache import Cache
from esc.chat.failures import Failure
from esc.chat.meter import Meter
from esc.chat.policy import Asks, Chat, Policy, Rehearsal
from esc.chat.transport import Pool
from esc.files import Row
from esc.plan_and_speak import TIMEOUT

IN_FLIGHT = {"gpu": 256, "cpu": 32}
"""Requests at a time that keep an engine full, by where the backbone runs."""

Record = TypeVar("Record")


@dataclass(frozen=True, slots=True)
class Sending:
    """How requests are sent: nothing of it changes an answer."""

    budget: Budget
    policy: Policy
    timeout: float
    dry_run: bool

    @classmethod
    def of(cls, given: argparse.Namespace) -> "Sending":
        """The options in parsed arguments."""
        where = "gpu" if backbones.get(given.model).settings["gpus"] else "cpu"
        return cls(
            Budget(Price.parse(given.price) if given.price else None, given.max_cost),
            Policy(in_flight=given.in_flight or IN_FLIGHT[where]),
            given.timeout or TIMEOUT,
            given.dry_run,
        )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `Sending`."""
    parser.add_argument("--in-flight", type=cli.optional_count, help="requests at a time")
    parser.add_argument(
        "--timeout", type=cli.optional_amount, default=TIMEOUT, help="seconds for an answer"
    )
    parser.add_argument("--price", type=cli.optional, help="money per million tokens: IN/OUT")
    parser.add_argument(
        "--max-cost", type=cli.optional_amount, help="stop before this very call costs more"
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be sent")


@dataclass(frozen=True, slots=True)
class Job(Generic[Record]):
    """What is asked of each record, and where the answers are kept."""

    what: str
    """For the progress bar."""
    records: Sequence[Record]
    work: Callable[[Asks, Record], Awaitable[Row]]
    """From somebody to ask and a record to its row."""
    cache: Cache
    models: Sequence[str]
    """The served names it asks."""
    weights: Mapping[str, str]
    """Served name to a hash of what answers under it."""

    def rehearse(self) -> tuple[Rehearsal, list[Row]]:
        """(what is still to be sent, the rows as far as answers are stored)."""
        rehearsal = Rehearsal(self.cache, self.weights)

        async def all_records() -> list[Row]:
            return [await self.work(rehearsal, record) for record in self.records]

        return rehearsal, asyncio.run(all_records())

    def ask(
        self, urls: Sequence[str], sending: Sending, *, listed: bool = True
    ) -> tuple[list[Row | Failure], Meter]:
        """(a row, or the final failure, for every record in order; what was sent).

        ``listed`` says that the endpoints list their models, and those asked must be among them.
        """
        return asyncio.run(self._ask(urls, sending, listed))

    async def _ask(
        self, urls: Sequence[str], sending: Sending, listed: bool
    ) -> tuple[list[Row | Failure], Meter]:
        pool = Pool(urls, timeout=sending.timeout, connections=sending.policy.in_flight)
        chat = Chat(
            pool, self.cache, weights=self.weights, policy=sending.policy, budget=sending.budget
        )
        try:
            await pool.connect(self.models, listed=listed)
            rows = await chat.run(self.records, self.work, self.what)
        finally:
            await pool.close()
        return rows, chat.meter
