r"""All automatic metrics of systems, with intervals, beside what no skill gives; comparisons.

    python -m eval metrics --predictions runs/smollm2-135m/decoupled_sft/predictions.jsonl \
        --out runs/smollm2-135m/decoupled_sft
    python -m eval compare --model smollm2-135m

Reads files of predictions (JSONL, JSON or CSV, this kit's or with foreign field names). Takes gold
from inside the file: no corpus and no ids are needed; without dialogue ids (``231-7``) rows are
resampled. Writes ``FOLDER/metrics.json`` and ``runs/<model>/comparisons.json``. A language model's
scores are of another step.
"""

import hashlib
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import numpy as np
import orjson
import typer
from tqdm import tqdm

from esc import cli, files, stats, step
from esc.files import EscError, Row
from esc.paths import EMBEDDED
from esc.predictions import PREDICTIONS, complete_runs
from esc.psych_errors import PsychError
from esc.stats import FEWEST, NARROW, RESAMPLES, SEED, Floats, Units, too_few
from esc.strategies import Strategy
from eval import strategy_metrics, text_metrics
from eval.cases import Case, Cases, no_shared_turn, read_cases
from eval.strategy_metrics import RAISED_BY_NOISE, NumberPath

METRICS, COMPARISONS = "metrics.json", "comparisons.json"
ERRORS = Path("errors") / "errors.jsonl"
"""What `mining classify` leaves in a run."""
NAMES = ("gold", "majority", "uniform", "gold-marginal-random")
"""The baselines."""
QUESTIONS = (
    ("RQ1: Vanilla DPO less Vanilla SFT", "vanilla_sft", "vanilla_dpo"),
    ("RQ2: Decoupled SFT less Vanilla SFT", "vanilla_sft", "decoupled_sft"),
    ("RQ2: Decoupled DPO less Vanilla DPO", "vanilla_dpo", "decoupled_dpo"),
    ("RQ3: Decoupled DPO less Decoupled SFT", "decoupled_sft", "decoupled_dpo"),
    ("Gold strategy: DPO less SFT", "decoupled-gold_sft", "decoupled-gold_dpo"),
)
"""The paper's questions of section 6: what is asked, and of which two runs."""
FORMAT = 3
"""Raised with every change of a number's meaning."""
_SHOWN = (
    ("bias", "strategy", "bias"),
    ("weighted F1", "strategy", "weighted_f1"),
    ("macro F1", "strategy", "macro_f1"),
    ("BLEU-1", "text", "paper", "bleu1"),
    ("Distinct-1", "text", "paper", "distinct1"),
    ("F1", "text", "paper", "f1"),
    ("ROUGE-L", "text", "paper", "rouge_l"),
    ("sacreBLEU", "text", "corpus", "bleu"),
)
_DRAWS = f"ci:95 % of {RESAMPLES} draws, seed {SEED}, whose mean is the value"
_SMOKE = "SMOKE       embedded model or sample corpus: it runs, it is no result"


def columns(cases: Cases) -> Floats:
    """What is summed over turns, of strategies and texts side by side; shape (n, k)."""
    texts = text_metrics.columns((case.text, case.gold_text) for case in cases.rows)
    return np.hstack([strategy_metrics.columns(cases.rows), texts])


def numbers(sums: Floats) -> dict[NumberPath, Floats]:
    """Every number but those of corpus diversity by its place, for each row of summed `columns`."""
    strategy, text = np.split(sums, [strategy_metrics.WIDTH], axis=1)
    return strategy_metrics.numbers(strategy) | text_metrics.numbers(text)


def diversity(cases: Cases) -> dict[str, text_metrics.Diversity]:
    """The numbers of corpus diversity of a system's replies."""
    return text_metrics.diversity([case.text for case in cases.rows], cases.names)


def measured(cases: Cases) -> Row:
    """``strategy`` and ``text`` of a system, as in ``metrics.json``."""
    by_unit, unit = stats.unit_sums(columns(cases), cases.names), cases.units.name
    (total,), drawn = by_unit.sum(axis=0, keepdims=True), numbers(stats.resampled(by_unit))
    told: Row = {"strategy": strategy_metrics.facts(total[: strategy_metrics.WIDTH])}
    told["strategy"]["by_stage"] = strategy_metrics.by_stage(cases.rows)
    for path, (value,) in numbers(total[None]).items():
        reverse = path[-1] in RAISED_BY_NOISE
        ends = stats.interval(float(value), drawn[path], len(by_unit), unit, reverse=reverse)
        _put(told, path, ends, total, f"ci:{stats.said(unit, reverse=reverse)}")
    by = f"{unit} ({NARROW})" if unit == "row" else unit
    for name, found in diversity(cases).items():
        path = ("text", "corpus", name)
        _put(told, path, found.interval(unit), total, f"ci:95 % jackknife by {by}")
    return told


def _put(told: Row, path: NumberPath, ends: Row, total: Floats, how: str) -> None:
    """Place a number with its interval and all that decides it."""
    strategy, (n,) = np.split(total, [strategy_metrics.WIDTH])[0], total[-1:].astype(int)
    if path[0] == "text":
        signature, why = text_metrics.SIGNATURES[path[1], path[2]], text_metrics.WHY[path[1]]
    else:
        signature, why = strategy_metrics.signature(path), strategy_metrics.why(path)
        n = strategy_metrics.n_of(path, strategy)
    if ends["low"] is not None:
        # No number can be negative.
        ends |= {"low": max(0.0, ends["low"])}
    number = {name: rounded(ends[name]) for name in ("value", "low", "high")} | {"n": int(n)}
    if number["value"] is None:
        number["reason"] = ends.get("why", why)
    elif "reason" in ends:
        number["reason"] = ends["reason"]
    for part in path[:-1]:
        told = told.setdefault(part, {})
    told[path[-1]] = number | {"signature": f"{signature}|{how}" if how else signature}


def rounded(value: float | None) -> float | None:
    """The number as it stands in a file: what is beyond is the order in which a machine adds."""
    # Adding 0 turns a rounded -0.0 into 0.0.
    return None if value is None or np.isnan(value) else round(float(value), 6) + 0.0


def baselines(cases: Cases) -> dict[str, Row]:
    """``strategy`` and ``text`` of each baseline, in the shape of a system's.

    They depend on the gold turns alone. Numbers of the two that draw are means over 1,000 draws of
    all turns, and their intervals are what 95 % of the draws give.
    """
    gold = cases.changed(
        lambda case: replace(case, predicted=case.gold, text=case.gold_text.strip(), spread=None)
    )
    counts = Counter(case.gold for case in gold.rows)
    most = max(Strategy, key=lambda strategy: counts[strategy])
    shares = np.array([counts[strategy] / len(gold.rows) for strategy in Strategy])
    # Whatever the order of the rows, each turn has the same reply of another.
    said = sorted(case.text for case in gold.rows)
    order = sorted(gold.rows, key=lambda case: (case.gold_text, case.gold.value))
    drawn = np.random.default_rng(SEED).integers(len(said), size=len(said)).tolist()
    replies = replace(
        gold,
        rows=tuple(
            replace(case, text=said[place]) for case, place in zip(order, drawn, strict=True)
        ),
    )
    majority = measured(gold.changed(lambda case: replace(case, predicted=most, text="")))
    uniform = chance(counts, np.full(len(Strategy), 1 / len(Strategy)))
    return {
        "gold": measured(gold),
        "majority": majority | {"text": uniform["text"]},
        "uniform": uniform,
        "gold-marginal-random": chance(counts, shares) | {"text": measured(replies)["text"]},
    }


def chance(gold: Counter[Strategy], shares: Floats) -> Row:
    """``strategy`` and ``text`` of a system that draws strategies with these shares, and is silent.

    ``gold`` counts the gold turns of each strategy. One draw of all turns is one multinomial draw
    for each gold strategy.
    """
    rng, each = np.random.default_rng(SEED), [gold[strategy] for strategy in Strategy]
    counts = np.stack([rng.multinomial(n, shares, size=RESAMPLES) for n in each], axis=2)
    drawn = np.zeros((RESAMPLES, len(columns(Cases((), Units(by_dialogue=False))).T)))
    drawn[:, : counts[0].size] = counts.reshape(RESAMPLES, -1)
    total = np.zeros(drawn.shape[1])
    total[: counts[0].size], total[-1] = np.outer(shares, each).ravel(), sum(each)
    told: Row = {"strategy": strategy_metrics.facts(total[: strategy_metrics.WIDTH])}
    told["strategy"] |= {"by_stage": None}
    found = {path: values for path, values in numbers(drawn).items() if path[0] == "strategy"}
    for path, values in found.items():
        known = values[~np.isnan(values)]
        ends = stats.interval(known.mean() if len(known) else np.nan, values, RESAMPLES, "draw")
        _put(told, path, ends, total, _DRAWS)
    none = "this baseline chooses strategies and says nothing"
    silent: Row = {"value": None, "low": None, "high": None, "why": none}
    for family, name in text_metrics.SIGNATURES:
        _put(told, ("text", family, name), silent, total, "")
    return told


def compare(a: Cases, b: Cases) -> Row:
    """What b has more than a, on the turns that both answered.

    ``n`` turns, ``alone`` what only one of them has, ``resampled_by``, and ``numbers``: by the
    dotted name a number has in ``metrics.json``, ``a``, ``b``, ``difference`` (b − a), ``low`` and
    ``high`` of its 95 % interval, and ``verdict`` in words, such as ``inside the noise``. Both
    systems are resampled by the same draws. Fewer than `FEWEST` dialogues have no interval, which
    ``interval`` says. Turns are matched by id, or by their place in the file where there are no
    ids. The order of the rows changes nothing.

    Raises EscError where they share no turn, or an id has another gold turn in the other.
    """
    first, second = ({case.id: case for case in cases.rows} for cases in (a, b))
    shared = sorted(first.keys() & second.keys())
    if not shared:
        raise no_shared_turn(first, second)
    for name in shared:
        if _gold(first[name]) != _gold(second[name]):
            raise EscError(
                f"turn {name!r} has another gold strategy or reply in the other file; compare "
                "predictions of the same split and corpus"
            )
    units = Units(a.units.by_dialogue and b.units.by_dialogue)
    both = [Cases(tuple(of[name] for name in shared), units) for of in (first, second)]
    told, interval = _paired([columns(cases) for cases in both], numbers, both[0].names, units)
    diverse = [diversity(cases) for cases in both]
    for name, one in diverse[0].items():
        other = diverse[1][name]
        ends = (other - one).interval(units.name)
        told[f"text.corpus.{name}"] = _difference(one.value, other.value, ends)
    if not interval.startswith("no "):
        interval += f"; reverse percentile of {', '.join(RAISED_BY_NOISE)}"
    return {
        "n": len(shared),
        "alone": {"a": len(a.rows) - len(shared), "b": len(b.rows) - len(shared)},
        "resampled_by": units.name,
        "interval": interval,
        "numbers": told,
    }


def _gold(case: Case) -> tuple[str, list[str]]:
    return case.gold.value, case.gold_text.split()


def _paired(
    sides: Sequence[Floats],
    of: Callable[[Floats], dict[NumberPath, Floats]],
    names: Sequence[str],
    units: Units,
) -> tuple[Row, str]:
    """(what the second side has more, by dotted name, how or why not it has intervals).

    ``of`` makes numbers of summed columns; both sides share the draws of their units.
    """
    by_unit = stats.unit_sums(np.hstack(sides), names)
    values = [of(side) for side in np.split(by_unit.sum(axis=0, keepdims=True), 2, axis=1)]
    drawn = [of(side) for side in np.split(stats.resampled(by_unit), 2, axis=1)]
    told: Row = {}
    for path, (one,) in values[0].items():
        (other,) = values[1][path]
        spread, reverse = drawn[1][path] - drawn[0][path], path[-1] in RAISED_BY_NOISE
        ends = stats.interval(other - one, spread, len(by_unit), units.name, reverse=reverse)
        told[".".join(path)] = _difference(one, other, ends)
    few = len(by_unit) < FEWEST
    none = f"no interval: {too_few(len(by_unit), units.name)}"
    return told, none if few else stats.said(units.name)


def _difference(one: float, other: float, ends: Row) -> Row:
    difference = rounded(ends["value"])
    return {
        "a": rounded(one),
        "b": rounded(other),
        "difference": difference,
        "low": rounded(ends["low"]),
        "high": rounded(ends["high"]),
        "verdict": stats.verdict(difference, rounded(ends["low"]), rounded(ends["high"])),
    }


def compare_errors(a: Path, b: Path) -> Row:
    """What b has more than a of every psychological error (RQ4, section 6.2), paired by turn.

    ``a`` and ``b`` are files of `mining classify`. ``shares`` maps an error to its shares in points
    of 100, their difference (b − a) with interval and verdict, of the ``n`` turns that both have a
    scored reply to; ``reason`` says why there are none. Raises EscError for a file of another form.
    """
    none: Row = {"n": 0, "shares": {}, "interval": "", "judge": None}
    if missing := [path for path in (a, b) if not path.is_file()]:
        return none | {
            "reason": f"the errors of {missing[0].parent.parent.name} are not classified"
        }
    (first, by_first), (second, by_second) = _errors_in(a), _errors_in(b)
    shared = sorted(first.keys() & second.keys())
    if not shared or by_first != by_second:
        reason = f"judged by {by_first} and {by_second}" if shared else "no turn is scored in both"
        return none | {"reason": reason}
    units, kinds = Units.of(shared), list(PsychError)
    sides = [
        np.array([[*(of[name] is kind for kind in kinds), True] for name in shared], dtype=float)
        for of in (first, second)
    ]

    def points(sums: Floats) -> dict[NumberPath, Floats]:
        return {(kind.value,): 100 * sums[:, k] / sums[:, -1] for k, kind in enumerate(kinds)}

    told, interval = _paired(sides, points, [units.unit(name) for name in shared], units)
    return {
        "n": len(shared),
        "shares": told,
        "interval": interval,
        "judge": by_first,
        "reason": None,
    }


def _errors_in(path: Path) -> tuple[dict[str, PsychError], str]:
    """(error by turn, of the replies that are scored; who judged)."""
    rows = [row for row in files.read_jsonl(path) if row.get("status") == "scored"]
    try:
        judges = ", ".join(sorted({row["judge"] for row in rows}))
        return {row["id"]: PsychError(row["error"]) for row in rows}, judges
    except (KeyError, ValueError, TypeError) as error:
        raise EscError(f"{path} is no file of psychological errors ({error})") from error


def comparisons(work: Path, model: str, *, force: bool) -> tuple[Row, bool]:
    """(what ``comparisons.json`` says, whether it was made now).

    A question whose runs cannot be compared stands in ``left_out`` with the reason.
    """
    runs = {folder.name: folder for folder in complete_runs(work, model)}
    asked = {run: runs[run] for _, *both in QUESTIONS for run in both if run in runs}
    made_with = {
        "format": FORMAT,
        "strategies": [strategy.value for strategy in Strategy],
        "files": {
            str(path.relative_to(work)): files.sha256(path)
            for folder in asked.values()
            for path in (folder / PREDICTIONS, folder / ERRORS)
            if path.is_file()
        },
    }
    root = work / "runs" / model
    with files.exclusive(root / ".comparing"):
        if (root / COMPARISONS).is_file() and not force:
            found = files.read_json(root / COMPARISONS)
            if found.get("made_with") == made_with:
                return found, False
        rows, left_out = [], []
        wanted = [(a, b) for _, a, b in QUESTIONS if a in asked and b in asked]
        for a, b in tqdm(wanted, desc="comparing", unit=" pairs", leave=False):
            both = {"a": a, "b": b}
            try:
                told = compare(*(read_cases([asked[run] / PREDICTIONS]) for run in (a, b)))
                shares = compare_errors(*(asked[run] / ERRORS for run in (a, b)))
            except EscError as error:
                # One odd run is none of the others'.
                left_out.append(both | {"reason": str(error)})
                continue
            rows.append(both | told | {"errors": shares})
        smoke = any(step.made_beside(folder / PREDICTIONS) for folder in asked.values())
        found = {"made_with": made_with, "comparisons": rows, "left_out": left_out, "smoke": smoke}
        files.write_json(root / COMPARISONS, found)
    return found, True


@cli.command(
    name="compare",
    examples="  python -m eval compare\n  python -m eval compare --model qwen2.5-7b",
)
def compare_main(
    model: cli.Model = EMBEDDED, work: cli.Work = Path(), force: cli.Force = False
) -> int:
    """The paper's questions, as paired differences of the runs that are complete.

    Exit code 1 where a question of two complete runs has no answer.
    """
    found, made = comparisons(work, model, force=force)
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
        print(_SMOKE)
    return 1 if found["left_out"] else 0


def metrics(paths: Sequence[Path], out: Path, *, force: bool) -> Row:
    """What ``metrics.json`` says, measured where it is not there yet.

    Raises EscError, naming the row, for whatever is not as it should be.
    """
    path = out / METRICS
    made_with = {
        "format": FORMAT,
        "predictions": sorted(files.sha256(path) for path in paths),
        "smoke": any(step.made_beside(path) for path in paths),
        "strategies": [strategy.value for strategy in Strategy],
        "resamples": RESAMPLES,
        "seed": SEED,
        "versions": {name: version(name) for name in (*text_metrics.PACKAGES, "numpy")},
    }
    with files.exclusive(out):
        if path.is_file():
            found = files.read_json(path)
            if "made_with" not in found:
                raise EscError(f"{path} is not of this step; name another folder in --out")
            if found["made_with"] == made_with and not force:
                print(f"{path} is of these predictions; nothing to do")
                return found
        cases = read_cases(paths)
        told = sorted((case.id, *_gold(case)) for case in cases.rows)
        found = {
            "made_with": made_with,
            "n": len(cases.rows),
            "dialogues": len(set(cases.names)) if cases.units.by_dialogue else None,
            # Equal where two systems answered the same turns, with their gold.
            "turns": hashlib.sha256(orjson.dumps(told)).hexdigest(),
            "empty": sum(not case.text for case in cases.rows),
            "empty_gold": sum(not case.gold_text.strip() for case in cases.rows),
            "failed": cases.failed,
            "numbered": cases.numbered,
            "resampled_by": cases.units.name,
            **measured(cases),
            "baselines": baselines(cases),
            "smoke": made_with["smoke"],
        }
        files.write_json(path, found)
    return found


def report(found: Row) -> str:
    """The numbers one should see."""
    by, strategy = found["resampled_by"], found["strategy"]
    why = "" if by == "dialogue" else ", since no ids name dialogues"
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
    random, gold = (found["baselines"][name] for name in ("gold-marginal-random", "gold"))
    for name, *path in _SHOWN:
        one, chance, best = (_with_ends(of, path) for of in (found, random, gold))
        lines.append(f"{name:<12}{one:<24}random {chance:<24}gold {best}")
    return "\n".join([*lines, *([_SMOKE] if found["smoke"] else [])])


def _with_ends(found: Row, path: Sequence[str]) -> str:
    for part in path:
        found = found[part]
    if found["value"] is None:
        return "undefined"
    ends = "" if found["low"] is None else f" [{found['low']:.2f}, {found['high']:.2f}]"
    return f"{found['value']:.2f}{ends}"


@cli.command(
    examples="  python -m eval metrics --model qwen2.5-7b\n"
    "  python -m eval metrics --predictions theirs.json --out runs/theirs\n"
    "  python -m eval metrics --predictions part1.jsonl part2.jsonl --out runs/ours"
)
def main(
    predictions: Annotated[
        list[Path] | None, typer.Option(help="one file, or its parts (default: each complete run)")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="folder of metrics.json")] = None,
    model: cli.Model = EMBEDDED,
    work: cli.Work = Path(),
    force: cli.Force = False,
) -> int:
    """Metrics of one system's predictions, or of every complete run of a model.

    Failed records are counted and left out; whatever else cannot be read stops the step and names
    the row. The same command again does nothing; other predictions are measured anew.
    """
    if bool(predictions) != bool(out):
        raise EscError("--predictions and --out go together; without both, all runs are measured")
    asked = (
        [(predictions, out)]
        if predictions and out
        else [([folder / PREDICTIONS], folder) for folder in complete_runs(work, model)]
    )
    failed = 0
    for paths, folder in asked:
        try:
            found = metrics(paths, folder, force=force)
        except EscError as error:
            if predictions:
                raise
            # One odd run is none of the others'.
            print(f"error: {folder.name}: {error}", file=sys.stderr)
            failed += 1
            continue
        print(f"metrics     {folder / METRICS}")
        print(report(found))
    return 1 if failed else 0
