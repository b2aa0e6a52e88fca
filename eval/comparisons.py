"""The paper's questions as paired comparisons: two systems on the same turns, with intervals.

    python -m eval compare --model smollm2-135m

Reads ``runs/<model>/<run>/predictions.jsonl`` of the runs that are complete, writes
``runs/<model>/comparisons.json``: for every question of section 6 whose two runs are there, each
difference with the 95 % interval of a bootstrap that resamples both by the same draws, and where
both runs' replies were classified, that of every psychological error's share. A run that cannot be
read or shares no turn leaves out its own questions. The same command again does nothing where the
predictions and errors are the same.
"""

import sys
from pathlib import Path

from tqdm import tqdm

from esc import backbones, cli, files, smoke
from esc.exceptions import EscError
from esc.files import Row
from esc.psych_errors import PsychError
from esc.run_folder import DONE
from esc.strategies import Strategy
from eval.cases import read_cases
from eval.compare import compare, compare_errors
from eval.predict import PREDICTIONS

FORMAT = 3
COMPARISONS = "comparisons.json"
QUESTIONS = (
    ("RQ1: Vanilla DPO less Vanilla SFT", "vanilla_sft", "vanilla_dpo"),
    ("RQ2: Decoupled SFT less Vanilla SFT", "vanilla_sft", "decoupled_sft"),
    ("RQ2: Decoupled DPO less Vanilla DPO", "vanilla_dpo", "decoupled_dpo"),
    ("RQ3: Decoupled DPO less Decoupled SFT", "decoupled_sft", "decoupled_dpo"),
    ("Gold strategy: DPO less SFT", "decoupled-gold_sft", "decoupled-gold_dpo"),
)
ERRORS = Path("errors") / "errors.jsonl"
"""What `mining classify` leaves in a run."""
"""The paper's questions of section 6: what is asked, and of which two runs."""


def comparisons(work: Path, model: str, *, force: bool) -> tuple[Row, bool]:
    """(what ``comparisons.json`` says, whether it was made now).

    A question whose runs cannot be compared stands in ``left_out`` with the reason.
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
        "errors": {
            run: files.sha256(path.parent / ERRORS)
            for run, path in sorted(there.items())
            if (path.parent / ERRORS).is_file()
        },
    }
    path = runs / COMPARISONS
    with files.exclusive(runs / ".comparing"):
        if path.is_file() and not force:
            found: Row = files.read_json(path)
            if found.get("made_with") == made_with:
                return found, False
        rows, left_out = [], []
        for a, b in tqdm(wanted, desc="comparing", unit=" pairs", leave=False):
            try:
                found_here = compare(*(read_cases([there[run]]) for run in (a, b)))
                shares = compare_errors(*(there[run].parent / ERRORS for run in (a, b)))
            except EscError as error:
                # One odd run is none of the others'.
                left_out.append({"a": a, "b": b, "reason": str(error)})
                continue
            rows.append({"a": a, "b": b, **found_here, "errors": shares})
        marked = any(smoke.made_beside(path) for path in there.values())
        found = {
            "made_with": made_with,
            "comparisons": rows,
            "left_out": left_out,
            "smoke": marked,
        }
        files.write_json(path, found)
    return found, True


def main(argv: list[str]) -> int:
    """Command line of the step; 1 where a question of two complete runs has no answer."""
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
        if none := row["errors"]["shares"].get(PsychError.NONE):
            print(
                f"            without an error {none['difference']:+.1f} points: {none['verdict']}"
            )
    for one in found["left_out"]:
        print(f"left out    {one['a']} and {one['b']}: {one['reason']}", file=sys.stderr)
    if not (found["comparisons"] or found["left_out"]):
        print("compared    nothing: no question of the paper has both its runs yet")
    if not made:
        print("of these predictions already; nothing to do")
    if found["smoke"]:
        print("SMOKE       embedded model or sample corpus: it runs, it is no result")
    return 1 if found["left_out"] else 0
