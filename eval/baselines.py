"""What no skill gives, and what the corpus's own replies give, on the very turns of a system.

``gold`` says what the corpus says. ``majority`` always chooses the most frequent gold strategy.
``uniform`` draws each strategy alike, ``gold-marginal-random`` as often as gold has it: neither
reads the conversation, yet the latter's bias is lower than any trained system's, so that a low bias
alone shows no skill. The last one's replies are those of other gold turns, drawn at random.
"""

from collections import Counter
from dataclasses import replace

import numpy as np

from esc import bootstrap
from esc.bootstrap import Floats
from esc.files import Row
from esc.means import RESAMPLES, SEED
from esc.strategies import Strategy
from eval import calibration, strategy_metrics
from eval.cases import Case, Cases, changed
from eval.measured import (
    ALL_TURNS,
    confusion_told,
    measured,
    paths,
    put,
    rounded,
    signature,
    strategy_numbers,
    why,
)

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
            "calibration": {"n": 0, "bins": calibration.bins(np.zeros(calibration.WIDTH))},
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
        ends = bootstrap.interval(value, values, RESAMPLES, "draw")
        number: Row = {
            "value": rounded(value),
            "low": rounded(ends.low),
            "high": rounded(ends.high),
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
