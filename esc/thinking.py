"""A reasoning model's thinking is never its answer."""

import re

_BLOCK = re.compile(r"<think(?:ing)?>.*?</think(?:ing)?>\s*", re.DOTALL | re.IGNORECASE)
_CLOSED = re.compile(r".*</think(?:ing)?>\s*", re.DOTALL | re.IGNORECASE)
_OPENED = re.compile(r"<think(?:ing)?>", re.IGNORECASE)


def spoken(text: str) -> tuple[str, bool]:
    """(what a model says besides its thinking, whether it was cut while it thought).

    Thinking is a ``<think>…</think>`` block, and what stands before a closing tag alone, whose
    opening one was in the prompt. Where it was cut nothing is said: it may hold drafts.
    """
    said = _BLOCK.sub("", text)
    # Matched once, at the begin: a search would try again at every letter of a long text.
    if closed := _CLOSED.match(said):
        said = said[closed.end() :]
    return ("", True) if _OPENED.search(said) else (said, False)
