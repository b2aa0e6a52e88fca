"""The paper's questions as paired comparisons: two systems on the same turns, with intervals.

    python -m eval compare --model smollm2-135m

Reads ``runs/<model>/<run>/predictions.jsonl`` of the runs that are complete, writes
``runs/<model>/comparisons.json``: for every question of section 6 whose two runs are there, each
difference with the 95 % interval of a bootstrap that resamples both by the same draws. The same
command again does nothing where the predictions are the same.
"""

from pathlib import Path

from tqdm import tqdm

from esc import backbones, cli, files, smoke
from esc.files import Row
from esc.run_folder import DONE
from esc.strategies import Strategy
from eval.cases import read_cases
from eval.compare import compare
from eval.predict import PREDICTIONS

FORMAT = 2
COMPARISONS = "comparisons.json"
QUESTIONS = (
    ("RQ1: Vanilla DPO less Vanilla SFT", "vanilla_sft", "vanilla_dpo"),
    ("RQ2: Decoupled SFT less Vanilla SFT", "vanilla_sft", "decoupled_sft"),
    ("RQ2: Decoupled DPO less Vanilla DPO", "vanilla_dpo", "decoupled_dpo"),
    ("RQ3: Decoupled DPO less Decoupled SFT", "decoupled_sft", "decoupled_dpo"),
    ("Gold strategy: DPO less SFT", "decoupled-gold_sft", "decoupled-gold_dpo"),
)
"""The paper's questions of section 6: what is asked, and of which two runs."""


def comparisons(work: Path, model: str, *, force: bool) -> tuple[Row, bool]:
    """(what ``comparisons.json`` says, whether it was made now).

    Raises EscError where predictions cannot be read, or two runs share no turn.
    """
    runs = work / "runs" / model
    there = {
        run: runs / run / PREDICTIONS
        for _, *both in QUESTIONS
        for run in both
        if (runs / run / DONE).is_file() and (runs / run / PREDICTIONS).is_file()
    }
    wanted = [(a, b) for _, a, b in QUESTIONS if a in there and b in there]
    made_with = {
        "format": FORMAT,
        "strategies": [strategy.value for strategy in Strategy],
        "predictions": {run: files.sha256(path) for run, path in sorted(there.items())},
    }
    path = runs / COMPARISONS
    with files.exclusive(runs / ".comparing"):
        if path.is_file() and not force:
            found: Row = files.read_json(path)
            if found.get("made_with") == made_with:
                return found, False
        read = {run: read_cases([path]) for run, path in there.items()}
        rows = [
            {"a": a, "b": b, **compare(read[a], read[b])}
            for a, b in tqdm(wanted, desc="comparing", unit=" pairs", leave=False)
        ]
        marked = any(smoke.made_beside(path) for path in there.values())
        found = {"made_with": made_with, "comparisons": rows, "smoke": marked}
        files.write_json(path, found)
    return found, True


def main(argv: list[str]) -> None:
    """Command line of the step."""
    parser = cli.parser(
        prog="python -m eval compare",
        description=__doc__,
        examples="  python -m eval compare\n  python -m eval compare --model qwen2.5-7b",
    )
    backbones.add_model(parser)
    cli.add_work(parser)
    parser.add_argument("--force", action="store_true", help="compare anew")
    given = parser.parse_args(argv)
    backbones.get(given.model)
    found, made = comparisons(given.work, given.model, force=given.force)
    for row in found["comparisons"]:
        bias = row["numbers"]["strategy.bias"]
        print(f"compared    {row['a']} and {row['b']}: {row['n']} turns, bias {bias['verdict']}")
    if not found["comparisons"]:
        print("compared    nothing: no question of the paper has both its runs yet")
    if not made:
        print("of these predictions already; nothing to do")
    if found["smoke"]:
        print("SMOKE       embedded model or sample corpus: it runs, it is no result")
