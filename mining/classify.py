"""Which psychological error has each predicted reply, and how often is each (Figures 2 and 7)?

FILE is JSONL, JSON or CSV: predictions of this kit, foreign ones (``GT_strategy``,
``predict_strategy``, ``GT_content``, ``predict_content``), or verdicts that are already there, and
then nobody is asked. Writes to FOLDER ``calls.jsonl``, ``errors.jsonl``, the error of every record,
``proportions.json``, and last ``run.json``. An answer that is no verdict is *unscored*, kept with
its reason; a record without a reply is *not judged*.
"""

from collections.abc import Sequence
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
from esc.predictions import PREDICTIONS, Prediction
from esc.psych_errors import PsychError, parse
from esc.stats import shares
from esc.step import RunFolder
from mining.verdicts import TEMPLATES, ErrorVerdict, question

ERRORS, PROPORTIONS = "errors.jsonl", "proportions.json"
STORED = "stored verdicts"
"""Who judged, where rows do not say."""
_PAPERS = {"Error Type", "Contains Empathy Error"}
_OWN = {"status", "judge", "error"}


_Record = tuple[str, Row, Prediction | ErrorVerdict | Unscored]
"""Its id; the ``judge`` of a stored verdict, else nothing; what is judged, or the verdict."""


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
        stored = bool(records[0][1]) if records else is_verdict
        if stored and not is_verdict:
            raise EscError(f"{named.where}: no verdict, though the first row is one")
        said = _stored(row) if stored else predictions.prediction_of(named)
        by = {"judge": str(row.get("judge") or STORED)} if stored else {}
        records.append((named.id, by, said))
    return records, {"numbered": numbered, "smoke": smoke}


def _stored(row: Row) -> ErrorVerdict | Unscored:
    """Read as strictly as a judge's answer; a label alone says whether there is an error."""
    if (status := row.get("status")) in judging.LEFT_OPEN:
        return Unscored(str(row.get("reason") or status), str(row.get("detail") or ""), status)
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
    return ErrorVerdict.read(orjson.dumps(fields).decode())


async def _ask(asks: Asks, record: _Record, *, judge: Judge) -> ErrorVerdict | Unscored:
    name, _, said = record
    if not isinstance(said, Prediction):
        return said
    if said.reply is None:
        return Unscored(said.lacking, status=judging.NOT_JUDGED)
    quoted = {"seeker": said.seeker, "strategy": said.strategy, "reply": said.reply}
    chat = question(ErrorVerdict, said.history, **quoted)
    return await judging.verdict(asks, judge, ErrorVerdict, name, chat, f"error\n{name}")


def _row(record: _Record, said: ErrorVerdict | Unscored) -> Row:
    fields = ("error", "status", "reason", "detail", "explanation", "suggestion")
    return {"id": record[0]} | {n: getattr(said, n, None) or None for n in fields} | record[1]


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
    every = judging.every_row(found, found["n"])
    head = (
        f"errors      {out / ERRORS}: {found['records']:,} records = {every}; by {found['judge']}"
    )
    return "\n".join(
        [head, shown.to_string(float_format="%.1f", na_rep="—"), *judging.closing(found)]
    )


def asking(path: Path, out: Path, how: JudgeSending) -> Asking[_Record]:
    """The classification of one file, by nobody where its verdicts are there already."""
    step.check_apart(out, path)
    records, about = _read(path)
    stored = list(dict.fromkeys(by["judge"] for _, by, _ in records if by))
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
