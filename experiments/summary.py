"""What became of the steps of ``make demo`` or ``make reproduce``, and what to look at now.

    python -m experiments summary --work demo

Reads ``runs/<model>/steps.tsv``, where each step left its name, state and seconds.
"""

import textwrap
from pathlib import Path

from esc import cli, files, paths
from esc.files import EscError
from esc.paths import EMBEDDED, Lineage


@cli.command(examples="  python -m experiments summary --work demo")
def main(work: cli.Work = Path(), model: cli.Model = EMBEDDED, layout: cli.Layout = "turn") -> None:
    """Tell what became of every step of a plan, how long it took, and what there is to look at."""
    path = work / "runs" / model / "steps.tsv"
    if not path.is_file():
        raise EscError(f"{path} is not there; 'make demo' or 'make reproduce' writes it")
    rows = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]
    # Of a step that was run again, the last state counts, and all of its time.
    states = {name: state for name, state, _ in rows}
    print()
    for name, state in states.items():
        seconds = sum(int(took) for one, _, took in rows if one == name)
        print(f"  {name:<24}{seconds:>8,} s  {state}")
    print(f"  {'together':<24}{sum(int(took) for *_, took in rows):>8,} s")
    lineage = Lineage(layout=layout)
    predictions = work / paths.run(model, "decoupled", "dpo", lineage) / "predictions.jsonl"
    if predictions.is_file():
        record = next(files.read_jsonl(predictions))
        strategy = record["predicted_strategy"] or f"no strategy in {record['raw_strategy']!r}"
        print(f"  seeker      {_short(record['context']['seeker'])}")
        print(f"  bot         [{strategy}] {_short(record['predicted_response'] or '')}")
    if model == EMBEDDED:
        print("SMOKE: an embedded 135M model on a handful of turns; it shows that all runs.")
        print("next: make data ESCONV=path/to/ESConv.json, then make sft-sp MODEL=qwen2.5-7b")
    chat = paths.make("chat", work=work, model=model, STAGE="dpo", **lineage.variables)
    print(f"talk with it (research software, no counsellor): {chat}")
    report = work / "runs" / model / "report.html"
    if report.is_file():
        print(f"report: {report}")


def _short(text: str) -> str:
    return textwrap.shorten(" ".join(text.split()), 80, placeholder=" …")
