"""What became of a step of a plan."""

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """What became of a step."""

    DONE = "done"
    """Before this call."""
    RAN = "ran"
    NOT_RUN = "not run"
    """There is nothing for it to do: no pairs."""
    FAILED = "failed"
    LEFT_OUT = "left out"
    """A step that it needs failed."""


THERE = (State.DONE, State.RAN)


@dataclass(frozen=True, slots=True)
class Outcome:
    """One step, or the start of a server for it."""

    name: str
    what: str
    state: State
    seconds: float = 0.0
    why: str = ""
    """Of what was not run, or failed."""
