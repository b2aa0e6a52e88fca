"""The chat template that gives a server the very token ids LLaMA-Factory trains on.

A tokenizer's own template need not: Llama-3.1's adds lines with dates to every system prompt, which
training never saw.
"""

import os
from typing import Any

FILE = "chat_template.jinja"
"""Its name beside an adapter, where Hugging Face's tokenizers look for it."""


def load(model: str, template: str) -> tuple[Any, Any]:
    """(tokenizer, LLaMA-Factory's template) of a model, as its training prepares them."""
    # Its log tells of tokens it adds, at a level it reads when it is imported.
    os.environ.setdefault("LLAMAFACTORY_VERBOSITY", "WARN")
    # Heavy, and needed by three steps only.
    from llamafactory.data.template import get_template_and_fix_tokenizer
    from llamafactory.hparams import DataArguments
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    return tokenizer, get_template_and_fix_tokenizer(tokenizer, DataArguments(template=template))


def of(model: str, template: str) -> str:
    """The Jinja text for ``model`` (a hub id or a folder) under LLaMA-Factory's ``template``."""
    tokenizer, chat = load(model, template)
    text: str = chat._get_jinja_template(tokenizer)
    return text
