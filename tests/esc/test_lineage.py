"""The names of preference trainings, and back."""

import pytest

from esc import adapters, paths
from esc.exceptions import EscError
from esc.paths import MIXES, Lineage, Quadrant, of_suffix, variants
from esc.prompts import TASKS

EVERY = [
    Lineage(variant, number) for variant in (None, *variants("vanilla")) for number in (1, 2, 13)
]


@pytest.mark.parametrize("lineage", EVERY, ids=lambda lineage: lineage.suffix or "paper")
def test_a_suffix_leads_back_to_its_lineage(lineage):
    assert of_suffix(lineage.suffix) == lineage


@pytest.mark.parametrize("suffix", ["_r1", "_r0", "_mix", "ipo", "_ipo_", "_r2_ipo", "_R2"])
def test_another_suffix_names_none(suffix):
    assert of_suffix(suffix) is None


def test_the_losses_of_round_1_share_the_mined_pairs_and_a_mix_has_its_own():
    shared = paths.preference_dataset("vanilla", "m")
    assert shared == paths.preference_dataset("vanilla", "m", Lineage("ipo"))
    assert paths.preference_dataset("vanilla", "m", Lineage("psnr")) == "esc_vanilla_dpo_m_psnr"
    assert paths.preference_dataset("sp", "m", Lineage("kto")) == "esc_sp_kto_m"


def test_rounds_are_kept_apart():
    names = {paths.preference_dataset("sp", "m", lineage) for lineage in EVERY if lineage.round > 1}
    assert len(names) == sum(lineage.round > 1 for lineage in EVERY)
    assert paths.mining("m", Lineage("ipo", 2)).name == "mining_ipo_r2"
    assert paths.mining("m", Lineage("ipo")) == paths.mining("m")


@pytest.mark.parametrize("task", TASKS)
def test_the_name_of_a_set_leads_back_to_what_it_is_for(task):
    for lineage in EVERY:
        name = paths.preference_dataset(task, "qwen2.5-7b", lineage)
        found = paths.preference_of(name)
        assert found is not None and found[:2] == (task, "qwen2.5-7b")
        assert paths.preference_dataset(task, "qwen2.5-7b", found[2]) == name


def test_an_sft_set_is_no_preference_set():
    assert paths.preference_of("esc_sp_sft_validation") is None


def test_the_mixes_are_those_of_table_5_and_figure_4():
    held = {name: {quadrant.value for quadrant in mix} for name, mix in MIXES.items()}
    assert held == {
        "nsnr": {"NsNr"},
        "nsnr_psnr": {"NsNr", "PsNr"},
        "nsnr_nspr": {"NsNr", "NsPr"},
        "psnr": {"PsNr"},
    }
    assert Lineage().mixes[None] == set(Quadrant) - {Quadrant.PSPR}


def test_a_mix_is_of_the_entangled_model_alone():
    assert Lineage("nsnr").checked("vanilla").variant == "nsnr"
    with pytest.raises(EscError, match=r"VARIANT=nsnr is none of sp's: practical, ipo"):
        Lineage("nsnr").checked("sp")


def test_a_served_name_tells_variant_and_round():
    assert adapters.served_name("vanilla", "dpo", Lineage("nsnr_psnr", 2)) == (
        "vanilla-dpo-nsnr-psnr-r2"
    )
    assert adapters.served_name("sp", "sft", Lineage("ipo")) == "sp-sft"


def test_a_round_goes_on_from_all_before_it():
    assert Lineage("ipo", 3).before == [Lineage("ipo", 1), Lineage("ipo", 2)]
    assert Lineage("ipo").before == []
