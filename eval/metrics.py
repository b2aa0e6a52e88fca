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
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from tqdm import tqdm

from esc import backbones, cli, files, stats, step
from esc.exceptions import EscError
from esc.files import Row
from esc.psych_errors import PsychError
from esc.stats import FEWEST, NARROW, RESAMPLES, SEED, Floats, Units, too_few
from esc.step import DONE
from esc.strategies import UNREADABLE, Strategy
from eval import strategy_metrics, text_metrics
from eval.cases import Case, Cases, changed, read_cases
from eval.predict import PREDICTIONS
from eval.text_metrics import Diversity, half_width

NumberPath = tuple[str, ...]
"""Where a number stands, such as ``("text", "paper", "bleu1")``."""
Numbers = dict[NumberPath, Floats]
"""One value for each row of sums; NaN where undefined."""

ALL_TURNS = "all_turns"
"""The strategy numbers that leave out no turn."""
RAISED_BY_NOISE = ("bias", "bias_converged", "js_distance", "ece")
"""Numbers that cannot be negative, and are the higher the fewer turns there are."""
_DIGITS = 6
"""Of a number in a file; the rest is the order in which a machine adds."""
_WIDTHS = (strategy_metrics.WIDTH, strategy_metrics.CALIBRATION_WIDTH)
_SPREADS = ("preference", "f1", "predicted", "gold")


def columns(cases: Sequence[Case]) -> Floats:
    """What is summed over turns, of every family side by side; shape (n, k)."""
    texts = text_metrics.statistics((case.text, case.gold_text) for case in cases)
    return np.hstack([columns_of_strategies(cases), text_metrics.columns(texts)])


def columns_of_strategies(cases: Sequence[Case]) -> Floats:
    """The columns of strategies and their probabilities, which come first."""
    return np.hstack([strategy_metrics.columns(cases), strategy_metrics.calibration_columns(cases)])


def numbers(sums: Floats) -> Numbers:
    """Every number but those of corpus diversity, for each row of summed `columns`."""
    strategy, calibrated, text = np.split(sums, np.cumsum(_WIDTHS), axis=1)
    found = strategy_numbers(strategy)
    for name, values in strategy_metrics.calibration_numbers(calibrated).items():
        found["strategy", "calibration", name] = values
    for family, of_family in text_metrics.numbers(text).items():
        for name, values in of_family.items():
            found["text", family, name] = values
    return found


def strategy_numbers(sums: Floats) -> Numbers:
    """The numbers of `eval.strategy_metrics`, for each row of its summed columns."""
    found: Numbers = {("strategy", "invalid_rate"): strategy_metrics.invalid_rate(sums)}
    for place, all_turns in ((("strategy",), False), (("strategy", ALL_TURNS), True)):
        told = strategy_metrics.numbers(strategy_metrics.confusion(sums, all_turns=all_turns))
        for name in strategy_metrics.HEADLINE:
            found[*place, name] = told[name]
        for name in _SPREADS:
            where = ("distribution", name) if name in ("predicted", "gold") else (name,)
            for number, strategy in enumerate(Strategy):
                found[*place, *where, strategy.value] = told[name][:, number]
    return found


def measured(cases: Cases) -> Row:
    """``strategy`` and ``text`` of a system, as in ``metrics.json``."""
    by_unit = stats.unit_sums(columns(cases.rows), cases.units)
    total = by_unit.sum(axis=0, keepdims=True)
    values, drawn = numbers(total), numbers(stats.resampled(by_unit))
    unit = cases.resampled_by
    told = facts(cases.rows)
    for path, value in values.items():
        reverse = path[-1] in RAISED_BY_NOISE
        ends = stats.interval(float(value[0]), drawn[path], len(by_unit), unit, reverse=reverse)
        if reverse and ends["low"] is not None:
            # None of them can be negative.
            ends["low"] = max(0.0, ends["low"])
        number = _number(ends, _n(path, total), why(path))
        by = stats.said(unit, reverse=reverse)
        put(told, path, number | {"signature": f"{signature(path)}|ci:{by}"})
    for name, found in diverse(cases).items():
        put(
            told,
            ("text", "corpus", name),
            _of_diversity_of_measured(name, found, cases, len(by_unit)),
        )
    return told


def facts(cases: Sequence[Case]) -> Row:
    """What of the strategies is no number with an interval."""
    own = columns_of_strategies(cases).sum(axis=0, keepdims=True)
    strategy, calibrated = np.split(own, [strategy_metrics.WIDTH], axis=1)
    invalid = sum(case.predicted is None for case in cases)
    counts = strategy_metrics.confusion(strategy, all_turns=False)[0].astype(int)
    return {
        "strategy": {
            "n": len(cases) - invalid,
            "invalid": invalid,
            ALL_TURNS: {"n": len(cases)},
            "calibration": {
                "n": int(calibrated[0, -1]),
                "bins": strategy_metrics.bins(calibrated[0]),
            },
            "confusion": confusion_told(counts.tolist()),
            "by_stage": strategy_metrics.by_stage(cases),
        }
    }


def diverse(cases: Cases) -> dict[str, Diversity]:
    """The numbers of corpus diversity of a system's replies."""
    replies = [text_metrics.words(case.text) for case in cases.rows]
    return text_metrics.diversity(replies, cases.units)


def _of_diversity_of_measured(name: str, found: Diversity, cases: Cases, units: int) -> Row:
    unit, half = cases.resampled_by, found.half_width
    ends: Row = {"value": found.value, "low": None, "high": None}
    if units < FEWEST:
        ends["reason"] = f"no interval: {too_few(units, unit)}"
    elif not np.isnan(half):
        ends |= {"low": max(0.0, found.value - half), "high": found.value + half}
    path = ("text", "corpus", name)
    told = _number(ends, len(cases.rows), why(path))
    by = unit if cases.by_dialogue else f"{unit} ({NARROW})"
    return told | {"signature": f"{signature(path)}|ci:95 % jackknife by {by}"}


def _number(ends: Row, n: int, why_not: str) -> Row:
    told: Row = {name: rounded(ends[name]) for name in ("value", "low", "high")} | {"n": n}
    if told["value"] is None:
        told["reason"] = why_not
    elif "reason" in ends:
        told["reason"] = ends["reason"]
    return told


def rounded(value: float | None) -> float | None:
    """The number as it stands in a file; None where it is undefined."""
    # Adding 0 turns a rounded -0.0 into 0.0.
    return None if value is None or np.isnan(value) else round(float(value), _DIGITS) + 0.0


def put(told: Row, path: NumberPath, value: object) -> None:
    """Place a value in nested objects."""
    *above, name = path
    for part in above:
        told = told.setdefault(part, {})
    told[name] = value


def _n(path: NumberPath, total: Floats) -> int:
    """How many turns a number is of."""
    strategy, calibrated, text = np.split(total[0], np.cumsum(_WIDTHS))
    if "calibration" in path:
        return int(calibrated[-1])
    if path[0] == "text" or ALL_TURNS in path or path[-1] == "invalid_rate":
        return int(text[-1])
    return int(text[-1] - strategy[-strategy_metrics.SIZE :].sum())


def confusion_told(counts: Sequence[Sequence[float]]) -> Row:
    """Counts of predicted (rows) and gold (columns), with the order of both."""
    return {"strategies": [strategy.value for strategy in Strategy], "predicted_by_gold": counts}


def paths() -> Iterator[NumberPath]:
    """Where every number stands."""
    yield from numbers(np.zeros((1, columns(()).shape[1])))
    for name in text_metrics.METRICS:
        yield "text", "corpus", name


def why(path: NumberPath) -> str:
    """Why the number at ``path`` is undefined, where it is."""
    if path[0] == "text":
        return text_metrics.WHY[path[1]]
    if "calibration" in path:
        return strategy_metrics.CALIBRATION_WHY
    if "f1" in path:
        return "the strategy is neither gold nor predicted"
    return strategy_metrics.why(path[-1])


def signature(path: NumberPath) -> str:
    """Everything that decides the number at ``path``, but for its interval."""
    family, *_, name = path
    if family == "text":
        if name in text_metrics.METRICS and path[1] == "corpus":
            return f"{text_metrics.signature(name)}|{text_metrics.WORDS}"
        return _TEXT[path[1]][name]
    if "calibration" in path:
        return strategy_metrics.CALIBRATION_SIGNATURES[name]
    known = strategy_metrics.SIGNATURES
    said = known[name] if name in known else known[path[-2]]
    if name == "invalid_rate":
        return said
    counted = f"as predicted {UNREADABLE}" if ALL_TURNS in path else "left out"
    return f"{said}|{strategy_metrics.LIST}|invalid:{counted}"


_TEXT = text_metrics.signatures()


NAMES = ("gold", "majority", "uniform", "gold-marginal-random")
_SIZE = len(Strategy)
_NO_REPLY = "this baseline chooses strategies and says nothing"
_DRAWS = f"ci:95 % of {RESAMPLES} draws, seed {SEED}, whose mean is the value"


def baselines(cases: Cases) -> dict[str, Row]:
    """``strategy`` and ``text`` of each baseline, in the shape of a system's.

    They depend on the gold turns alone. Numbers of the two that draw are means over 1,000 draws of
    all turns, and their intervals are what 95 % of the draws give.
    """
    gold = changed(cases, _gold)
    counts = Counter(case.gold for case in gold.rows)
    most = max(Strategy, key=lambda strategy: counts[strategy])
    marginal = np.array([counts[strategy] for strategy in Strategy], dtype=np.float64)
    replies = measured(_with_drawn_replies(gold))["text"]
    majority = measured(changed(gold, lambda case: replace(case, predicted=most, text="")))
    return {
        "gold": measured(gold),
        "majority": majority | {"text": _no_text(len(cases.rows))},
        "uniform": {
            "strategy": chance(marginal, np.full(_SIZE, 1 / _SIZE)),
            "text": _no_text(len(cases.rows)),
        },
        "gold-marginal-random": {
            "strategy": chance(marginal, marginal / marginal.sum()),
            "text": replies,
        },
    }


def _gold(case: Case) -> Case:
    return replace(case, predicted=case.gold, text=case.gold_text.strip(), spread=None)


def _with_drawn_replies(gold: Cases) -> Cases:
    drawn = np.random.default_rng(SEED).integers(len(gold.rows), size=len(gold.rows)).tolist()
    said = [gold.rows[place].text for place in drawn]
    rows = tuple(replace(case, text=text) for case, text in zip(gold.rows, said, strict=True))
    return replace(gold, rows=rows)


def chance(gold: Floats, shares: Floats) -> Row:
    """``strategy`` of a system that draws strategies with these shares, whatever is said.

    ``gold`` counts the gold turns of each strategy. One draw of all turns is one multinomial draw
    for each gold strategy.
    """
    rng = np.random.default_rng(SEED)
    counts = np.stack(
        [rng.multinomial(int(n), shares, size=RESAMPLES) for n in gold], axis=2
    ).astype(np.float64)
    columns = np.zeros((RESAMPLES, strategy_metrics.WIDTH))
    columns[:, : _SIZE * _SIZE] = counts.reshape(RESAMPLES, -1)
    drawn = strategy_numbers(columns)
    n = int(gold.sum())
    told: Row = {
        "strategy": {
            "n": n,
            "invalid": 0,
            ALL_TURNS: {"n": n},
            "calibration": {
                "n": 0,
                "bins": strategy_metrics.bins(np.zeros(strategy_metrics.CALIBRATION_WIDTH)),
            },
            "confusion": confusion_told(np.outer(shares, gold).round(3).tolist()),
            "by_stage": None,
        }
    }
    for path in paths():
        if path[0] != "strategy":
            continue
        values = drawn[path] if path in drawn else np.array([np.nan])
        known = values[~np.isnan(values)]
        value = float(known.mean()) if len(known) else np.nan
        ends = stats.interval(value, values, RESAMPLES, "draw")
        number: Row = {
            "value": rounded(value),
            "low": rounded(ends["low"]),
            "high": rounded(ends["high"]),
            "n": 0 if "calibration" in path else n,
            "signature": f"{signature(path)}|{_DRAWS}",
        }
        if number["value"] is None:
            number["reason"] = why(path)
        put(told, path, number)
    numbers: Row = told["strategy"]
    return numbers


def _no_text(n: int) -> Row:
    told: Row = {}
    for path in paths():
        if path[0] == "text":
            put(
                told,
                path,
                {
                    "value": None,
                    "low": None,
                    "high": None,
                    "n": n,
                    "reason": _NO_REPLY,
                    "signature": signature(path),
                },
            )
    text: Row = told["text"]
    return text


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
    first, second = _matched(a, b)
    unit = first.resampled_by
    both = (first, second)
    width = 0
    by_unit = []
    for cases in both:
        sums = stats.unit_sums(columns(cases.rows), cases.units)
        width = sums.shape[1]
        by_unit.append(sums)
    drawn = np.split(stats.resampled(np.hstack(by_unit)), [width], axis=1)
    values = [numbers(sums.sum(axis=0, keepdims=True)) for sums in by_unit]
    resamples = [numbers(one) for one in drawn]
    told: Row = {}
    for path in values[0]:
        one, other = (float(value[path][0]) for value in values)
        spread = resamples[1][path] - resamples[0][path]
        reverse = path[-1] in RAISED_BY_NOISE
        ends = stats.interval(other - one, spread, len(by_unit[0]), unit, reverse=reverse)
        told[".".join(path)] = _told(one, other, ends["low"], ends["high"])
    told |= _of_diversity(first, second)
    return {
        "n": len(first.rows),
        "alone": {"a": len(a.rows) - len(first.rows), "b": len(b.rows) - len(first.rows)},
        "resampled_by": unit,
        "interval": _interval(
            len(by_unit[0]),
            unit,
            f"{stats.said(unit)}; reverse percentile of {', '.join(RAISED_BY_NOISE)}",
        ),
        "numbers": told,
    }


def _interval(units: int, unit: str, said: str) -> str:
    """How the intervals were made, which is ``said``, or why there is none."""
    return f"no interval: {too_few(units, unit)}" if units < FEWEST else said


def _of_diversity(first: Cases, second: Cases) -> Row:
    told: Row = {}
    others = diverse(second)
    for name, one in diverse(first).items():
        other = others[name]
        half = half_width(other.left_out - one.left_out)
        difference = other.value - one.value
        none = np.isnan(half) or len(one.left_out) < FEWEST
        ends = (None, None) if none else (difference - half, difference + half)
        told[f"text.corpus.{name}"] = _told(one.value, other.value, *ends)
    return told


def _told(one: float, other: float, low: float | None, high: float | None) -> Row:
    difference = rounded(other - one)
    return {
        "a": rounded(one),
        "b": rounded(other),
        "difference": difference,
        "low": rounded(low),
        "high": rounded(high),
        "verdict": stats.verdict(difference, low, high),
    }


def _matched(a: Cases, b: Cases) -> tuple[Cases, Cases]:
    """The shared turns of both, in one order that depends on what both say."""
    first, second = ({case.id: case for case in cases.rows} for cases in (a, b))
    shared = first.keys() & second.keys()
    if not shared:
        examples = ", ".join(sorted(first)[:3]), ", ".join(sorted(second)[:3])
        raise EscError(
            f"the two share no turn (ids {examples[0]} … and {examples[1]} …); compare predictions "
            "of the same split"
        )
    for name in sorted(shared):
        if _gold_of_compare(first[name]) != _gold_of_compare(second[name]):
            raise EscError(
                f"turn {name!r} has another gold strategy or reply in the other file; compare "
                "predictions of the same split and corpus"
            )
    by_dialogue = a.by_dialogue and b.by_dialogue
    units = Units(by_dialogue)
    groups: dict[str, list[tuple[Case, Case]]] = defaultdict(list)
    for name in shared:
        groups[units.unit(name)].append((first[name], second[name]))
    ordered = sorted((sorted(group, key=_said) for group in groups.values()), key=_all_said)
    pairs = [pair for group in ordered for pair in group]
    numbered = np.repeat(np.arange(len(ordered)), [len(group) for group in ordered])
    one, other = (
        replace(
            cases, rows=tuple(pair[side] for pair in pairs), units=numbered, by_dialogue=by_dialogue
        )
        for side, cases in enumerate((a, b))
    )
    return one, other


def _gold_of_compare(case: Case) -> tuple[str, list[str]]:
    return case.gold.value, case.gold_text.split()


def _said(pair: tuple[Case, Case]) -> tuple[Any, ...]:
    return pair[0].content + pair[1].content


def _all_said(group: list[tuple[Case, Case]]) -> list[tuple[Any, ...]]:
    return [_said(pair) for pair in group]


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
    units = Units.of(shared)
    kinds = [error.value for error in PsychError]
    found = np.array(
        [
            [one[name] == kind for one in (first, second) for kind in kinds] + [True]
            for name in shared
        ]
    )
    names = [units.unit(name) for name in shared]
    order = np.argsort(names, kind="stable")
    numbered = np.unique(names, return_inverse=True)[1]
    sums = stats.unit_sums(found[order].astype(np.float64), numbered[order])
    drawn = stats.resampled(sums)
    unit = "dialogue" if units.by_dialogue else "row"
    told: Row = {}
    one, other = np.split(100 * sums[:, :-1].sum(axis=0) / len(shared), 2)
    lower, upper = np.split(100 * drawn[:, :-1] / drawn[:, -1:], 2, axis=1)
    for place, kind in enumerate(kinds):
        difference = float(other[place] - one[place])
        spread = upper[:, place] - lower[:, place]
        ends = stats.interval(difference, spread, len(sums), unit)
        told[kind] = _told(float(one[place]), float(other[place]), ends["low"], ends["high"])
    return {
        "n": len(shared),
        "shares": told,
        "interval": _interval(len(sums), unit, stats.said(unit)),
        "judge": by_first,
        "reason": None,
    }


def _errors_in(path: Path) -> tuple[dict[str, str], str]:
    """(error by turn, of the replies that are scored; who judged)."""
    rows = [row for row in files.read_jsonl(path) if row.get("status") == "scored"]
    try:
        judges = ", ".join(sorted({row["judge"] for row in rows}))
        return {row["id"]: PsychError(row["error"]).value for row in rows}, judges
    except (KeyError, ValueError, TypeError) as error:
        raise EscError(f"{path} is no file of psychological errors ({error})") from error


COMPARISONS_FORMAT = 3
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
        "format": COMPARISONS_FORMAT,
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
        marked = any(step.made_beside(path) for path in there.values())
        found = {
            "made_with": made_with,
            "comparisons": rows,
            "left_out": left_out,
            "smoke": marked,
        }
        files.write_json(path, found)
    return found, True


def compare_main(argv: list[str]) -> int:
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
        "smoke": any(step.made_beside(path) for path in paths),
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
        chance = _number_of_metrics(_at(found["baselines"]["gold-marginal-random"], path))
        gold = _number_of_metrics(_at(found["baselines"]["gold"], path))
        lines.append(
            f"{name:<12}{_number_of_metrics(_at(found, path)):<24}random {chance:<24}gold {gold}"
        )
    if found["smoke"]:
        lines.append("SMOKE       embedded model or sample corpus: it runs, it is no result")
    return "\n".join(lines)


def _at(found: Row, path: Sequence[str]) -> Row:
    for part in path:
        found = found[part]
    return found


def _number_of_metrics(one: Row) -> str:
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
