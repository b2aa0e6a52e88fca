"""Text of a corpus or a model in Markdown: it means nothing but itself."""

import re

from esc.visible import visible


def plain(text: str) -> str:
    """The text as one line without any markup."""
    line = re.sub(r"([\\`*_\[\]<>&|~#$!])", r"\\\1", " ".join(visible(text).split()))
    # GitHub makes links of bare addresses.
    return line.replace("://", ":&#8203;//").replace("www.", "www&#8203;.")


def code(text: str) -> str:
    """The text as inline code, fenced so that no backtick in it ends it."""
    text = visible(text)
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * (longest + 1)
    pad = " " if "`" in text else ""
    return f"{fence}{pad}{' '.join(text.split())}{pad}{fence}"
