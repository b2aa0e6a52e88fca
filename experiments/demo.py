"""The kit in small, from nothing: corpus, check, planner, generator, replies, in ``demo/``.

    python -m experiments demo

Runs the same make targets a user runs, with the embedded model and the sample corpus (or ESCONV).
Each stage does nothing where it is done, so the same command goes on after an interruption.
"""

import subprocess
import textwrap
import time
from pathlib import Path

from esc import cli, files, paths
from esc.backbones import EMBEDDED
from esc.exceptions import EscError

STAGES = (
    ("model", "the embedded model, SmolLM2-135M"),
    ("data", "turn-level sets for planner, generator and entangled model"),
    ("check-data", "every row through LLaMA-Factory's converter and tokenizer"),
    ("sft-sp", "fine-tune the strategy planner"),
    ("sft-rg", "fine-tune the response generator"),
    ("predict", "serve both with vLLM; a strategy and a reply for each turn of a test dialogue"),
)
# About two dozen turns, one epoch, and a batch small enough for the loss to make a curve.
LIMIT = "4"
PREDICTED = "1"
TRAIN_ARGS = "num_train_epochs=1.0 gradient_accumulation_steps=4"


def run(esconv: str, work: Path) -> None:
    """Run all stages in ``work``; EscError names the one that failed and its command."""
    variables = [f"MODEL={EMBEDDED}", f"WORK={work}", f"ESCONV={esconv}", f"LIMIT={LIMIT}"]
    times: list[tuple[str, str, float]] = []
    for number, (target, what) in enumerate(STAGES, start=1):
        print(f"\n=== {number}/{len(STAGES)} {target}: {what}", flush=True)
        begin = time.monotonic()
        command = ["make", "--no-print-directory", target, *variables, f"TRAIN_ARGS={TRAIN_ARGS}"]
        if target == "predict":
            command += [f"LIMIT={PREDICTED}", "SYSTEM=decoupled", "STAGE=sft"]
        if subprocess.run(command, check=False).returncode:
            raise EscError(
                f"stage {target} failed (its output is above); 'make demo' goes on there"
            )
        times.append((target, what, time.monotonic() - begin))
    print("\n".join(summary(times, work)))


def summary(times: list[tuple[str, str, float]], work: Path) -> list[str]:
    """The closing lines: stages with their seconds, adapters with their losses, what to do next."""
    lines = ["", "=== done"]
    lines += [f"  {target:<11} {seconds:6.0f} s  {what}" for target, what, seconds in times]
    for task in ("sp", "rg"):
        folder = work / paths.adapter(EMBEDDED, task, "sft")
        facts = files.read_json(folder / "run.json")
        first, last = facts["first_loss"], facts["last_loss"]
        lines.append(f"  adapter     {folder}  (SMOKE: loss {first:.2f} -> {last:.2f})")
    predictions = work / paths.run(EMBEDDED, "decoupled", "sft") / "predictions.jsonl"
    record = next(files.read_jsonl(predictions))
    strategy = record["predicted_strategy"] or f"no strategy in {record['raw_strategy']!r}"
    lines += [
        f"  predictions {predictions}",
        f"    seeker    {_short(record['context']['seeker'])}",
        f"    bot       [{strategy}] {_short(record['predicted_response'] or '')}",
        "SMOKE: an embedded 135M model on a few dozen turns; it shows that all runs, nothing more.",
        "next: make data ESCONV=path/to/ESConv.json, then make sft-sp sft-rg MODEL=qwen2.5-7b",
        f"or talk with it (research software, no counsellor): make chat WORK={work}",
    ]
    return lines


def _short(text: str) -> str:
    return textwrap.shorten(" ".join(text.split()), 80, placeholder=" …")


def main(argv: list[str]) -> None:
    """Command line of the step."""
    parser = cli.parser(
        prog="python -m experiments demo", description=__doc__, examples="  make demo"
    )
    parser.add_argument("--work", type=Path, default=Path("demo"), help="root of what is generated")
    parser.add_argument("--esconv", type=cli.optional, help="corpus; default: the sample corpus")
    arguments = parser.parse_args(argv)
    run(arguments.esconv or "sample", arguments.work)
