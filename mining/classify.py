"""Which psychological error has each predicted reply, and how often is each (Figures 2 and 7)?

FILE is JSONL, JSON or CSV: predictions of this kit, foreign ones (``GT_strategy``,
``predict_strategy``, ``GT_content``, ``predict_content``), or verdicts that are already there, and
then nobody is asked. Writes to FOLDER ``calls.jsonl``, every answer as it comes, ``errors.jsonl``,
the error of every record, ``proportions.json``, and last ``run.json``. An answer that is no verdict
is *unscored*, kept with its reason; a record without a reply is *not judged*. FAILED_ESCONV names
the corpus whose replies Figure 2 shows beside the systems'; they go to ``runs/failed_esconv``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer

from data_builders import build
from esc import cli, files, step
from esc.files import EscError, Row
from esc.judging import (
    LEFT_OPEN,
    Asking,
    Judge,
    JudgeSending,
    Reason,
    Unscored,
    ask_all,
    ask_each,
    closing,
    every_row,
    is_smoke,
    lost,
    read,
    without_score,
)
from esc.llm import Asks
from esc.predictions import (
    FOREIGN,
    OURS,
    PREDICTIONS,
    Prediction,
    complete_runs,
    named_rows,
    prediction_of,
)
from esc.psych_errors import PsychError, parse
from esc.stats import shares
from esc.step import RunFolder
from mining import judge as questions
from mining.verdicts import ErrorVerdict

ERRORS, PROPORTIONS = "errors.jsonl", "proportions.json"
NOT_JUDGED = "not judged"
STORED = "stored verdicts"
"""Who judged, where rows do not say."""
FORMAT = 2
"""Raised with every change of what its files mean."""
_PAPERS = {"Error Type", "Contains Empathy Error"}
_OWN = {"status", "judge", "error"}
_FORMS = '"Error Type" or "Contains Empathy Error"; or status, judge and error'


@dataclass(frozen=True, slots=True)
class Source:
    """A file's records, all of one form."""

    path: Path
    predictions: list[Prediction]
    stored: list[Row]
    """The rows of verdicts that are already there; with predictions there are none."""
    numbered: int
    """Records without an id; theirs is the row's number, from 0."""
    smoke: bool
    """Whether a row, or what lies beside the file, says that it is of a smoke run."""


def read_source(path: Path) -> Source:
    """The records of a file, in any form that `esc.predictions` reads.

    Raises EscError, naming the row, for whatever is not as it should be.
    """
    predictions: list[Prediction] = []
    stored: list[Row] = []
    numbered = 0
    smoke = step.made_beside(path)
    for named in named_rows(path):
        row, made_with = named.row, named.row.get("provenance")
        numbered += named.numbered
        smoke |= bool(row.get("smoke") or (isinstance(made_with, dict) and made_with.get("smoke")))
        # Pairs, routes and preference sets name errors too, and are no verdicts on predictions.
        is_verdict = bool(_PAPERS & row.keys()) or row.keys() >= _OWN
        if stored and not is_verdict:
            raise EscError(f"{named.where}: no verdict ({_FORMS}), though the first row is one")
        if is_verdict and not predictions:
            stored.append(_stored(named.id, row, named.where))
        elif {OURS[1], FOREIGN[1], "status"} & row.keys():
            predictions.append(prediction_of(named))
        else:
            raise EscError(
                f"{named.where}: neither a prediction ({' and '.join(OURS)}, or "
                f"{' and '.join(FOREIGN)}) nor a stored verdict on one ({_FORMS}); its columns are "
                f"{named.columns}: rename those that are it"
            )
    return Source(path, predictions, stored, numbered, smoke)


def _stored(name: str, row: Row, where: str) -> Row:
    """The row of a verdict that was there already, read as strictly as a judge's answer.

    Where it does not say whether there is an error, its label does.
    """
    judge = row.get("judge") or STORED
    if not isinstance(judge, str):
        raise EscError(f"{where}: its judge is no text")
    if (status := row.get("status")) in LEFT_OPEN:
        why, detail = (str(row.get(key) or "") for key in ("reason", "detail"))
        return row_of(name, judge, None, status, why or status, detail)
    label = row.get("Error Type", row.get("error"))
    says = row.get("Contains Empathy Error", row.get("contains_error"))
    if says is None:
        if not isinstance(label, str) or not label.strip():
            return row_of(name, judge, Unscored(Reason.INCOMPLETE, "no label"))
        says = "No" if parse(label) is PsychError.NONE else "Yes"
    fields = {
        "contains_error": says,
        "error": label,
        "explanation": row.get("Brief Explanation", row.get("explanation")),
        "suggestion": row.get("Improvement Suggestion", row.get("suggestion")),
    }
    return row_of(name, judge, read(ErrorVerdict, orjson.dumps(fields).decode()))


def row_of(
    record: str,
    judge: str,
    said: ErrorVerdict | Unscored | None,
    status: str = "scored",
    reason: str = "",
    detail: str = "",
) -> Row:
    """The row of ``errors.jsonl`` of a verdict, or, with None, of a record that has none."""
    if isinstance(said, Unscored):
        status, reason, detail, said = "unscored", said.reason, said.detail, None
    return {
        "id": record,
        "error": said.error.value if said else None,
        "status": status,
        "reason": str(reason) or None,
        "detail": detail or None,
        "explanation": said.explanation if said else None,
        "suggestion": said.suggestion if said else None,
        "judge": judge,
    }


async def one_error(asks: Asks, record: Prediction | Row, *, judge: Judge | None) -> Row:
    """The row of one reply; CallFailed where its request has no answer."""
    if not isinstance(record, Prediction):
        return record
    assert judge is not None
    if record.reply is None:
        return row_of(record.id, judge.name, None, NOT_JUDGED, record.lacking)
    if judge.is_random:
        return row_of(record.id, judge.name, questions.draw_error(record.id))
    quoted = {"seeker": record.seeker, "strategy": record.strategy, "reply": record.reply}
    chat = questions.question(ErrorVerdict, record.history, **quoted)
    call = questions.verdict_request(record.id, judge.name, ErrorVerdict, chat)
    answer = await asks.ask(call)
    said = read(ErrorVerdict, answer.text, truncated=answer.truncated)
    return row_of(record.id, judge.name, said)


def asking(source: Source, out: Path, judge: Judge | None) -> Asking[Any]:
    """The classification of one file, by nobody where its verdicts are there already.

    Raises EscError where ``out`` is the file's own folder.
    """
    step.check_apart(out, source.path)
    names = [judge.name] if judge else list(dict.fromkeys(row["judge"] for row in source.stored))
    name, smoke = ", ".join(names), source.smoke or any(map(is_smoke, names))
    asks = judge is not None and not judge.is_random
    options = {
        "format": FORMAT,
        "step": "classify",
        "predictions": files.sha256(source.path),
        "JUDGE": judge.name if judge else STORED,
        "prompts": files.sha256_of(questions.files_of(ErrorVerdict)) if asks else None,
        "smoke": smoke,
    }

    def told(rows: Sequence[Row]) -> Row:
        about = {"judge": name, "numbered": source.numbered, "smoke": smoke}
        return proportions(rows) | about

    return Asking(
        folder=RunFolder(out, options, ERRORS),
        what="classifying",
        run={"judge": name, "question": "error of a reply"},
        records=lambda: source.stored or source.predictions,
        work=partial(one_error, judge=judge),
        without=lambda record, failure: row_of(record.id, name, None, *lost(failure)),
        told=told,
        report=partial(report, out),
        models=[name],
        at=judge.urls if judge else None,
        summary=PROPORTIONS,
        judge=judge.urls if judge else "",
    )


def proportions(rows: Sequence[Row]) -> Row:
    """Per error its count, share of the scored records and 95 % interval; the rest counted.

    Shares are 0 to 1, and None where nothing is scored. ``interval`` says whether it resamples
    dialogues, or what else where the ids name none.
    """
    scored = [(row["id"], row["error"]) for row in rows if row["status"] == "scored"]
    table, interval = shares(scored, [error.value for error in PsychError])
    counts = {"records": len(rows), "n": len(scored), "errors": table, "interval": interval}
    return counts | without_score(rows)


def report(out: Path, found: Row) -> str:
    """The numbers one should see: every record once, every error with its interval."""
    import pandas as pd

    table = pd.DataFrame.from_dict(found["errors"], orient="index")
    shares_of = table[["share", "low", "high"]].astype(float) * 100
    shown = table[["count"]].join(shares_of.add_suffix(", %"))
    lines = [
        f"errors      {out / ERRORS}: {found['records']:,} records = "
        f"{every_row(found, found['n'])}; judge {found['judge']}",
        shown.to_string(float_format="%.1f", na_rep="—"),
    ]
    if found["numbered"]:
        told = f"{found['numbered']:,} records have none; theirs is their row, from 0"
        lines.append(f"ids         {told}")
    return "\n".join([*lines, *closing(found)])


@cli.command(
    examples="  python -m mining classify --predictions predictions.jsonl --out errors "
    "--judge random\n"
    "  python -m mining classify --predictions verdicts.jsonl --out errors\n"
    "  python -m mining classify --model qwen2.5-7b --price 0.40/1.60 --dry-run"
)
def main(
    how: JudgeSending,
    predictions: Annotated[Path | None, typer.Option(help="a file of any system")] = None,
    out: Annotated[Path | None, typer.Option(help="a folder, of the one file")] = None,
    failed_esconv: Annotated[
        Path | None, typer.Option(envvar="FAILED_ESCONV", help="FailedESConv.json (Figure 2)")
    ] = None,
) -> int:
    """Which psychological error has each predicted reply, and how often is each (Figures 2 and 7)?

    Of one file, or without one of every complete run of the model, and of FAILED_ESCONV's replies.
    """

    def classifying(path: Path, folder: Path) -> Asking[Any]:
        source = read_source(path)
        if source.stored and how.dry_run:
            print(f"{len(source.stored):,} stored verdicts: nobody is to be asked")
        return asking(source, folder, None if source.stored else how.who())

    def of_failed(corpus: Path) -> Asking[Any]:
        folder = how.work / "runs" / "failed_esconv"
        replies = folder / PREDICTIONS
        build.replies_main(["--esconv", str(corpus), "--out", str(replies)])
        return classifying(replies, folder / "errors")

    if predictions:
        if not out:
            raise EscError("--predictions FILE is classified with an --out FOLDER")
        return ask_all([classifying(predictions, out)], how)
    how.who()  # that no key is set is told once
    every = {
        run.name: partial(classifying, run / PREDICTIONS, run / "errors")
        for run in complete_runs(how.work, how.model)
    }
    if failed_esconv:
        every["FailedESConv"] = partial(of_failed, failed_esconv)
    return ask_each(every, how)
