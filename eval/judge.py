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
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from esc import cli, files
from esc.chat.failures import Failure
from esc.chat.job import Sending
from esc.exceptions import EscError
from esc.files import Row
from esc.judge import add_judge_form
from esc.measured_turns import REPEATED
from esc.run_folder import RunFolder
from eval import judging, ratings, scores
from eval.items import Source, of_pairs, of_predictions
from eval.judging import Bench
from eval.scores import FAILED, NOT_JUDGED, SCORED, UNSCORED
from eval.scoring import Question, one_score, questions_of, row_of

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
    """One of `esc.judge.FORMS`."""

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
        "prompts": None if bench.judge.is_random else files.sha256_of(ratings.rating_files()),
        "smoke": asked.is_smoke,
    }


def judge(asked: Asked, out: Path, sending: Sending, *, force: bool) -> int:
    """Exit code: 0 where every score is there or unscored for good, 1 where requests failed.

    Raises EscError for whatever a user can mend.
    """
    if asked.path.resolve().parent == out.resolve():
        raise EscError(f"--out {out} holds the file that is read; name a folder of its own")
    folder = RunFolder(out, options_of(asked), SCORES)
    with files.exclusive(out):
        folder.check_own()
        if not sending.dry_run:
            folder.claim(force=force)
            if folder.finished() and (out / SUMMARY).is_file():
                print(f"{out / SCORES} is complete with these options; nothing to do")
                print(report(out, files.read_json(out / SUMMARY)))
                return 0
            (out / SUMMARY).unlink(missing_ok=True)
        questions = questions_of(asked.source.items, asked.repeat)
        to_ask = [one for one in questions if one.item.reply is not None]
        work = partial(one_score, bench=asked.bench, form=asked.form)
        found = judging.ask(asked.bench, folder, "scores", to_ask, work, sending)
        if found is None:
            return 0
        rows = _rows(asked, questions, to_ask, found[0])
        told = _summary(asked, folder, rows)
        files.write_json(out / SUMMARY, told)
        failed = sum(row["status"] == FAILED for row in rows)
        folder.write(rows, {"scores": told["counts"]} | found[1], complete=not failed)
    print(report(out, told))
    return 1 if failed else 0


def _rows(
    asked: Asked,
    questions: Sequence[Question],
    to_ask: Sequence[Question],
    results: Sequence[Row | Failure],
) -> list[Row]:
    said = dict(zip(to_ask, results, strict=True))
    rows = []
    for question in questions:
        one = said.get(question)
        rows.append(one if isinstance(one, dict) else row_of(question, asked.bench, one))
    return rows


def _summary(asked: Asked, folder: RunFolder, rows: Sequence[Row]) -> Row:
    items = asked.source.items
    lengths = {item.key: len(item.reply or "") for item in items}
    counts = {
        status.replace(" ", "_"): sum(row["status"] == status for row in rows)
        for status in (SCORED, UNSCORED, FAILED, NOT_JUDGED)
    }
    prompts = (folder.options["prompts"] or "none")[:12]
    return {
        "source": {
            "pairs" if asked.pairs else "predictions": files.sha256(asked.path),
            "drawn": asked.source.drawn,
            "of": asked.source.of,
            "numbered": asked.source.numbered,
        },
        "judge": asked.bench.name,
        "signature": f"judge:{asked.bench.name}|prompts:{prompts}|form:{asked.form}"
        "|temperature:0|scale:0-5"
        f"|turns:{asked.source.drawn} of {asked.source.of} by hash of id",
        "rows": len(rows),
        "counts": counts,
        **scores.summary(rows, lengths, pairs=asked.pairs),
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
    lines += scores.report(found)
    lines.append(f"interval    {found['interval']}")
    if counts["failed"]:
        lines.append("incomplete  the same command asks again for what is missing")
    if found["smoke"]:
        lines.append("SMOKE       embedded model, sample corpus or random judge: no result")
    return "\n".join(lines)


def main(argv: list[str]) -> int:
    """Command line of the step."""
    given = _parser().parse_args(argv)
    bench = judging.bench_of(given)
    n = given.n or bench.turns
    repeat = bench.repeated if given.repeat is None else given.repeat
    path, is_pairs = given.pairs or given.predictions, bool(given.pairs)
    source = of_pairs(path, n) if is_pairs else of_predictions(path, n)
    asked = Asked(path, source, is_pairs, bench, n, repeat, given.form)
    return judge(asked, given.out, Sending.of(given), force=given.force)


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
    judging.add_arguments(parser)
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
