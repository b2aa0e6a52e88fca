"""A judge's scores of replies: Fluency, Professionalism, Empathy and Helpfulness, 0 to 5.

Reads predictions (this kit's or foreign ones), or a mined preference set, whose two sides are
scored without a word on which is which (Table 2). Writes to FOLDER ``calls.jsonl``, every answer as
it comes, ``scores.jsonl``, ``judge.json`` with the means, and last ``run.json``. An answer that is
no score is *unscored*, kept with its reason, and never a number. ``--repeat`` turns are asked a
second time. Scores of a model are no verdict of a clinician: research software, no counselling.
"""

import hashlib
import json
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import typer
from pydantic import Field, ValidationError, field_validator

from esc import adapters, backbones, cli, dialogue, files, paths, prompts, step
from esc.dialogue import JUDGED, JUDGED_BY_EMBEDDED, REPEATED, Exchange
from esc.files import EscError, Row
from esc.judging import (
    NUMBER,
    REASON,
    Asking,
    Judge,
    JudgeSending,
    Reason,
    Unscored,
    Verdict,
    ask_all,
    ask_each,
    closing,
    is_smoke,
    lost,
    read,
    without_score,
)
from esc.llm import Asks, Constraint, Failure, Generation, Sampling
from esc.paths import EMBEDDED
from esc.predictions import PREDICTIONS, Prediction, complete_runs, read_predictions
from esc.prompts import Message, mark
from esc.records import PreferenceRow
from esc.stats import Units, inside_the_noise, mean, spearman
from esc.step import RunFolder
from esc.strategies import parse, untagged

TEMPLATES = Path(__file__).parent / "prompts"
RATING_USER = "judge_user.j2"
SCALE = range(6)
ANSWER_TOKENS = 256
REASON_CHARACTERS = 160
"""Room for the reason of a judge whose server holds it to that."""
DRAWN = "JUDGE=random: drawn, not judged"
SCORED, UNSCORED, FAILED, NOT_JUDGED = "scored", "unscored", "failed", "not judged"
FORMAT = 2
"""Raised with every change of what its files mean."""
SCORES, SUMMARY = "scores.jsonl", "judge.json"
SIDES = ("chosen", "rejected")
SHOWN = (
    *("value", "low", "high", "chosen.value", "rejected.value", "difference.value"),
    *("difference.low", "difference.high", "difference.inside_the_noise", "n"),
    *("repeat.n", "repeat.exact", "repeat.mean_difference", "length.spearman"),
)
"""What the report shows of a dimension in ``judge.json``."""


class Dimension(StrEnum):
    """What is rated (section 6.1, Table 8)."""

    FLUENCY = "Fluency"
    PROFESSIONALISM = "Professionalism"
    EMPATHY = "Empathy"
    HELPFULNESS = "Helpfulness"

    @property
    def prompt(self) -> str:
        """The file of its system message."""
        return f"judge_{self.casefold()}.j2"


@dataclass(frozen=True)
class Judging(JudgeSending):
    """Who judges replies, how it is asked, and how many turns."""

    n: Annotated[
        int | None,
        typer.Option(envvar="JUDGE_N", min=1, help=f"turns, drawn by their id [default: {JUDGED}]"),
    ] = None

    @cached_property
    def judge_of(self) -> Judge:
        """Who is asked; without an address the base model of this kit's own server, or ``random``.

        Raises EscError where the hosted one is meant and there is no key.
        """
        backbones.get(self.model)
        name = self.judge or usual_judge(self.model)
        own = name == adapters.BASE and not self.judge_base_url
        return Judge(name, "") if own else self.who(name)

    @property
    def name(self) -> str:
        """Of the judge, as a reader knows it."""
        name = self.judge_of.name
        return f"{self.model} (base)" if name == adapters.BASE else name

    @property
    def is_smoke(self) -> bool:
        """Whether what it says is no judgement."""
        return is_smoke(self.judge_of.name) or self.name == f"{EMBEDDED} (base)"

    @property
    def is_own(self) -> bool:
        """Whether it is the base model of this kit's own server."""
        return self.judge_of.name == adapters.BASE and not self.judge_of.urls

    @property
    def turns(self) -> int:
        """How many turns it is asked about."""
        by_itself = self.is_own and self.model == EMBEDDED
        return self.n or (JUDGED_BY_EMBEDDED if by_itself else JUDGED)

    @property
    def weights(self) -> dict[str, str]:
        """Served name to a hash of what answers, where it is this kit's own server."""
        own = [adapters.BASE] if self.is_own else []
        return adapters.weights_of(self.work, self.model, own)

    def prompts(self, names: Sequence[str]) -> str | None:
        """A hash of the prompt files behind its questions; None where it is asked nothing."""
        found = [prompts.source(TEMPLATES, name) for name in names]
        return None if self.judge_of.is_random else files.sha256_of(found)


def usual_judge(model: str) -> str:
    """Who judges a backbone's runs unless JUDGE says otherwise; EscError for an unknown one."""
    return adapters.BASE if model == EMBEDDED else backbones.get(model).judge


@dataclass(frozen=True, slots=True)
class Item:
    """One reply to judge."""

    said: Prediction
    """The reply with what was said before it; its gold one is never shown beside a pair's side."""
    quadrant: str | None = None
    """Of an entangled pair: a turn has one of each at most."""
    side: str | None = None
    """One of `SIDES`, or None for a prediction."""


@dataclass(frozen=True, slots=True)
class Source:
    """The items of one file, as they are drawn."""

    path: Path
    kind: str
    """``predictions`` or ``pairs``."""
    items: tuple[Item, ...]
    """In the order of the draw, so that the order of the file changes nothing."""
    drawn: int
    of: int
    """Records of the file."""
    numbered: int
    """Records without an id of their own; theirs is the row's number, from 0."""
    smoke: bool


def of_predictions(path: Path, n: int) -> Source:
    """The replies of ``n`` turns of a predictions file, or of all where there are fewer.

    Raises EscError, naming the row, for whatever is not as it should be.
    """
    predictions, numbered = read_predictions(path)
    by_id = {one.id: one for one in predictions}
    items = tuple(Item(by_id[name]) for name in dialogue.order(by_id)[:n])
    smoke = step.made_beside(path)
    return Source(path, "predictions", items, len(items), len(by_id), numbered, smoke)


def of_pairs(path: Path, n: int) -> Source:
    """Both sides of ``n`` pairs of a mined preference set, without a word on which is which.

    Turns are drawn; the pairs of one, of several quadrants, follow one another. Raises EscError,
    naming the line, where a row is no pair of replies.
    """
    turns: dict[str, dict[str, PreferenceRow]] = defaultdict(dict)
    for number, row in enumerate(files.read_jsonl(path), start=1):
        where = f"{path}, line {number}"
        try:
            pair = PreferenceRow.model_validate(row)
        except ValidationError as error:
            first = error.errors()[0]
            at = ".".join(map(str, first["loc"])) or "row"
            raise EscError(f"{where}: no pair of a mined set ({at}: {first['msg']})") from error
        if parse(pair.chosen.value) and parse(pair.rejected.value):
            raise EscError(f"{where}: strategies, no replies; judge the set of rg or vanilla")
        if (pair.quadrant or "") in turns[pair.id]:
            of = f" of {pair.quadrant}" if pair.quadrant else ""
            raise EscError(f"{where}: id {pair.id!r}{of} is there twice")
        turns[pair.id][pair.quadrant or ""] = pair
    if not turns:
        raise EscError(f"{path} is empty; it takes one pair at least")
    pairs = [pair for name in dialogue.order(turns) for _, pair in sorted(turns[name].items())]
    made_with = [pair.provenance for pair in pairs]
    smoke = any(one.get("smoke") or is_smoke(str(one.get("judge"))) for one in made_with)
    items = tuple(item for pair in pairs[:n] for item in _sides(pair))
    return Source(path, "pairs", items, len(pairs[:n]), len(pairs), 0, smoke)


def _sides(pair: PreferenceRow) -> Iterator[Item]:
    said = [one.value for one in pair.conversations]
    history = tuple(zip(said[:-1:2], map(untagged, said[1::2]), strict=True))
    for side, reply in zip(SIDES, (pair.chosen, pair.rejected), strict=True):
        text = untagged(reply.value) or None
        shown = Prediction(pair.id, history, said[-1], "", text, "empty reply", None)
        yield Item(shown, pair.quadrant, side)


class Score(Verdict):
    """How good a reply is on one dimension."""

    not_offered: ClassVar[Reason] = Reason.OFF_SCALE

    reason: str = Field(default="", title="reason")
    score: float = Field(title="score", json_schema_extra={"type": "number"})

    @field_validator("score", mode="before")
    @classmethod
    def _on_the_scale(cls, value: object) -> float:
        """A number of the scale, also written "4" or "4.5"; ValueError for anything else."""
        if isinstance(value, str) and re.fullmatch(r"\s*[0-9]+(\.[0-9]+)?\s*", value, re.ASCII):
            value = float(value)
        is_truth = isinstance(value, bool)
        if isinstance(value, int | float) and not is_truth and SCALE[0] <= value <= SCALE[-1]:
            return float(value)
        raise ValueError(f"{str(value)[:60]!r} is no number from 0 to 5")


# "Empathy score: **4.5** / 5" and its like: a number alone, for a person.
_NUMBER = re.compile(
    r"[\s*_`\"'(\[]*"
    r"(?:(?:the|my|final|overall|fluency|professionalism|empathy|helpfulness|score|rating|[\s*_])+"
    r"(?:[:=]|is)[\s*_]*)?"
    r"(?P<score>[-+]?[0-9]+(?:\.[0-9]+)?)"
    r"[\s*_]*(?:/\s*5|out\s+of\s+5|points?)?[\s*_`\"'.)\]]*",
    re.IGNORECASE | re.ASCII,
)
_ALONE = r"[0-4](\.[0-9])?|5"


def read_score(text: str, form: str, *, truncated: bool) -> Score | Unscored:
    """The score in a judge's answer, or why there is none.

    A judge that is asked for the number alone may still answer with the object of the other form.
    """
    alone = _NUMBER.fullmatch(text)
    if form == NUMBER and alone and not truncated:
        text = f'{{"score": {json.dumps(alone["score"])}}}'
    return read(Score, text, truncated=truncated)


def chat(
    system: str, user: str, history: Sequence[Exchange], said: dict[str, str], **words: str
) -> tuple[Message, ...]:
    """A question to a judge; what people and models ``said`` is fenced in it."""
    conversation = prompts.exchanges(history).strip() or "(nothing yet)"
    fence = mark(conversation, *said.values())
    asked = prompts.render(TEMPLATES, user, conversation=conversation, mark=fence, **said, **words)
    return Message("system", system), Message("user", asked)


def rating(one: Prediction, dimension: Dimension, form: str = NUMBER) -> tuple[Message, ...]:
    """The chat that asks for one score."""
    system = prompts.render(TEMPLATES, dimension.prompt, with_reason=form == REASON)
    said = {"seeker": one.seeker, "reply": one.reply or "", "reference": one.gold or ""}
    return chat(system, RATING_USER, one.history, said, dimension=dimension.value)


def request(
    how: Judging,
    record: str,
    messages: tuple[Message, ...],
    kind: type[Verdict] | None,
    sample: int = 0,
) -> Generation:
    """The request for one verdict of ``kind``, None for a number alone, at temperature 0.

    A schema is a hint: whatever comes back is read as strictly as an answer without one. Our own
    server holds a small model to it, which else rambles up to its length limit; hosted endpoints
    may refuse what bounds an answer.
    """
    constraint: Constraint | None = None
    if kind is not None:
        changed: dict[str, dict[str, Any]] = {}
        if how.is_own:
            changed["reason"] = {"type": "string", "maxLength": REASON_CHARACTERS}
        if how.is_own and kind is Score:
            changed["score"] = {"type": "integer", "enum": list(SCALE)}
        constraint = Constraint(schema=kind.schema_text(**changed), hint=True)
    elif how.is_own:
        constraint = Constraint(regex=_ALONE, hint=True)
    sampling, name = Sampling(ANSWER_TOKENS), how.judge_of.name
    return Generation(
        record, "judge", name, messages, sampling, constraint, sample=sample, expected="{}"
    )


def drawn_by(*what: object) -> random.Random:
    """Chance for smoke runs that is the same for the same ``what``."""
    digest = hashlib.sha256("\n".join(map(str, what)).encode()).digest()
    return random.Random(int.from_bytes(digest[:8]))


@dataclass(frozen=True, slots=True)
class Question:
    """One score to ask for."""

    item: Item
    dimension: Dimension
    sample: int
    """1 where it is asked a second time."""


def questions_of(items: Sequence[Item], repeat: int) -> list[Question]:
    """Every score of every item; then those of the first ``repeat`` turns again."""
    again = set(list(dict.fromkeys(item.said.id for item in items))[:repeat])
    return [
        Question(item, dimension, sample)
        for sample in (0, 1)
        for item in items
        if sample == 0 or item.said.id in again
        for dimension in Dimension
    ]


async def one_score(asks: Asks, question: Question, *, how: Judging, form: str) -> Row:
    """The row of one score; CallFailed where its request has no answer."""
    item, dimension, sample = question.item, question.dimension, question.sample
    if item.said.reply is None:
        return row_of(question, how, None)
    if how.judge_of.is_random:
        record = " ".join(filter(None, (item.said.id, item.quadrant, item.side)))
        drawn = drawn_by("score", record, dimension, sample).choice(SCALE)
        return row_of(question, how, Score(score=drawn, reason=DRAWN))
    kind, messages = Score if form == REASON else None, rating(item.said, dimension, form)
    answer = await asks.ask(request(how, item.said.id, messages, kind, sample))
    return row_of(question, how, read_score(answer.text, form, truncated=answer.truncated))


def row_of(question: Question, how: Judging, said: Score | Unscored | Failure | None) -> Row:
    """The row of an answer or a final failure; ``said`` is None where there is no reply."""
    item = question.item
    told: tuple[float | None, str, str | None, str | None]
    if isinstance(said, Score):
        told = said.score, SCORED, None, said.reason or None
    elif isinstance(said, Unscored):
        told = None, UNSCORED, said.reason.value, said.detail
    elif said is None:
        told = None, NOT_JUDGED, item.said.lacking, None
    else:
        told = None, *lost(said)
    asked: Row = {"id": item.said.id, "quadrant": item.quadrant, "side": item.side}
    asked |= {"dimension": question.dimension.value, "sample": question.sample}
    names = ("score", "status", "reason", "explanation")
    return asked | dict(zip(names, told, strict=True)) | {"judge": how.name}


def asking(source: Source, out: Path, how: Judging, repeat: int | None, form: str) -> Asking[Any]:
    """The scoring of one file; EscError where ``out`` is the file's own folder."""
    step.check_apart(out, source.path)
    if repeat is None:
        # That the embedded model agrees with itself says nothing.
        repeat = 0 if how.is_own and how.model == EMBEDDED else REPEATED
    options: Row = {
        "format": FORMAT,
        "step": "judge",
        source.kind: files.sha256(source.path),
        "JUDGE": how.name,
        "JUDGE_N": how.turns,
        "JUDGE_FORM": form,
        "repeat": repeat,
        "weights": how.weights,
        "prompts": how.prompts([*(one.prompt for one in Dimension), RATING_USER]),
        "smoke": source.smoke or how.is_smoke,
    }
    return Asking(
        folder=RunFolder(out, options, SCORES),
        what="scores",
        run={"judge": how.name, "question": "scores"},
        records=lambda: questions_of(source.items, repeat),
        work=partial(one_score, how=how, form=form),
        without=lambda question, failure: row_of(question, how, failure),
        told=lambda rows: summary(source, options, rows),
        report=partial(report, out),
        models=[how.judge_of.name],
        weights=how.weights,
        at=how.judge_of.urls,
        summary=SUMMARY,
        judge=how.name,
    )


def summary(source: Source, options: Row, rows: Sequence[Row]) -> Row:
    """What ``judge.json`` says of all rows.

    Per dimension the mean, 0 to 5, its 95 % interval, n, what has no score and why, how far a
    second asking agrees, and Spearman's correlation with length. For pairs the means of both sides,
    over the pairs whose two sides are scored, and their difference, as in the paper's Table 2.
    """
    import pandas as pd

    frame = pd.DataFrame(rows)
    frame["pair"] = [str(row["quadrant"]) for row in rows]
    lengths = {(i.said.id, i.quadrant, i.side): len(i.said.reply or "") for i in source.items}
    frame["length"] = [lengths[row["id"], row["quadrant"], row["side"]] for row in rows]
    units = Units.of(frame["id"])
    status = Counter(row["status"] for row in rows)
    prompts_of = options["prompts"] or "none"
    return {
        "source": {
            source.kind: options[source.kind],
            **{name: getattr(source, name) for name in ("drawn", "of", "numbered")},
        },
        "judge": options["JUDGE"],
        "signature": f"judge:{options['JUDGE']}|prompts:{prompts_of[:12]}"
        f"|form:{options['JUDGE_FORM']}|temperature:0|scale:0-5"
        f"|turns:{source.drawn} of {source.of} by hash of id",
        "rows": len(rows),
        "counts": {
            name.replace(" ", "_"): status[name] for name in (SCORED, UNSCORED, FAILED, NOT_JUDGED)
        },
        "scale": [SCALE[0], SCALE[-1]],
        "interval": units.said,
        "dimensions": {
            dimension.value: _told(frame[frame["dimension"] == dimension], units, source.kind)
            for dimension in Dimension
        },
        "smoke": options["smoke"],
    }


def _told(frame: Any, units: Units, kind: str) -> Row:
    """What is told of one dimension; ``frame`` is pandas', of its rows."""
    first, again = frame[frame["sample"] == 0], frame[frame["sample"] == 1]
    scored = first[first["status"] == SCORED]
    if kind == "pairs":
        sides = scored.pivot(index=["id", "pair"], columns="side", values="score")
        sides = sides.reindex(columns=SIDES).dropna().astype(float)
        sides["difference"] = sides["chosen"] - sides["rejected"]
        ids = sides.index.get_level_values("id")
        told: Row = {one: mean(list(zip(ids, sides[one], strict=True)), units) for one in sides}
        difference, low = told["difference"], told["rejected"]["value"]
        difference["percent"] = 100 * difference["value"] / low if low else None
        difference["inside_the_noise"] = inside_the_noise(difference)
        told["n"] = len(sides)
    else:
        told = mean(list(zip(scored["id"], scored["score"].astype(float), strict=True)), units)
    both = scored.merge(again[again["status"] == SCORED], on=["id", "pair", "side"])
    apart = (both["score_x"] - both["score_y"]).astype(float).abs()
    rho = spearman(list(scored["score"]), list(scored["length"]))
    why = "scores or lengths are all alike" if len(scored) > 1 else "fewer than two scores"
    return {
        **told,
        **without_score(first.to_dict("records")),
        "repeat": {
            "asked": len(again),
            "n": len(apart),
            "exact": float((apart == 0).mean()) if len(apart) else None,
            "mean_difference": float(apart.mean()) if len(apart) else None,
        },
        "length": {"spearman": rho, "n": len(scored), "note": why if rho is None else None},
    }


def report(out: Path, found: Row) -> str:
    """The numbers one should see: every score once, every mean with its interval."""
    import pandas as pd

    source = found["source"]
    table = pd.json_normalize(list(found["dimensions"].values()))
    table.index = list(found["dimensions"])
    shown = table[[name for name in SHOWN if name in table]]
    told = " + ".join(f"{n:,} {name.replace('_', ' ')}" for name, n in found["counts"].items())
    what = "pairs" if "pairs" in source else "turns"
    lines = [
        f"scores      {out / SCORES}: {found['rows']:,} rows = {told}",
        f"drawn       {source['drawn']:,} of {source['of']:,} {what}; judge {found['judge']}",
        shown.to_string(float_format="%.2f", na_rep="—"),
    ]
    if source["numbered"]:
        lines.append(
            f"ids         {source['numbered']:,} records have none; theirs is their row, from 0: "
            "another system is judged on the same turns where its rows have the same order"
        )
    left_open = {
        status: sum((Counter(one[status]) for one in found["dimensions"].values()), Counter())
        for status in ("unscored", "failed", "not_judged")
    }
    return "\n".join([*lines, *closing(found | left_open)])


@cli.command(
    examples="  python -m eval judge --predictions predictions.jsonl --out judged --judge random\n"
    "  python -m eval judge --pairs data/esc_rg_dpo_qwen2.5-7b.jsonl --out table2 "
    "--model qwen2.5-7b\n"
    "  python -m eval judge --model qwen2.5-7b --price 0.40/1.60 --dry-run"
)
def main(
    how: Judging,
    predictions: Annotated[Path | None, typer.Option(help="a file of any system")] = None,
    pairs: Annotated[Path | None, typer.Option(help="a mined preference set")] = None,
    out: Annotated[Path | None, typer.Option(help="a folder, of the one file")] = None,
    form: Annotated[
        Literal["number", "reason"],
        typer.Option(envvar="JUDGE_FORM", help="the number alone, or after a reason"),
    ] = "number",
    repeat: Annotated[
        int | None, typer.Option(min=0, help=f"turns asked twice [default: {REPEATED}]")
    ] = None,
) -> int:
    """A judge's scores of replies: Fluency, Professionalism, Empathy and Helpfulness, 0 to 5.

    Of one file, or without one of every complete run of the model, and of its mined pairs.
    """

    def scoring(path: Path, folder: Path) -> Asking[Any]:
        read_source = of_pairs if path in (pairs, mined) else of_predictions
        return asking(read_source(path, how.turns), folder, how, repeat, form)

    mined = how.work / paths.preference_file(paths.preference_dataset("rg", how.model))
    if one := predictions or pairs:
        if not out or (predictions and pairs):
            raise EscError("--predictions FILE, or --pairs FILE, is scored with an --out FOLDER")
        return ask_all([scoring(one, out)], how)
    _ = how.judge_of
    every = {
        run.name: partial(scoring, run / PREDICTIONS, run / "judge")
        for run in complete_runs(how.work, how.model)
    }
    if mined.is_file():
        folder = how.work / "runs" / how.model / "pairs_judge"
        every["mined pairs"] = partial(scoring, mined, folder)
    return ask_each(every, how)
