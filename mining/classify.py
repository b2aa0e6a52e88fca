"""Which psychological error has each predicted reply, and how often is each (Figures 2 and 7)?

    python -m mining classify --predictions runs/smollm2-135m/decoupled_sft/predictions.jsonl \
        --out runs/smollm2-135m/decoupled_sft/errors

FILE is JSONL, JSON or CSV: predictions of this kit, foreign ones (``GT_strategy``,
``predict_strategy``, ``GT_content``, ``predict_content``), or verdicts that are already there, and
then nobody is asked. Writes to FOLDER ``calls.jsonl``, every answer as it comes, ``errors.jsonl``,
the error of every record, ``proportions.json``, and last ``run.json``. An answer that is no verdict
is *unscored*, kept with its reason; a record without a reply is *not judged*.
"""

import argparse
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import orjson

from esc import backbones, cli, files, step
from esc.exceptions import EscError
from esc.files import Row
from esc.judging import (
    Asking,
    Judge,
    Reason,
    Sending,
    Unscored,
    add_judge_name,
    add_judge_url,
    ask_all,
    is_smoke,
    judge_for,
    keyless,
    lost,
    read,
)
from esc.judging import add_arguments as add_sending
from esc.llm import Asks, Failure
from esc.predictions import FOREIGN, OURS, Prediction, named_rows, prediction_of
from esc.psych_errors import PsychError, parse
from esc.stats import shares
from esc.step import RunFolder
from mining import judge as questions
from mining.judge import draw_error
from mining.verdicts import ErrorVerdict

NOT_JUDGED = "not judged"
STATUSES = ("scored", "unscored", "failed", NOT_JUDGED)
"""Of a row of ``errors.jsonl``."""
STORED = "stored verdicts"
"""Who judged, where rows do not say."""
_PAPERS = {"Error Type", "Contains Empathy Error"}
_OWN = {"status", "judge", "error"}
_FORMS = '"Error Type" or "Contains Empathy Error"; or status, judge and error'


@dataclass(frozen=True, slots=True)
class StoredVerdict:
    """One verdict that is already there."""

    id: str
    status: str
    """One of `STATUSES`."""
    verdict: ErrorVerdict | None
    """Where it is scored."""
    reason: str
    """Where it is not."""
    detail: str
    judge: str


@dataclass(frozen=True, slots=True)
class Source:
    """A file's records, all of one form."""

    predictions: list[Prediction]
    verdicts: list[StoredVerdict]
    """Empty where there are predictions, and the other way round."""
    numbered: int
    """Records without an id; theirs is the row's number, from 0."""
    smoke: bool
    """Whether a row says of itself that it is of a smoke run."""


def read_source(path: Path) -> Source:
    """The records of a file, in any form that `esc.predictions` reads.

    Raises EscError, naming the row, for whatever is not as it should be.
    """
    predictions, verdicts, numbered = [], [], 0
    stored: bool | None = None
    is_smoke = False
    for named in named_rows(path):
        numbered += named.numbered
        is_smoke = is_smoke or _is_smoke(named.row)
        stored = _is_verdict(named.row) if stored is None else stored
        if stored:
            verdicts.append(_stored(named.id, named.row, named.where))
        elif {OURS[1], FOREIGN[1], "status"} & named.row.keys():
            predictions.append(prediction_of(named))
        else:
            raise EscError(
                f"{named.where}: neither a prediction ({' and '.join(OURS)}, or "
                f"{' and '.join(FOREIGN)}) nor a stored verdict on one ({_FORMS}); its columns are "
                f"{named.columns}: rename those that are it"
            )
    return Source(predictions, verdicts, numbered, is_smoke)


def _is_verdict(row: Row) -> bool:
    """Whether it has the form of a row of ``errors.jsonl``, or the paper's names.

    Pairs, routes and preference sets name errors too, and are no verdicts on predictions.
    """
    return bool(_PAPERS & row.keys()) or row.keys() >= _OWN


def _is_smoke(row: Row) -> bool:
    made_with = row.get("provenance")
    return bool(row.get("smoke") or (isinstance(made_with, dict) and made_with.get("smoke")))


def _stored(name: str, row: Row, where: str) -> StoredVerdict:
    if not _is_verdict(row):
        raise EscError(f"{where}: no verdict ({_FORMS}), though the first row is one")
    judge = row.get("judge") or STORED
    if not isinstance(judge, str):
        raise EscError(f"{where}: its judge is no text")
    status = row.get("status")
    if status in STATUSES[1:]:
        told = [str(row.get(key) or "") for key in ("reason", "detail")]
        return StoredVerdict(name, status, None, told[0] or status, told[1], judge)
    verdict = _verdict(row)
    if isinstance(verdict, Unscored):
        return StoredVerdict(name, "unscored", None, verdict.reason, verdict.detail, judge)
    return StoredVerdict(name, "scored", verdict, "", "", judge)


def _verdict(row: Row) -> ErrorVerdict | Unscored:
    """The row's verdict, read as strictly as a judge's answer.

    Where it does not say whether there is an error, its label does.
    """
    label = row.get("Error Type", row.get("error"))
    says = row.get("Contains Empathy Error", row.get("contains_error"))
    if says is None:
        if not isinstance(label, str) or not label.strip():
            return Unscored(Reason.INCOMPLETE, "no label")
        says = "No" if parse(label) is PsychError.NONE else "Yes"
    fields = {
        "contains_error": says,
        "error": label,
        "explanation": row.get("Brief Explanation", row.get("explanation")),
        "suggestion": row.get("Improvement Suggestion", row.get("suggestion")),
    }
    return read(ErrorVerdict, orjson.dumps(fields).decode())


ERRORS, PROPORTIONS = "errors.jsonl", "proportions.json"


def error_row(record: str, judge: str, verdict: ErrorVerdict | Unscored) -> Row:
    """The row of ``errors.jsonl`` of a verdict."""
    if isinstance(verdict, Unscored):
        return row_without_error(record, judge, "unscored", verdict.reason, verdict.detail)
    return {
        "id": record,
        "error": verdict.error.value,
        "status": "scored",
        "reason": None,
        "detail": None,
        "explanation": verdict.explanation,
        "suggestion": verdict.suggestion,
        "judge": judge,
    }


def row_without_error(record: str, judge: str, status: str, reason: str, detail: str = "") -> Row:
    """The row of a record that has no error for good or not yet, with the reason."""
    told = {"status": status, "reason": str(reason), "detail": detail or None}
    nothing = {"explanation": None, "suggestion": None}
    return {"id": record, "error": None, **told, **nothing, "judge": judge}


def stored_row(one: StoredVerdict) -> Row:
    """The row of a verdict that was there already."""
    if one.verdict is not None:
        return error_row(one.id, one.judge, one.verdict)
    return row_without_error(one.id, one.judge, one.status, one.reason, one.detail)


def proportions(rows: Iterable[Row]) -> Row:
    """Per error its count, share of the scored records and 95 % interval; the rest counted.

    Shares are 0 to 1, and None where nothing is scored. ``interval`` says whether it resamples
    dialogues, or what else where the ids name none.
    """
    status: Counter[str] = Counter()
    scored: list[tuple[str, str]] = []
    reasons: Counter[str] = Counter()
    for row in rows:
        status[row["status"]] += 1
        if row["status"] == "scored":
            scored.append((row["id"], row["error"]))
        else:
            reasons[f"{row['status']}: {row['reason']}"] += 1
    table, interval = shares(scored, [error.value for error in PsychError])

    def by_reason(of: str) -> dict[str, int]:
        found = {name.partition(": ")[2]: k for name, k in reasons.most_common() if _is(of, name)}
        return {"total": status[of], **found}

    return {
        "records": status.total(),
        "n": len(scored),
        "errors": table,
        "interval": interval,
        "unscored": by_reason("unscored"),
        "failed": by_reason("failed"),
        "not_judged": by_reason(NOT_JUDGED),
    }


def _is(status: str, name: str) -> bool:
    return name.startswith(f"{status}: ")


def report(out: Path, found: Row) -> str:
    """The numbers one should see: every record once, every error with its interval."""
    lines = [
        f"errors      {out / ERRORS}: {found['records']:,} records = {found['n']:,} scored "
        f"+ {found['unscored']['total']:,} unscored + {found['failed']['total']:,} failed "
        f"+ {found['not_judged']['total']:,} not judged; judge {found['judge']}"
    ]
    if found["numbered"]:
        lines.append(
            f"ids         {found['numbered']:,} records have none; theirs is their row, from 0"
        )
    for name, one in found["errors"].items():
        share = "" if one["share"] is None else f"{one['share']:>8.1%}"
        interval = "" if one["low"] is None else f"   [{one['low']:.1%}, {one['high']:.1%}]"
        lines.append(f"            {name:<20}{one['count']:>7,}{share}{interval}")
    lines.append(f"interval    {found['interval']}")
    for what in ("unscored", "failed", "not_judged"):
        told = [f"{count:,} {why}" for why, count in found[what].items() if why != "total"]
        if told:
            lines.append(f"{what.replace('_', ' '):<12}{', '.join(told)}")
    if found["failed"]["total"]:
        lines.append("incomplete  the same command asks again for what is missing")
    if found["smoke"]:
        lines.append("SMOKE       embedded model, sample corpus or random judge: no result")
    return "\n".join(lines)


FORMAT = 2
"""Raised with every change of what its files mean."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a user asks of a classification."""

    path: Path
    """The file of predictions or verdicts."""
    source: Source
    judge: Judge | None
    """None where the verdicts are there already."""

    @property
    def judge_name(self) -> str:
        """Of the judge, or of those that judged."""
        if self.judge:
            return self.judge.name
        return ", ".join(dict.fromkeys(one.judge for one in self.source.verdicts))

    @property
    def is_smoke(self) -> bool:
        """Whether a random judge, the embedded model or the sample corpus is in it."""
        by_nobody = any(map(is_smoke, self.judge_name.split(", ")))
        return self.source.smoke or step.made_beside(self.path) or by_nobody


async def one_error(asks: Asks, record: Prediction | StoredVerdict, *, judge: Judge | None) -> Row:
    """The row of one reply; CallFailed where its request has no answer."""
    assert judge is not None and isinstance(record, Prediction)
    if judge.is_random:
        return error_row(record.id, judge.name, draw_error(record.id))
    assert record.reply is not None
    chat = questions.classify(record.history, record.seeker, record.strategy, record.reply)
    answer = await asks.ask(
        questions.verdict_request(record.id, judge.name, ErrorVerdict, chat, expected="{}")
    )
    verdict = read(ErrorVerdict, answer.text, truncated=answer.truncated)
    return error_row(record.id, judge.name, verdict)


def options_of(asked: Asked) -> Row:
    """Everything that decides the errors, under the names a user knows."""
    asks = asked.judge is not None and not asked.judge.is_random
    return {
        "format": FORMAT,
        "step": "classify",
        "predictions": files.sha256(asked.path),
        "JUDGE": asked.judge.name if asked.judge else STORED,
        "prompts": files.sha256_of(questions.files_of(ErrorVerdict)) if asks else None,
        "smoke": asked.is_smoke,
    }


def asking(asked: Asked, out: Path) -> Asking[Prediction | StoredVerdict]:
    """The classification of one file; EscError where ``out`` is the file's own folder."""
    if asked.path.resolve().parent == out.resolve():
        raise EscError(f"--out {out} holds the file that is read; name a folder of its own")
    options, judge = options_of(asked), asked.judge

    def without(record: Prediction | StoredVerdict, failure: Failure | None) -> Row:
        if isinstance(record, StoredVerdict):
            return stored_row(record)
        told = lost(failure) if failure else (NOT_JUDGED, record.lacking)
        return row_without_error(record.id, asked.judge_name, *told)

    def told(rows: Sequence[Row]) -> Row:
        about = {"judge": asked.judge_name, "numbered": asked.source.numbered}
        return proportions(rows) | about | {"smoke": options["smoke"]}

    return Asking(
        folder=RunFolder(out, options, ERRORS, "use another --out, or --force"),
        what="classifying",
        run={"judge": asked.judge_name, "question": "error of a reply"},
        records=lambda: asked.source.verdicts or asked.source.predictions,
        work=partial(one_error, judge=judge),
        without=without,
        told=told,
        report=partial(report, out),
        models=[asked.judge_name],
        is_asked=lambda record: isinstance(record, Prediction) and record.reply is not None,
        summary=PROPORTIONS,
        judge=", ".join(judge.urls) if judge else "",
    )


def main(argv: list[str]) -> int:
    """Command line of the step."""
    given = _parser().parse_args(argv)
    sending = Sending.of(given)
    source = read_source(given.predictions)
    judge = None
    if not source.verdicts:
        judge = judge_for(given.model, given.judge, given.judge_base_url, keyless=keyless(given))
    elif sending.dry_run:
        print(f"{len(source.verdicts):,} stored verdicts: nobody is to be asked")
    one = asking(Asked(given.predictions, source, judge), given.out)
    urls = judge.urls if judge else ()
    return ask_all([one], lambda _: nullcontext(urls), sending)


def _parser() -> argparse.ArgumentParser:
    parser = cli.parser(
        prog="python -m mining classify",
        description=__doc__,
        examples=(
            "  python -m mining classify --predictions predictions.jsonl --out errors "
            "--judge random\n"
            "  python -m mining classify --predictions theirs.json --out errors "
            "--model qwen2.5-7b --price 0.40/1.60 --dry-run\n"
            "  python -m mining classify --predictions verdicts.jsonl --out errors"
        ),
    )
    parser.add_argument("--predictions", type=Path, required=True, metavar="FILE")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    backbones.add_model(parser, "whose judge is asked unless one is named")
    add_judge_name(parser)
    add_judge_url(parser)
    add_sending(parser, judge=True)
    return parser
