"""Strict Jinja2 prompts: a missing variable raises, and PROMPTS_DIR replaces any of the texts."""

import os
from functools import cache
from pathlib import Path

from jinja2 import Environment, StrictUndefined, Template, TemplateError

from esc.exceptions import EscError


def source(folder: Path, name: str) -> Path:
    """The file behind prompt ``name``: ``$PROMPTS_DIR/name`` if it exists, else ``folder/name``.

    Raises EscError where PROMPTS_DIR is set and no folder.
    """
    override = os.environ.get("PROMPTS_DIR")
    if override and not Path(override).is_dir():
        raise EscError(f"PROMPTS_DIR={override} is no folder")
    if override and (Path(override) / name).is_file():
        return Path(override) / name
    return folder / name


@cache
def _compile(path: Path) -> Template:
    environment = Environment(undefined=StrictUndefined, autoescape=False, trim_blocks=True)
    return environment.from_string(path.read_text(encoding="utf-8-sig"))


def render(folder: Path, name: str, **variables: object) -> str:
    """The text of a prompt with its variables filled in.

    Raises EscError where the file is missing, is no template, or uses an unknown variable.
    """
    path = source(folder, name)
    try:
        return _compile(path).render(**variables).strip()
    except (OSError, UnicodeDecodeError, TemplateError) as error:
        raise EscError(f"prompt {path.name}: {error}") from error
