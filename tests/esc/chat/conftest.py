"""A loopback server, and a client in a hurry."""

import asyncio
from contextlib import aclosing
from types import SimpleNamespace

import pytest
from faulty_server import FaultyServer

from esc import llm
from esc.llm import Cache, Chat, Generation, Meter, Sampling
from esc.prompts import Message


@pytest.fixture(autouse=True)
def in_a_hurry(monkeypatch):
    """Waits are short, and the tester's own keys stay out of it."""
    for name in ("OPENAI_API_KEY", "VLLM_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"FIRST": 0.01, "USUAL": 0.3, "LONGEST": 0.3, "ATTEMPTS": 4}.items():
        monkeypatch.setattr(llm, name, value)


@pytest.fixture
def server():
    with FaultyServer() as server:
        yield server


@pytest.fixture
def second_server():
    with FaultyServer() as server:
        yield server


def generation(record, **more):
    """A call whose last message is the record's id."""
    messages = (Message("system", "Be kind."), Message("user", record))
    return Generation(record, "reply", "m", messages, Sampling(5), **more)


@pytest.fixture
def make_call():
    return generation


async def reply_to(asks, record):
    """A record is the seeker's words, or a whole call."""
    return await asks.ask(generation(record) if isinstance(record, str) else record)


@pytest.fixture
def ask_all():
    """Run one request for every record against ``urls``, from a new process's point of view."""

    def call(urls, records, *, cache=None, meter=None, connect=False, timeout=5.0, in_flight=32):
        urls = [urls] if isinstance(urls, str) else urls

        async def everything():
            shared = Cache(cache), {"m": "w1"}, meter or Meter()
            async with aclosing(
                Chat(urls, *shared, timeout=timeout, connections=in_flight)
            ) as chat:
                if connect:
                    await chat.connect(["m"])
                results = await chat.run(records, reply_to, "test")
            texts = [getattr(result, "text", None) for result in results]
            return SimpleNamespace(results=results, texts=texts, meter=chat.meter)

        return asyncio.run(everything())

    return call
