r"""All automatic metrics of a system's predictions, with intervals, beside what no skill gives.

    python -m eval metrics --predictions runs/smollm2-135m/decoupled_sft/predictions.jsonl \
        --out runs/smollm2-135m/decoupled_sft

Reads one file of predictions (JSONL, JSON or CSV, this kit's or with foreign field names), or
the parts of one. Takes gold from inside the file: no corpus and no ids are needed; without dialogue
ids (``231-7``) rows are resampled. Writes ``FOLDER/metrics.json``. Failed records are counted and
left out; whatever else cannot be read stops the step and names the row. The same command again does
nothing; other predictions are measured anew. A language model's scores are of another step.
"""

import argparse
import hashlib
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import orjson

from esc import cli, files, smoke
from esc.exceptions import EscError
from esc.files import Row
from esc.means import RESAMPLES, SEED
from esc.strategies import Strategy
from eval import text_metrics
from eval.baselines import baselines
from eval.cases import Cases, read_cases
from eval.measured import measured

METRICS = "metrics.json"
FORMAT = 3
"""Raised with every change of a number's meaning."""
_SHOWN = (
    ("bias", ("strategy", "bias")),
    ("weighted F1", ("strategy", "weighted_f1")),
    ("macro F1", ("strategy", "macro_f1")),
    ("BLEU-1", ("text", "paper", "bleu1")),
    ("Distinct-1", ("text", "paper", "distinct1")),
    ("F1", ("text", "paper", "f1")),
    ("ROUGE-L", ("text", "paper", "rouge_l")),
    ("sacreBLEU", ("text", "corpus", "bleu")),
)


def metrics(paths: Sequence[Path], out: Path, *, force: bool) -> Row:
    """What ``metrics.json`` says, measured where it is not there yet.

    Raises EscError, naming the row, for whatever is not as it should be.
    """
    path = out / METRICS
    stamp = stamp_of(paths)
    with files.exclusive(out):
        if path.is_file():
            found = files.read_json(path)
            if "made_with" not in found:
                raise EscError(f"{path} is not of this step; name another folder in --out")
            if found["made_with"] == stamp and not force:
                print(f"{path} is of these predictions; nothing to do")
                return found
        found = {"made_with": stamp} | summary(read_cases(paths)) | {"smoke": stamp["smoke"]}
        files.write_json(path, found)
    return found


def stamp_of(paths: Sequence[Path]) -> Row:
    """Everything that decides the numbers."""
    return {
        "format": FORMAT,
        "predictions": sorted(files.sha256(path) for path in paths),
        "smoke": any(smoke.made_beside(path) for path in paths),
        "strategies": [strategy.value for strategy in Strategy],
        "resamples": RESAMPLES,
        "seed": SEED,
        "versions": {name: version(name) for name in (*text_metrics.PACKAGES, "numpy")},
    }


def summary(cases: Cases) -> Row:
    """All numbers of a system, and of the baselines on its turns."""
    return {
        "n": len(cases.rows),
        "dialogues": len(set(cases.units)) if cases.by_dialogue else None,
        "turns": turns_of(cases),
        "empty": sum(not case.text for case in cases.rows),
        "empty_gold": sum(not case.gold_text.strip() for case in cases.rows),
        "failed": cases.failed,
        "numbered": cases.numbered,
        "resampled_by": cases.resampled_by,
        **measured(cases),
        "baselines": baselines(cases),
    }


def turns_of(cases: Cases) -> str:
    """A hash of the turns with their gold: equal where two systems answered the same ones."""
    told = sorted((case.id, case.gold.value, case.gold_text.split()) for case in cases.rows)
    return hashlib.sha256(orjson.dumps(told)).hexdigest()


def report(found: Row) -> str:
    """The numbers one should see."""
    by = found["resampled_by"]
    why = "" if by == "dialogue" else ", since no ids name dialogues"
    strategy = found["strategy"]
    lines = [
        f"turns       {found['n']:,}; {strategy['invalid']:,} "
        f"({strategy['invalid_rate']['value']:.1f} %) with no readable strategy (left out of "
        f"strategy numbers), {found['empty']:,} with no reply; resampled by {by}{why}"
    ]
    if found["failed"]:
        lines.append(
            f"incomplete  {found['failed']:,} failed records are left out of every number; "
            "'make predict' asks for them again"
        )
    for name, path in _SHOWN:
        chance = _number(_at(found["baselines"]["gold-marginal-random"], path))
        gold = _number(_at(found["baselines"]["gold"], path))
        lines.append(f"{name:<12}{_number(_at(found, path)):<24}random {chance:<24}gold {gold}")
    if found["smoke"]:
        lines.append("SMOKE       embedded model or sample corpus: it runs, it is no result")
    return "\n".join(lines)


def _at(found: Row, path: Sequence[str]) -> Row:
    for part in path:
        found = found[part]
    return found


def _number(one: Row) -> str:
    if one["value"] is None:
        return "undefined"
    ends = "" if one["low"] is None else f" [{one['low']:.2f}, {one['high']:.2f}]"
    return f"{one['value']:.2f}{ends}"


def main(argv: list[str]) -> None:
    """Command line of the step."""
    given = _parser().parse_args(argv)
    found = metrics(given.predictions, given.out, force=given.force)
    print(f"metrics     {given.out / METRICS}")
    print(report(found))


def _parser() -> argparse.ArgumentParser:
    parser = cli.parser(
        prog="python -m eval metrics",
        description=__doc__,
        examples="  python -m eval metrics --predictions theirs.json --out runs/theirs\n"
        "  python -m eval metrics --predictions part1.jsonl part2.jsonl --out runs/ours",
    )
    parser.add_argument(
        "--predictions", type=Path, nargs="+", required=True, help="one file, or the parts of one"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of metrics.json")
    parser.add_argument("--force", action="store_true", help="measure anew")
    return parser
