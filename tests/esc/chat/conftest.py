"""Loopback servers, and a client in a hurry."""

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


@pytest.fixture
def make_call():
    """From a record's id to a call whose last message it is."""

    def make(record, **more):
        messages = (Message("system", "Be kind."), Message("user", record))
        return Generation(record, "reply", "m", messages, Sampling(5), **more)

    return make


@pytest.fixture
def ask_all(make_call):
    """Ask ``urls`` every record, a text or a whole call, from a new process's point of view."""

    async def work(asks, record):
        return await asks.ask(make_call(record) if isinstance(record, str) else record)

    def call(urls, records, *, cache=None, meter=None, connect=False, timeout=5.0, in_flight=32):
        async def everything():
            where = [urls] if isinstance(urls, str) else urls
            shared = Cache(cache), {"m": "w1"}, meter or Meter()
            chat = Chat(where, *shared, timeout=timeout, connections=in_flight)
            async with aclosing(chat):
                if connect:
                    await chat.connect(["m"])
                results = await chat.run(records, work, "test")
            texts = [getattr(result, "text", None) for result in results]
            return SimpleNamespace(results=results, texts=texts, meter=chat.meter)

        return asyncio.run(everything())

    return call
