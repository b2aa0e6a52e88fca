"""A judge's scores of replies: Fluency, Professionalism, Empathy and Helpfulness, 0 to 5.

Reads predictions (this kit's or foreign ones), or a mined preference set, whose two sides are
scored without a word on which is which (Table 2). Writes to FOLDER ``calls.jsonl``, every answer as
it comes, ``scores.jsonl``, ``judge.json`` with the means, and last ``run.json``. An answer that is
no score is *unscored*, kept with its reason, and never a number. A few turns are asked a second
time. Scores of a model are no verdict of a clinician: research software, no counselling.
"""

import json
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import typer
from pydantic import Field, ValidationError, field_validator

from esc import adapters, cli, dialogue, files, judging, paths, prompts, step
from esc.dialogue import JUDGED, JUDGED_BY_EMBEDDED, REPEATED
from esc.files import EscError, Row
from esc.judging import DRAWN, SCORED, Asking, Judge, JudgeSending, Unscored, Verdict
from esc.llm import Asks, Constraint, Reason
from esc.paths import EMBEDDED
from esc.predictions import PREDICTIONS, Prediction, complete_runs, read_predictions
from esc.prompts import Message
from esc.records import PreferenceRow
from esc.stats import Units, mean
from esc.step import RunFolder
from esc.strategies import parse, untagged

TEMPLATES = Path(__file__).parent / "prompts"
USER = TEMPLATES / "judge_user.j2"
SCALE = range(6)
ANSWER_TOKENS = 256
FORMAT = 2
"""Raised with every change of what its files mean."""
SCORES, SUMMARY = "scores.jsonl", "judge.json"
SIDES = ("chosen", "rejected")
SHOWN = r"(value|low|high|noise|exact|mean_difference|spearman|^n|repeat\.n)$"
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

    def who(self) -> Judge:
        """The judge a user asks for; of the embedded model the base model of this kit's own server.

        Raises EscError where the hosted one is meant and there is no key.
        """
        if (self.judge or (self.model == EMBEDDED and adapters.BASE)) != adapters.BASE:
            return super().who()
        own = [] if self.judge_base_url else [adapters.BASE]
        weights = adapters.weights_of(self.work, self.model, own)
        name = f"{self.model} (base)"
        return Judge(name, self.judge_base_url or "", adapters.BASE, weights)

    def turns(self, judge: Judge) -> int:
        """How many turns it is asked about."""
        return self.n or (JUDGED_BY_EMBEDDED if judge.is_embedded else JUDGED)


class Score(Verdict):
    """How good a reply is on one dimension, after a reason."""

    not_offered: ClassVar[Reason] = Reason.OFF_SCALE

    reason: str = Field(default="", title="reason")
    score: float = Field(
        title="score", ge=SCALE[0], le=SCALE[-1], json_schema_extra={"type": "number"}
    )

    @field_validator("score", mode="before")
    @classmethod
    def _no_truth(cls, value: object) -> object:
        return str(value) if isinstance(value, bool) else value

    @classmethod
    def drawn(cls, chance: random.Random) -> Self:
        """A whole number of the scale."""
        return cls(score=chance.choice(SCALE), reason=DRAWN)


# "Empathy score: **4.5** / 5" and its like: a number alone, for a person.
_NUMBER = re.compile(
    r"[\s*_`\"'(\[]*"
    r"(?:(?:the|my|final|overall|fluency|professionalism|empathy|helpfulness|score|rating|[\s*_])+"
    r"(?:[:=]|is)[\s*_]*)?"
    r"(?P<score>[-+]?[0-9]+(?:\.[0-9]+)?)"
    r"[\s*_]*(?:/\s*5|out\s+of\s+5|points?)?[\s*_`\"'.)\]]*",
    re.IGNORECASE | re.ASCII,
)


class Number(Score):
    """The same where the number alone is asked for; the object of the other form is read too."""

    @classmethod
    def constraint(cls, *, is_own: bool) -> Constraint | None:
        """Our own small model is held to a number."""
        return Constraint(regex=r"[0-4](\.[0-9])?|5", hint=True) if is_own else None

    @classmethod
    def read(cls, text: str, *, truncated: bool = False) -> Self | Unscored:
        """The score in a judge's answer, or why there is none."""
        if not truncated and (alone := _NUMBER.fullmatch(text)):
            text = json.dumps({"score": alone["score"]})
        return super().read(text, truncated=truncated)


@dataclass(frozen=True, slots=True)
class Rated:
    """One score to ask for."""

    said: Prediction
    """The reply with what was said before it; its gold one is never shown beside a pair's side."""
    quadrant: str | None = None
    """Of an entangled pair: a turn has one of each at most."""
    side: str | None = None
    """One of `SIDES`, or None for a prediction."""
    dimension: Dimension = Dimension.FLUENCY
    sample: int = 0
    """1 where it is asked a second time."""

    @property
    def key(self) -> tuple[str, str | None, str | None]:
        """What tells its reply from others."""
        return self.said.id, self.quadrant, self.side


Source = tuple[list[Rated], Row]
"""The replies of a file as they are drawn, so that the order of the file changes nothing; and for
``judge.json`` its hash, how many are drawn ``of`` it, how many have a row's number as their id."""


def of_predictions(path: Path, n: int) -> Source:
    """The replies of ``n`` turns of a predictions file, or of all where there are fewer.

    Raises EscError, naming the row, for whatever is not as it should be.
    """
    predictions, numbered = read_predictions(path)
    by_id = {one.id: one for one in predictions}
    replies = [Rated(by_id[name]) for name in dialogue.order(by_id)[:n]]
    told = {"predictions": files.sha256(path), "drawn": len(replies), "of": len(by_id)}
    return replies, told | {"numbered": numbered, "smoke": step.made_beside(path)}


def of_pairs(path: Path, n: int) -> Source:
    """Both sides of ``n`` pairs of a mined preference set, without a word on which is which.

    Turns are drawn; the pairs of one, of several quadrants, follow one another. Raises EscError,
    naming the line, where a row is no pair of replies.
    """
    found: dict[tuple[str, str], PreferenceRow] = {}
    for number, row in enumerate(files.read_jsonl(path), start=1):
        where = f"{path}, line {number}"
        try:
            pair = PreferenceRow.model_validate(row)
        except ValidationError as error:
            wrong = error.errors()[0]
            at = ".".join(map(str, wrong["loc"]))
            raise EscError(f"{where}: no pair of a mined set ({at}: {wrong['msg']})") from error
        if parse(pair.chosen.value) and parse(pair.rejected.value):
            raise EscError(f"{where}: strategies, no replies; judge the set of rg or vanilla")
        if found.setdefault((pair.id, pair.quadrant or ""), pair) is not pair:
            raise EscError(f"{where}: id {pair.id!r} is there twice")
    if not found:
        raise EscError(f"{path} is empty; it takes one pair at least")
    place = {turn: k for k, turn in enumerate(dialogue.order({turn for turn, _ in found}))}
    pairs = [found[key] for key in sorted(found, key=lambda key: (place[key[0]], key[1]))]
    made_with = [pair.provenance for pair in pairs]
    smoke = any(one.get("smoke") or judging.is_smoke(str(one.get("judge"))) for one in made_with)
    replies = [side for pair in pairs[:n] for side in _sides(pair)]
    told = {"pairs": files.sha256(path), "drawn": len(pairs[:n]), "of": len(pairs)}
    return replies, told | {"numbered": 0, "smoke": smoke}


def _sides(pair: PreferenceRow) -> Iterator[Rated]:
    said = [one.value for one in pair.conversations]
    history = tuple(zip(said[:-1:2], map(untagged, said[1::2]), strict=True))
    for side, reply in zip(SIDES, (pair.chosen, pair.rejected), strict=True):
        text = untagged(reply.value) or None
        shown = Prediction(pair.id, history, said[-1], "", text, "empty reply", None)
        yield Rated(shown, pair.quadrant, side)


def rating(one: Prediction, dimension: Dimension, kind: type[Score]) -> tuple[Message, ...]:
    """The chat that asks for one score."""
    system = prompts.render(TEMPLATES, dimension.prompt, with_reason=kind is Score)
    said = {"seeker": one.seeker, "reply": one.reply or "", "reference": one.gold or ""}
    return judging.question(system, USER, one.history, said, dimension=dimension.value)


async def ask(asks: Asks, one: Rated, *, judge: Judge, kind: type[Score]) -> Score | Unscored:
    """One score, or why there is none; Failure where its request has no answer."""
    said = one.said
    if said.reply is None:
        return Unscored(said.lacking, status=judging.NOT_JUDGED)
    chat, name = rating(said, one.dimension, kind), " ".join(filter(None, one.key))
    drawn_by = f"score\n{name}\n{one.dimension}\n{one.sample}"
    who = (asks, judge, kind, said.id, chat, drawn_by)
    return await judging.verdict(*who, tokens=ANSWER_TOKENS, sample=one.sample)


def row_of(one: Rated, said: Score | Unscored) -> Row:
    """The row of one score."""
    row: Row = dict(zip(("id", "quadrant", "side"), one.key, strict=True))
    row |= {"dimension": one.dimension.value, "sample": one.sample, "status": said.status}
    if isinstance(said, Unscored):
        return row | {"score": None, "reason": said.reason, "explanation": said.detail or None}
    return row | {"score": said.score, "reason": None, "explanation": said.reason or None}


def asking(source: Source, out: Path, how: Judging, form: str) -> Asking[Rated]:
    """The scoring of one file."""
    (replies, about), judge = source, how.who()
    # That the embedded model agrees with itself says nothing.
    repeat = 0 if judge.is_embedded else REPEATED
    options: Row = {
        "format": FORMAT,
        "step": "judge",
        **{kind: about[kind] for kind in ("predictions", "pairs") if kind in about},
        "JUDGE": judge.name,
        "JUDGE_N": how.turns(judge),
        "JUDGE_FORM": form,
        "repeat": repeat,
        "weights": judge.weights,
        "prompts": judge.prompts(TEMPLATES, [*(one.prompt for one in Dimension), USER.name]),
        "smoke": about["smoke"] or judging.is_smoke(judge.name),
    }

    def records() -> list[Rated]:
        """Every score of every reply; then those of the first turns again."""
        again = set(list(dict.fromkeys(one.said.id for one in replies))[:repeat])
        return [
            replace(one, dimension=dimension, sample=sample)
            for sample in (0, 1)
            for one in replies
            if sample == 0 or one.said.id in again
            for dimension in Dimension
        ]

    return Asking(
        folder=RunFolder(out, options, SCORES),
        who=judge,
        records=records,
        ask=partial(ask, judge=judge, kind=Score if form == judging.REASON else Number),
        row=row_of,
        told=partial(summary, source, options),
        report=partial(report, out),
        summary=SUMMARY,
    )


def summary(source: Source, options: Row, rows: Sequence[Row]) -> Row:
    """What ``judge.json`` says of all rows.

    Per dimension the mean, 0 to 5, its 95 % interval, n, what has no score and why, how far a
    second asking agrees, and Spearman's correlation with length. For pairs the means of both sides,
    over the pairs whose two sides are scored, and their difference, as in the paper's Table 2.
    """
    import pandas as pd

    (replies, about), frame = source, pd.DataFrame(rows)
    frame["pair"] = frame["quadrant"].astype(str)
    lengths = {one.key: len(one.said.reply or "") for one in replies}
    frame["length"] = [lengths[row["id"], row["quadrant"], row["side"]] for row in rows]
    units, status = Units.of(frame["id"]), Counter(frame["status"])
    wording = (options["prompts"] or "none")[:12]
    return {
        "source": about,
        "judge": options["JUDGE"],
        "signature": f"judge:{options['JUDGE']}|prompts:{wording}|form:{options['JUDGE_FORM']}"
        f"|temperature:0|scale:0-5|turns:{about['drawn']} of {about['of']} by hash of id",
        "rows": len(rows),
        "counts": {name.replace(" ", "_"): status[name] for name in judging.STATUSES},
        "scale": [SCALE[0], SCALE[-1]],
        "interval": units.said,
        "dimensions": {
            dimension: _told(of, units, "pairs" in about)
            for dimension, of in frame.groupby("dimension", sort=False)
        },
        "smoke": options["smoke"],
    }


def _told(frame: Any, units: Units, are_pairs: bool) -> Row:
    """What is told of one dimension; ``frame`` is pandas', of its rows."""
    from scipy.stats import spearmanr

    first, again = frame[frame["sample"] == 0], frame[frame["sample"] == 1]
    scored = first[first["status"] == SCORED]
    if are_pairs:
        sides = scored.pivot(index=["id", "pair"], columns="side", values="score")
        sides = sides.reindex(columns=SIDES).dropna().astype(float)
        sides["difference"] = sides["chosen"] - sides["rejected"]
        ids = sides.index.get_level_values("id")
        told: Row = {one: mean(list(zip(ids, sides[one], strict=True)), units) for one in sides}
        difference, low = told["difference"], told["rejected"]["value"]
        difference["percent"] = 100 * difference["value"] / low if low else None
        low, high = difference["low"], difference["high"]
        difference["inside_the_noise"] = None if low is None else low <= 0 <= high
        told["n"] = len(sides)
    else:
        told = mean(list(zip(scored["id"], scored["score"].astype(float), strict=True)), units)
    both = scored.merge(again[again["status"] == SCORED], on=["id", "pair", "side"])
    apart = (both["score_x"] - both["score_y"]).astype(float).abs()
    varied = min(scored["score"].nunique(), scored["length"].nunique()) > 1
    # Spearman (1904): ranks' correlation.
    rho = (
        float(spearmanr(scored["score"].astype(float), scored["length"]).statistic)
        if varied
        else None
    )
    why = "scores or lengths are all alike" if len(scored) > 1 else "fewer than two scores"
    return {
        **told,
        **judging.without_score(first.to_dict("records")),
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

    source, dimensions = found["source"], found["dimensions"]
    table = pd.json_normalize(list(dimensions.values())).set_axis(list(dimensions))
    told = " + ".join(f"{n:,} {name.replace('_', ' ')}" for name, n in found["counts"].items())
    left_open = {
        status: sum((Counter(one[status]) for one in dimensions.values()), Counter())
        for status in ("unscored", "failed", "not_judged")
    }
    return "\n".join(
        [
            f"scores      {out / SCORES}: {found['rows']:,} rows = {told}",
            f"drawn       {source['drawn']:,} of {source['of']:,} "
            f"{'pairs' if 'pairs' in source else 'turns'}; judge {found['judge']}",
            table.filter(regex=SHOWN).to_string(float_format="%.2f", na_rep="—"),
            *judging.closing(found | left_open | {"numbered": source["numbered"]}),
        ]
    )


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
) -> int:
    """A judge's scores of replies: Fluency, Professionalism, Empathy and Helpfulness, 0 to 5.

    Of one file, or without one of every complete run of the model, and of its mined pairs.
    """

    def scoring(read: Callable[[Path, int], Source], path: Path, folder: Path) -> Asking[Rated]:
        step.check_apart(folder, path)
        return asking(read(path, how.turns(how.who())), folder, how, form)

    if one := predictions or pairs:
        if not out or (predictions and pairs):
            raise EscError("--predictions FILE, or --pairs FILE, is scored with an --out FOLDER")
        read = of_predictions if predictions else of_pairs
        return judging.ask_all({"scores": partial(scoring, read, one, out)}, how)
    how.who()  # that no key is set is told once
    every = {
        run.name: partial(scoring, of_predictions, run / PREDICTIONS, run / "judge")
        for run in complete_runs(how.work, how.model)
    }
    mined = how.work / paths.preference_file(paths.preference_dataset("rg", how.model))
    if mined.is_file():
        folder = how.work / "runs" / how.model / "pairs_judge"
        every["mined pairs"] = partial(scoring, of_pairs, mined, folder)
    return judging.ask_all(every, how)
