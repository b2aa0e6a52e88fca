"""Do training and serving see the same tokens? LLaMA-Factory's ids against the server's.

    python -m serving check-template --model smollm2-135m

Takes rows of the built SP, RG and vanilla sets, the longest among them, encodes their prompts with
LLaMA-Factory's template, asks the running server's ``/tokenize`` for the same chats, and stops at
the first difference, which it shows.
"""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from esc import adapters, backbones, cli, dialogue, files, paths, policy_server
from esc.exceptions import EscError
from esc.files import Row
from esc.llm import AttemptFailed, Endpoint, tokens_of
from esc.paths import EMBEDDED
from esc.prompts import TASKS, Message

ROWS = 40
"""Of each task; the longest one, and others drawn by their id."""


@dataclass(frozen=True, slots=True)
class Sample:
    """The chat that leads to one answer."""

    task: str
    id: str
    chat: tuple[Message, ...]


def samples(work: Path, task: str, count: int = ROWS) -> Iterator[Sample]:
    """Chats of the test set of a task: the longest, and ``count - 1`` others drawn by id."""
    path = work / paths.sft_file(task, "test")
    rows = {row["id"]: row for row in files.read_jsonl(path)}
    longest = max(rows, key=lambda one: sum(map(len, _texts(rows[one]))))
    drawn = [one for one in dialogue.order(rows) if one != longest]
    for one in [longest, *drawn[: count - 1]]:
        yield Sample(task, one, tuple(_chat(rows[one])))


def _texts(row: Row) -> list[str]:
    return [message.content for message in _chat(row)]


def _chat(row: Row) -> list[Message]:
    chat = [Message("system", row["system"])]
    if "conversations" in row:
        roles = {"human": "user", "gpt": "assistant"}
        # All but the last reply, which is what would be asked for.
        turns = row["conversations"][:-1]
        return chat + [Message(roles[turn["from"]], turn["value"]) for turn in turns]
    for seeker, reply in row.get("history", []):
        chat += [Message("user", seeker), Message("assistant", reply)]
    return [*chat, Message("user", row["instruction"])]


def trained_ids(tokenizer: Any, template: Any, chat: tuple[Message, ...]) -> list[int]:
    """The prompt's ids as LLaMA-Factory's trainer makes them."""
    system, *turns = chat
    messages = [{"role": turn.role, "content": turn.content} for turn in turns]
    # The answer is encoded apart: the prompt must not depend on it.
    messages.append({"role": "assistant", "content": ""})
    prompt, _ = template.encode_oneturn(tokenizer, messages, system=system.content)
    return list(prompt)


def difference(tokenizer: Any, trained: list[int], served: list[int]) -> str | None:
    """Where two lists of ids part, as text, or None where they are equal."""
    if trained == served:
        return None
    pairs = enumerate(zip(trained, served, strict=False))
    place = next((i for i, (a, b) in pairs if a != b), min(len(trained), len(served)))
    begin = max(place - 5, 0)
    return (
        f"token {place}: after {tokenizer.decode(trained[begin:place])!r} training has "
        f"{tokenizer.decode(trained[place : place + 12])!r}, "
        f"the server {tokenizer.decode(served[place : place + 12])!r}"
    )


async def compare(
    endpoint: Endpoint, model: str, tokenizer: Any, template: Any, chats: list[Sample]
) -> int:
    """The number of ids compared; EscError shows the first difference."""
    compared = 0
    for sample in chats:
        try:
            served = await tokens_of(endpoint, model, sample.chat)
        except AttemptFailed as failed:
            raise EscError(f"{endpoint.url} gives no token ids: {failed}") from failed
        trained = trained_ids(tokenizer, template, sample.chat)
        told = difference(tokenizer, trained, list(served))
        if told:
            raise EscError(
                f"{sample.task} row {sample.id}: the server's chat template is not the training's: "
                f"{told}. Start it with 'make serve', or give it the chat_template.jinja that lies "
                "beside each adapter"
            )
        compared += len(trained)
    return compared


async def _check(url: str, *, model: str, work: Path) -> list[str]:
    backbone = backbones.get(model)
    tokenizer, template = adapters.load(backbone.location, backbone.template)
    endpoint = Endpoint(url, timeout=60, connections=1)
    lines = [endpoint.url]
    try:
        served = {str(entry.get("id")) for entry in await endpoint.models()}
        for task in TASKS:
            name = adapters.served_name(task, "sft")
            name = name if name in served else adapters.BASE
            chats = list(samples(work, task))
            compared = await compare(endpoint, name, tokenizer, template, chats)
            lines.append(
                f"{task:<8} {name:<12} {len(chats)} chats, {compared:,} token ids, all equal"
            )
    except AttemptFailed as failed:
        raise EscError(f"no server answers ({failed}); 'make serve' starts one") from failed
    finally:
        await endpoint.close()
    return lines


def main(argv: list[str]) -> None:
    """Command line of the step."""
    parser = cli.parser(
        prog="python -m serving check-template",
        description=__doc__,
        examples="  python -m serving check-template\n"
        "  python -m serving check-template --base-url http://127.0.0.1:8000/v1",
    )
    parser.add_argument("--model", default=EMBEDDED, help="folder of llamafactory_configs")
    parser.add_argument("--work", type=Path, default=Path(), help="root of what is generated")
    parser.add_argument("--base-url", type=cli.optional, help="default: the running server's")
    given = parser.parse_args(argv)
    files.read_json(paths.data_manifest(given.work), made_by="make data")
    state = policy_server.running(given.model, given.work)
    if given.base_url:
        urls = policy_server.split_urls(given.base_url)
    elif state:
        urls = [state.url]
    else:
        start = paths.make("serve", work=given.work, model=given.model)
        raise EscError(f"no server runs; {start} starts one, or give BASE_URL")
    for url in urls:
        print("\n".join(asyncio.run(_check(url, model=given.model, work=given.work))))
