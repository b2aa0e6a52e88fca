"""One dialogue to its SFT rows: alpaca for SP and RG (a row a turn), sharegpt for vanilla."""

from collections.abc import Iterator, Sequence

from esc import forms
from esc.dialogue import Exchange, Role, Turn
from esc.files import Row
from esc.strategies import tag


def sp_rows(turns: Sequence[Turn], provenance: Row) -> Iterator[Row]:
    """Planner rows: the whole conversation in one user message, the strategy's name as answer."""
    transcript = ""
    for index, turn in enumerate(turns):
        transcript += forms.transcript_line(Role.SEEKER, turn.seeker)
        yield {
            "id": turn.id,
            "system": forms.sp_system(),
            "instruction": transcript,
            "input": "",
            "output": turn.strategy.value,
            "provenance": provenance | {"turn": index},
        }
        transcript += forms.transcript_line(Role.SUPPORTER, turn.response)


def rg_rows(turns: Sequence[Turn], provenance: Row) -> Iterator[Row]:
    """Generator rows: the strategy in the system prompt, the chat as real turns, one reply."""
    history: list[Exchange] = []
    for index, turn in enumerate(turns):
        yield {
            "id": turn.id,
            "system": forms.rg_system(turn.strategy),
            "instruction": turn.seeker,
            "input": "",
            "output": turn.response,
            "history": [list(exchange) for exchange in history],
            "strategy": turn.strategy.value,
            "provenance": provenance | {"turn": index},
        }
        history.append((turn.seeker, turn.response))


def vanilla_rows(turns: Sequence[Turn], provenance: Row) -> Iterator[Row]:
    """The one entangled row of a dialogue: every reply is ``[Strategy] response``."""
    conversations = []
    for turn in turns:
        conversations.append({"from": "human", "value": turn.seeker})
        conversations.append({"from": "gpt", "value": tag(turn.strategy, turn.response)})
    yield {
        "id": turns[0].id.partition("-")[0],
        "system": forms.vanilla_system(),
        "conversations": conversations,
        "provenance": provenance,
    }


ROWS = {"sp": sp_rows, "rg": rg_rows, "vanilla": vanilla_rows}
"""Task to its row function."""
