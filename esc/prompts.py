"""Strict Jinja2 prompts: a missing variable raises, and PROMPTS_DIR replaces any of the texts."""

import hashlib
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from jinja2 import Environment, StrictUndefined, Template, TemplateError

from esc import files
from esc.dialogue import Role
from esc.files import EscError
from esc.paths import DIALOGUE, TURN
from esc.psych_errors import GOOD, PsychError
from esc.strategies import CONVERSATION, HASH, Strategy

# What looks like a model's own control token: in a text it would end the turn it stands in.
_CONTROL = re.compile(r"<(?=[|｜][^<>\n]{1,40}[|｜]>|/?[a-z][a-z_]{0,40}>)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a chat."""

    role: str
    """``system``, ``user`` or ``assistant``."""
    content: str

    def wire(self) -> dict[str, str]:
        """The message as it is sent: words of people and models cannot pose as control tokens."""
        text = self.content if self.role == "system" else harmless(self.content)
        return {"role": self.role, "content": text}


def harmless(text: str) -> str:
    """Words of people and models for a system prompt: nothing in them is a control token."""
    return _CONTROL.sub("< ", text)


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


def mark(*texts: str) -> str:
    """The mark that fences quotations of these texts.

    It is made from all of them: no text can hold it, since no text holds its own hash.
    """
    return "=== " + hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]


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


SETTING = {"setting": CONVERSATION, "good": GOOD, "no_error": PsychError.NONE}
"""Variables that every prompt has: the words of the conversation and of its errors."""


@cache
def _compile(path: Path) -> Template:
    environment = Environment(undefined=StrictUndefined, autoescape=False, trim_blocks=True)
    environment.globals |= SETTING
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


TASKS = ("sp", "rg", "vanilla")
TEMPLATES = Path(__file__).parent / "templates"
PROMPTS = ("sp_system.j2", "rg_system.j2", "vanilla_system.j2")
OF_DIALOGUES = ("sp_system_dialogue.j2", "rg_system_dialogue.j2", "rg_strategy_line.j2")
"""Those of the dialogue layout."""
KEYS = {TURN: "prompts", DIALOGUE: "dialogue prompts"}
"""Layout to the option that says how its prompts are worded."""


def hash_of(names: Iterable[str], folder: Path = TEMPLATES, more: str = "") -> str:
    """One hash over all that words these prompts: their files, the list of strategies, ``more``."""
    texts = files.sha256_of(source(folder, name) for name in names)
    return hashlib.sha256(f"{texts}{HASH}{more}".encode()).hexdigest()


def wording(layout: str = TURN) -> str:
    """Of the prompts of the forms in a layout."""
    return hash_of(PROMPTS if layout == TURN else OF_DIALOGUES)


# What `str.splitlines` takes for the end of a line, which a model may see as one too.
_LINE_BREAKS = "\n\r\v\f\x1c-\x1e\x85\u2028\u2029"
_LABELS = {Role.SEEKER: CONVERSATION.seeker, Role.SUPPORTER: CONVERSATION.supporter}
# A message may have line breaks, so a line of it could pose as another speaker's.
_FORGED_LABEL = re.compile(
    rf"((?:^|[{_LINE_BREAKS}])\s*)({'|'.join(map(re.escape, _LABELS.values()))})(?=\s*:)",
    re.IGNORECASE,
)


@cache
def sp_system(layout: str = TURN) -> str:
    """The planner's system prompt; its answer is the bare name of a strategy."""
    name = PROMPTS[0] if layout == TURN else OF_DIALOGUES[0]
    return render(TEMPLATES, name, strategies=list(Strategy))


class _Said(str):
    """A planner's words in the place of a strategy."""

    definition = code = ""


@cache
def rg_system(strategy: Strategy | str) -> str:
    """The generator's system prompt, which names the strategy of the reply to write.

    A planner's words that name none stand there as they are, on one line.
    """
    if not isinstance(strategy, Strategy):
        strategy = _Said(harmless(" ".join(strategy.split())))
    return render(TEMPLATES, PROMPTS[1], strategy=strategy)


@cache
def rg_system_dialogue() -> str:
    """The generator's system prompt where each message names the strategy of its reply."""
    return render(TEMPLATES, OF_DIALOGUES[1])


@cache
def strategy_line(strategy: Strategy | str) -> str:
    """The last line of the seeker's message in the dialogue layout, as `rg_system` names it."""
    if not isinstance(strategy, Strategy):
        strategy = _Said(harmless(" ".join(strategy.split())))
    return render(TEMPLATES, OF_DIALOGUES[2], strategy=strategy)


@cache
def vanilla_system() -> str:
    """The entangled model's system prompt; its answer is ``[Strategy] response``."""
    return render(TEMPLATES, PROMPTS[2], strategies=list(Strategy))


def transcript_line(role: Role, text: str) -> str:
    """One ``role: text`` line of the planner's transcript, with its line break."""
    defused = _FORGED_LABEL.sub(r"\1(\2)", text) if len(text.splitlines()) > 1 else text
    return f"{_LABELS[role]}: {defused}\n"


def sp_transcript(history: Iterable[tuple[str, str]], seeker: str) -> str:
    """The planner's one user message: all exchanges so far and the seeker's latest words."""
    return exchanges(history) + transcript_line(Role.SEEKER, seeker)


def exchanges(history: Iterable[tuple[str, str]]) -> str:
    """The transcript of all exchanges so far."""
    return "".join(
        transcript_line(Role.SEEKER, said) + transcript_line(Role.SUPPORTER, reply)
        for said, reply in history
    )
