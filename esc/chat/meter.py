"""What a run has done so far, for the progress bar and the closing line."""

import sys
from dataclasses import dataclass, field
from typing import Any

from tqdm import tqdm

from esc.chat.budget import Budget


@dataclass(slots=True)
class Meter:
    """Counts of requests and tokens; records are counted by the bar."""

    budget: Budget
    answered: int = 0
    cached: int = 0
    failed: int = 0
    retries: int = 0
    truncated: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    _bar: Any = field(default=None, init=False, repr=False)

    def begin(self, records: int, what: str) -> None:
        """Show a bar over ``records`` on stderr."""
        every = 0.5 if sys.stderr.isatty() else 15.0
        self._bar = tqdm(
            total=records, desc=what, unit="turn", mininterval=every, miniters=0, smoothing=0.05
        )

    def tick(self, records: int = 0) -> None:
        """Renew the bar, with ``records`` more of them done."""
        if self._bar is not None:
            self._bar.set_postfix_str(self.line(), refresh=False)
            self._bar.update(records)

    def end(self) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.set_postfix_str(self.line(), refresh=False)
            self._bar.close()
            self._bar = None

    def line(self) -> str:
        """Requests ok, failed and cached, tokens, and cost where a price is known."""
        parts = [
            f"{self.answered} ok",
            f"{self.failed} failed",
            f"{self.cached} cached",
            f"{(self.prompt_tokens + self.completion_tokens) / 1000:.1f}k tokens",
        ]
        if self.retries:
            parts.append(f"{self.retries} retries")
        if self.budget.price is not None:
            parts.append(f"cost {self.budget.spent:.4f}")
        return ", ".join(parts)
