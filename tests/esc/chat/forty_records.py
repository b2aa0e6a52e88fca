"""A run over forty records, to be killed: ``forty_records.py URL CACHE``."""

import asyncio
import signal
import sys
from pathlib import Path

from esc.llm import Asks, Budget, Cache, Chat, Generation, Pool, Reply, Sampling
from esc.prompts import Message

IN_FLIGHT = 4
RECORDS = [f"r{number:02}" for number in range(40)]


async def work(asks: Asks, record: str) -> Reply:
    call = Generation(record, "reply", "m", (Message("user", record),), Sampling(5))
    return await asks.ask(call)


async def main(url: str, path: Path) -> None:
    pool = Pool([url], timeout=5.0, connections=IN_FLIGHT)
    chat = Chat(pool, Cache(path, {"system": "forty"}), weights={}, budget=Budget())
    await chat.run(RECORDS, work, "forty")
    await pool.close()


if __name__ == "__main__":
    # A shell's background job inherits that it ignores Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
