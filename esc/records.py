"""What crosses from one step to another: a model for each file, of the fields that are read.

What else a file holds is passed over.
"""

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    AliasChoices,
    AliasPath,
    BaseModel,
    ConfigDict,
    Field,
    field_validator,
)

from esc import files
from esc.files import Written
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
    """Of a difference in what it is less of."""


def _numbers(found: Any) -> Any:
    if not isinstance(found, dict):
        return found
    if found.keys() >= {"low", "high"}:
        return Number.model_validate(found)
    return {name: _numbers(one) for name, one in found.items()}


Numbers = Annotated[dict[str, Any], AfterValidator(_numbers)]
"""By name a `Number`, a plain value, or more of them."""


class Corpus(Shape):
    """What the sets were built from; ``files``: name to SHA-256; ``mapping``: None without one."""

    kind: str
    origin: str
    layout: str
    mapping: str | None
    dialogues: int
    utterances: int
    files: dict[str, str]


class Built(Shape):
    """``data/manifest.json``; ``dialogues`` by split, ``sets`` by their files."""

    corpus: Corpus
    licence: str
    smoke: bool
    options: dict[str, Any]
    dialogues: dict[str, int]
    leaks: list[dict[str, Any]]
    sets: dict[str, Written]


class Routed(Shape):
    """``route.json`` of a mining; ``fates``: what became of the samples; ``errors`` of the pairs.

    ``truncated``: pairs whose rejected answer was cut.
    """

    task: str
    model: str
    smoke: bool
    samples: int
    truncated: int
    provenance: dict[str, Any]
    fates: dict[str, int]
    errors: dict[str, int]
    routes: Written = Field(alias="routes.jsonl")
    pairs: Written = Field(alias="pairs.jsonl")
    singles: Written = Field(alias="singles.jsonl")


class MinedSets(Shape):
    """The manifest of the sets of a mining, by their registered names."""

    provenance: dict[str, Any]
    fates: dict[str, int]
    errors: dict[str, int]
    smoke: bool
    licence: str
    corpus: str
    sets: dict[str, Written]


class Metrics(Shape):
    """``metrics.json``; fractions ×100, bias as in the paper; ``text`` by family and metric.

    ``baselines``: ``strategy`` and ``text`` of what a trivial system gives on the same turns;
    ``turns``: a hash of the turns with their gold; ``dialogues``: None where the ids name none;
    ``made_with``: ``predictions``, the SHA-256 of every file.
    """

    strategy: Numbers
    text: Numbers
    baselines: Numbers
    n: int
    dialogues: int | None
    turns: str
    empty: int
    failed: int
    resampled_by: str
    made_with: dict[str, Any]
    smoke: bool


class Judged(Shape):
    """``judge.json`` of predictions, or of pairs (chosen, rejected, difference; Table 2)."""

    judge: str
    signature: str = ""
    source: dict[str, Any]
    dimensions: Numbers
    smoke: bool

    @property
    def unscored(self) -> int:
        """How many scores of predictions are missing, over all dimensions."""
        return sum(one.unscored.get("total", 0) for one in self.dimensions.values())


class Proportions(Shape):
    """``proportions.json``."""

    n: int
    errors: Numbers
    interval: str
    unscored: dict[str, Any]
    judge: str
    smoke: bool


class Voted(Shape):
    """``human.json``."""

    a: dict[str, Any]
    b: dict[str, Any]
    annotators: dict[str, Any]
    dimensions: Numbers
    smoke: bool


class CorpusStats(Shape):
    """``data/stats/stats.json``; ``here``: Table 1, Table 6 and Figure 8."""

    notes: list[str]
    here: dict[str, Any]


class MiningStats(Shape):
    """``stats.json`` of a mining; ``tasks``: the pairs with a strategy on a side, and by error."""

    notes: list[str]
    smoke: bool
    table_1: dict[str, float | None] = Field(validation_alias=AliasPath("table_1", "here"))
    tasks: dict[str, Any]


class Comparison(Shape):
    """Two runs on the same turns; ``numbers`` by the dotted names of ``metrics.json``.

    ``errors``: what b has more than a of each, in points of 100, or the ``reason`` why nothing is.
    """

    a: str
    b: str
    n: int
    numbers: Numbers
    errors: Numbers


class Comparisons(Shape):
    """``comparisons.json`` of a backbone."""

    comparisons: list[Comparison]
    left_out: list[dict[Literal["a", "b", "reason"], str]]
    smoke: bool


class Conversed(Shape):
    """``measures.json`` of a system's conversations; ``numbers`` by their names.

    ``course``: shares of the strategies by interval; ``human``: what the people of the cards felt.
    """

    cards: str
    seeker: str
    conversations: int
    n: int
    truncated: int
    ended: dict[str, int]
    numbers: Numbers
    course: list[dict[str, float]]
    human: dict[str, Any] | None
    seen: dict[str, Any]
    smoke: bool


class Rated(Shape):
    """``ratings.json``: of whole conversations, or of those with signs of danger."""

    judge: str
    signature: str
    dimensions: Numbers
    unscored: dict[str, Any]
    smoke: bool


class Drift(Shape):
    """``drift.json``: how far a policy is from the one before it, and how far rounding goes."""

    kl: float
    changed: float
    tokens: int
    rounding: dict[str, float]
    moved: bool
    smoke: bool


class _Said(Shape):
    speaker: Literal["human", "gpt"] = Field(alias="from")
    value: str


class PreferenceRow(Shape):
    """A row of a mined DPO set."""

    id: str
    quadrant: str | None = None
    """Of an entangled pair: a turn has one of each at most."""
    conversations: list[_Said]
    chosen: _Said
    rejected: _Said
    provenance: dict[str, Any] = {}

    @field_validator("conversations")
    @classmethod
    def _by_turns(cls, said: list[_Said]) -> list[_Said]:
        if [one.speaker for one in said] != ["human", "gpt"] * (len(said) // 2) + ["human"]:
            raise ValueError("not human and gpt by turns up to a human's words")
        return said


SAMPLES = "samples.jsonl"
Key = tuple[str, int]
"""(id of the turn, 0-based index of the sample)."""


class Candidate(Shape):
    """A row of ``samples.jsonl``: one sampled answer to one train turn.

    ``seed`` is its place in its turn's order too. ``strategy`` is None where it does not parse, for
    the generator the gold one it was given; ``response`` is None for the planner.
    """

    id: str
    sample: int
    seed: int
    gold_strategy: Strategy
    gold_response: str
    status: Literal["ok", "failed"]
    strategy: Strategy | None = None
    response: str | None = None
    text: str = ""
    """The answer as it came."""
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
