"""The measurements that other steps leave, as far as the report reads them, field by field."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from esc.psych_errors import PsychError
from esc.strategies import Strategy


class Shape(BaseModel):
    """A part of a file; fields that the report does not show are passed over."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)


class Number(Shape):
    """A value with its interval; None where undefined, and then ``reason`` says why."""

    value: float | None
    low: float | None
    high: float | None
    n: int | None = None
    signature: str = ""
    reason: str | None = None


class Headline(Shape):
    """Strategy metrics; fractions ×100, bias as in the paper."""

    bias: Number
    bias_converged: Number
    weighted_f1: Number
    macro_f1: Number
    js_distance: Number


class Distribution(Shape):
    """Shares ×100 of the turns."""

    predicted: dict[Strategy, Number]
    gold: dict[Strategy, Number]


class Calibration(Shape):
    """Of the planner's probabilities."""

    ece: Number


class StrategyNumbers(Headline):
    """``strategy`` of ``metrics.json``."""

    invalid: int
    invalid_rate: Number
    preference: dict[Strategy, Number]
    distribution: Distribution
    all_turns: Headline
    """Of all turns; the others leave out answers that cannot be read."""
    calibration: Calibration


class PaperText(Shape):
    """The family ``paper``."""

    bleu1: Number
    distinct1: Number
    f1: Number
    rouge_l: Number


class CorpusText(Shape):
    """The family ``corpus``."""

    bleu: Number
    distinct1: Number
    distinct2: Number
    ead: Number
    rouge_l: Number


class Text(Shape):
    """``text`` of ``metrics.json``."""

    paper: PaperText
    corpus: CorpusText


class Baseline(Shape):
    """What a trivial system gives on the same turns; without a reply it has no text metrics."""

    strategy: StrategyNumbers
    text: Text | None = None


class MadeWith(Shape):
    """What the numbers were measured from."""

    predictions: list[str]
    """SHA-256 of every file."""


class Metrics(Shape):
    """``metrics.json``."""

    strategy: StrategyNumbers
    text: Text
    baselines: dict[str, Baseline]
    n: int
    dialogues: int | None
    """None where the ids name none."""
    turns: str
    """A hash of the turns with their gold."""
    empty: int
    failed: int
    resampled_by: str
    made_with: MadeWith
    smoke: bool


class Lost(Shape):
    """How many have no score."""

    total: int


class Score(Number):
    """One dimension of a judge's scores, 0 to 5."""

    n: int
    unscored: Lost
    failed: Lost


class Dimensions(Shape):
    """The four dimensions, by the names of the files."""

    fluency: Score = Field(alias="Fluency")
    professionalism: Score = Field(alias="Professionalism")
    empathy: Score = Field(alias="Empathy")
    helpfulness: Score = Field(alias="Helpfulness")

    def all(self) -> tuple[Score, ...]:
        """In the paper's order."""
        return self.fluency, self.professionalism, self.empathy, self.helpfulness


class Judged(Shape):
    """``judge.json`` of predictions."""

    judge: str
    signature: str
    interval: str
    source: dict[str, Any]
    dimensions: Dimensions
    smoke: bool


class Apart(Number):
    """Chosen less rejected."""

    percent: float | None
    inside_the_noise: bool | None


class PairScore(Shape):
    """One dimension of both sides."""

    chosen: Number
    rejected: Number
    difference: Apart


class PairsJudged(Shape):
    """``judge.json`` of pairs (Table 2)."""

    judge: str
    source: dict[str, Any]
    dimensions: dict[str, PairScore]
    smoke: bool


class Share(Shape):
    """A count and its share, 0 to 1."""

    count: int
    share: float | None
    low: float | None
    high: float | None


class Proportions(Shape):
    """``proportions.json``."""

    n: int
    errors: dict[PsychError, Share]
    interval: str
    unscored: Lost
    failed: Lost
    judge: str
    smoke: bool


class Votes(Shape):
    """One dimension of ``human.json``."""

    win: Share
    tie: Share
    lose: Share
    n: int
    sign_test: dict[str, Any]


class Voted(Shape):
    """``human.json``."""

    a: dict[str, Any]
    b: dict[str, Any]
    annotators: dict[str, Any]
    dimensions: dict[str, Votes]
    smoke: bool
