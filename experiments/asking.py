"""How the judges of an evaluation are asked: many steps, and one limit of money for all of them."""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from esc import cli
from esc.llm import Budget, Price

_REST = 0.01
"""Share of the limit: a step that fails with less left was most likely short of money."""


@dataclass(slots=True)
class Asking:
    """What the steps that ask share."""

    budget: Budget = field(default_factory=Budget)
    in_flight: int | None = None
    dry_run: bool = False
    spent: bool = False
    """Whether nothing is left to ask with."""

    @classmethod
    def of(cls, given: argparse.Namespace) -> "Asking":
        """The options in parsed arguments; EscError where money cannot be counted."""
        price = Price.parse(given.price) if given.price else None
        return cls(Budget(price, given.max_cost), given.in_flight, given.dry_run)

    def options(self) -> list[str]:
        """Those of the next step, which gets what is left."""
        price, limit = self.budget.price, self.budget.limit
        given = {
            "--price": price and f"{price.prompt}/{price.completion}",
            "--max-cost": limit and limit - self.budget.spent,
            "--in-flight": self.in_flight,
        }
        told = [word for name, value in given.items() if value for word in (name, str(value))]
        return [*told, *(["--dry-run"] if self.dry_run else [])]

    def run(self, command: Sequence[str], calls: Path) -> int:
        """Exit code of ``python -m COMMAND``, which appends what it pays for to ``calls``."""
        before = len(_lines(calls))
        words = [sys.executable, "-m", *command, *self.options()]
        code = subprocess.run(words, check=False).returncode
        # Of a step that stopped halfway too, which leaves nothing else that says what it cost.
        for line in _lines(calls)[before:]:
            answer = json.loads(line).get("answer", {})
            used = answer.get("prompt_tokens", 0), answer.get("completion_tokens", 0)
            self.budget.settle(0.0, *used)
        if limit := self.budget.limit:
            left = limit - self.budget.spent
            self.spent = left <= (_REST * limit if code else 0)
        return code


def _lines(path: Path) -> list[bytes]:
    """The whole lines of a file; a killed writer may have torn the last."""
    return path.read_bytes().split(b"\n")[:-1] if path.is_file() else []


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `Asking`."""
    in_flight = parser.add_argument("--in-flight", type=cli.optional_count, help="at a time")
    cli.variable(in_flight, "JUDGE_IN_FLIGHT")
    parser.add_argument("--price", type=cli.optional, help="money per million tokens: IN/OUT")
    parser.add_argument(
        "--max-cost", type=cli.optional_amount, help="stop before all steps together cost more"
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be asked")
