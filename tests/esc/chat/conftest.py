"""A loopback server, and a client in a hurry."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from faulty_server import FaultyServer

from esc.llm import Budget, Cache, Chat, Generation, Meter, Policy, Pool, Sampling
from esc.prompts import Message

RUN = {"system": "test"}


@pytest.fixture(autouse=True)
def no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tester's own keys stay out of it."""
    for name in ("OPENAI_API_KEY", "VLLM_API_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server():
    with FaultyServer() as server:
        yield server


@pytest.fixture
def second_server():
    with FaultyServer() as server:
        yield server


@dataclass
class Outcome:
    results: list[Any]
    meter: Meter

    @property
    def texts(self) -> list[str]:
        return [result.text for result in self.results]


def generation(record: str, **more: Any) -> Generation:
    messages = (Message("system", "Be kind."), Message("user", record))
    return Generation(record, "reply", "m", messages, Sampling(5), **more)


async def reply_to(asks: Any, record: Any) -> Any:
    """A record is the seeker's words, or a whole call."""
    return await asks.ask(generation(record) if isinstance(record, str) else record)


@pytest.fixture
def ask_all() -> Callable[..., Outcome]:
    """Run one request for every record against ``urls``, from a new process's point of view."""

    def call(
        urls: str | Sequence[str],
        records: Sequence[Any],
        *,
        cache: Path | None = None,
        budget: Budget | None = None,
        weights: str = "w1",
        connect: bool = False,
        timeout: float = 5.0,
        **policy: Any,
    ) -> Outcome:
        hurry = {"first_wait": 0.01, "longest_wait": 0.3, "attempts": 4}
        urls = [urls] if isinstance(urls, str) else urls

        async def everything() -> Outcome:
            pool = Pool(urls, timeout=timeout, connections=64)
            chat = Chat(
                pool,
                Cache(cache, RUN),
                weights={"m": weights},
                policy=Policy(**hurry | policy),
                budget=budget or Budget(),
            )
            try:
                if connect:
                    await pool.connect(["m"])
                return Outcome(await chat.run(records, reply_to, "test"), chat.meter)
            finally:
                await pool.close()

        return asyncio.run(everything())

    return call


@pytest.fixture
def make_call() -> Callable[..., Generation]:
    """A call whose last message is the record's id."""
    return generation
