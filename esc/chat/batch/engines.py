"""The engines by the name a user gives them, and those that run on machines of one's own."""

import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from esc import adapters
from esc.chat.batch.hosted import LARGEST, Hosted
from esc.chat.batch.rounds import Asked, Engine
from esc.chat.batch.shards import STATE, Shard
from esc.chat.batch.spelling import choice_fields
from esc.chat.budget import Budget
from esc.chat.constraint import Choice
from esc.chat.policy import Call
from esc.chat.request import Payload
from esc.exceptions import EscError, Waiting

SHARD = 5000
"""Requests of a shard: each costs a local engine its start, and a killed one at most one shard."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What a user asks of batches."""

    engine: str
    """A key of `ENGINES`."""
    shard: int
    model: str
    """The backbone."""
    work: Path


@cache
def _choice_fields(model: str, options: tuple[str, ...]) -> dict[str, Any]:
    return choice_fields(model, options)


@dataclass(frozen=True)
class _OfThisWork:
    """An engine of this WORK's models, or files for one."""

    batch: Batch
    writes: bool = True

    def body(self, call: Call[Any]) -> Payload:
        """As a live server of this kit is sent it."""
        body = dict(call.body() or {})
        constraint = getattr(call, "constraint", None)
        if isinstance(constraint, Choice):
            body |= _choice_fields(self.batch.model, constraint.options)
        return body

    def _step(self, *words: str) -> list[str]:
        whose = ("--model", self.batch.model, "--work", str(self.batch.work))
        return [sys.executable, "-m", "serving", "run-batch", *whose, *words]


@dataclass(frozen=True)
class Local(_OfThisWork):
    """vLLM's batch runner, or Ray Data with vLLM: one start for each shard."""

    urls: Sequence[str] = ()
    """Where a user asks another server, which a batch here would not be."""

    def run(self, shards: Sequence[Shard], pending: Asked) -> None:
        """Run the shards one after the other; EscError says where it stopped, and why."""
        self._check({call.model for call in pending.values()})
        for number, shard in enumerate(shards, start=1):
            print(
                f"batch       {shard.requests}: {len(shard.ids):,} requests, shard {number} of "
                f"{len(shards)}, log {shard.beside('.log')}",
                file=sys.stderr,
                flush=True,
            )
            reason = self._run(shard)
            if reason:
                raise EscError(
                    f"shard {shard.name} was not run: {reason}; {number - 1} of {len(shards)} "
                    "shards of this round are answered and kept, the same command goes on"
                )

    def _check(self, models: set[str]) -> None:
        served = {adapters.BASE, *adapters.found(self.batch.work, self.batch.model)}
        if others := models - served:
            raise EscError(
                f"BATCH={self.batch.engine} runs this WORK's models ({', '.join(sorted(served))}), "
                f"and {', '.join(sorted(others))} is none of them: without BATCH it is asked "
                "live, with BATCH=openai in batches at its service, and BATCH=write leaves files"
            )
        # Under the same names another server may have other models.
        if self.urls:
            raise EscError(
                f"BATCH={self.batch.engine} runs this WORK's own models here, and {self.urls[0]} "
                "is asked: give one of the two"
            )

    def _run(self, shard: Shard) -> str | None:
        """Why a shard has no answers, or None where it has."""
        command = self._step("--engine", self.batch.engine, "--requests", str(shard.requests))
        # It ends its engine when its input ends: so also when this process is killed.
        with subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        ) as runner:
            assert runner.stdin is not None
            assert runner.stderr is not None
            try:
                told = runner.stderr.read().strip().splitlines() or ["no output"]
            finally:
                runner.stdin.close()
        return told[-1].removeprefix("error: ") if runner.returncode else None


class Written(_OfThisWork):
    """Nobody: the shards are for engines on other machines."""

    def run(self, shards: Sequence[Shard], pending: Asked) -> None:
        """Leave a script that runs the shards; raises Waiting, which says what to do with it."""
        folder = shards[0].requests.parent
        # One that a service was given is paid for there.
        names = [shard.name for shard in shards if not shard.beside(STATE).is_file()]
        models = sorted({call.model for call in pending.values()})
        self._script(folder, names, models)
        requests = sum(len(shard.ids) for shard in shards)
        script = shlex.quote(str(folder / "run.sh"))
        raise Waiting(
            f"batch       {requests:,} requests in {len(shards)} shards wait in {folder}\n"
            f"next        sh {script} on a machine with vLLM (NNODES=N NODE_RANK=K shares the "
            "shards out), or any engine that reads OpenAI batch files; then the same command with "
            "BATCH=read"
        )

    def _script(self, folder: Path, shards: Sequence[str], models: Sequence[str]) -> None:
        words = ("--script", str(folder), "--shards", *shards, "--names", *models)
        command = self._step(*words)
        made = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
        if made.returncode:
            raise EscError(made.stderr.strip().splitlines()[-1].removeprefix("error: "))


class Read(_OfThisWork):
    """Nobody: the answers that were brought are taken in."""

    def run(self, shards: Sequence[Shard], pending: Asked) -> None:
        """Raise Waiting, which says what is missing."""
        at_service = [shard for shard in shards if shard.beside(STATE).is_file()]
        brought = [shard for shard in shards if shard not in at_service]
        told = []
        for some, how in (
            (brought, "bring their answers files there"),
            (at_service, "BATCH=openai fetches them from their service"),
        ):
            if some:
                names = ", ".join(shard.name for shard in some[:10])
                more = ", …" if len(some) > 10 else ""
                told.append(
                    f"{len(_held(some, pending)):,} requests of {len(some)} shards have no answers "
                    f"yet ({names}{more} in {some[0].requests.parent}): {how}"
                )
        if rest := len(pending) - len(_held(shards, pending)):
            told.append(f"{rest:,} requests are in no open shard: BATCH=write writes them")
        raise Waiting("batch       " + "; ".join(told))


def _held(shards: Sequence[Shard], pending: Asked) -> frozenset[str]:
    """Those of ``pending`` that the shards hold."""
    return frozenset[str]().union(*(shard.ids for shard in shards)) & pending.keys()


def engine_of(batch: Batch, urls: Sequence[str], budget: Budget) -> Engine:
    """The engine a user asks for; EscError where it needs an address that is not given."""
    return ENGINES[batch.engine](batch, urls, budget)


def _hosted(batch: Batch, urls: Sequence[str], budget: Budget) -> Engine:
    if not urls:
        raise EscError(
            "BATCH=openai asks a hosted model; this WORK's own run with BATCH=vllm, and another "
            "service's with BASE_URL"
        )
    if batch.shard > LARGEST:
        raise EscError(f"a batch takes {LARGEST:,} requests, not SHARD={batch.shard:,}")
    return Hosted(urls[0], budget)


ENGINES: dict[str, Callable[[Batch, Sequence[str], Budget], Engine]] = {
    "vllm": lambda batch, urls, budget: Local(batch, urls=urls),
    "ray": lambda batch, urls, budget: Local(batch, urls=urls),
    "openai": _hosted,
    "write": lambda batch, urls, budget: Written(batch),
    "read": lambda batch, urls, budget: Read(batch, writes=False),
}
"""What BATCH may be."""
