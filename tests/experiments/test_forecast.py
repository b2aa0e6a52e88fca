"""What a plan would take, against hand-computed cases and the committed facts of the release."""

from dataclasses import asdict

import pytest

from esc import files, paths
from esc.llm import Price
from esc.paths import EMBEDDED
from esc.prompts import TASKS
from experiments import estimate
from experiments.estimate import Volume, load
from experiments.plan import Sizes, steps

# 10 dialogues of 10 turns; 4 characters are a token.
SMALL = Volume(
    dialogues=10,
    turns=100,
    prompts={"sp": 40_000, "rg": 20_000, "vanilla": 30_000},
    answers={"sp": 1_600, "rg": 8_000, "vanilla": 9_600},
    conversations=16_000,
)
PLAN = {step.name: step for step in steps("qwen2.5-7b", Sizes(), whole=True, judge_is_served=False)}


def asked(**more):
    known = dict.fromkeys(paths.SPLITS, SMALL)
    return estimate.Asked(known, **({"limit": None, "judge": "a-judge", "judged": 100} | more))


def test_sft_reads_prompts_and_answers_three_times():
    assert load(PLAN["sft-sp"], asked()).trained == 3 * (40_000 + 1_600) / 4
    assert load(PLAN["sft-rg"], asked()).trained == 3 * (20_000 + 8_000) / 4


def test_the_entangled_model_reads_each_conversation_once_an_epoch():
    assert load(PLAN["sft-vanilla"], asked()).trained == 3 * 16_000 / 4


def test_a_training_of_some_rows_reads_no_more():
    some = asked(rows=5, pairs={"rg": 40})
    assert load(PLAN["sft-rg"], some).trained == pytest.approx(3 * 5 * 280 / 4)
    assert load(PLAN["sft-vanilla"], some).trained == pytest.approx(3 * 5 * 1_600 / 4)
    assert load(PLAN["dpo-rg"], some) == load(PLAN["dpo-rg"], asked(pairs={"rg": 5}))
    assert load(PLAN["sft-rg"], asked(rows=500)) == load(PLAN["sft-rg"], asked())


def test_mining_samples_every_turn_and_judges_every_reply():
    planner, generator = load(PLAN["mine-sp"], asked()), load(PLAN["mine-rg"], asked())
    assert (planner.requests, planner.judged) == (100, 0)
    assert (generator.requests, generator.judged) == (300, 300)
    assert generator.prompt_tokens == 3 * 20_000 / 4
    assert generator.answer_tokens == 3 * 8_000 / 4


def test_samples_and_random_verdicts_are_taken_as_asked():
    found = load(PLAN["mine-rg"], asked(judge="random", samples=2))
    assert (found.requests, found.judged, found.judge_prompt_tokens) == (200, 0, 0)


def test_preference_training_reads_both_sides_and_its_reference():
    # 40 pairs of (30,000 + 9,600) / 100 characters, two sides, a third more for the reference, and
    # the drift of 100 validation turns.
    found = load(PLAN["dpo-vanilla"], asked(pairs={"vanilla": 40}))
    side = 396 / 4
    assert found.trained == pytest.approx(40 * 2 * side * 4 / 3 + 100 * side)


def test_without_pairs_the_papers_yield_counts():
    assert estimate.expected_pairs("sp", None, asked()) == pytest.approx(100 * 10651 / 14763)
    mixes = {
        mix: estimate.expected_pairs("vanilla", mix, asked())
        for mix in ("nsnr", "psnr", "nsnr_psnr", "nsnr_nspr", None)
    }
    assert mixes["nsnr_psnr"] == pytest.approx(mixes["nsnr"] + mixes["psnr"])
    assert mixes[None] == pytest.approx(mixes["nsnr_psnr"] + mixes["nsnr_nspr"] - mixes["nsnr"])


@pytest.mark.parametrize(
    ("name", "requests"),
    [
        ("vanilla_base", 100),
        ("direct-refine_base", 200),
        ("self-refine_base", 300),
        ("emotional-cot_base", 200),
        ("decoupled-gold_sft", 100),
        ("decoupled_dpo", 300),  # plan, its probabilities, reply
    ],
)
def test_a_system_asks_as_often_as_it_has_steps(name, requests):
    assert load(PLAN[f"predict-{name}"], asked()).requests == requests


def test_the_judge_scores_four_dimensions_and_repeats_ten_turns():
    found = load(PLAN["eval"], asked(systems=2, judged=50, pairs={"rg": 20}))
    scores = 2 * 4 * (50 + 10) + 4 * (2 * 20 + 10)
    assert found.judged == scores + 2 * 100 and found.requests == 0


def test_what_a_judge_costs_is_its_tokens_at_the_price():
    found = estimate.Load(judged=1, judge_prompt_tokens=2e6, judge_answer_tokens=1e6)
    assert found.cost(Price(0.40, 1.60)) == pytest.approx(2.40)


def test_a_limit_takes_a_share_of_the_dialogues():
    assert load(PLAN["sft-sp"], asked(limit=5)).trained == pytest.approx(3 * 41_600 / 4 / 2)
    assert load(PLAN["mine-rg"], asked(limit=500)).requests == 300


def test_the_committed_volumes_are_those_of_the_release(esconv_work):
    for split in paths.SPLITS:
        assert asdict(estimate.measured(esconv_work, split)) == asdict(estimate.committed(split))


def test_the_release_has_the_papers_turns():
    assert estimate.committed("train").turns == 14763  # Table 1
    assert estimate.committed("train").dialogues == 1040


def test_built_sets_are_counted_and_said_to_be(sample_work):
    found = estimate.known(sample_work, {})
    manifest = files.read_json(paths.data_manifest(sample_work))
    assert found.told == "the built sets" and found.as_asked
    assert found.volumes["test"].turns == manifest["sets"][paths.sft_file("rg", "test")]["rows"]
    assert set(found.volumes["test"].prompts) == set(TASKS)


@pytest.mark.parametrize(
    ("built", "asked", "told"),
    [
        ({"LIMIT": 2}, {}, "LIMIT=2"),
        ({"LIMIT": 2}, {"LIMIT": "3"}, "LIMIT=2"),
        ({"LIMIT": 2}, {"LIMIT": "2"}, None),
        ({}, {"LIMIT": "2"}, None),
        ({}, {"SPLIT": "seed:7"}, "SPLIT=paper"),
        ({"SPLIT": "seed:7"}, {}, "SPLIT=seed:7"),
        ({}, {"SPLIT": "paper"}, None),
        ({}, {"CONSECUTIVE": "merge"}, "CONSECUTIVE=separate"),
        ({}, {"ESCONV": "sample"}, "ESCONV=ESConv.json"),
        ({}, {"ESCONV": "somewhere/ESConv.json"}, None),
    ],
)
def test_built_sets_of_other_options_are_named_by_them(built, asked, told):
    options = {"LIMIT": None, "SPLIT": "paper", "CONSECUTIVE": "separate"} | built
    manifest = {"corpus": {"kind": "esconv", "origin": "ESConv.json"}, "options": options}
    assert estimate.difference(manifest, asked) == told


def test_sets_that_are_not_those_asked_for_are_not_counted(sample_work):
    found = estimate.known(sample_work, {"SPLIT": "seed:7"})
    assert found.volumes["train"] == estimate.committed("train") and not found.as_asked
    assert found.told.endswith("since the sets built here are of SPLIT=seed:42")


def test_pairs_of_whole_sets_are_not_those_of_a_part(sample_work):
    assert not estimate.known(sample_work, {"LIMIT": "2"}).as_asked


def test_the_demos_model_is_planned_too():
    plan = steps(EMBEDDED, Sizes(), whole=True, judge_is_served=True)
    loads = {step.name: load(step, asked(own_judge=True, systems=1)) for step in plan}
    assert loads["eval"].requests and not loads["eval"].judged
    assert loads["data"] == estimate.Load()
