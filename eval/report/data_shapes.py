"""The files of data, mining, training and prediction, as far as the report reads them."""

from typing import Any

from esc.psych_errors import PsychError
from esc.strategies import Strategy
from eval.report.shapes import Shape


class CorpusFigures(Shape):
    """``here`` of ``data/stats/stats.json``."""

    table_1: dict[str, float]
    table_6: dict[Strategy, int]
    figure_8: list[dict[Strategy, float]]


class CorpusStats(Shape):
    """``data/stats/stats.json``."""

    notes: list[str]
    here: CorpusFigures
    options: dict[str, Any]
    """What the sets were built with that it is of."""


class Sides(Shape):
    """Pairs with a strategy on either side."""

    chosen: int
    rejected: int


class MinedTask(Shape):
    """One task of a mining."""

    pairs: int
    judge: str | None
    strategies: dict[Strategy, Sides]
    errors: dict[PsychError, int]


class MinedTable(Shape):
    """Table 1's lower half."""

    here: dict[str, float | None]


class MiningStats(Shape):
    """``stats.json`` of a mining."""

    notes: list[str]
    smoke: bool
    table_1: MinedTable
    tasks: dict[str, MinedTask]


class Moved(Shape):
    """How far one policy is from another."""

    kl: float
    changed: float


class Difference(Shape):
    """What system b has more than a, with its paired interval."""

    difference: float | None
    low: float | None
    high: float | None
    verdict: str


class ErrorDifferences(Shape):
    """What b has more than a of each error, in points of 100; ``reason`` says why nothing is."""

    n: int
    shares: dict[PsychError, Difference]
    interval: str
    reason: str | None


class Comparison(Shape):
    """Two runs on the same turns; ``numbers`` by the dotted names of ``metrics.json``."""

    a: str
    b: str
    n: int
    numbers: dict[str, Difference]
    errors: ErrorDifferences


class LeftOut(Shape):
    """A question that has no answer, and why."""

    a: str
    b: str
    reason: str


class Compared(Shape):
    """What the comparisons were made from."""

    predictions: dict[str, str]
    """Run to the SHA-256 of its predictions."""


class Comparisons(Shape):
    """``comparisons.json`` of a backbone."""

    comparisons: list[Comparison]
    left_out: list[LeftOut]
    smoke: bool
    made_with: Compared


class Drift(Moved):
    """``drift.json``."""

    turns: int
    tokens: int
    rounding: Moved
    moved: bool
    smoke: bool


class Context(Shape):
    """What was said before a turn."""

    history: list[tuple[str, str]]
    seeker: str


class Record(Shape):
    """A record of ``predictions.jsonl``."""

    id: str
    context: Context
    gold_strategy: str
    gold_response: str
    status: str
    predicted_strategy: str | None = None
    raw_strategy: str | None = None
    predicted_response: str | None = None
