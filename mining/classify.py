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
from typing import Annotated

import orjson
import typer

from data_builders import build
from esc import cli, files, judging, predictions, step
from esc.files import EscError, Row
from esc.judging import SCORED, Asking, Judge, JudgeSending, Unscored
from esc.llm import Asks, Reason
from esc.predictions import PREDICTIONS, Named, Prediction
from esc.psych_errors import PsychError, parse
from esc.stats import shares
from esc.step import RunFolder
from mining.verdicts import TEMPLATES, ErrorVerdict, question

ERRORS, PROPORTIONS = "errors.jsonl", "proportions.json"
STORED = "stored verdicts"
"""Who judged, where rows do not say."""
FORMAT = 2
"""Raised with every change of what its files mean."""
_PAPERS = {"Error Type", "Contains Empathy Error"}
_OWN = {"status", "judge", "error"}


@dataclass(frozen=True, slots=True)
class Stored:
    """A verdict that is there already."""

    id: str
    judge: str
    said: ErrorVerdict | Unscored


Record = Prediction | Stored


def read_records(path: Path) -> tuple[list[Record], Row]:
    """The records of a file, all predictions or all stored verdicts; how many of them have no id,
    and whether a row, or what lies beside the file, says that it is of a smoke run.

    Raises EscError, naming the row, for whatever is not as it should be.
    """
    records: list[Record] = []
    numbered, smoke = 0, step.made_beside(path)
    for named in predictions.named_rows(path):
        row, made_with = named.row, named.row.get("provenance")
        numbered += named.numbered
        smoke |= bool(row.get("smoke") or (isinstance(made_with, dict) and made_with.get("smoke")))
        # Pairs, routes and preference sets name errors too, and are no verdicts on predictions.
        is_verdict = bool(_PAPERS & row.keys()) or row.keys() >= _OWN
        stored = isinstance(records[0], Stored) if records else is_verdict
        if stored and not is_verdict:
            raise EscError(f"{named.where}: no verdict, though the first row is one")
        records.append(_stored(named) if stored else predictions.prediction_of(named))
    return records, {"numbered": numbered, "smoke": smoke}


def _stored(named: Named) -> Stored:
    """A verdict that was there already, read as strictly as a judge's answer.

    Where it does not say whether there is an error, its label does.
    """
    row, judge = named.row, str(named.row.get("judge") or STORED)
    if (status := row.get("status")) in judging.LEFT_OPEN:
        why, detail = (str(row.get(key) or "") for key in ("reason", "detail"))
        return Stored(named.id, judge, Unscored(why or status, detail, status))
    label = row.get("Error Type", row.get("error"))
    says = row.get("Contains Empathy Error", row.get("contains_error"))
    if says is None:
        if not isinstance(label, str) or not label.strip():
            return Stored(named.id, judge, Unscored(Reason.INCOMPLETE, "no label"))
        says = "No" if parse(label) is PsychError.NONE else "Yes"
    fields = {
        "contains_error": says,
        "error": label,
        "explanation": row.get("Brief Explanation", row.get("explanation")),
        "suggestion": row.get("Improvement Suggestion", row.get("suggestion")),
    }
    return Stored(named.id, judge, ErrorVerdict.read(orjson.dumps(fields).decode()))


async def ask(asks: Asks, record: Record, *, judge: Judge) -> ErrorVerdict | Unscored:
    """The error of one reply; Failure where its request has no answer."""
    if isinstance(record, Stored):
        return record.said
    if record.reply is None:
        return Unscored(record.lacking, status=judging.NOT_JUDGED)
    said = {"seeker": record.seeker, "strategy": record.strategy, "reply": record.reply}
    chat, drawn_by = question(ErrorVerdict, record.history, **said), f"error\n{record.id}"
    return await judging.verdict(asks, judge, ErrorVerdict, record.id, chat, drawn_by)


def row_of(record: Record, said: ErrorVerdict | Unscored) -> Row:
    """The row of ``errors.jsonl``."""
    found: Row = {"id": record.id, "error": None, "status": said.status}
    found |= dict.fromkeys(("reason", "detail", "explanation", "suggestion"))
    found |= {"judge": record.judge} if isinstance(record, Stored) else {}
    if isinstance(said, Unscored):
        return found | {"reason": said.reason, "detail": said.detail or None}
    return found | said.model_dump(mode="json", exclude={"contains_error"})


def asking(path: Path, out: Path, how: JudgeSending) -> Asking[Record]:
    """The classification of one file, by nobody where its verdicts are there already.

    Raises EscError where ``out`` is the file's own folder.
    """
    step.check_apart(out, path)
    records, about = read_records(path)
    stored = list(dict.fromkeys(one.judge for one in records if isinstance(one, Stored)))
    judge = Judge(", ".join(stored)) if stored else how.who()
    about["smoke"] |= any(map(judging.is_smoke, stored or [judge.name]))
    options = {
        "format": FORMAT,
        "step": "classify",
        "predictions": files.sha256(path),
        "JUDGE": STORED if stored else judge.name,
        "prompts": None if stored else judge.prompts(TEMPLATES, ErrorVerdict.prompts),
        "smoke": about["smoke"],
    }
    return Asking(
        folder=RunFolder(out, options, ERRORS),
        who=judge,
        records=lambda: records,
        ask=partial(ask, judge=judge),
        row=row_of,
        told=lambda rows: proportions(rows) | {"judge": judge.name} | about,
        report=partial(report, out),
        summary=PROPORTIONS,
    )


def proportions(rows: Sequence[Row]) -> Row:
    """Per error its count, share of the scored records (0 to 1) and interval; the rest counted."""
    scored = [(row["id"], row["error"]) for row in rows if row["status"] == SCORED]
    table, interval = shares(scored, [error.value for error in PsychError])
    counts = {"records": len(rows), "n": len(scored), "errors": table, "interval": interval}
    return counts | judging.without_score(rows)


def report(out: Path, found: Row) -> str:
    """The numbers one should see: every record once, every error with its interval."""
    import pandas as pd

    table = pd.DataFrame.from_dict(found["errors"], orient="index")
    shares_of = table[["share", "low", "high"]].astype(float) * 100
    shown = table[["count"]].join(shares_of.add_suffix(", %"))
    return "\n".join(
        [
            f"errors      {out / ERRORS}: {found['records']:,} records = "
            f"{judging.every_row(found, found['n'])}; judge {found['judge']}",
            shown.to_string(float_format="%.1f", na_rep="—"),
            *judging.closing(found),
        ]
    )


@cli.command(
    examples="  python -m mining classify --predictions predictions.jsonl --out errors "
    "--judge random\n"
    "  python -m mining classify --predictions verdicts.jsonl --out errors\n"
    "  python -m mining classify --model qwen2.5-7b --price 0.40/1.60 --dry-run"
)
def main(
    how: JudgeSending,
    predicted: Annotated[
        Path | None, typer.Option("--predictions", help="a file of any system")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="a folder, of the one file")] = None,
    failed_esconv: Annotated[
        Path | None, typer.Option(envvar="FAILED_ESCONV", help="FailedESConv.json (Figure 2)")
    ] = None,
) -> int:
    """Which psychological error has each predicted reply, and how often is each (Figures 2 and 7)?

    Of one file, or without one of every complete run of the model, and of FAILED_ESCONV's replies.
    """

    def of_failed(corpus: Path) -> Asking[Record]:
        folder = how.work / "runs" / "failed_esconv"
        replies = folder / PREDICTIONS
        build.replies_main(["--esconv", str(corpus), "--out", str(replies)])
        return asking(replies, folder / "errors", how)

    if predicted:
        if not out:
            raise EscError("--predictions FILE is classified with an --out FOLDER")
        return judging.ask_all({"classifying": partial(asking, predicted, out, how)}, how)
    how.who()  # that no key is set is told once
    every = {
        run.name: partial(asking, run / PREDICTIONS, run / "errors", how)
        for run in predictions.complete_runs(how.work, how.model)
    }
    if failed_esconv:
        every["FailedESConv"] = partial(of_failed, failed_esconv)
    return judging.ask_all(every, how)
