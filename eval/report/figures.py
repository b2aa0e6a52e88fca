"""What the paper's figures, as the tables they are drawn from, have in common."""

from esc.strategies import Strategy
from eval.report.cells import not_run
from eval.report.page import NOT_RUN, Cell

NO_NUMBERS = "The paper prints no numbers for this figure."
CODES = tuple(strategy.code for strategy in Strategy)
STRATEGY_WORDS = "; ".join(f"{one.code} {one.value}" for one in Strategy) + "."
STACKED, POINTS = "stacked", "points"


def gap(width: int, missing: str = NOT_RUN) -> tuple[Cell, ...]:
    """Cells that nothing fills yet."""
    return tuple(not_run(missing=missing) for _ in range(width))
