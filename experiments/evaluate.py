"""What is missing of the evaluation of every system whose predictions exist.

    python -m experiments evaluate --model smollm2-135m

Goes through ``runs/<model>/*/predictions.jsonl``: automatic metrics, the judge's scores, and the
psychological error of each reply; then the judge's scores of mined pairs (Table 2). Each is the
step a user runs alone, and does nothing where it is done; one that fails does not take down the
others, and makes the exit code 1. ``--max-cost`` is one limit for all of them. Where none fails,
``runs/<model>/evaluated.json`` says of which predictions, and what came out.
"""

import argparse
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from esc import backbones, cli, files, paths
from esc.exceptions import EscError
from esc.files import Row
from esc.paths import EMBEDDED
from esc.step import CALLS, DONE
from experiments.asking import Asking, add_arguments

PREDICTIONS = "predictions.jsonl"
EVALUATED = "evaluated.json"
METRICS, READ = "metrics", "replies"


@dataclass(frozen=True, slots=True)
class Step:
    """One step of one system, or of the mined pairs."""

    of: str
    what: str
    command: tuple[str, ...]
    """After ``python -m``."""
    result: Path
    """The file that says what came out."""
    asks: bool = False
    """Whether it asks a judge; the answers are beside its result."""

    @property
    def name(self) -> str:
        """As a closing line tells it."""
        return f"{self.of} {self.what}"


def steps(work: Path, model: str, force: bool, failed: Path | None) -> Iterator[Step]:
    """Every step, in order; EscError where there are no predictions."""
    again = ("--force",) if force else ()
    whose = ("--model", model, "--work", str(work))
    root = work / "runs" / model
    runs = [folder.parent for folder in sorted(root.glob(f"*/{PREDICTIONS}"))]
    if not runs:
        make = paths.make("predict", work=work, model=model)
        raise EscError(f"no predictions in {root}; {make} makes them")
    for folder in runs:
        source = str(folder / PREDICTIONS)
        of = ("--predictions", source, "--out")
        if not (folder / DONE).is_file():
            print(f"note: {source} is not complete and left out; make predict goes on with it")
            continue
        measure = ("eval", "metrics", *of, str(folder), *again)
        yield Step(folder.name, METRICS, measure, folder / "metrics.json")
        out = folder / "judge"
        score = ("eval", "judge", *of, str(out), *whose, *again)
        yield Step(folder.name, "judge", score, out / "judge.json", asks=True)
        yield _errors(folder.name, folder, model, again)
    compare = ("eval", "compare", *whose, *again)
    yield Step("all systems", "paired comparisons", compare, root / "comparisons.json")
    pairs = work / paths.preference_file(paths.preference_dataset("rg", model))
    if pairs.is_file():
        out = root / "pairs_judge"
        score = ("eval", "judge", "--pairs", str(pairs), "--out", str(out), *whose, *again)
        yield Step("mined pairs", "judge (Table 2)", score, out / "judge.json", asks=True)
    if failed:
        folder = work / "runs" / "failed_esconv"
        replies = folder / PREDICTIONS
        read = ("data_builders", "replies", "--esconv", str(failed), "--out", str(replies))
        yield Step("FailedESConv", READ, read, replies)
        yield _errors("FailedESConv", folder, model, again)


def _errors(of: str, folder: Path, model: str, again: tuple[str, ...]) -> Step:
    out = folder / "errors"
    read = ("--predictions", str(folder / PREDICTIONS), "--out", str(out))
    command = ("mining", "classify", *read, "--model", model, *again)
    return Step(of, "errors", command, out / "proportions.json", asks=True)


def evaluate(
    work: Path, model: str, asking: Asking, *, force: bool = False, failed: Path | None = None
) -> int:
    """Exit code: 0 where every step ended well, 1 where one did not or the money did not reach."""
    wanted = list(steps(work, model, force, failed))
    if asking.dry_run:
        wanted = list(_rehearsed(wanted))
    evaluated = work / "runs" / model / EVALUATED
    if not asking.dry_run:
        # What is there from before must not stand for an evaluation that fails now.
        evaluated.unlink(missing_ok=True)
    broken, unpaid = [], []
    for number, step in enumerate(wanted, start=1):
        if step.asks and asking.spent:
            unpaid.append(step.name)
            continue
        print(f"--- {number}/{len(wanted)} {step.of}: {step.what}", flush=True)
        if _code(step, asking):
            broken.append(step.name)
    if unpaid:
        limit, spent = asking.budget.limit, asking.budget.spent
        print(f"MAX_COST={limit:g} is spent ({spent:.4f}); not asked: {', '.join(unpaid)}")
    if broken:
        print(f"failed: {', '.join(broken)} (see above); the same command goes on with them")
    if broken or unpaid:
        return 1
    if not asking.dry_run:
        files.write_json(evaluated, _evaluated(work, model, wanted))
    return 0


def _rehearsed(wanted: Sequence[Step]) -> Iterator[Step]:
    """Those that can say what they would ask."""
    unread = {one.of for one in wanted if one.what == READ and not one.result.is_file()}
    for of in unread:
        print(f"note: the replies of {of} are not read yet: what they would take is not told here")
    yield from (one for one in wanted if one.asks and one.of not in unread)


def _code(step: Step, asking: Asking) -> int:
    if step.asks:
        return asking.run(step.command, step.result.with_name(CALLS))
    return subprocess.run([sys.executable, "-m", *step.command], check=False).returncode


def _evaluated(work: Path, model: str, done: Sequence[Step]) -> Row:
    """The hashes of what was evaluated, and of what came out."""
    root = work / "runs" / model
    systems = [step.of for step in done if step.what == METRICS]
    return {
        "predictions": {name: files.sha256(root / name / PREDICTIONS) for name in systems},
        "results": {str(s.result.relative_to(work)): files.sha256(s.result) for s in done},
    }


def main(argv: list[str]) -> int:
    """Command line of the step."""
    given = _parser().parse_args(argv)
    backbones.get(given.model)
    how = Asking.of(given)
    return evaluate(given.work, given.model, how, force=given.force, failed=given.failed_esconv)


def _parser() -> argparse.ArgumentParser:
    parser = cli.parser(
        prog="python -m experiments evaluate",
        description=__doc__,
        examples="  python -m experiments evaluate\n"
        "  JUDGE_N=20 python -m experiments evaluate --model qwen2.5-7b",
    )
    parser.add_argument("--model", default=EMBEDDED, help="folder of llamafactory_configs")
    parser.add_argument("--work", type=Path, default=Path(), help="root of what is generated")
    parser.add_argument(
        "--failed-esconv",
        type=lambda text: Path(text) if text else None,
        help="FailedESConv.json, whose errors Figure 2 shows beside the systems'",
    )
    add_arguments(parser)
    parser.add_argument("--force", action="store_true", help="renew what other options made")
    return parser
