"""What is missing of the evaluation of every system whose predictions exist.

    python -m experiments evaluate --model smollm2-135m

Goes through ``runs/<model>/*/predictions.jsonl``: automatic metrics, the judge's scores, and the
psychological error of each reply; then the judge's scores of mined pairs (Table 2). Each is the
step a user runs alone, and does nothing where it is done; one that fails does not take down the
others, and makes the exit code 1. Where none fails, ``runs/<model>/evaluated.json`` says of which
predictions.
"""

import argparse
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from esc import backbones, cli, commands, files, paths
from esc.exceptions import EscError

PREDICTIONS, DONE = "predictions.jsonl", "run.json"
EVALUATED = "evaluated.json"
METRICS = "metrics"


@dataclass(frozen=True, slots=True)
class Step:
    """One step of one system, or of the mined pairs."""

    of: str
    what: str
    command: tuple[str, ...]
    """After ``python -m``."""


def steps(work: Path, model: str, force: bool, failed: Path | None) -> Iterator[Step]:
    """Every step, in order; EscError where there are no predictions."""
    again = ("--force",) if force else ()
    whose = ("--model", model, "--work", str(work))
    runs = [folder.parent for folder in sorted((work / "runs" / model).glob(f"*/{PREDICTIONS}"))]
    if not runs:
        make = commands.make("predict", work=work, model=model)
        raise EscError(f"no predictions in {work / 'runs' / model}; {make} makes them")
    for folder in runs:
        source = str(folder / PREDICTIONS)
        of = ("--predictions", source, "--out")
        if not (folder / DONE).is_file():
            print(f"note: {source} is not complete and left out; make predict goes on with it")
            continue
        yield Step(folder.name, METRICS, ("eval", "metrics", *of, str(folder), *again))
        yield Step(
            folder.name, "judge", ("eval", "judge", *of, str(folder / "judge"), *whose, *again)
        )
        yield Step(
            folder.name,
            "errors",
            ("mining", "classify", *of, str(folder / "errors"), "--model", model, *again),
        )
    yield Step("all systems", "paired comparisons", ("eval", "compare", *whose, *again))
    pairs = work / paths.preference_file(paths.preference_dataset("rg", model))
    if pairs.is_file():
        out = str(work / "runs" / model / "pairs_judge")
        judged = ("eval", "judge", "--pairs", str(pairs), "--out", out, *whose, *again)
        yield Step("mined pairs", "judge (Table 2)", judged)
    if failed:
        folder = work / "runs" / "failed_esconv"
        replies = str(folder / PREDICTIONS)
        read = ("data_builders", "replies", "--esconv", str(failed), "--out", replies)
        yield Step("FailedESConv", "replies", read)
        found = ("--predictions", replies, "--out", str(folder / "errors"))
        yield Step(
            "FailedESConv", "errors", ("mining", "classify", *found, "--model", model, *again)
        )


def evaluate(work: Path, model: str, *, force: bool, failed: Path | None) -> int:
    """Exit code: 0 where every step ended well, 1 where one did not."""
    wanted = list(steps(work, model, force, failed))
    broken = []
    for number, step in enumerate(wanted, start=1):
        print(f"--- {number}/{len(wanted)} {step.of}: {step.what}", flush=True)
        if subprocess.run([sys.executable, "-m", *step.command], check=False).returncode:
            broken.append(f"{step.of} {step.what}")
    if broken:
        print(f"failed: {', '.join(broken)} (see above); the same command goes on with them")
        return 1
    found = {
        step.of: files.sha256(work / "runs" / model / step.of / PREDICTIONS)
        for step in wanted
        if step.what == METRICS
    }
    files.write_json(work / "runs" / model / EVALUATED, {"predictions": found})
    return 0


def main(argv: list[str]) -> int:
    """Command line of the step."""
    given = _parser().parse_args(argv)
    backbones.get(given.model)
    return evaluate(given.work, given.model, force=given.force, failed=given.failed_esconv)


def _parser() -> argparse.ArgumentParser:
    parser = cli.parser(
        prog="python -m experiments evaluate",
        description=__doc__,
        examples="  python -m experiments evaluate\n"
        "  JUDGE_N=20 python -m experiments evaluate --model qwen2.5-7b",
    )
    parser.add_argument(
        "--model", default=backbones.EMBEDDED, help="folder of llamafactory_configs"
    )
    parser.add_argument("--work", type=Path, default=Path(), help="root of what is generated")
    parser.add_argument(
        "--failed-esconv",
        type=lambda text: Path(text) if text else None,
        help="FailedESConv.json, whose errors Figure 2 shows beside the systems'",
    )
    parser.add_argument("--force", action="store_true", help="renew what other options made")
    return parser
