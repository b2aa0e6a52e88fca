"""All automatic metrics of systems, with intervals, beside what no skill gives; comparisons.

Reads files of predictions (JSONL, JSON or CSV, this kit's or with foreign field names). Takes gold
from inside the file: no corpus and no ids are needed; without dialogue ids (``231-7``) rows are
resampled. Writes ``FOLDER/metrics.json`` and ``runs/<model>/comparisons.json``.
"""

import hashlib
import math
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import numpy as np
import orjson
import typer

from data_builders import leaks
from esc import cli, files, stats, step
from esc.files import EscError, Row
from esc.languages import Language
from esc.paths import EMBEDDED
from esc.predictions import PREDICTIONS, complete_runs
from esc.psych_errors import PsychError
from esc.stats import FEWEST, NARROW, RESAMPLES, SEED, Z95, Floats, name_of, unit_of
from esc.strategies import HASH, Strategy
from eval import strategy_metrics, text_metrics
from eval.cases import Case, Cases, read_cases, shared_turns
from eval.strategy_metrics import RAISED_BY_NOISE
from eval.text_metrics import NumberPath, Profile

METRICS, COMPARISONS = "metrics.json", "comparisons.json"
_ERRORS = Path("errors") / "errors.jsonl"  # what `mining classify` leaves in a run
QUESTIONS = (
    ("RQ1: Vanilla DPO less Vanilla SFT", "vanilla_sft", "vanilla_dpo"),
    ("RQ2: Decoupled SFT less Vanilla SFT", "vanilla_sft", "decoupled_sft"),
    ("RQ2: Decoupled DPO less Vanilla DPO", "vanilla_dpo", "decoupled_dpo"),
    ("RQ3: Decoupled DPO less Decoupled SFT", "decoupled_sft", "decoupled_dpo"),
    ("Gold strategy: DPO less SFT", "decoupled-gold_sft", "decoupled-gold_dpo"),
)
"""The paper's questions of section 6: what is asked, and of which two runs."""
_FORMAT = 3  # raised with every change of a number's meaning
_SHOWN = (
    *("strategy.bias", "strategy.weighted_f1", "strategy.macro_f1"),
    *("text.paper.bleu1", "text.paper.distinct1", "text.paper.f1", "text.paper.rouge_l"),
    "text.corpus.bleu",
    *(f"text.esconv.{name}" for name in ("bleu2", "bleu4", "distinct1", "distinct2")),
)
"""Of the profile ``esconv`` where it was asked for."""
_Profile = Annotated[
    Profile, typer.Option(envvar="PROFILE", help="esconv: as its authors count, too")
]
_Tokenize = Annotated[
    Language | None, typer.Option(envvar="TOKENIZE", help="default: as most letters are")
]
Numbers = dict[NumberPath, Floats]
"""A number's place to its value and, after it, its values in resamples or without each unit."""


def _drawn(sides: Sequence[Floats], names: Sequence[str]) -> list[Floats]:
    """Per side its columns summed over all turns, then over each resample of their units."""
    sums = stats.resampled(stats.unit_sums(np.hstack(sides), names))
    return np.split(sums, len(sides), axis=1)


def _numbers(systems: Sequence[Cases]) -> list[tuple[Numbers, Floats]]:
    """(all numbers, what is summed over turns) of systems that answer the same turns."""
    names, sides, found = systems[0].names, [], []
    for cases in systems:
        pairs = ((case.text, case.gold_text) for case in cases.rows)
        texts = text_metrics.columns(pairs, cases.language)
        sides.append(np.hstack([strategy_metrics.columns(cases.rows), texts]))
    for cases, sums in zip(systems, _drawn(sides, names), strict=True):
        strategy, text = np.split(sums, [strategy_metrics.WIDTH], axis=1)
        told = strategy_metrics.numbers(strategy) | text_metrics.numbers(text, cases.profile)
        said = [case.text for case in cases.rows]
        told |= text_metrics.diversity(said, names, cases.language, cases.profile)
        found.append((told, sums[0]))
    return found


def _interval(path: NumberPath, number: Floats, units: int, unit: str) -> tuple[Row, str]:
    """(what `esc.stats.interval` says, rounded; how the interval is made)."""
    reverse = path[-1] in RAISED_BY_NOISE and unit != "draw"
    ends = stats.interval(number, units, unit, reverse=reverse)
    how = stats.said(unit, reverse=reverse)
    if unit == "draw":
        how = f"95 % of {RESAMPLES} draws, seed {SEED}, whose mean is the value"
    elif path in text_metrics.JACKKNIFED:
        how = f"95 % jackknife by {unit}" + (f" ({NARROW})" if unit == "row" else "")
        if ends["low"] is not None:
            # Tukey (1958).
            half = Z95 * math.sqrt((units - 1) * number[1:].var())
            ends |= {"low": ends["value"] - half, "high": ends["value"] + half}
    return ends | {name: _rounded(ends[name]) for name in ("value", "low", "high")}, how


def _rounded(value: float | None) -> float | None:
    # Beyond six digits is the order in which a machine adds. Adding 0 makes 0.0 of -0.0.
    return None if value is None or np.isnan(value) else round(float(value), 6) + 0.0


def _measured(cases: Cases) -> Row:
    """``strategy`` and ``text`` of a system, as in ``metrics.json``."""
    ((found, total),) = _numbers([cases])
    stages = strategy_metrics.by_stage(cases.rows)
    return _told(found, total, stages, len(set(cases.names)), cases)


def _told(found: Numbers, total: Floats, stages: list[Row] | None, units: int, cases: Cases) -> Row:
    """Numbers in their places, each with its interval and all that decides it."""
    about, unit = text_metrics.about(cases.language), cases.unit
    strategy = total[: strategy_metrics.WIDTH]
    told: Row = {"strategy": strategy_metrics.facts(strategy) | {"by_stage": stages}}
    for path, number in found.items():
        if path[0] == "strategy":
            signature, why, n = strategy_metrics.about(path, strategy)
        else:
            signature, why, n = *about[path], int(total[-1])
        ends, how = _interval(path, number, units, unit)
        if ends["low"] is not None:
            # No number can be negative.
            ends["low"] = max(0.0, ends["low"])
        if ends["value"] is None:
            ends["reason"] = why
        place = told
        for part in path[:-1]:
            place = place.setdefault(part, {})
        place[path[-1]] = ends | {"n": n, "signature": f"{signature}{cases.sees}|ci:{how}"}
    return told


def baselines(cases: Cases) -> dict[str, Row]:
    """``strategy`` and ``text`` of each baseline, which depend on the gold turns alone.

    Of those that draw, means over 1,000 draws of all turns, and what 95 % of the draws give.
    """

    def system(answer: Callable[[Case], Row]) -> Row:
        rows = [replace(case, spread=None, **answer(case)) for case in cases.rows]
        return _measured(replace(cases, rows=rows, sees=""))

    counts = Counter(case.gold for case in cases.rows)
    most = max(Strategy, key=lambda strategy: counts[strategy])
    # Whatever the order of the rows, each turn has the same reply of another.
    said = sorted(case.gold_text.strip() for case in cases.rows)
    order = sorted(cases.rows, key=lambda case: (case.gold_text, case.gold.value))
    places = np.random.default_rng(SEED).integers(len(said), size=len(said)).tolist()
    replies = {case.id: said[place] for case, place in zip(order, places, strict=True)}
    nothing: Row = {"value": None, "low": None, "high": None, "n": len(said)}
    nothing["reason"] = "this baseline chooses strategies and says nothing"
    silent: Row = {"text": {}}
    for (_, family, name), (signature, _) in text_metrics.about(cases.language).items():
        if family != "esconv" or cases.profile == "esconv":
            silent["text"].setdefault(family, {})[name] = nothing | {"signature": signature}
    each = np.array([counts[strategy] for strategy in Strategy])

    def chance(shares: Floats) -> Row:
        """One draw of all turns is one multinomial draw for each gold strategy."""
        rng = np.random.default_rng(SEED)
        drawn = np.stack([rng.multinomial(n, shares, size=RESAMPLES) for n in each], axis=2)
        sums = np.zeros((1 + RESAMPLES, strategy_metrics.WIDTH))
        sums[0, strategy_metrics.CONFUSION] = np.outer(shares, each).ravel()
        sums[1:, strategy_metrics.CONFUSION] = drawn.reshape(RESAMPLES, -1)
        found = strategy_metrics.numbers(sums)
        for values in found.values():
            known = values[1:][~np.isnan(values[1:])]
            values[0] = known.mean() if len(known) else np.nan
        return _told(found, sums[0], None, RESAMPLES, replace(cases, unit="draw", sees=""))

    random = system(lambda case: {"predicted": case.gold, "text": replies[case.id]})
    return {
        "gold": system(lambda case: {"predicted": case.gold, "text": case.gold_text.strip()}),
        "majority": system(lambda _: {"predicted": most, "text": ""}) | silent,
        "uniform": chance(np.full(len(each), 1 / len(each))) | silent,
        "gold-marginal-random": random | chance(each / len(said)),
    }


def _differences(sides: Sequence[Numbers], names: Sequence[str], unit: str) -> tuple[Row, str]:
    """(by dotted name what the second side has more, how or why not that has intervals)."""
    (a, b), units = sides, len(set(names))
    told: Row = {}
    for path in a:
        ends, _ = _interval(path, b[path] - a[path], units, unit)
        more = {"difference": ends["value"], "low": ends["low"], "high": ends["high"]}
        both = {"a": _rounded(a[path][0]), "b": _rounded(b[path][0])}
        told[".".join(path)] = both | more | {"verdict": stats.verdict(*more.values())}
    return told, stats.too_few(units, unit) if units < FEWEST else stats.said(unit)


def compared(a: Cases, b: Cases) -> Row:
    """What b has more than a, on the turns that both answered, resampled by the same draws.

    EscError where they share no turn, or one has another gold turn in the other.
    """
    first, second = ({case.id: case for case in cases.rows} for cases in (a, b))
    gold = [
        {name: {"gold strategy": c.gold, "gold reply": c.gold_text} for name, c in of.items()}
        for of in (first, second)
    ]
    shared = sorted(shared_turns(*gold))
    unit = a.unit if a.unit == b.unit else "row"
    both = [replace(a, rows=[of[name] for name in shared], unit=unit) for of in (first, second)]
    told, how = _differences([found for found, _ in _numbers(both)], both[0].names, unit)
    if not how.startswith("no "):
        how += f"; reverse percentile of {', '.join(RAISED_BY_NOISE)}"
    return {
        "n": len(shared),
        "alone": {"a": len(a.rows) - len(shared), "b": len(b.rows) - len(shared)},
        "resampled_by": unit,
        "interval": how,
        "numbers": told,
    }


def _compared_errors(a: Path, b: Path) -> Row:
    """What b has more than a of every psychological error (RQ4, section 6.2), in points of 100.

    Of the ``n`` turns that both have a scored reply to; ``reason`` says why there are none.
    """
    found, judges = [], []
    for path in (a, b):
        rows = files.read_jsonl(path) if path.is_file() else ()
        scored = [row for row in rows if row["status"] == "scored"]
        found.append({row["id"]: row["error"] for row in scored})
        judges.append(", ".join(sorted({row["judge"] for row in scored})))
    shared, (judge, another) = sorted(found[0].keys() & found[1].keys()), judges
    if not shared or judge != another:
        none = "no turn's error is classified in both"
        why = f"judged by {judge} and {another}" if shared else none
        return {"n": 0, "shares": {}, "interval": "", "judge": None, "reason": why}
    unit, kinds = unit_of(shared), [one.value for one in PsychError]
    names = [name_of(name, unit) for name in shared]
    sides = [
        np.array([[*(of[name] == one for one in kinds), True] for name in shared], dtype=float)
        for of in found
    ]
    points: list[Numbers] = [
        {(one,): 100 * sums[:, k] / sums[:, -1] for k, one in enumerate(kinds)}
        for sums in _drawn(sides, names)
    ]
    shares, how = _differences(points, names, unit)
    return {"n": len(shared), "shares": shares, "interval": how, "judge": judge, "reason": None}


def _once(path: Path, made_of: Row, make: Callable[[], Row], *, force: bool) -> Row:
    """What a JSON file says, made where it is not there yet, or of something else."""
    made_with = made_of | {
        "format": _FORMAT,
        "strategies": [strategy.value for strategy in Strategy],
        "list": HASH,
        "resamples": RESAMPLES,
        "seed": SEED,
        "versions": {name: version(name) for name in (*text_metrics.PACKAGES, "numpy")},
    }
    with files.exclusive(path.parent):
        found = files.read_json(path, default={})
        if path.is_file() and "made_with" not in found:
            raise EscError(f"{path} is not of this step; name another folder in --out")
        if found.get("made_with") == made_with and not force:
            print(f"{path} is of these predictions; nothing to do")
            return found
        found = {"made_with": made_with} | make()
        files.write_json(path, found)
    return found


def _metrics(predictions: Path, cases: Cases) -> Row:
    """What ``metrics.json`` says."""
    told = sorted((case.id, case.gold.value, case.gold_text.split()) for case in cases.rows)
    done = files.read_json(predictions.with_name(step.DONE), default={})
    return {
        "n": len(cases.rows),
        "dialogues": len(set(cases.names)) if cases.unit == "dialogue" else None,
        # Equal where two systems answered the same turns, with their gold.
        "turns": hashlib.sha256(orjson.dumps(told)).hexdigest(),
        "empty": sum(not case.text for case in cases.rows),
        "empty_gold": sum(not case.gold_text.strip() for case in cases.rows),
        "failed": cases.failed,
        "numbered": cases.numbered,
        "resampled_by": cases.unit,
        "language": cases.language,
        "profile": cases.profile,
        **{name: done.get(name) for name in ("set", "seen", "recognised")},
        **_measured(cases),
        "baselines": baselines(cases),
        "smoke": step.made_beside(predictions),
    }


def _report(found: Row) -> str:
    by, strategy = found["resampled_by"], found["strategy"]
    why = "" if by == "dialogue" else ", since no ids name dialogues"
    lines = [
        f"turns       {found['n']:,}; {strategy['invalid']:,} "
        f"({strategy['invalid_rate']['value']:.1f} %) with no readable strategy (left out of "
        f"strategy numbers), {found['empty']:,} with no reply; resampled by {by}{why}"
    ]
    if found["language"] != "en":
        lines.append(f"words       cut by sacreBLEU's {found['language']!r}; TOKENIZE says another")
    lines += [f"dialogues   {one}" for one in found["recognised"] or ()]
    if found["seen"] and (seen := leaks.told(found["seen"])):
        lines.append(f"leak        {seen}")
    if found["failed"]:
        lines.append(
            f"incomplete  {found['failed']:,} failed records are left out of every number; "
            "'make predict' asks for them again"
        )
    sides = [found, *(found["baselines"][name] for name in ("gold-marginal-random", "gold"))]
    for path in _SHOWN:
        if "esconv" in path and "esconv" not in found["text"]:
            continue
        told = []
        for one in sides:
            for part in path.split("."):
                one = one[part]
            ends = "" if one["low"] is None else f" [{one['low']:.2f}, {one['high']:.2f}]"
            told.append("undefined" if one["value"] is None else f"{one['value']:.2f}{ends}")
        name = path.rpartition(".")[2] + " (esconv)" * ("esconv" in path)
        lines.append(f"{name:<12}{told[0]:<24}random {told[1]:<24}gold {told[2]}")
    return "\n".join([*lines, *[step.SMOKE] * found["smoke"]])


@cli.command(
    examples="  python -m eval metrics --model qwen2.5-7b\n"
    "  python -m eval metrics --predictions theirs.json --out runs/theirs"
)
def main(
    predictions: Annotated[Path | None, typer.Option(help="default: each complete run")] = None,
    out: Annotated[Path | None, typer.Option(help="folder of metrics.json")] = None,
    profile: _Profile = "paper",
    tokenize: _Tokenize = None,
    model: cli.Model = EMBEDDED,
    work: cli.Work = Path(),
    force: cli.Force = False,
) -> None:
    """Metrics of one system's predictions, or of every complete run of a model.

    Failed records are counted and left out; whatever else cannot be read stops the step and names
    the row. The same command again does nothing; other predictions are measured anew.
    """
    if bool(predictions) != bool(out):
        raise EscError("--predictions and --out go together; without both, all runs are measured")
    if predictions and out:
        asked = {out: predictions}
    else:
        asked = {folder: folder / PREDICTIONS for folder in complete_runs(work, model)}

    def measure(folder: Path) -> list[str]:
        path, written = asked[folder], folder / METRICS
        made_of = {"predictions": [files.sha256(path)], "smoke": step.made_beside(path)}
        made_of |= {"PROFILE": profile, "TOKENIZE": tokenize}
        made = partial(read_cases, path, tokenize, profile)
        found = _once(written, made_of, lambda: _metrics(path, made()), force=force)
        return [f"metrics     {written}", _report(found)]

    # One odd run is none of the others'.
    cli.each(asked, measure, planned=False)


@cli.command(name="compare", examples="  python -m eval compare --model qwen2.5-7b")
def compare(
    profile: _Profile = "paper",
    tokenize: _Tokenize = None,
    model: cli.Model = EMBEDDED,
    work: cli.Work = Path(),
    force: cli.Force = False,
) -> int:
    """The paper's questions, as paired differences of the runs that are complete.

    Exit code 1 where a question of two complete runs has no answer, which is told with its reason.
    """
    runs = {folder.name: folder for folder in complete_runs(work, model)}
    wanted = [(a, b) for _, a, b in QUESTIONS if a in runs and b in runs]
    asked = [runs[name] for name in dict.fromkeys(run for both in wanted for run in both)]
    read = [folder / name for folder in asked for name in (PREDICTIONS, _ERRORS)]
    hashes = {str(one.relative_to(work)): files.sha256(one) for one in read if one.is_file()}

    def make() -> Row:
        rows, left_out = [], []
        for a, b in wanted:
            both = {"a": a, "b": b}
            try:
                files_of = (runs[run] / PREDICTIONS for run in (a, b))
                told = compared(*(read_cases(path, tokenize, profile) for path in files_of))
                errors = _compared_errors(*(runs[run] / _ERRORS for run in (a, b)))
                rows.append(both | told | {"errors": errors})
            except EscError as error:
                # One odd run is none of the others'.
                left_out.append(both | {"reason": str(error)})
        smoke = any(step.made_beside(folder / PREDICTIONS) for folder in asked)
        return {"comparisons": rows, "left_out": left_out, "smoke": smoke}

    path = work / "runs" / model / COMPARISONS
    made_of = {"files": hashes, "PROFILE": profile, "TOKENIZE": tokenize}
    found = _once(path, made_of, make, force=force)
    print(f"compared    {path}: {len(found['comparisons'])} of {len(QUESTIONS)} questions")
    for row in found["comparisons"]:
        bias = row["numbers"]["strategy.bias"]
        print(f"            {row['a']} and {row['b']}: {row['n']} turns, bias {bias['verdict']}")
    for one in found["left_out"]:
        print(f"left out    {one['a']} and {one['b']}: {one['reason']}", file=sys.stderr)
    if found["smoke"]:
        print(step.SMOKE)
    return 1 if found["left_out"] else 0
