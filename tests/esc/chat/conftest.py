"""A loopback server, and a client in a hurry."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest
from faulty_server import FaultyServer

from esc import llm
from esc.llm import Budget, Cache, Chat, Generation, Meter, Pool, Sampling
from esc.prompts import Message

RUN = {"system": "test"}


@pytest.fixture(autouse=True)
def in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits are short, and the tester's own keys stay out of it."""
    for name in ("OPENAI_API_KEY", "VLLM_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(openai._base_client, "INITIAL_RETRY_DELAY", 0.01)
    monkeypatch.setattr(openai._base_client, "MAX_RETRY_DELAY", 0.3)
    monkeypatch.setattr(llm, "LONGEST", 0.3)
    monkeypatch.setattr(llm, "ATTEMPTS", 4)


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
        connect: bool = False,
        timeout: float = 5.0,
        in_flight: int = 32,
    ) -> Outcome:
        urls = [urls] if isinstance(urls, str) else urls

        async def everything() -> Outcome:
            pool = Pool(urls, timeout=timeout, connections=in_flight)
            stored = Cache(cache, RUN)
            chat = Chat(pool, stored, weights={"m": "w1"}, budget=budget or Budget())
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
