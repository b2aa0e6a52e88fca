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

# A joined seeker turn has line breaks, so a line of it could pose as another speaker's.
_FORGED_LABEL = re.compile(
    rf"^({Role.SEEKER}|{Role.SUPPORTER})(?=\s*:)", re.IGNORECASE | re.MULTILINE
)


@cache
def sp_system() -> str:
    """The planner's system prompt; its answer is the bare name of a strategy."""
    return prompts.render(
        TEMPLATES, PROMPTS[0], strategies=list(Strategy), stages=list(CounselingStage)
    )


@cache
def rg_system(strategy: Strategy) -> str:
    """The generator's system prompt, which names the strategy of the reply to write."""
    return prompts.render(TEMPLATES, PROMPTS[1], strategy=strategy)


@cache
def vanilla_system() -> str:
    """The entangled model's system prompt; its answer is ``[Strategy] response``."""
    return prompts.render(TEMPLATES, PROMPTS[2], strategies=list(Strategy))


def transcript_line(role: Role, text: str) -> str:
    """One ``role: text`` line of the planner's transcript, with its line break."""
    defused = _FORGED_LABEL.sub(r"(\1)", text) if "\n" in text else text
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
