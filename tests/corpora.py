"""Dialogues made for tests, as records and in the release's layout."""

from typing import Any

from esc.dialogue import Dialogue, Role, Utterance
from esc.strategies import Strategy


def dialogue(*utterances: tuple[str, str] | tuple[str, str, str], position: int = 0) -> Dialogue:
    """A dialogue of ("seeker", text) and ("supporter", strategy, text)."""
    return Dialogue(
        position,
        "a situation",
        "anxiety",
        "job crisis",
        "Current Experience",
        tuple(
            Utterance(Role.SEEKER, utterance[-1])
            if utterance[0] == "seeker"
            else Utterance(Role.SUPPORTER, utterance[-1], Strategy(utterance[1]))
            for utterance in utterances
        ),
    )


def release_row(number: int, *, situation: str | None = None) -> dict[str, Any]:
    """A dialogue in the release's layout, unlike that of any other number."""
    return {
        "experience_type": "Current Experience",
        "emotion_type": "anxiety",
        "problem_type": "job crisis",
        "situation": situation or f"case {number} with matter {number * 7} and worry {number * 13}",
        "dialog": [
            {"speaker": "seeker", "annotation": {}, "content": f"hello from {number}"},
            {
                "speaker": "supporter",
                "annotation": {"strategy": "Question"},
                "content": f"what about {number}?",
            },
            {"speaker": "seeker", "annotation": {}, "content": f"it is hard, {number}"},
            {
                "speaker": "supporter",
                "annotation": {"strategy": "Providing Suggestions"},
                "content": f"try {number}",
            },
        ],
    }


def wrong(strategy: Strategy) -> Strategy:
    """Another strategy."""
    return Strategy.OTHERS if strategy is not Strategy.OTHERS else Strategy.QUESTION
