r"""A judge's scores of replies: Fluency, Professionalism, Empathy and Helpfulness, 0 to 5.

    python -m eval judge --predictions runs/smollm2-135m/decoupled_sft/predictions.jsonl \
        --out runs/smollm2-135m/decoupled_sft/judge --n 100
    python -m eval judge --pairs data/esc_rg_dpo_qwen2.5-7b.jsonl --out runs/qwen2.5-7b/table2

Reads predictions (this kit's or foreign ones), or a mined preference set, whose two sides are
scored without a word on which is which (Table 2). Writes to FOLDER ``calls.jsonl``, every answer as
it comes, ``scores.jsonl``, ``judge.json`` with the means, and last ``run.json``. An answer that is
no score is *unscored*, kept with its reason, and never a number. ``--repeat`` turns are asked a
second time. Scores of a model are no verdict of a clinician: research software, no counselling.
"""

import argparse
import hashlib
import json
import os
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from esc import adapters, backbones, cli, dialogue, files, paths, prompts, step
from esc.adapters import weights_of
from esc.dialogue import JUDGED, JUDGED_BY_EMBEDDED, REPEATED, Exchange
from esc.exceptions import EscError
from esc.files import Row
from esc.judging import (
    NUMBER,
    REASON,
    Asking,
    Judge,
    Reason,
    Sending,
    Unscored,
    Verdict,
    Where,
    add_judge_form,
    add_judge_name,
    add_judge_url,
    ask_all,
    is_smoke,
    judge_for,
    keyless,
    lost,
    read,
    strict_schema,
)
from esc.judging import add_arguments as add_sending
from esc.llm import Asks, Constraint, Failure, Generation, Sampling
from esc.paths import EMBEDDED
from esc.predictions import Prediction, read_predictions
from esc.prompts import Message, mark
from esc.stats import Units, inside_the_noise, mean, spearman
from esc.step import RunFolder
from esc.strategies import parse, untagged

SIDES = ("chosen", "rejected")
Key = tuple[str, str | None, str | None]
"""(id, quadrant, side) of a reply."""


@dataclass(frozen=True, slots=True)
class Item:
    """One reply to judge, after what was said before it."""

    id: str
    """Of the turn."""
    quadrant: str | None
    """Of an entangled pair: a turn has one of each at most."""
    side: str | None
    """One of `SIDES`, or None for a prediction."""
    history: tuple[Exchange, ...]
    seeker: str
    reply: str | None
    """None where there is nothing to judge."""
    lacking: str
    """Why there is no reply."""
    reference: str | None
    """What a person replied; never shown beside a pair, one side of which it is."""

    @property
    def record(self) -> str:
        """What names it among all items."""
        return " ".join(filter(None, self.key))

    @property
    def key(self) -> Key:
        """What its scores are found by."""
        return self.id, self.quadrant, self.side


@dataclass(frozen=True, slots=True)
class Source:
    """The items of one file, as they are drawn."""

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
    drawn = drawn_of(predictions, n)
    items = [
        Item(one.id, None, None, one.history, one.seeker, one.reply, one.lacking, one.gold)
        for one in drawn
    ]
    return Source(tuple(items), len(drawn), len(predictions), numbered, step.made_beside(path))


def drawn_of(predictions: Sequence[Prediction], n: int) -> list[Prediction]:
    """The first ``n`` in the order of the draw."""
    by_id = {one.id: one for one in predictions}
    return [by_id[name] for name in dialogue.order(by_id)[:n]]


def of_pairs(path: Path, n: int) -> Source:
    """Both sides of ``n`` pairs of a mined preference set, without a word on which is which.

    Turns are drawn; the pairs of one, of several quadrants, follow one another. Raises EscError,
    naming the line, where a row is no pair of replies.
    """
    turns: dict[str, dict[str, list[Item]]] = defaultdict(dict)
    marked = _is_smoke_set(path)
    for number, row in enumerate(files.read_jsonl(path), start=1):
        where = f"{path}, line {number}"
        sides = _pair(row, where)
        name, quadrant = sides[0].id, sides[0].quadrant or ""
        if quadrant in turns[name]:
            of = f" of {quadrant}" if quadrant else ""
            raise EscError(f"{where}: id {name!r}{of} is there twice")
        turns[name][quadrant] = sides
        provenance = row.get("provenance")
        marked |= isinstance(provenance, dict) and is_smoke(provenance.get("judge", ""))
    if not turns:
        raise EscError(f"{path} is empty; it takes one pair at least")
    pairs = [sides for name in dialogue.order(turns) for _, sides in sorted(turns[name].items())]
    items = [item for sides in pairs[:n] for item in sides]
    return Source(tuple(items), len(pairs[:n]), len(pairs), 0, marked)


def _pair(row: files.Row, where: str) -> list[Item]:
    try:
        said = [(one["from"], one["value"]) for one in row["conversations"]]
        replies = [row[side]["value"] for side in SIDES]
        name, quadrant = row["id"], row.get("quadrant")
    except (KeyError, TypeError) as error:
        raise EscError(
            f"{where}: no pair of a mined set (id, conversations, chosen, rejected): "
            f"{type(error).__name__} {error}"
        ) from error
    for side, reply in zip(SIDES, replies, strict=True):
        if not isinstance(reply, str):
            raise EscError(f"{where}: its {side!r} reply is {reply!r}, no text")
    speakers = ["human", "gpt"] * (len(said) // 2) + ["human"]
    whole = all(isinstance(text, str) for text in (name, *(text for _, text in said)))
    if not whole or [speaker for speaker, _ in said] != speakers:
        raise EscError(
            f"{where}: its conversation is not human and gpt by turns up to a human's words, or "
            "one of these or its id is no text"
        )
    if not isinstance(quadrant, str | None):
        raise EscError(f"{where}: its quadrant is no text")
    if all(parse(reply) for reply in replies):
        raise EscError(f"{where}: strategies, no replies; judge the set of rg or vanilla")
    texts = [text if speaker == "human" else untagged(text) for speaker, text in said]
    history = tuple(zip(texts[:-1:2], texts[1::2], strict=True))
    without_tags = [untagged(reply) or None for reply in replies]
    return [
        Item(name, quadrant, side, history, texts[-1], reply, "empty reply", None)
        for side, reply in zip(SIDES, without_tags, strict=True)
    ]


def _is_smoke_set(path: Path) -> bool:
    """Whether the set is the embedded model's, or its manifest marks it."""
    known = paths.preference_of(path.stem)
    if known is None:
        return False
    task, model, lineage = known
    manifest = path.parent / Path(paths.preference_manifest(task, model, lineage.mining)).name
    marked = manifest.is_file() and bool(files.read_json(manifest).get("smoke"))
    return model == EMBEDDED or marked


@dataclass(frozen=True, slots=True)
class Bench:
    """Who is asked, and where."""

    judge: Judge
    model: str
    """The backbone whose base model ``base`` is."""
    work: Path

    @property
    def name(self) -> str:
        """Of the judge, as a reader knows it."""
        return f"{self.model} (base)" if self.judge.name == adapters.BASE else self.judge.name

    @property
    def is_smoke(self) -> bool:
        """Whether what it says is no judgement."""
        is_embedded = self.judge.name == adapters.BASE and self.model == EMBEDDED
        return self.judge.is_smoke or is_embedded

    @property
    def is_own(self) -> bool:
        """Whether it is the base model of this kit's own server."""
        return self.judge.name == adapters.BASE and not self.judge.urls

    @property
    def turns(self) -> int:
        """How many turns it is asked about unless a user says otherwise."""
        return JUDGED_BY_EMBEDDED if self._judges_itself else JUDGED

    @property
    def repeated(self) -> int:
        """How many of them it is asked about twice: the embedded one's agreement says nothing."""
        return 0 if self._judges_itself else REPEATED

    @property
    def _judges_itself(self) -> bool:
        """Whether the embedded model is asked about its own runs."""
        return self.is_own and self.model == EMBEDDED

    @property
    def weights(self) -> dict[str, str]:
        """Served name to a hash of what answers, where it is this kit's own server."""
        return weights_of(self.work, self.model, [adapters.BASE]) if self.is_own else {}

    def at(self, sending: Sending) -> Where:
        """Where it is asked."""
        if self.judge.urls or self.judge.is_random:
            return lambda _: nullcontext(self.judge.urls)
        return sending.at()


def usual_judge(model: str) -> str:
    """Who judges a backbone's runs unless JUDGE says otherwise; EscError for an unknown one."""
    return adapters.BASE if model == EMBEDDED else backbones.get(model).judge


def bench_of(given: argparse.Namespace) -> Bench:
    """The judge that parsed arguments name, or the one of the table of backbones.

    Raises EscError where the hosted one is meant and there is no key.
    """
    backbones.get(given.model)
    name = given.judge or usual_judge(given.model)
    if name == adapters.BASE and not given.judge_base_url:
        return Bench(Judge(name, ()), given.model, given.work)
    judge = judge_for(given.model, name, given.judge_base_url, keyless=keyless(given))
    return Bench(judge, given.model, given.work)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of every judging step."""
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    parser.add_argument(
        "--n",
        type=cli.optional_count,
        default=os.environ.get("JUDGE_N") or None,
        help=f"turns to judge, drawn by their id (default: $JUDGE_N, or {JUDGED})",
    )
    backbones.add_model(parser, "whose judge is asked unless one is named")
    cli.add_work(parser)
    add_judge_name(parser)
    add_judge_url(parser)
    add_sending(parser, judge=True)


TEMPLATES = Path(__file__).parent / "prompts"
SCALE = range(6)
ANSWER_TOKENS = 256
REASON_CHARACTERS = 160
"""Room for the reason of a judge whose server holds it to that."""
NOTHING = "(nothing yet)"
DRAWN = "JUDGE=random: drawn, not judged"


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

    @property
    def meaning(self) -> str:
        """What it asks, in one line for a person."""
        return _MEANINGS[self]


_MEANINGS = {
    Dimension.FLUENCY: "Which reply reads more naturally, and is easier to follow?",
    Dimension.PROFESSIONALISM: "Which shows more of sound, responsible psychological practice?",
    Dimension.EMPATHY: "Which understands and meets the seeker's feelings better?",
    Dimension.HELPFULNESS: "Which offers more that this very seeker can use?",
}
RATING_USER = "judge_user.j2"
_ALONE = r"[0-4](\.[0-9])?|5"
_TIES = ("tie", "a tie", "neither")
PAIRWISE = ("pairwise_system.j2", "pairwise_user.j2")


class Score(Verdict):
    """How good a reply is on one dimension."""

    not_offered: ClassVar[Reason] = Reason.OFF_SCALE

    reason: str = Field(default="", title="reason")
    score: float = Field(title="score")

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


class Preference(Verdict):
    """Which of two replies is better."""

    reason: str = Field(default="", title="reason")
    better: Literal["A", "B", "tie"] = Field(title="better")

    @field_validator("better", mode="before")
    @classmethod
    def _side(cls, value: object) -> str:
        words = re.findall(r"a tie|[a-z]+", str(value).casefold())
        named = {word for word in words if word in ("a", "b", *_TIES)}
        if len(named) != 1:
            raise ValueError(f"{str(value)[:60]!r} is none of A, B and tie")
        side: str = named.pop()
        return side.upper() if side in ("a", "b") else "tie"


# "Empathy score: **4.5** / 5" and its like: a number alone, for a person.
_NUMBER = re.compile(
    r"[\s*_`\"'(\[]*"
    r"(?:(?:the|my|final|overall|fluency|professionalism|empathy|helpfulness|score|rating|[\s*_])+"
    r"(?:[:=]|is)[\s*_]*)?"
    r"(?P<score>[-+]?[0-9]+(?:\.[0-9]+)?)"
    r"[\s*_]*(?:/\s*5|out\s+of\s+5|points?)?[\s*_`\"'.)\]]*",
    re.IGNORECASE | re.ASCII,
)


def read_score(text: str, form: str, *, truncated: bool) -> Score | Unscored:
    """The score in a judge's answer, or why there is none.

    A judge that is asked for the number alone may still answer with the object of the other form.
    """
    alone = _NUMBER.fullmatch(text)
    if form == NUMBER and alone and not truncated:
        text = f'{{"score": {json.dumps(alone["score"])}}}'
    return read(Score, text, truncated=truncated)


_PROPERTIES: dict[type[Verdict], dict[str, Any]] = {
    Score: {"reason": {"type": "string"}, "score": {"type": "number"}},
    Preference: {
        "reason": {"type": "string"},
        "better": {"type": "string", "enum": ["A", "B", "tie"]},
    },
}


def schema(kind: type[Score] | type[Preference], *, brief: bool = False) -> str:
    """The JSON schema of a verdict, as JSON text; a brief one bounds what a small model says."""
    properties = _PROPERTIES[kind]
    if brief:
        properties = properties | {"reason": {"type": "string", "maxLength": REASON_CHARACTERS}}
        if kind is Score:
            properties["score"] = {"type": "integer", "enum": list(SCALE)}
    return strict_schema(properties)


def rating(
    dimension: Dimension,
    history: Sequence[Exchange],
    seeker: str,
    reply: str,
    reference: str | None,
    form: str = NUMBER,
) -> tuple[Message, ...]:
    """The chat that asks for one score; ``reference`` is what a person replied, or None."""
    system = prompts.render(TEMPLATES, dimension.prompt, with_reason=form == REASON)
    said = {"seeker": seeker, "reply": reply, "reference": reference or ""}
    return _chat(system, RATING_USER, history, said, dimension=dimension.value)


def comparison(
    history: Sequence[Exchange], seeker: str, replies: tuple[str, str]
) -> tuple[Message, ...]:
    """The chat that asks which of two replies, in this order, is better."""
    system = prompts.render(TEMPLATES, PAIRWISE[0])
    said = {"seeker": seeker, "reply_a": replies[0], "reply_b": replies[1]}
    return _chat(system, PAIRWISE[1], history, said)


def _chat(
    system: str, user: str, history: Sequence[Exchange], said: dict[str, str], **words: str
) -> tuple[Message, ...]:
    conversation = prompts.exchanges(history).strip() or NOTHING
    fence = mark(conversation, *said.values())
    asked = prompts.render(TEMPLATES, user, conversation=conversation, mark=fence, **said, **words)
    return Message("system", system), Message("user", asked)


def rating_request(
    record: str,
    model: str,
    kind: type[Score] | type[Preference],
    chat: tuple[Message, ...],
    sample: int = 0,
    *,
    brief: bool,
    form: str = REASON,
) -> Generation:
    """The request for one verdict, at temperature 0, under the verdict's schema.

    The schema is a hint: whatever comes back is read as strictly as an answer without one. A
    ``brief`` one keeps a small model from rambling up to its length limit; hosted endpoints may
    refuse it. A number alone has no schema.
    """
    constraint: Constraint | None = Constraint(schema=schema(kind, brief=brief), hint=True)
    if form == NUMBER:
        constraint = Constraint(regex=_ALONE, hint=True) if brief else None
    sampling = Sampling(ANSWER_TOKENS)
    return Generation(
        record, "judge", model, chat, sampling, constraint, sample=sample, expected="{}"
    )


def rating_files() -> list[Path]:
    """The prompt files behind the scores."""
    names = [*(dimension.prompt for dimension in Dimension), RATING_USER]
    return [prompts.source(TEMPLATES, name) for name in names]


def comparison_files() -> list[Path]:
    """The prompt files behind a comparison."""
    return [prompts.source(TEMPLATES, name) for name in PAIRWISE]


def draw_score(record: str, dimension: Dimension, sample: int) -> Score:
    """A score drawn by the record's id, for smoke runs."""
    return Score(score=_rng("score", record, dimension, sample).choice(SCALE), reason=DRAWN)


def draw_preference(record: str, order: int) -> Preference:
    """A preference drawn by the record's id, for smoke runs."""
    return Preference(better=_rng("better", record, order).choice(["A", "B", "tie"]), reason=DRAWN)


def _rng(*what: object) -> random.Random:
    digest = hashlib.sha256("\n".join(map(str, what)).encode()).digest()
    return random.Random(int.from_bytes(digest[:8]))


SCORED, UNSCORED, FAILED, NOT_JUDGED = "scored", "unscored", "failed", "not judged"


def summary(rows: Sequence[Row], lengths: Mapping[Key, int], *, pairs: bool) -> Row:
    """What ``judge.json`` says of all rows; ``lengths`` has the characters of every reply.

    Per dimension the mean, 0 to 5, its 95 % interval, n, what has no score and why, how far a
    second asking agrees, and Spearman's correlation with length. For pairs the means of both sides,
    over the pairs whose two sides are scored, and their difference, as in the paper's Table 2.
    """
    units = Units.of(row["id"] for row in rows)
    told = _of_pairs if pairs else _of_predictions
    return {
        "scale": [SCALE[0], SCALE[-1]],
        "interval": units.said,
        "dimensions": {
            dimension.value: told([r for r in rows if r["dimension"] == dimension], units)
            | _trust([r for r in rows if r["dimension"] == dimension], lengths)
            for dimension in Dimension
        },
    }


def _of_predictions(rows: Iterable[Row], units: Units) -> Row:
    first = [row for row in rows if row["sample"] == 0]
    scored = [(row["id"], row["score"]) for row in first if row["status"] == SCORED]
    return mean(scored, units) | without_score(first)


def _of_pairs(rows: Iterable[Row], units: Units) -> Row:
    first = [row for row in rows if row["sample"] == 0]
    scores: dict[tuple[str, str | None], dict[str, float]] = defaultdict(dict)
    for row in first:
        if row["status"] == SCORED:
            scores[row["id"], row["quadrant"]][row["side"]] = row["score"]
    both = [(turn, one) for (turn, _), one in scores.items() if len(one) == len(SIDES)]
    told: Row = {side: mean([(turn, one[side]) for turn, one in both], units) for side in SIDES}
    apart = [(turn, one["chosen"] - one["rejected"]) for turn, one in both]
    difference = mean(apart, units)
    low = told["rejected"]["value"]
    told["difference"] = difference | {
        "percent": 100 * difference["value"] / low if low else None,
        "inside_the_noise": inside_the_noise(difference),
    }
    return told | {"n": len(both)} | without_score(first)


def without_score(rows: Iterable[Row]) -> Row:
    """How many rows have no score, and why."""
    rows = list(rows)

    def of(status: str) -> dict[str, int]:
        reasons = Counter(row["reason"] for row in rows if row["status"] == status)
        return {"total": reasons.total(), **dict(sorted(reasons.items()))}

    return {"unscored": of(UNSCORED), "failed": of(FAILED), "not_judged": of(NOT_JUDGED)}


def _trust(rows: Sequence[Row], lengths: Mapping[Key, int]) -> Row:
    first = {_key(row): row for row in rows if row["sample"] == 0}
    scored = {key: row["score"] for key, row in first.items() if row["status"] == SCORED}
    again = [row for row in rows if row["sample"] == 1]
    apart = [
        abs(row["score"] - scored[_key(row)])
        for row in again
        if row["status"] == SCORED and _key(row) in scored
    ]
    n = len(apart)
    rho = spearman(list(scored.values()), [lengths[key] for key in scored])
    why = "scores or lengths are all alike" if len(scored) > 1 else "fewer than two scores"
    return {
        "repeat": {
            "asked": len(again),
            "n": n,
            "exact": apart.count(0) / n if n else None,
            "mean_difference": sum(apart) / n if n else None,
        },
        "length": {
            "spearman": rho,
            "n": len(scored),
            "note": why if rho is None else None,
        },
    }


def _key(row: Row) -> Key:
    return row["id"], row["quadrant"], row["side"]


def scores_report(found: Row) -> list[str]:
    """The numbers one should see."""
    lines = []
    for name, one in found["dimensions"].items():
        numbers = _pair_line(one) if "difference" in one else f"{_number(one)}  n {one['n']:,}"
        lines.append(f"{name:<16} {numbers}{_open(one)}")
    for name, one in found["dimensions"].items():
        again, length = one["repeat"], one["length"]
        told = "not asked again"
        if again["asked"]:
            told = f"0 of {again['asked']} asked again have both scores"
        if again["n"]:
            told = (
                f"{again['exact']:.0%} of {again['n']} asked again alike, "
                f"{again['mean_difference']:.2f} apart on average"
            )
        rho = length["note"] if length["spearman"] is None else f"{length['spearman']:+.2f}"
        lines.append(f"  {name:<16}{told}; Spearman with length: {rho}")
    return lines


def _number(one: Row) -> str:
    value = "  —  " if one["value"] is None else f"{one['value']:5.2f}"
    return value + ("" if one["low"] is None else f" [{one['low']:.2f}, {one['high']:.2f}]")


def _pair_line(one: Row) -> str:
    difference = one["difference"]
    noise = ", inside the noise" if difference["inside_the_noise"] else ""
    percent = "" if difference["percent"] is None else f" ({difference['percent']:+.1f} %)"
    return (
        f"chosen {_number(one['chosen'])}  rejected {_number(one['rejected'])}  "
        f"difference {_number(difference)}{percent}{noise}  n {one['n']:,}"
    )


def _open(one: Row) -> str:
    told = why_without(one)
    return f"  ({'; '.join(told)})" if told else ""


def why_without(one: Row) -> list[str]:
    """What `without_score` counted, in words."""
    return [
        f"{count:,} {status.replace('_', ' ')}: {why}"
        for status in ("unscored", "failed", "not_judged")
        for why, count in one[status].items()
        if why != "total"
    ]


@dataclass(frozen=True, slots=True)
class Question:
    """One score to ask for."""

    item: Item
    dimension: Dimension
    sample: int
    """1 where it is asked a second time."""


def questions_of(items: Sequence[Item], repeat: int) -> list[Question]:
    """Every score of every item; then those of the first ``repeat`` turns again."""
    again = set(list(dict.fromkeys(item.id for item in items))[:repeat])
    return [
        Question(item, dimension, sample)
        for sample in (0, 1)
        for item in items
        if sample == 0 or item.id in again
        for dimension in Dimension
    ]


async def one_score(asks: Asks, question: Question, *, bench: Bench, form: str) -> Row:
    """The row of one score; CallFailed where its request has no answer."""
    item, dimension = question.item, question.dimension
    if bench.judge.is_random:
        drawn = draw_score(item.record, dimension, question.sample)
        return row_of(question, bench, drawn)
    assert item.reply is not None
    chat = rating(dimension, item.history, item.seeker, item.reply, item.reference, form)
    name, sample = bench.judge.name, question.sample
    call = rating_request(item.id, name, Score, chat, sample, brief=bench.is_own, form=form)
    answer = await asks.ask(call)
    said = read_score(answer.text, form, truncated=answer.truncated)
    return row_of(question, bench, said)


def row_of(question: Question, bench: Bench, said: Score | Unscored | Failure | None) -> Row:
    """The row of an answer or a final failure; ``said`` is None where there is no reply."""
    item = question.item
    told: tuple[float | None, str, str | None, str | None]
    if isinstance(said, Score):
        told = said.score, SCORED, None, said.reason or None
    elif isinstance(said, Unscored):
        told = None, UNSCORED, said.reason.value, said.detail
    elif said is None:
        told = None, NOT_JUDGED, item.lacking, None
    else:
        told = None, *lost(said)
    score, status, reason, explanation = told
    return {
        "id": item.id,
        "quadrant": item.quadrant,
        "side": item.side,
        "dimension": question.dimension.value,
        "sample": question.sample,
        "score": score,
        "status": status,
        "reason": reason,
        "explanation": explanation,
        "judge": bench.name,
    }


FORMAT = 2
SCORES, SUMMARY = "scores.jsonl", "judge.json"


@dataclass(frozen=True, slots=True)
class Asked:
    """What a user asks of the step."""

    path: Path
    """Of the predictions or pairs."""
    source: Source
    pairs: bool
    bench: Bench
    n: int
    repeat: int
    form: str
    """One of `esc.judging.FORMS`."""

    @property
    def is_smoke(self) -> bool:
        """Whether the embedded model, a random judge or the sample corpus is in it."""
        return self.source.smoke or self.bench.is_smoke


def options_of(asked: Asked) -> Row:
    """Everything that decides the scores, under the names a user knows."""
    bench = asked.bench
    return {
        "format": FORMAT,
        "step": "judge",
        "pairs" if asked.pairs else "predictions": files.sha256(asked.path),
        "JUDGE": bench.name,
        "JUDGE_N": asked.n,
        "JUDGE_FORM": asked.form,
        "repeat": asked.repeat,
        "weights": bench.weights,
        "prompts": None if bench.judge.is_random else files.sha256_of(rating_files()),
        "smoke": asked.is_smoke,
    }


def asking(asked: Asked, out: Path) -> Asking[Question]:
    """The scoring of one file; EscError where ``out`` is the file's own folder."""
    if asked.path.resolve().parent == out.resolve():
        raise EscError(f"--out {out} holds the file that is read; name a folder of its own")
    bench, options = asked.bench, options_of(asked)
    return Asking(
        folder=RunFolder(out, options, SCORES),
        what="scores",
        run={"judge": bench.name, "question": "scores"},
        records=lambda: questions_of(asked.source.items, asked.repeat),
        work=partial(one_score, bench=bench, form=asked.form),
        without=lambda question, failure: row_of(question, bench, failure),
        told=lambda rows: _summary(asked, options["prompts"] or "none", rows),
        report=partial(report, out),
        models=[bench.judge.name],
        weights=bench.weights,
        is_asked=lambda question: question.item.reply is not None,
        summary=SUMMARY,
        judge=bench.name,
    )


def _summary(asked: Asked, prompts: str, rows: Sequence[Row]) -> Row:
    items = asked.source.items
    lengths = {item.key: len(item.reply or "") for item in items}
    counts = {
        status.replace(" ", "_"): sum(row["status"] == status for row in rows)
        for status in (SCORED, UNSCORED, FAILED, NOT_JUDGED)
    }
    return {
        "source": {
            "pairs" if asked.pairs else "predictions": files.sha256(asked.path),
            "drawn": asked.source.drawn,
            "of": asked.source.of,
            "numbered": asked.source.numbered,
        },
        "judge": asked.bench.name,
        "signature": f"judge:{asked.bench.name}|prompts:{prompts[:12]}|form:{asked.form}"
        "|temperature:0|scale:0-5"
        f"|turns:{asked.source.drawn} of {asked.source.of} by hash of id",
        "rows": len(rows),
        "counts": counts,
        **summary(rows, lengths, pairs=asked.pairs),
        "smoke": asked.is_smoke,
    }


def report(out: Path, found: Row) -> str:
    """The numbers one should see: every score once, every mean with its interval."""
    counts, source = found["counts"], found["source"]
    what = "pairs" if "pairs" in source else "turns"
    told = " + ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in counts.items())
    lines = [
        f"scores      {out / SCORES}: {found['rows']:,} rows = {told}",
        f"drawn       {source['drawn']:,} of {source['of']:,} {what}; judge {found['judge']}",
    ]
    if source["numbered"]:
        lines.append(
            f"ids         {source['numbered']:,} records have none; theirs is their row, from 0: "
            "another system is judged on the same turns where its rows have the same order"
        )
    lines += scores_report(found)
    lines.append(f"interval    {found['interval']}")
    if counts["failed"]:
        lines.append("incomplete  the same command asks again for what is missing")
    if found["smoke"]:
        lines.append("SMOKE       embedded model, sample corpus or random judge: no result")
    return "\n".join(lines)


def main(argv: list[str]) -> int:
    """Command line of the step."""
    given = _parser().parse_args(argv)
    bench = bench_of(given)
    n = given.n or bench.turns
    repeat = bench.repeated if given.repeat is None else given.repeat
    path, is_pairs = given.pairs or given.predictions, bool(given.pairs)
    source = of_pairs(path, n) if is_pairs else of_predictions(path, n)
    asked = Asked(path, source, is_pairs, bench, n, repeat, given.form)
    sending = Sending.of(given)
    return ask_all([asking(asked, given.out)], bench.at(sending), sending)


def _parser() -> argparse.ArgumentParser:
    parser = cli.parser(
        prog="python -m eval judge",
        description=__doc__,
        examples=(
            "  python -m eval judge --predictions predictions.jsonl --out judged --judge random\n"
            "  python -m eval judge --predictions theirs.json --out judged --model qwen2.5-7b "
            "--price 0.40/1.60 --dry-run\n"
            "  python -m eval judge --pairs data/esc_rg_dpo_qwen2.5-7b.jsonl --out table2 "
            "--model qwen2.5-7b"
        ),
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--predictions", type=Path, metavar="FILE")
    what.add_argument("--pairs", type=Path, metavar="FILE", help="a mined preference set")
    add_arguments(parser)
    add_judge_form(parser)
    parser.add_argument(
        "--repeat",
        type=_count,
        help=f"turns asked a second time (default: {REPEATED}; 0 by the embedded model)",
    )
    return parser


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 0")
    return int(text)
