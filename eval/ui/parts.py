"""What the tabs share: texts shown as text alone, and a mistake as one message in the page."""

import html
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gradio as gr

from esc import cli, sheets
from esc.files import EscError, Row
from esc.llm import Failure
from esc.visible import visible

_TEMPLATE = Path(__file__).with_name("parts.html.j2")


def shown(kind: str, **about: Any) -> str:
    """The HTML of a part of a tab; whatever people and models said is only text in it."""
    return sheets.rendered(_TEMPLATE, kind=kind, **about)


def reply(name: str, words: Any, strategy: Any = "", look: str = "", notes: Any = ()) -> Row:
    """A reply beside others, as `shown` has them in a ``turn``."""
    told = {"name": name, "look": look, "strategy": strategy or "", "reply": words or ""}
    return told | {"notes": [*filter(None, notes)]}


def said(text: str, look: str = "soft") -> str:
    """A line that a screen reader tells when it changes."""
    return shown("said", text=text, look=look)


@contextmanager
def one_message() -> Iterator[None]:
    """Whatever a user can mend is shown in the page, and nothing more happens."""
    try:
        yield
    except (EscError, Failure) as error:
        raise _problem(str(error)) from error
    except OSError as error:
        if not (told := cli.mended(error)):
            raise
        raise _problem(told) from error


def _problem(text: str) -> gr.Error:
    return gr.Error(html.escape(visible(text)), duration=None, print_exception=False)
