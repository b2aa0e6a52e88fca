"""What crosses from one step to another: reports that the report reads, records, sampled answers.

A model has the fields that a reader needs; what else a file holds is passed over.
"""

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

from pydantic import AliasChoices, AliasPath, BaseModel, ConfigDict, Field, field_validator

from esc import files
from esc.psych_errors import PsychError
from esc.strategies import Strategy


class Shape(BaseModel):
    """A part of a file."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)


class Number(Shape):
    """A value, a share (0 to 1) of ``count`` or a paired difference, with its interval.

    None where undefined, or without an interval; ``reason`` says why, or what a difference shows.
    """

    value: float | None = Field(validation_alias=AliasChoices("value", "share", "difference"))
    low: float | None
    high: float | None
    n: int | None = None
    count: int | None = None
    signature: str = ""
    reason: str | None = Field(None, validation_alias=AliasChoices("reason", "verdict"))
    unscored: dict[str, Any] = {}
    """Of a judge's scores, 0 to 5."""
    percent: float | None = None
    """Of a difference in what it is less of, as the next."""
    inside_the_noise: bool | None = None


class Headline(Shape):
    """Strategy metrics; fractions ×100, bias as in the paper."""

    bias: Number
    bias_converged: Number
    weighted_f1: Number
    macro_f1: Number
    js_distance: Number


class StrategyNumbers(Headline):
    """``strategy`` of ``metrics.json``, without answers that cannot be read."""

    invalid: int
    invalid_rate: Number
    preference: dict[Strategy, Number]
    distribution: dict[str, dict[Strategy, Number]]
    """``predicted`` and ``gold``: shares ×100 of the turns."""
    all_turns: Headline
    ece: Number = Field(validation_alias=AliasPath("calibration", "ece"))


class Baseline(Shape):
    """What a trivial system gives on the same turns; without a reply it has no text metrics."""

    strategy: StrategyNumbers
    text: dict[str, dict[str, Number]] | None = None


class Metrics(Baseline):
    """``metrics.json``."""

    text: dict[str, dict[str, Number]]
    """Family (``paper``, ``corpus``) to metric."""
    baselines: dict[str, Baseline]
    n: int
    dialogues: int | None
    """None where the ids name none."""
    turns: str
    """A hash of the turns with their gold."""
    empty: int
    failed: int
    resampled_by: str
    made_with: dict[str, Any]
    """``predictions``: the SHA-256 of every file."""
    smoke: bool


class Judged(Shape):
    """``judge.json`` of predictions."""

    judge: str
    signature: str
    source: dict[str, Any]
    dimensions: dict[str, Number]
    smoke: bool

    @property
    def unscored(self) -> int:
        """How many scores are missing, over all dimensions."""
        return sum(one.unscored.get("total", 0) for one in self.dimensions.values())


class PairScore(Shape):
    """One dimension of both sides."""

    chosen: Number
    rejected: Number
    difference: Number

    @property
    def improve(self) -> Number:
        """The difference in per cent of the rejected replies' score, told in points too."""
        apart = self.difference
        ends = "no interval" if apart.low is None else f"[{apart.low:+.2f}, {apart.high:+.2f}]"
        noise = ", inside the noise" if apart.inside_the_noise else ""
        told = "undefined" if apart.value is None else f"{apart.value:+.2f}"
        alone = {"value": apart.percent, "low": None, "high": None}
        return apart.model_copy(update=alone | {"reason": f"{told} points {ends}{noise}"})


class PairsJudged(Shape):
    """``judge.json`` of pairs (Table 2)."""

    judge: str
    dimensions: dict[str, PairScore]
    smoke: bool


class Proportions(Shape):
    """``proportions.json``."""

    n: int
    errors: dict[PsychError, Number]
    interval: str
    unscored: dict[str, Any]
    judge: str
    smoke: bool


class Votes(Shape):
    """One dimension of ``human.json``."""

    win: Number
    tie: Number
    lose: Number
    n: int
    sign_test: dict[str, Any]


class Voted(Shape):
    """``human.json``."""

    a: dict[str, Any]
    b: dict[str, Any]
    annotators: dict[str, Any]
    dimensions: dict[str, Votes]
    smoke: bool


class CorpusStats(Shape):
    """``data/stats/stats.json``."""

    notes: list[str]
    table_1: dict[str, float] = Field(validation_alias=AliasPath("here", "table_1"))
    table_6: dict[Strategy, int] = Field(validation_alias=AliasPath("here", "table_6"))
    figure_8: list[dict[Strategy, float]] = Field(validation_alias=AliasPath("here", "figure_8"))


class MinedTask(Shape):
    """One task of a mining."""

    strategies: dict[Strategy, dict[Literal["chosen", "rejected"], int]]
    """Pairs with a strategy on either side."""
    errors: dict[PsychError, int]


class MiningStats(Shape):
    """``stats.json`` of a mining."""

    notes: list[str]
    smoke: bool
    table_1: dict[str, float | None] = Field(validation_alias=AliasPath("table_1", "here"))
    tasks: dict[str, MinedTask]


class ErrorDifferences(Shape):
    """What b has more than a of each error, in points of 100; ``reason`` says why nothing is."""

    n: int
    shares: dict[PsychError, Number]
    interval: str
    reason: str | None


class Comparison(Shape):
    """Two runs on the same turns; ``numbers`` by the dotted names of ``metrics.json``."""

    a: str
    b: str
    n: int
    numbers: dict[str, Number]
    errors: ErrorDifferences


class Comparisons(Shape):
    """``comparisons.json`` of a backbone."""

    comparisons: list[Comparison]
    left_out: list[dict[Literal["a", "b", "reason"], str]]
    smoke: bool


class Drift(Shape):
    """``drift.json``: how far a policy is from the one before it, and how far rounding goes."""

    kl: float
    changed: float
    tokens: int
    rounding: dict[str, float]
    moved: bool
    smoke: bool


class Record(Shape):
    """A record of ``predictions.jsonl``."""

    id: str
    history: list[tuple[str, str]] = Field(validation_alias=AliasPath("context", "history"))
    seeker: str = Field(validation_alias=AliasPath("context", "seeker"))
    gold_strategy: str
    gold_response: str
    status: str
    predicted_strategy: str | None = None
    raw_strategy: str | None = None
    predicted_response: str | None = None


class Said(Shape):
    """An utterance in sharegpt's form."""

    speaker: Literal["human", "gpt"] = Field(alias="from")
    value: str


class PreferenceRow(Shape):
    """A row of a mined DPO set."""

    id: str
    quadrant: str | None = None
    """Of an entangled pair: a turn has one of each at most."""
    conversations: list[Said]
    chosen: Said
    rejected: Said
    provenance: dict[str, Any] = {}

    @field_validator("conversations")
    @classmethod
    def _by_turns(cls, said: list[Said]) -> list[Said]:
        if [one.speaker for one in said] != ["human", "gpt"] * (len(said) // 2) + ["human"]:
            raise ValueError("not human and gpt by turns up to a human's words")
        return said


SAMPLES = "samples.jsonl"
Key = tuple[str, int]
"""(id of the turn, 0-based index of the sample)."""


class Candidate(Shape):
    """A row of ``samples.jsonl``: one sampled answer to one train turn."""

    id: str
    sample: int
    """0-based, of those of its turn."""
    seed: int
    """It was sampled with; also its place in its turn's order."""
    gold_strategy: Strategy
    gold_response: str
    status: Literal["ok", "failed"]
    strategy: Strategy | None = None
    """Sampled, or for the generator the gold one it was given; None where it does not parse."""
    response: str | None = None
    """None for the planner, and where sampling failed."""
    text: str = ""
    """The answer as it came; empty where the request has none."""
    truncated: bool = False
    failure: dict[str, Any] | None = None
    """Written where it failed: kind, message, attempts."""

    @property
    def key(self) -> Key:
        """What a verdict on it is found by."""
        return self.id, self.sample


def read_turns(path: Path) -> Iterator[list[Candidate]]:
    """The candidates of one turn after the other, in the order of the train set."""
    rows = map(Candidate.model_validate, files.read_jsonl(path))
    for _, turn in groupby(rows, key=lambda candidate: candidate.id):
        yield list(turn)
