"""Baselines: what no skill gives, on the very turns of a system, whatever the system says."""

from dataclasses import replace

import numpy as np
import pytest

from esc.dialogue import gold_turns
from esc.strategies import Strategy
from eval.cases import Case, arranged, changed
from eval.metrics import NAMES, baselines, chance, measured

ALL = list(Strategy)


def some(dialogues=6, turns=9):
    cases = [
        Case(f"{d}-{t}", ALL[t % 8], f"gold {d} says {t}", ALL[(t + d) % 8], f"{d} said {t * d}")
        for d in range(dialogues)
        for t in range(turns)
    ]
    return arranged(cases, ids=[case.id for case in cases])


@pytest.fixture(scope="module")
def found():
    return baselines(some())


@pytest.fixture(scope="module")
def real(esconv_work):
    """The paper's test split, said by the corpus itself."""
    turns = gold_turns(esconv_work, "test", None)
    cases = [Case(t.id, t.strategy, t.response, t.strategy, t.response) for t in turns]
    return arranged(cases, ids=[case.id for case in cases])


@pytest.fixture(scope="module")
def real_baselines(real):
    return baselines(real)


def shape(told):
    """Names of all numbers."""
    if not isinstance(told, dict) or "value" in told:
        return None
    return {name: shape(one) for name, one in told.items()}


def test_every_baseline_has_the_shape_of_a_system(found):
    assert tuple(found) == NAMES
    wanted = shape(measured(some()))
    assert all(shape(told) == wanted for told in found.values())


def test_what_a_system_says_changes_no_baseline(found):
    other = changed(some(), lambda case: replace(case, predicted=Strategy.OTHERS, text="other"))
    assert baselines(other) == found


def test_the_order_of_the_rows_changes_no_baseline(found):
    cases = some()
    assert baselines(arranged(cases.rows[::-1], ids=[c.id for c in cases.rows])) == found


def test_gold_is_faultless(found):
    strategy, text = found["gold"]["strategy"], found["gold"]["text"]
    assert strategy["bias"]["value"] == 0 and strategy["weighted_f1"]["value"] == 100
    assert text["paper"]["bleu1"]["value"] == text["corpus"]["bleu1"]["value"] == 100


def test_the_majority_is_right_as_often_as_it_is_gold(found):
    shares = found["gold"]["strategy"]["distribution"]["gold"].values()
    told = found["majority"]["strategy"]
    assert told["accuracy"]["value"] == max(number["value"] for number in shares)
    assert sorted(n["value"] for n in told["preference"].values()) == [0] * 7 + [8]


def test_a_baseline_that_says_nothing_has_no_text_numbers(found):
    number = found["uniform"]["text"]["paper"]["bleu1"]
    assert number["value"] is None and "says nothing" in number["reason"]


def test_chance_is_right_as_often_as_its_shares_say():
    gold = np.array([400, 0, 0, 0, 0, 100, 0, 500.0])
    told = chance(gold, gold / gold.sum())
    assert told["accuracy"]["value"] == pytest.approx(16 + 1 + 25, abs=0.3)
    assert told["accuracy"]["low"] < 42 < told["accuracy"]["high"]
    assert chance(gold, np.full(8, 1 / 8))["accuracy"]["value"] == pytest.approx(12.5, abs=0.3)


def test_random_draws_from_the_gold_marginal_have_less_bias_than_any_system(real_baselines):
    # Table 3: the best system's is 0.15.
    told = real_baselines["gold-marginal-random"]["strategy"]["bias"]
    assert told["value"] == pytest.approx(0.068, abs=0.005)
    assert told["high"] < 0.15


def test_gold_scores_the_distinct_1_that_it_is_known_for(real, real_baselines):
    text = real_baselines["gold"]["text"]
    assert text["paper"]["distinct1"]["value"] == pytest.approx(91.62, abs=0.005)
    assert text["corpus"]["distinct1"]["value"] == pytest.approx(8.0, abs=0.05)
    assert text["corpus"]["distinct1"]["low"] < 8.0 < text["corpus"]["distinct1"]["high"]
    assert len(real.rows) == text["paper"]["bleu1"]["n"] == 1792
