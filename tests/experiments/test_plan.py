"""The plan of the paper's experiment: every row of its tables, once, after what it needs."""

import re
from collections import Counter

import pytest

from esc import paths
from esc.exceptions import EscError
from esc.paths import (
    EMBEDDED,
    MIXES,
    PROMPT_BASELINES,
    SYSTEMS_OF_FIGURE_4,
    SYSTEMS_OF_TABLE_3,
    SYSTEMS_OF_TABLE_4,
    SYSTEMS_OF_TABLE_5,
)
from experiments import demo
from experiments.plan import Sizes, only, steps

WHOLE = steps("qwen2.5-7b", Sizes(), whole=True, judge_is_served=False)
DEMO = steps(EMBEDDED, demo.SIZES, whole=False, judge_is_served=True)
PLANS = pytest.mark.parametrize("plan", [WHOLE, DEMO], ids=["whole", "demo"])


def test_every_row_of_the_tables_is_predicted_once():
    predicted = Counter(step.product.parent.name for step in WHOLE if step.target == "predict")
    rows = {
        kind.name
        for kind in (
            *SYSTEMS_OF_TABLE_3,
            *SYSTEMS_OF_TABLE_4,
            *SYSTEMS_OF_TABLE_5,
            *SYSTEMS_OF_FIGURE_4,
        )
    }
    assert predicted == Counter(rows) and len(rows) == 15


def test_what_two_tables_share_is_trained_once():
    trained = [step.name for step in WHOLE if step.target == "dpo-vanilla"]
    assert sorted(trained) == sorted(["dpo-vanilla", *(f"dpo-vanilla-{mix}" for mix in MIXES)])
    (shared,) = [step for step in WHOLE if step.name == "dpo-vanilla-nsnr"]
    assert "Table 5, Figure 4" in shared.what


@PLANS
def test_every_step_stands_after_what_it_needs(plan):
    seen = set()
    for step in plan:
        assert set(step.needs) <= seen, step.name
        assert step.name not in seen
        seen.add(step.name)


@PLANS
def test_no_training_stands_between_the_steps_that_ask_one_server(plan):
    # Each training between them would cost a server's start.
    blocks = re.findall(r"s+", "".join("s" if step.served else "." for step in plan))
    assert len(blocks) == 2


@PLANS
def test_targets_and_variables_are_those_of_the_makefile(plan):
    makefile = (paths.ROOT / "Makefile").read_text()
    names = re.findall(r"^([a-z-]+(?: [a-z-]+)*):", makefile, re.MULTILINE)
    targets = {name for line in names for name in line.split()}
    known = set(re.findall(r"^([A-Z_0-9]+) \?=", makefile, re.MULTILINE)) | {"JUDGE", "JUDGE_N"}
    assert {step.target for step in plan} <= targets
    assert {name for step in plan for name in step.variables} <= known


def test_the_demo_trains_and_predicts_all_but_the_mixes():
    without = {step.name for step in WHOLE} - {step.name for step in DEMO}
    assert {name.split("-")[0] for name in without} == {"dpo", "predict"}
    left_out = (*MIXES, *PROMPT_BASELINES)
    assert all(any(one in name for one in left_out) for name in without)
    assert {step.name for step in DEMO} <= {step.name for step in WHOLE} | {"model"}


def test_the_embedded_models_mining_is_judged_at_random_in_the_demo():
    mined = [step for step in DEMO if step.target.startswith("mine")]
    assert {step.variables["JUDGE"] for step in mined} == {"random"}


def test_named_steps_come_with_all_they_need_and_nothing_else():
    names = [step.name for step in only(WHOLE, ["dpo-sp", "stats"])]
    assert names == ["data", "stats", "sft-sp", "mine-sp", "dpo-sp"]


def test_a_report_alone_is_of_what_is_there():
    assert [step.name for step in only(WHOLE, ["report"])] == ["report"]


def test_a_step_that_is_not_in_the_plan_is_named_with_those_that_are():
    with pytest.raises(EscError, match="'dpo-xx' is none of data, check-data"):
        only(WHOLE, ["dpo-xx"])


@PLANS
def test_the_report_is_made_anew_when_any_step_has_made_something_else(plan):
    *others, report = plan
    assert set(report.needs) == {step.name for step in others}


@PLANS
def test_the_sets_alone_are_looked_at_in_every_call(plan):
    assert [step.name for step in plan if step.always] == ["data"]
