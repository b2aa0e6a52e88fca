"""Fences around what a judge is shown, which no text between them can forge."""

import hashlib


def mark(*texts: str) -> str:
    """The mark that fences quotations of these texts.

    It is made from all of them: no text can hold it, since no text holds its own hash.
    """
    return "=== " + hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]
