"""One run over many records: what it would send, then asking, with every answer kept.

What the steps that ask models share: their options on the command line, the rehearsal that counts
what is still to be asked, and the asking itself.
"""

import argparse
import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from esc import backbones, cli, policy_server
from esc.chat.batch.engines import ENGINES, SHARD, Batch, engine_of
from esc.chat.batch.rounds import Rounds
from esc.chat.budget import Budget, Price
from esc.chat.cache import Cache
from esc.chat.failures import Failure, FailureKind, RunStopped, counted
from esc.chat.meter import Meter
from esc.chat.policy import Asks, Chat, Policy, Rehearsal
from esc.chat.transport import Pool
from esc.exceptions import Waiting
from esc.files import Row
from esc.plan_and_speak import TIMEOUT
from esc.policy_server import Servers
from esc.visible import visible

IN_FLIGHT = {"gpu": 256, "cpu": 32}
"""Requests at a time that keep an engine full, by where the backbone runs."""
JUDGE_IN_FLIGHT = 64
"""Questions at a time to a judge, whose limits have nothing to do with the backbone's server."""

LIVE = "live"
"""No batches for this step, where others of the same command use them."""

Record = TypeVar("Record")


@dataclass(frozen=True, slots=True)
class Sending:
    """How requests are sent: nothing of it changes an answer."""

    budget: Budget
    policy: Policy
    timeout: float
    dry_run: bool
    batch: Batch | None
    """Through files and an engine that reads them, or None for a live endpoint."""

    @classmethod
    def of(cls, given: argparse.Namespace) -> "Sending":
        """The options in parsed arguments."""
        where = "gpu" if backbones.get(given.model).settings["gpus"] else "cpu"
        work = getattr(given, "work", Path())
        return cls(
            Budget(Price.parse(given.price) if given.price else None, given.max_cost),
            Policy(in_flight=given.in_flight or IN_FLIGHT[where]),
            given.timeout or TIMEOUT,
            given.dry_run,
            Batch(given.batch, given.shard or SHARD, given.model, work) if given.batch else None,
        )

    @contextmanager
    def servers(
        self, model: str, work: Path, given: str | None, weights: Mapping[str, str]
    ) -> Iterator[Servers]:
        """As `policy_server.servers`; a batch has an engine of its own, and none is started."""
        if self.batch:
            yield Servers(policy_server.split_urls(given or ""), own=False)
        else:
            with policy_server.servers(model, work, given, weights) as where:
                yield where


def add_arguments(parser: argparse.ArgumentParser, *, judge: bool = False) -> None:
    """Add the options of `Sending`; a step that asks a ``judge`` takes JUDGE_BATCH before BATCH.

    A judge's number in flight is JUDGE_IN_FLIGHT.
    """
    batch = ("JUDGE_BATCH", "BATCH") if judge else ("BATCH",)
    parser.add_argument(
        "--in-flight",
        type=cli.optional_count,
        default=(os.environ.get("JUDGE_IN_FLIGHT") or JUDGE_IN_FLIGHT) if judge else None,
        help=f"requests at a time (default: $JUDGE_IN_FLIGHT, or {JUDGE_IN_FLIGHT})"
        if judge
        else "requests at a time",
    )
    parser.add_argument(
        "--timeout", type=cli.optional_amount, default=TIMEOUT, help="seconds for an answer"
    )
    parser.add_argument("--price", type=cli.optional, help="money per million tokens: IN/OUT")
    parser.add_argument(
        "--max-cost", type=cli.optional_amount, help="stop before this very call costs more"
    )
    parser.add_argument(
        "--batch",
        type=_engine,
        metavar="|".join(ENGINES),
        default=next(filter(None, map(os.environ.get, batch)), None),
        help="an engine that reads batch files, instead of a live server (default: "
        f"{', '.join(f'${name}' for name in batch)})",
    )
    parser.add_argument(
        "--shard",
        type=cli.optional_count,
        default=os.environ.get("SHARD") or None,
        help=f"requests of one batch file (default: $SHARD, or {SHARD})",
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be sent")


def _engine(text: str) -> str | None:
    """The name of a batch engine; None where none is meant, or make passes an unset variable."""
    if text and text not in (*ENGINES, LIVE):
        raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join((*ENGINES, LIVE))}")
    return text if text not in ("", LIVE) else None


class Waits:
    """Several runs of one step: where one has to wait for others' answers, the next goes on."""

    def __init__(self) -> None:
        self._told: list[str] = []

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Note it where the block has to wait."""
        try:
            yield
        except Waiting as waiting:
            self._told.append(str(waiting))

    def tell(self) -> None:
        """Raise Waiting where one of them had to."""
        if self._told:
            raise Waiting("\n".join(self._told))


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
        Raises EscError, or Waiting where BATCH leaves the asking to others.
        """
        if sending.batch:
            engine, meter = engine_of(sending.batch, urls, sending.budget), Meter(sending.budget)
            size = sending.batch.shard
            rounds = Rounds(self.cache, self.weights, engine, size, meter)
            found = rounds.ask(self.records, self.work)
            if meter.failed and not engine.writes:
                print(
                    f"batch       {meter.failed:,} failures were brought: BATCH=write asks again",
                    file=sys.stderr,
                )
        else:
            found, meter = asyncio.run(self._ask(urls, sending, listed))
        _check_not_all_empty(found, sending.budget)
        lost = [(one.kind.value, one.message) for one in found if isinstance(one, Failure)]
        if lost:
            print(f"no answer   {visible(counted(lost))}", file=sys.stderr)
        return found, meter

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


def _check_not_all_empty(results: Sequence[object], budget: Budget) -> None:
    """Raise RunStopped where no record has an answer, because none of the answers has a text."""
    empty = [one for one in results if isinstance(one, Failure) and one.kind is FailureKind.EMPTY]
    if empty and len(empty) == len(results):
        raise RunStopped(
            f"every answer is empty{budget.told()}: {empty[0].message}; nothing is written: switch "
            "the model's thinking off where it is served, or take another one"
        )
