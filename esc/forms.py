"""The three forms in which a model sees a conversation: SP, RG and vanilla.

The builders write them, prediction and mining send them: training and inference share one text.
"""

import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from esc import prompts
from esc.dialogue import Role
from esc.stages import CounselingStage
from esc.strategies import Strategy

TASKS = ("sp", "rg", "vanilla")
TEMPLATES = Path(__file__).parent / "templates"
PROMPTS = ("sp_system.j2", "rg_system.j2", "vanilla_system.j2")

# What `str.splitlines` takes for the end of a line, which a model may see as one too.
_LINE_BREAKS = "\n\r\v\f\x1c-\x1e\x85\u2028\u2029"
# A message may have line breaks, so a line of it could pose as another speaker's.
_FORGED_LABEL = re.compile(
    rf"((?:^|[{_LINE_BREAKS}])\s*)({Role.SEEKER}|{Role.SUPPORTER})(?=\s*:)", re.IGNORECASE
)


@cache
def sp_system() -> str:
    """The planner's system prompt; its answer is the bare name of a strategy."""
    return prompts.render(
        TEMPLATES, PROMPTS[0], strategies=list(Strategy), stages=list(CounselingStage)
    )


class _Said(str):
    """A planner's words in the place of a strategy."""

    definition = code = ""


@cache
def rg_system(strategy: Strategy | str) -> str:
    """The generator's system prompt, which names the strategy of the reply to write.

    A planner's words that name none stand there as they are, on one line.
    """
    if not isinstance(strategy, Strategy):
        strategy = _Said(" ".join(strategy.split()))
    return prompts.render(TEMPLATES, PROMPTS[1], strategy=strategy)


@cache
def vanilla_system() -> str:
    """The entangled model's system prompt; its answer is ``[Strategy] response``."""
    return prompts.render(TEMPLATES, PROMPTS[2], strategies=list(Strategy))


def transcript_line(role: Role, text: str) -> str:
    """One ``role: text`` line of the planner's transcript, with its line break."""
    defused = _FORGED_LABEL.sub(r"\1(\2)", text) if len(text.splitlines()) > 1 else text
    return f"{role}: {defused}\n"


def sp_transcript(history: Iterable[tuple[str, str]], seeker: str) -> str:
    """The planner's one user message: all exchanges so far and the seeker's latest words."""
    return exchanges(history) + transcript_line(Role.SEEKER, seeker)


def exchanges(history: Iterable[tuple[str, str]]) -> str:
    """The transcript of all exchanges so far."""
    return "".join(
        transcript_line(Role.SEEKER, said) + transcript_line(Role.SUPPORTER, reply)
        for said, reply in history
    )
