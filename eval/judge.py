"""A judge's scores of replies: Fluency, Professionalism, Empathy and Helpfulness, 0 to 5.

Of predictions, or of a mined preference set, whose two sides are scored without a word on which is
which (Table 2). Writes ``calls.jsonl``, every answer as it comes, ``scores.jsonl``, ``judge.json``
with the means, and last ``run.json``. An answer that is no score is *unscored*, kept with its
reason. Scores of a model are no verdict of a clinician: research software, no counselling.
"""

import json
import random
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import typer
from pydantic import Field, ValidationError, field_validator

from esc import cli, dialogue, files, judging, paths, prompts, stats, step
from esc.dialogue import JUDGED, JUDGED_BY_EMBEDDED, REPEATED
from esc.files import EscError, Row
from esc.judging import DRAWN, Asking, Judge, JudgeSending, Unscored, Verdict
from esc.llm import Asks, Constraint, Reason
from esc.predictions import PREDICTIONS, Prediction, complete_runs, read_predictions
from esc.prompts import Message
from esc.records import PreferenceRow
from esc.stats import mean, unit_of
from esc.step import RunFolder
from esc.strategies import parse, untagged
from eval import cases

TEMPLATES = Path(__file__).parent / "prompts"
ANSWER_TOKENS = 256
SCALE = range(6)
SIDES = ("chosen", "rejected")
_USER = TEMPLATES / "judge_user.j2"
_FORMAT = 2  # raised with every change of what its files mean
_SCORES, _SUMMARY = "scores.jsonl", "judge.json"
_SHOWN = r"(value|low|high|noise|exact|mean_difference|spearman|^n|repeat\.n)$"


class Dimension(StrEnum):
    """What is rated (section 6.1, Table 8)."""

    FLUENCY = "Fluency"
    PROFESSIONALISM = "Professionalism"
    EMPATHY = "Empathy"
    HELPFULNESS = "Helpfulness"


_SYSTEM = {dimension: f"judge_{dimension.casefold()}.j2" for dimension in Dimension}


@dataclass(frozen=True)
class Judging(JudgeSending):
    """Who judges replies, how it is asked, and how many turns."""

    n: Annotated[
        int | None,
        typer.Option(envvar="JUDGE_N", min=1, help=f"turns, drawn by their id [default: {JUDGED}]"),
    ] = None

    def who(self) -> Judge:
        """The judge a user asks for; of the embedded model this kit's own server's base model."""
        of = self.model, self.work, self.judge, self.judge_base_url
        return judging.base_or(*of, keyless=self.keyless)

    def options(self, judge: Judge, name: str, templates: Sequence[str], *, smoke: bool) -> Row:
        """What decides the answers of a step of this ``name``, but for what is judged."""
        return {
            "format": _FORMAT,
            "step": name,
            "JUDGE": judge.name,
            "JUDGE_N": self.turns(judge),
            "weights": judge.weights,
            "prompts": judge.prompts(TEMPLATES, templates),
            "smoke": smoke or judging.is_smoke(judge.name),
        }

    def turns(self, judge: Judge) -> int:
        """How many turns it is asked about."""
        return self.n or (JUDGED_BY_EMBEDDED if judge.is_embedded else JUDGED)


def signature(options: Row, *about: str) -> str:
    """All that decides a judge's numbers, of a step's options and in words."""
    wording = (options["prompts"] or "none")[:12]
    return "|".join([f"judge:{options['JUDGE']}", f"prompts:{wording}", *about])


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


Reply = tuple[Prediction, Row]
"""A reply, and what tells it from others: ``id`` and, of a pair, ``quadrant`` and ``side``."""
_Asked = tuple[Prediction, Row, Dimension, int]
"""One score to ask for; the number is 1 where it is asked a second time."""
Source = tuple[list[Reply], Row]
"""The replies of a file as they are drawn; and what ``judge.json`` says of the file."""


def of_predictions(path: Path, n: int) -> Source:
    """The replies of ``n`` turns of a predictions file; EscError as `read_predictions`."""
    predictions, numbered = read_predictions(path)
    by_id = {one.id: one for one in predictions}
    drawn = dialogue.order(by_id)[:n]
    told = {"predictions": files.sha256(path), "drawn": len(drawn), "of": len(by_id)}
    told |= {"numbered": numbered, "smoke": step.made_beside(path), "sees": cases.sees(path)}
    return [(by_id[name], {"id": name, "quadrant": None, "side": None}) for name in drawn], told


def of_pairs(path: Path, n: int) -> Source:
    """Both sides of ``n`` pairs of a mined preference set; EscError where a line is no pair.

    Turns are drawn; the pairs of one, of several quadrants, follow one another.
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
    drawn = sorted(found, key=lambda key: (place[key[0]], key[1]))[:n]
    replies: list[Reply] = []
    for pair in map(found.__getitem__, drawn):
        said = [one.value for one in pair.conversations]
        history = tuple(zip(said[:-1:2], map(untagged, said[1::2]), strict=True))
        for side, reply in zip(SIDES, (pair.chosen, pair.rejected), strict=True):
            text = untagged(reply.value) or None
            # The gold reply is never shown beside a pair's side.
            shown = Prediction(pair.id, history, said[-1], "", text, "empty reply", None)
            replies.append((shown, {"id": pair.id, "quadrant": pair.quadrant, "side": side}))
    made_with = [pair.provenance for pair in found.values()]
    smoke = any(one.get("smoke") or judging.is_smoke(str(one.get("judge"))) for one in made_with)
    told = {"pairs": files.sha256(path), "drawn": len(drawn), "of": len(found)}
    return replies, told | {"numbered": 0, "smoke": smoke}


def rating(one: Prediction, dimension: Dimension, kind: type[Score]) -> tuple[Message, ...]:
    """The chat that asks for one score."""
    system = prompts.render(TEMPLATES, _SYSTEM[dimension], with_reason=kind is Score)
    said = {"seeker": one.seeker, "reply": one.reply or "", "reference": one.gold or ""}
    return judging.question(system, _USER, one.history, said, dimension=dimension.value)


def _asking(source: Source, out: Path, how: Judging, form: str) -> Asking[_Asked]:
    (replies, about), judge = source, how.who()
    kind = Score if form == judging.REASON else Number
    # That the embedded model agrees with itself says nothing.
    repeat = 0 if judge.is_embedded else REPEATED
    templates = [*_SYSTEM.values(), _USER.name]
    options = how.options(judge, "judge", templates, smoke=about["smoke"])
    options |= {kind: about[kind] for kind in ("predictions", "pairs") if kind in about}
    options |= {"JUDGE_FORM": form, "repeat": repeat}

    def records() -> list[_Asked]:
        """Every score of every reply; then those of the first turns again."""
        first = list(dict.fromkeys(said.id for said, _ in replies))[:repeat]
        again = [one for one in replies if one[0].id in first]
        both = [(one, sample) for sample, some in enumerate((replies, again)) for one in some]
        return [(*one, dimension, sample) for one, sample in both for dimension in Dimension]

    async def ask(asks: Asks, asked: _Asked) -> Score | Unscored:
        said, key, dimension, sample = asked
        if said.reply is None:
            return Unscored(said.lacking, status=judging.NOT_JUDGED)
        name, chat = " ".join(filter(None, key.values())), rating(said, dimension, kind)
        who = (asks, judge, kind, said.id, chat, f"score\n{name}\n{dimension}\n{sample}")
        return await judging.verdict(*who, tokens=ANSWER_TOKENS, sample=sample)

    def row(asked: _Asked, said: Score | Unscored) -> Row:
        _, key, dimension, sample = asked
        row = key | {"dimension": dimension.value, "sample": sample, "status": said.status}
        if isinstance(said, Unscored):
            return row | {"score": None, "reason": said.reason, "explanation": said.detail or None}
        return row | {"score": said.score, "reason": None, "explanation": said.reason or None}

    return Asking(
        folder=RunFolder(out, options, _SCORES),
        who=judge,
        records=records,
        ask=ask,
        row=row,
        told=partial(_summary, source, options),
        report=partial(_report, out),
        summary=_SUMMARY,
    )


def _summary(source: Source, options: Row, rows: Sequence[Row]) -> Row:
    """What ``judge.json`` says of all rows."""
    import pandas as pd

    replies, about = source
    frame = pd.DataFrame(rows).astype({"quadrant": str, "side": str})
    lengths = {tuple(map(str, key.values())): len(said.reply or "") for said, key in replies}
    unit, status = unit_of(frame["id"]), Counter(frame["status"])
    turns = f"turns:{about['drawn']} of {about['of']} by hash of id{about.get('sees', '')}"
    form = f"form:{options['JUDGE_FORM']}"
    dimensions = frame.groupby("dimension", sort=False)
    return {
        "source": about,
        "judge": options["JUDGE"],
        "signature": signature(options, form, "temperature:0", "scale:0-5", turns),
        "rows": len(rows),
        "counts": {name.replace(" ", "_"): status[name] for name in judging.STATUSES},
        "scale": [SCALE[0], SCALE[-1]],
        "interval": stats.said(unit),
        "dimensions": {name: _told(of, lengths, unit) for name, of in dimensions},
        "smoke": options["smoke"],
    }


def _told(frame: Any, lengths: Mapping[tuple[str, ...], int], unit: str) -> Row:
    """Of one dimension's rows the mean, what has no score and why, how far a second asking agrees,
    and the correlation with length; of pairs the means of both sides, over the pairs whose two
    sides are scored, and their difference, as in the paper's Table 2.
    """
    from scipy.stats import spearmanr

    first, repeated = frame[frame["sample"] == 0], frame["sample"].sum()
    asked = frame.pivot(index=["id", "quadrant", "side"], columns="sample", values="score")
    asked = asked.reindex(columns=[0, 1]).astype(float)
    scored, apart = asked[0].dropna(), (asked[0] - asked[1]).abs().dropna()
    long = [lengths[key] for key in scored.index]

    def mean_of(scores: Any) -> Row:
        return mean(list(zip(scores.index.get_level_values("id"), scores, strict=True)), unit)

    if first["side"].isin(SIDES).any():
        sides = scored.unstack("side").reindex(columns=SIDES).dropna()
        sides["difference"] = sides["chosen"] - sides["rejected"]
        told: Row = {one: mean_of(sides[one]) for one in sides}
        difference, less = told["difference"], told["rejected"]["value"]
        low, high = difference["low"], difference["high"]
        difference["percent"] = 100 * difference["value"] / less if less else None
        difference["inside_the_noise"] = None if low is None else low <= 0 <= high
        told["n"] = len(sides)
    else:
        told = mean_of(scored)
    varied = min(scored.nunique(), len(set(long))) > 1
    # Spearman (1904): ranks' correlation.
    rho = float(spearmanr(scored, long).statistic) if varied else None
    some = "fewer than two scores or lengths that differ"
    agreed = {
        "exact": float((apart == 0).mean()) if len(apart) else None,
        "mean_difference": float(apart.mean()) if len(apart) else None,
    }
    return {
        **told,
        **judging.without_score(first.to_dict("records")),
        "repeat": {"asked": int(repeated), "n": len(apart)} | agreed,
        "length": {"spearman": rho, "n": len(scored), "note": None if varied else some},
    }


def _report(out: Path, found: Row) -> str:
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
            f"scores      {out / _SCORES}: {found['rows']:,} rows = {told}",
            f"drawn       {source['drawn']:,} of {source['of']:,} "
            f"{'pairs' if 'pairs' in source else 'turns'}; judge {found['judge']}",
            table.filter(regex=_SHOWN).to_string(float_format="%.2f", na_rep="—"),
            *judging.closing(found | left_open | {"numbered": source["numbered"]}),
        ]
    )


@cli.command(
    examples="  python -m eval judge --predictions predictions.jsonl --out judged --judge random\n"
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

    def scoring(read: Callable[[Path, int], Source], path: Path, folder: Path) -> Asking[_Asked]:
        step.check_apart(folder, path)
        return _asking(read(path, how.turns(how.who())), folder, how, form)

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
