"""The whole loop in small, from nothing: data, SFT, mining, DPO, predictions, evaluation, report.

    python -m experiments demo

Runs the make targets a user runs, in ``demo/``, with the embedded model and the sample corpus (or
ESCONV), and verdicts drawn at random. Each step does nothing where it is done, so the same command
goes on after an interruption. The mixes of Table 5 and Figure 4 and the prompt baselines of Table 3
are left to ``make reproduce``.
"""

import textwrap
from collections.abc import Iterator
from pathlib import Path

from esc import cli, files, paths
from esc.paths import EMBEDDED
from experiments.plan import Sizes, steps
from experiments.runner import Runner
from experiments.variables import smoke_training

NAME = "demo"
VARIABLES = {
    "LIMIT": "1",
    "TRAIN_ARGS": smoke_training(1),
    "JUDGE": "",
    "JUDGE_BASE_URL": "",
}
SIZES = Sizes(mine={"JUDGE": "random", "SAMPLES": "1"}, judge={"JUDGE_N": "1"})


def run(esconv: str, work: Path) -> int:
    """Exit code of the demo: 1 where a step failed."""
    runner = Runner(NAME, EMBEDDED, work, {"ESCONV": esconv} | VARIABLES)
    code = runner.run(steps(EMBEDDED, SIZES, whole=False, judge_is_served=True))
    print("\n".join(closing(work)))
    return code


def closing(work: Path) -> Iterator[str]:
    """What there is to look at now, and what to do next."""
    predictions = work / paths.run(EMBEDDED, "decoupled", "dpo") / "predictions.jsonl"
    if predictions.is_file():
        record = next(files.read_jsonl(predictions))
        strategy = record["predicted_strategy"] or f"no strategy in {record['raw_strategy']!r}"
        yield f"  seeker      {_short(record['context']['seeker'])}"
        yield f"  bot         [{strategy}] {_short(record['predicted_response'] or '')}"
    yield "SMOKE: an embedded 135M model on a handful of turns; it shows that all runs, no more."
    yield "next: make data ESCONV=path/to/ESConv.json, then make sft-sp sft-rg MODEL=qwen2.5-7b"
    yield f"or talk with it (research software, no counsellor): make chat STAGE=dpo WORK={work}"
    report = work / "runs" / EMBEDDED / "report.html"
    if report.is_file():
        yield f"report: {report}"


def _short(text: str) -> str:
    return textwrap.shorten(" ".join(text.split()), 80, placeholder=" …")


def main(argv: list[str]) -> int:
    """Command line of the step."""
    parser = cli.parser(
        prog="python -m experiments demo", description=__doc__, examples="  make demo"
    )
    parser.add_argument("--work", type=Path, default=Path("demo"), help="root of what is generated")
    parser.add_argument("--esconv", type=cli.optional, help="corpus; default: the sample corpus")
    arguments = parser.parse_args(argv)
    return run(arguments.esconv or "sample", arguments.work)
