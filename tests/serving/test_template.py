"""Training and serving see the same tokens: the check, for the templates of all backbones."""

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest

from esc import adapters, cli, paths
from esc.files import EscError
from esc.prompts import TASKS
from serving import template as checking
from serving.template import chats, compare

# The form of Llama-3.1's own template: two lines with dates before every system prompt.
LLAMA31 = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}"
    "{% if message['role'] == 'system' %}"
    "{{ 'Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n' }}{% endif %}"
    "{{ message['content'] + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)


@dataclass
class Served:
    """A server that renders chats with ``template``, and loses the ids after the first ``most``."""

    tokenizer: Any
    template: str
    most: int | None = None

    async def tokens_of(self, model, *, messages):
        text = self.tokenizer.apply_chat_template(
            messages, chat_template=self.template, tokenize=False, add_generation_prompt=True
        )
        return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])[: self.most], 8192


@pytest.fixture
def compared(model, sample_work):
    """Compare what a server renders with what a training has of ``name``'s template."""

    def call(name, task="sp", layout="turn", **of):
        tokenizer, template = adapters.load(str(model), name)
        served = Served(tokenizer, **{"template": adapters.of(str(model), name)} | of)
        asked = chats(sample_work, task, layout, 4)
        return asyncio.run(compare(served, "base", tokenizer, template, asked))

    return call


# The templates of all backbones; the smallest tokenizer stands in for those not on this machine,
# to which the others' control tokens are ordinary text: so the shape is compared, not the ids.
# Before an earlier reply Llama's tokenizer parts line breaks from words, and this one does not.
@pytest.mark.parametrize(
    ("name", "tasks"), [("smollm2", TASKS), ("qwen", TASKS), ("gemma2", TASKS), ("llama3", ["sp"])]
)
def test_the_exported_template_gives_the_ids_of_training(compared, name, tasks):
    for task in tasks:
        for layout in paths.layouts(task) if name != "llama3" else ["turn"]:
            assert compared(name, task, layout) > 500


@pytest.mark.parametrize(
    ("of", "told"),
    [
        ({"template": LLAMA31}, "Cutting Knowledge Date"),
        ({"most": 7}, r"token 7: after .*, the server ''\. Start it with"),
    ],
)
def test_a_difference_is_caught_and_says_where_and_what(compared, of, told):
    with pytest.raises(EscError, match=rf"^[^\n]*{told}[^\n]*$"):
        compared("llama3", **of)


@pytest.mark.parametrize("task", TASKS)
def test_the_longest_chat_is_among_them(sample_work, task):
    drawn, everything = (
        chats(sample_work, task, "turn", 3),
        chats(sample_work, task, "turn", 10_000),
    )
    size = {one: sum(len(m.content) for m in chat) for one, chat in everything.items()}
    assert len(drawn) == 3 and next(iter(drawn)) == max(size, key=size.get)
    assert all((c[0].role, c[-1].role) == ("system", "user") for c in drawn.values())


def test_without_a_server_it_says_how_to_start_one(sample_work, capsys):
    assert cli.run(checking.main, ["--work", str(sample_work)]) == cli.USER_ERROR
    shown = capsys.readouterr().err.strip()
    assert "\n" not in shown and "make serve" in shown
