"""How far a policy moved: the sums, the warning, and real adapters that did and did not move."""

import math

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from data_builders import build
from esc import backbones, files, paths
from esc.dialogue import gold_turns
from esc.exceptions import EscError
from esc.paths import Lineage
from serving.compose import compose
from training import drift

MODEL = "smollm2-135m"


def moved(start, now):
    total = drift._Sum()
    total.add(torch.tensor(start).log(), torch.tensor(now).log())
    return total.movement()


def test_equal_policies_have_moved_by_nothing():
    shown = moved([[0.5, 0.5], [0.9, 0.1]], [[0.5, 0.5], [0.9, 0.1]])
    assert (shown.turns, shown.tokens, shown.changed) == (1, 2, 0)
    assert shown.kl == pytest.approx(0, abs=1e-7)


def test_divergence_is_of_the_moved_policy_from_the_start_and_a_mean_over_tokens():
    shown = moved([[0.4, 0.6], [0.75, 0.25]], [[0.25, 0.75], [0.75, 0.25]])
    by_hand = 0.25 * math.log(0.25 / 0.4) + 0.75 * math.log(0.75 / 0.6)
    assert shown.kl == pytest.approx(by_hand / 2, abs=1e-6)
    assert shown.changed == 0


def test_a_token_that_overtakes_the_most_probable_one_counts_as_changed():
    assert moved([[0.6, 0.4], [0.6, 0.4]], [[0.4, 0.6], [0.6, 0.4]]).changed == 0.5


def facts(*, has_moved, smoke=False):
    return {
        "kl": 1e-3, "changed": 0.01, "tokens": 100, "turns": 20, "precision": "bfloat16",
        "rounding": {"kl": 1e-3, "changed": 0.01}, "moved": has_moved, "smoke": smoke,
    }  # fmt: skip


def told(lineage=paths.PAPER, **of):
    return "\n".join(drift.report(facts(**of), paths.Path(), MODEL, "rg", lineage))


def test_a_training_that_moved_nothing_is_warned_of_with_the_way_out():
    assert "make dpo-rg VARIANT=practical trains at a rate that does" in told(has_moved=False)


def test_one_that_moved_is_not_warned_of():
    assert "WARNING" not in told(has_moved=True)


def test_a_practical_rate_that_moved_nothing_is_not_sent_to_itself():
    shown = told(has_moved=False, lineage=Lineage("practical"))
    assert "WARNING" in shown and "VARIANT=practical" not in shown


def test_without_the_adapter_the_target_that_trains_it_is_named(small_corpus, tmp_path):
    build.build(str(small_corpus), tmp_path, build.BuildOptions())
    with pytest.raises(EscError, match="make sft-sp"):
        drift.drift(tmp_path, MODEL, "sp", paths.PAPER, None)


def adapter(model, folder, scale, seed):
    torch.manual_seed(seed)
    config = LoraConfig(
        r=16, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM"
    )  # fmt: skip
    tuned = get_peft_model(AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32), config)
    with torch.no_grad():
        for name, weight in tuned.named_parameters():
            if "lora_B" in name:
                weight.normal_(0, scale)
    tuned.save_pretrained(folder)


@pytest.mark.slow
@pytest.mark.parametrize(("scale", "has_moved"), [(1e-12, False), (3e-2, True)])
def test_an_update_below_the_precision_is_told_from_one_that_moves(
    small_corpus, tmp_path, model, scale, has_moved
):
    build.build(str(small_corpus), tmp_path, build.BuildOptions())
    adapter(model, tmp_path / paths.adapter(MODEL, "rg", "sft"), 1e-3, 1)
    adapter(model, tmp_path / paths.adapter(MODEL, "rg", "dpo"), scale, 2)
    compose(tmp_path, MODEL, "rg")
    found = drift.drift(tmp_path, MODEL, "rg", paths.PAPER, 2)
    assert found["precision"] == backbones.precision() and found["tokens"] > 0
    assert found["moved"] is has_moved, found
    written = tmp_path / paths.adapter(MODEL, "rg", "dpo") / drift.DRIFT
    assert files.read_json(written) == found


def test_a_limit_beyond_the_validation_dialogues_takes_them_all(small_corpus, tmp_path):
    build.build(str(small_corpus), tmp_path, build.BuildOptions())
    turns = gold_turns(tmp_path, "validation", None)
    assert drift._drawn(turns, 500, 200) == turns
    assert 0 < len(drift._drawn(turns, 1, 200)) < len(turns)


def test_no_more_turns_are_read_than_asked_for(small_corpus, tmp_path):
    build.build(str(small_corpus), tmp_path, build.BuildOptions())
    turns = gold_turns(tmp_path, "validation", None)
    drawn = drift._drawn(turns, None, 2)
    assert len(drawn) == 2 and all(turn in turns for turn in drawn)
