"""What a run costs, in tokens and money, and the limit it may not pass."""

from dataclasses import dataclass, field

from esc.chat.failures import RunStopped
from esc.exceptions import EscError

CHARACTERS_PER_TOKEN = 4
"""Of English text, for estimates only."""
_TEMPLATE_TOKENS = 64


@dataclass(frozen=True, slots=True)
class Price:
    """Money per million tokens."""

    prompt: float
    completion: float

    @classmethod
    def parse(cls, text: str) -> "Price":
        """The price in ``PROMPT/COMPLETION``, such as ``0.40/1.60``; EscError for another form."""
        try:
            prompt, completion = (float(part) for part in text.split("/"))
        except ValueError:
            raise EscError(
                f"PRICE={text!r} is not PROMPT/COMPLETION in money per million tokens, "
                "such as 0.40/1.60"
            ) from None
        return cls(prompt, completion)

    def of(self, prompt_tokens: float, completion_tokens: float) -> float:
        """What so many tokens cost."""
        return (prompt_tokens * self.prompt + completion_tokens * self.completion) / 1e6


@dataclass(slots=True)
class Budget:
    """The money spent by this call of the program, and what running requests may still take."""

    price: Price | None = None
    limit: float | None = None
    spent: float = field(default=0.0, init=False)
    _reserved: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        if self.limit is not None and self.price is None:
            raise EscError("MAX_COST needs PRICE=PROMPT/COMPLETION, money per million tokens")

    def reserve(self, characters: int, max_tokens: int) -> float | None:
        """Set aside the most that a request can cost, or None while others' reserves forbid it.

        RunStopped where it would not fit if nothing else ran.
        """
        if self.price is None:
            return 0.0
        # One token has rarely fewer than two characters, and a chat template adds some dozens: an
        # upper bound, not an estimate.
        most = self.price.of(characters / 2 + _TEMPLATE_TOKENS, max_tokens)
        if self.limit is not None and self.spent + most > self.limit:
            raise RunStopped(
                f"the next request could pass MAX_COST={self.limit:g}{self.told()}; all answers "
                "are kept: the same command goes on, with its own MAX_COST"
            )
        if self.limit is not None and self.spent + self._reserved + most > self.limit:
            return None
        self._reserved += most
        return most

    def settle(self, reserved: float, prompt_tokens: int, completion_tokens: int) -> None:
        """Replace what was set aside by what the answer cost."""
        self._reserved -= reserved
        if self.price is not None:
            self.spent += self.price.of(prompt_tokens, completion_tokens)

    def told(self) -> str:
        """What is spent so far, for the end of a sentence; nothing where no price is known."""
        return "" if self.price is None else f" ({self.spent:.4f} spent by this call)"
