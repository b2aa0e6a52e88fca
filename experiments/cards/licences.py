"""Licences as the hub names them, and what they ask of who publishes."""

from esc.backbones import Backbone

_OF_CORPUS = {
    "esconv": "cc-by-nc-4.0",
    "failed-esconv": "cc-by-nc-4.0",
    "sample": "apache-2.0",
    "other": "other",
}
_OF_BASE = {
    "apache-2.0": "Apache License 2.0: keep its notice.",
    "llama3.1": (
        "Llama 3.1 Community License, with its acceptable use policy: a model made from it is "
        'published under a name that begins with "Llama", with "Built with Llama" shown and the '
        "licence enclosed."
    ),
    "gemma": "Gemma Terms of Use, with their prohibited use policy: pass both on with the model.",
    "qwen": "Qwen License Agreement: enclose it, and state what was changed.",
}


def of_corpus(kind: str) -> str:
    """The licence of what is built from a kind of corpus; ``other`` is for a person to name."""
    return _OF_CORPUS[kind]


def of_adapter(kind: str, backbone: Backbone) -> str:
    """The licence of an adapter: the corpus's where that is known, unless the base's is narrower.

    Of two licences that both bind, one identifier cannot name both: then it is ``other``.
    """
    if kind == "sample":
        return backbone.licence if backbone.licence in ("apache-2.0", "mit") else "other"
    return _OF_CORPUS[kind] if backbone.licence in ("apache-2.0", "mit") else "other"


def of_base(backbone: Backbone) -> str:
    """A sentence on the base model's licence."""
    said = _OF_BASE.get(backbone.licence, f"{backbone.licence}: read it before you publish.")
    return f"The base model's licence applies to whatever is merged with it. {said}"
