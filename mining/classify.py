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
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from esc import backbones, cli, files, smoke
from esc.chat.failures import Failure
from esc.chat.job import Job, Sending
from esc.chat.job import add_arguments as add_sending
from esc.chat.meter import Meter
from esc.chat.policy import Asks
from esc.exceptions import EscError
from esc.files import Row
from esc.judge import (
    Judge,
    add_judge_name,
    add_judge_url,
    check_not_all_refused,
    is_smoke,
    judge_for,
    keyless,
)
from esc.predictions import Prediction
from esc.run_folder import RunFolder
from esc.verdicts import read
from mining import questions
from mining.classified import NOT_JUDGED, STORED, Source, read_source
from mining.draws import draw_error
from mining.errors import (
    ERRORS,
    PROPORTIONS,
    error_row,
    failed_row,
    proportions,
    report,
    row_without_error,
    stored_row,
)
from mining.verdicts import ErrorVerdict

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
        return self.source.smoke or smoke.made_beside(self.path) or by_nobody


async def one_error(asks: Asks, record: Prediction, *, judge: Judge) -> Row:
    """The row of one reply; CallFailed where its request has no answer."""
    if judge.is_random:
        return error_row(record.id, judge.name, draw_error(record.id))
    assert record.reply is not None
    chat = questions.classify(record.history, record.seeker, record.strategy, record.reply)
    answer = await asks.ask(
        questions.call(record.id, judge.name, ErrorVerdict, chat, expected="{}")
    )
    verdict = read(ErrorVerdict, answer.text, truncated=answer.truncated)
    return error_row(record.id, judge.name, verdict)


def classify(asked: Asked, out: Path, sending: Sending, *, force: bool) -> int:
    """Exit code: 0 where every record has a row for good, 1 where requests failed.

    Raises EscError for whatever a user can mend.
    """
    if asked.path.resolve().parent == out.resolve():
        raise EscError(f"--out {out} holds the file that is read; name a folder of its own")
    folder = RunFolder(out, options_of(asked), ERRORS, "use another --out, or --force")
    with files.exclusive(folder.path):
        folder.check_own()
        if not sending.dry_run:
            folder.claim(force=force)
            done = folder.finished()
            if done and (out / PROPORTIONS).is_file():
                print(f"{out / ERRORS} is complete with these options; nothing to do")
                print(report(out, done["proportions"]))
                return 0
            (out / PROPORTIONS).unlink(missing_ok=True)
        if asked.judge:
            rows, meter = _judged(asked, asked.judge, folder, sending)
        else:
            rows, meter = [stored_row(one) for one in asked.source.verdicts], None
        if sending.dry_run:
            if not asked.judge:
                print(f"{len(rows):,} stored verdicts: nobody is to be asked")
            return 0
        found = proportions(rows) | {
            "judge": asked.judge_name,
            "numbered": asked.source.numbered,
            "smoke": folder.options["smoke"],
        }
        files.write_json(out / PROPORTIONS, found)
        facts = {"proportions": found} | (_sent(meter) if meter else {})
        folder.write(rows, facts, complete=not found["failed"]["total"])
    print(report(out, found))
    return 1 if found["failed"]["total"] else 0


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


def _judged(
    asked: Asked, judge: Judge, folder: RunFolder, sending: Sending
) -> tuple[list[Row], Meter]:
    """(a row for every record in order, what was sent)."""
    cache = folder.cache({"judge": judge.name, "question": "error of a reply"})
    if cache.repaired:
        print("the last stored answer was torn and is asked for again", file=sys.stderr)
    to_ask = [record for record in asked.source.predictions if record.reply is not None]
    job = Job(
        what="classifying",
        records=to_ask,
        work=partial(one_error, judge=judge),
        cache=cache,
        models=[judge.name],
        weights={},
    )
    rehearsal, rehearsed = job.rehearse()
    meter = Meter(sending.budget, cached=rehearsal.cached)
    if sending.dry_run:
        print(rehearsal.report(sending.budget))
        return [], meter
    results: Sequence[Row | Failure] = rehearsed
    if rehearsal.requests:
        results, meter = job.ask(judge.urls, sending, listed=False)
        check_not_all_refused(", ".join(judge.urls), results)
    found = dict(zip((record.id for record in to_ask), results, strict=True))
    rows = []
    for record in asked.source.predictions:
        result = found.get(record.id)
        if result is None:
            rows.append(row_without_error(record.id, judge.name, NOT_JUDGED, record.lacking))
        elif isinstance(result, Failure):
            rows.append(failed_row(record.id, judge.name, result))
        else:
            rows.append(result)
    return rows, meter


def _sent(meter: Meter) -> Row:
    sent = {"answered": meter.answered, "cached": meter.cached, "failed": meter.failed}
    cost = round(meter.budget.spent, 4) if meter.budget.price else None
    return {"requests": sent, "cost": cost}


def main(argv: list[str]) -> int:
    """Command line of the step."""
    given = _parser().parse_args(argv)
    sending = Sending.of(given)
    source = read_source(given.predictions)
    judge = None
    if not source.verdicts:
        judge = judge_for(given.model, given.judge, given.judge_base_url, keyless=keyless(given))
    asked = Asked(given.predictions, source, judge)
    return classify(asked, given.out, sending, force=given.force)


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
    parser.add_argument(
        "--force", action="store_true", help="make the errors anew; stored answers are kept"
    )
    return parser
