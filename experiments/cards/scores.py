"""The metrics of the systems that an adapter speaks in, where they are of just this adapter."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from esc import commands, files
from esc.exceptions import EscError
from esc.files import Row


class _Shape(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)


class Number(_Shape):
    """A value with its 95 % interval; None where undefined."""

    value: float | None
    low: float | None
    high: float | None
    signature: str


class _Strategy(_Shape):
    bias: Number
    weighted_f1: Number
    macro_f1: Number


class _Paper(_Shape):
    bleu1: Number
    distinct1: Number
    f1: Number
    rouge_l: Number


class _Text(_Shape):
    paper: _Paper


class _MadeWith(_Shape):
    predictions: list[str]


class _Metrics(_Shape):
    n: int
    smoke: bool
    made_with: _MadeWith
    strategy: _Strategy
    text: _Text


@dataclass(frozen=True, slots=True)
class Scores:
    """The numbers of one system."""

    system: str
    """Of its folder, such as ``decoupled_sft``."""
    split: str
    n: int
    smoke: bool
    numbers: dict[str, Number]
    """By the name a reader knows."""


def scores_of(work: Path, model: str, fingerprint: str) -> Iterator[Scores]:
    """The measured systems that ask the adapter with this fingerprint, in the order of their names.

    Raises EscError where a file of metrics has another form than ``make eval`` gives it.
    """
    for path in sorted((work / "runs" / model).glob("*/metrics.json")):
        options_path = path.with_name("options.json")
        options: Row = files.read_json(options_path) if options_path.is_file() else {}
        weights = options.get("weights")
        if not isinstance(weights, dict) or fingerprint not in weights.values():
            continue
        found = _read(path, work, model)
        predictions = path.with_name("predictions.jsonl")
        # Measured of predictions that are there no more: no number of this adapter.
        if (
            not predictions.is_file()
            or files.sha256(predictions) not in found.made_with.predictions
        ):
            continue
        strategy, text = found.strategy, found.text.paper
        yield Scores(
            path.parent.name,
            str(options.get("SET")),
            found.n,
            found.smoke or bool(options.get("smoke")),
            {
                "bias": strategy.bias,
                "weighted F1": strategy.weighted_f1,
                "macro F1": strategy.macro_f1,
                "BLEU-1": text.bleu1,
                "Distinct-1": text.distinct1,
                "F1": text.f1,
                "ROUGE-L": text.rouge_l,
            },
        )


def _read(path: Path, work: Path, model: str) -> _Metrics:
    try:
        return _Metrics.model_validate(files.read_json(path))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        again = commands.make("eval", work=work, model=model, FORCE=1)
        raise EscError(f"{path}: {where}: {first['msg']}; {again} measures anew") from error
