"""Do training and serving see the same tokens? LLaMA-Factory's ids against the server's.

    python -m serving check-template --model smollm2-135m

Takes rows of the built SP, RG and vanilla sets, the longest among them, encodes their prompts with
LLaMA-Factory's template, asks the running server's ``/tokenize`` for the same chats, and stops at
the first difference, which it shows.
"""

import asyncio
from contextlib import aclosing
from itertools import chain
from pathlib import Path
from typing import Any

from esc import adapters, backbones, cli, dialogue, files, paths, policy_server
from esc.files import EscError
from esc.llm import Chat, Failure
from esc.paths import EMBEDDED, Lineage
from esc.prompts import TASKS, Message

ROWS = 40
"""Of each task; the longest one, and others drawn by their id."""
Messages = list[Message]


def chats(work: Path, task: str, layout: str, count: int = ROWS) -> dict[str, Messages]:
    """Id to chat of a task's test set: the longest, and ``count - 1`` others drawn by id."""
    found = {}
    for row in files.read_jsonl(work / paths.sft_file(task, "test", layout)):
        # What leads to a row's last answer.
        said = [turn["value"] for turn in row.get("conversations", [])[:-1]]
        said = said or [*chain.from_iterable(row.get("history", [])), row["instruction"]]
        turns = map(Message, ("user", "assistant") * len(said), said)
        found[row["id"]] = [Message("system", row["system"]), *turns]
    longest = max(found, key=lambda one: sum(len(message.content) for message in found[one]))
    drawn = [one for one in dialogue.order(found) if one != longest]
    return {one: found[one] for one in [longest, *drawn[: count - 1]]}


async def compare(
    server: Chat, name: str, tokenizer: Any, template: Any, asked: dict[str, Messages]
) -> int:
    """The number of ids compared; EscError shows the first difference."""
    compared = 0
    for one, chat in asked.items():
        messages = [message.wire() for message in chat]
        # The answer is encoded apart: the prompt must not depend on it.
        turns = [*messages[1:], {"role": "assistant", "content": ""}]
        trained, _ = template.encode_oneturn(tokenizer, turns, system=chat[0].content)
        served, _ = await server.tokens_of(name, messages=messages)
        if not served:
            raise EscError("the server gives no token ids; 'make serve' starts one that does")
        if list(trained) != list(served):
            both = zip(trained, served, strict=False)
            at = next(
                (at for at, (its, other) in enumerate(both) if its != other),
                min(len(trained), len(served)),
            )
            parts = trained[max(at - 5, 0) : at], trained[at : at + 12], served[at : at + 12]
            after, here, there = map(tokenizer.decode, parts)
            raise EscError(
                f"row {one}: the server's chat template is not the training's: token {at}: "
                f"after {after!r} training has {here!r}, the server {there!r}. Start it with "
                "'make serve', or give it the chat_template.jinja that lies beside each adapter"
            )
        compared += len(trained)
    return compared


async def _check(url: str, model: str, work: Path) -> None:
    backbone = backbones.get(model)
    tokenizer, template = adapters.load(backbone.location, backbone.template)
    print(url)
    try:
        async with aclosing(Chat([url], timeout=60, connections=1)) as server:
            served = await server.connect([])
            for task, layout in ((t, of) for t in TASKS for of in paths.layouts(t)):
                name = adapters.served_name(task, "sft", Lineage(layout=layout))
                name = name if name in served else adapters.BASE
                asked = chats(work, task, layout)
                compared = await compare(server, name, tokenizer, template, asked)
                told = f"{len(asked)} chats, {compared:,} token ids, all equal"
                print(f"{task:<8} {layout:<9} {name:<16} {told}")
    except Failure as failed:
        raise EscError(f"{url} gives no token ids ({failed})") from failed


@cli.command(examples="  python -m serving check-template", name="check-template")
def main(
    model: cli.Model = EMBEDDED, work: cli.Work = Path(), base_url: cli.BaseUrl = None
) -> None:
    """Compare the running server's token ids with LLaMA-Factory's, on rows of the built sets."""
    files.read_json(work / paths.MANIFEST, made_by="make data")
    state = policy_server.running(model, work)
    urls = base_url or (state.url if state else "")
    if not urls:
        start = paths.make("serve", work=work, model=model)
        raise EscError(f"no server runs; {start} starts one, or give BASE_URL")
    for url in policy_server.split_urls(urls):
        asyncio.run(_check(url, model, work))
