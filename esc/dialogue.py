"""The records that cross file boundaries: utterances, dialogues, turns."""

from dataclasses import dataclass
from enum import StrEnum

from esc.strategies import Strategy


class Role(StrEnum):
    """Who speaks."""

    SEEKER = "seeker"
    SUPPORTER = "supporter"


@dataclass(frozen=True, slots=True)
class Utterance:
    """One message of one speaker."""

    role: Role
    text: str
    """With the corpus's own white space inside and none at its ends; never empty."""
    strategy: Strategy | None = None
    """Set exactly for supporter utterances."""


@dataclass(frozen=True, slots=True)
class Dialogue:
    """One conversation of the corpus."""

    position: int
    """0-based position in the corpus; for ESConv, in the release's own order in every layout."""
    situation: str
    emotion_type: str
    problem_type: str
    experience_type: str
    utterances: tuple[Utterance, ...]

    @property
    def id(self) -> str:
        """The position as text; the first half of every turn's id."""
        return str(self.position)


@dataclass(frozen=True, slots=True)
class Turn:
    """One exchange: what the seeker says, and the supporter's strategy and reply."""

    id: str
    """``<position of the dialogue>-<supporter turn>``, both 0-based, such as ``231-7``."""
    seeker: str
    strategy: Strategy
    response: str


Exchange = tuple[str, str]
"""(seeker's words, supporter's reply without a tag)."""
