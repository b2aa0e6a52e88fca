"""Training and serving see the same tokens: the check, for the templates of all backbones."""

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest
from transformers import AutoTokenizer

from esc import adapters
from esc.files import EscError
from esc.prompts import TASKS
from serving.template import chats, compare, difference

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
    """A server that renders chats with ``template``."""

    tokenizer: Any
    template: str

    async def tokens_of(self, model, *, messages):
        text = self.tokenizer.apply_chat_template(
            messages, chat_template=self.template, tokenize=False, add_generation_prompt=True
        )
        return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"]), 8192


def compared(served, template, asked):
    return asyncio.run(compare(served, "base", served.tokenizer, template, asked))


# The templates of all backbones; the smallest tokenizer stands in for those not on this machine,
# to which the others' control tokens are ordinary text: so the shape is compared, not the ids.
# Before an earlier reply Llama's tokenizer parts line breaks from words, and this one does not.
@pytest.mark.parametrize(
    ("name", "tasks"), [("smollm2", TASKS), ("qwen", TASKS), ("gemma2", TASKS), ("llama3", ["sp"])]
)
def test_the_exported_template_gives_the_ids_of_training(name, tasks, model, sample_work):
    tokenizer, template = adapters.load(str(model), name)
    served = Served(tokenizer, adapters.of(str(model), name))
    for task in tasks:
        assert compared(served, template, chats(sample_work, task, 4)) > 500


def test_llama31s_date_lines_are_caught_and_shown(model, sample_work):
    tokenizer, template = adapters.load(str(model), "llama3")
    with pytest.raises(EscError, match="Cutting Knowledge Date") as caught:
        compared(Served(tokenizer, LLAMA31), template, chats(sample_work, "sp", 4))
    assert "\n" not in str(caught.value)


def test_a_difference_says_where_and_what(model):
    tokenizer = AutoTokenizer.from_pretrained(model)
    trained = tokenizer("one two three four five six seven")["input_ids"]
    served = tokenizer("one two three four five 6 seven")["input_ids"]
    told = difference(tokenizer, trained, served)
    assert told and told.startswith("token 5: ") and "' six seven'" in told and "6 seven" in told
    assert difference(tokenizer, trained, trained) is None
    assert "token 6" in difference(tokenizer, trained, trained[:-1])


def test_the_longest_chat_is_among_them(sample_work):
    for task in TASKS:
        drawn, everything = chats(sample_work, task, 3), chats(sample_work, task, 10_000)
        size = {one: sum(len(m.content) for m in chat) for one, chat in everything.items()}
        assert len(drawn) == 3 and next(iter(drawn)) == max(size, key=size.get)
        assert all((c[0].role, c[-1].role) == ("system", "user") for c in drawn.values())


def test_without_a_server_it_says_how_to_start_one(run, sample_work):
    shown = run("-m", "serving", "check-template", "--work", str(sample_work))
    assert shown.returncode == 2
    assert shown.stderr.strip().count("\n") == 0 and "make serve" in shown.stderr
