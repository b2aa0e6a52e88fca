"""Text of a corpus or a model in Markdown: it means nothing but itself."""

import re


def plain(text: str) -> str:
    """The text as one line without any markup."""
    return re.sub(r"([\\`*_\[\]<>&|~#$!])", r"\\\1", " ".join(text.split()))
