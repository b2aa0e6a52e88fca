"""The tokens a choice is kept to, as the server's ``/tokenize`` would tell them."""

from collections.abc import Sequence
from typing import Any

from esc import backbones, chat_template
from esc.chat.message import Message
from esc.chat.tokens import Tokens, allowed, path_of


def choice_fields(model: str, options: Sequence[str]) -> dict[str, Any]:
    """The request fields of `tokens.choice_tokens` for a backbone, without a server.

    Made of its tokenizer and the chat template that a server of this kit has.
    """
    backbone = backbones.get(model)
    tokenizer, template = chat_template.load(backbone.location, backbone.template)
    text = template._get_jinja_template(tokenizer)

    def ids(chat: Sequence[Message], *, goes_on: bool) -> Tokens:
        messages = [message.wire() for message in chat]
        whole = tokenizer.apply_chat_template(
            messages, chat_template=text, tokenize=False, add_generation_prompt=goes_on
        )
        return tuple(tokenizer(whole, add_special_tokens=False)["input_ids"])

    asked = Message("user", "?")
    head = ids([asked], goes_on=True)
    paths = []
    for option in options:
        whole = ids([asked, Message("assistant", option)], goes_on=False)
        count = len(tokenizer(option, add_special_tokens=False)["input_ids"])
        path = path_of(head, whole, count)
        if path is None:
            # As of a server whose template does so.
            return {}
        paths.append(path)
    return allowed(paths)
