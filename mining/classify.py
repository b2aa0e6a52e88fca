"""Which psychological error has each predicted reply, and how often is each (Figures 2 and 7)?

FILE is JSONL, JSON or CSV: predictions of this kit, foreign ones (``GT_strategy``,
``predict_strategy``, ``GT_content``, ``predict_content``), or verdicts that are already there, and
then nobody is asked. Writes to FOLDER ``calls.jsonl``, ``errors.jsonl``, the error of every record,
``proportions.json``, and last ``run.json``. An answer that is no verdict is *unscored*, kept with
its reason; a record without a reply is *not judged*.
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
from esc.judging import SCORED, Asking, Judge, JudgeSending, Reason, Unscored
from esc.llm import Asks
from esc.predictions import PREDICTIONS, Named, Prediction
from esc.psych_errors import PsychError, parse
from esc.stats import shares
from esc.step import RunFolder
from mining.verdicts import TEMPLATES, ErrorVerdict, question

ERRORS, PROPORTIONS = "errors.jsonl", "proportions.json"
STORED = "stored verdicts"
"""Who judged, where rows do not say."""
_PAPERS = {"Error Type", "Contains Empathy Error"}
_OWN = {"status", "judge", "error"}


@dataclass(frozen=True, slots=True)
class _Stored:
    """A verdict that is there already."""

    id: str
    judge: str
    said: ErrorVerdict | Unscored


_Record = Prediction | _Stored


def _read(path: Path) -> tuple[list[_Record], Row]:
    """The records, all predictions or all stored verdicts, and what marks them; EscError by row."""
    records: list[_Record] = []
    numbered, smoke = 0, step.made_beside(path)
    for named in predictions.named_rows(path):
        row, made_with = named.row, named.row.get("provenance")
        numbered += named.numbered
        smoke |= bool(row.get("smoke") or (isinstance(made_with, dict) and made_with.get("smoke")))
        # Pairs, routes and preference sets name errors too, and are no verdicts on predictions.
        is_verdict = bool(_PAPERS & row.keys()) or row.keys() >= _OWN
        stored = isinstance(records[0], _Stored) if records else is_verdict
        if stored and not is_verdict:
            raise EscError(f"{named.where}: no verdict, though the first row is one")
        records.append(_stored(named) if stored else predictions.prediction_of(named))
    return records, {"numbered": numbered, "smoke": smoke}


def _stored(named: Named) -> _Stored:
    """Read as strictly as a judge's answer; a label alone says whether there is an error."""
    row, judge = named.row, str(named.row.get("judge") or STORED)
    if (status := row.get("status")) in judging.LEFT_OPEN:
        why, detail = (str(row.get(key) or "") for key in ("reason", "detail"))
        return _Stored(named.id, judge, Unscored(why or status, detail, status))
    label = row.get("Error Type", row.get("error"))
    says = row.get("Contains Empathy Error", row.get("contains_error"))
    if says is None:
        if not isinstance(label, str) or not label.strip():
            return _Stored(named.id, judge, Unscored(Reason.INCOMPLETE, "no label"))
        says = "No" if parse(label) is PsychError.NONE else "Yes"
    fields = {
        "contains_error": says,
        "error": label,
        "explanation": row.get("Brief Explanation", row.get("explanation")),
        "suggestion": row.get("Improvement Suggestion", row.get("suggestion")),
    }
    return _Stored(named.id, judge, ErrorVerdict.read(orjson.dumps(fields).decode()))


async def _ask(asks: Asks, record: _Record, *, judge: Judge) -> ErrorVerdict | Unscored:
    if isinstance(record, _Stored):
        return record.said
    if record.reply is None:
        return Unscored(record.lacking, status=judging.NOT_JUDGED)
    said = {"seeker": record.seeker, "strategy": record.strategy, "reply": record.reply}
    chat, drawn_by = question(ErrorVerdict, record.history, **said), f"error\n{record.id}"
    return await judging.verdict(asks, judge, ErrorVerdict, record.id, chat, drawn_by)


def _row(record: _Record, said: ErrorVerdict | Unscored) -> Row:
    fields = ("error", "status", "reason", "detail", "explanation", "suggestion")
    row: Row = {"id": record.id} | {name: getattr(said, name, None) or None for name in fields}
    return row | ({"judge": record.judge} if isinstance(record, _Stored) else {})


def _proportions(rows: Sequence[Row]) -> Row:
    """Per error its count, share of the scored records (0 to 1) and interval; the rest counted."""
    scored = [(row["id"], row["error"]) for row in rows if row["status"] == SCORED]
    table, interval = shares(scored, [error.value for error in PsychError])
    counts = {"records": len(rows), "n": len(scored), "errors": table, "interval": interval}
    return counts | judging.without_score(rows)


def _report(out: Path, found: Row) -> str:
    """The numbers one should see: every record once, every error with its interval."""
    import pandas as pd

    table = pd.DataFrame.from_dict(found["errors"], orient="index")
    percent = table[["share", "low", "high"]].astype(float) * 100
    shown = table[["count"]].join(percent.add_suffix(", %"))
    return "\n".join(
        [
            f"errors      {out / ERRORS}: {found['records']:,} records = "
            f"{judging.every_row(found, found['n'])}; judge {found['judge']}",
            shown.to_string(float_format="%.1f", na_rep="—"),
            *judging.closing(found),
        ]
    )


def asking(path: Path, out: Path, how: JudgeSending) -> Asking[_Record]:
    """The classification of one file, by nobody where its verdicts are there already."""
    step.check_apart(out, path)
    records, about = _read(path)
    stored = list(dict.fromkeys(one.judge for one in records if isinstance(one, _Stored)))
    judge = Judge(", ".join(stored)) if stored else how.who()
    about["smoke"] |= any(map(judging.is_smoke, stored or [judge.name]))
    options = {
        "format": 2,
        "step": "classify",
        "predictions": files.sha256(path),
        "JUDGE": STORED if stored else judge.name,
        "prompts": None if stored else judge.prompts(TEMPLATES, ErrorVerdict.prompts),
        "smoke": about["smoke"],
    }
    return Asking(
        folder=RunFolder(out, options, ERRORS),
        run={"judge": judge.name, "question": "error of a reply"},
        who=judge,
        records=lambda: records,
        ask=partial(_ask, judge=judge),
        row=_row,
        told=lambda rows: _proportions(rows) | {"judge": judge.name} | about,
        report=partial(_report, out),
        summary=PROPORTIONS,
    )


@cli.command(
    examples="  python -m mining classify --predictions FILE --out errors --judge random\n"
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
        folder = how.work / "runs" / "failed_esconv"
        replies = folder / PREDICTIONS
        build.replies_main(["--esconv", str(failed_esconv), "--out", str(replies)])
        every["FailedESConv"] = partial(asking, replies, folder / "errors", how)
    return judging.ask_all(every, how)
