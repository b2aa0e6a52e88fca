"""The names of preference trainings, and back."""

import pytest

from esc import adapters, paths
from esc.files import EscError
from esc.paths import MIXES, Lineage, Quadrant, of_suffix, variants
from esc.prompts import TASKS

EVERY = [
    Lineage(variant, number, layout)
    for variant in (None, *variants("vanilla"))
    for number in (1, 2, 13)
    for layout in paths.LAYOUTS
]


def test_a_suffix_and_a_sets_name_lead_back_to_their_lineage():
    for lineage in EVERY:
        assert of_suffix(lineage.suffix) == lineage
        for task in TASKS:
            name = paths.preference_dataset(task, "qwen2.5-7b", lineage)
            found = paths.preference_of(name)
            assert found is not None and found[:2] == (task, "qwen2.5-7b")
            assert paths.preference_dataset(task, "qwen2.5-7b", found[2]) == name
    assert paths.preference_of("esc_sp_sft_validation") is None
    for suffix in ("_r1", "_r0", "_mix", "ipo", "_ipo_", "_r2_ipo", "_R2"):
        assert of_suffix(suffix) is None


def test_the_losses_of_round_1_share_the_mined_pairs_and_a_mix_or_a_later_round_has_its_own():
    named = {one: paths.preference_dataset("sp", "m", one) for one in EVERY}
    shared = Lineage(), Lineage("ipo"), Lineage("practical")
    assert {named[one] for one in shared} == {"esc_sp_dpo_m"}
    assert named[Lineage("psnr")] == "esc_sp_dpo_m_psnr" and named[Lineage("kto")] == "esc_sp_kto_m"
    later = [named[one] for one in EVERY if one.round > 1]
    assert named[Lineage("ipo", layout="dialogue")] == "esc_sp_dpo_m_dialogue"
    assert paths.mining("m", Lineage("ipo", layout="dialogue")).name == "mining_dialogue"
    assert len(set(later)) == len(later)
    assert paths.mining("m", Lineage("ipo", 2)).name == "mining_ipo_r2"
    assert paths.mining("m", Lineage("ipo")) == paths.mining("m")


def test_the_mixes_are_those_of_table_5_and_figure_4_and_of_the_entangled_model_alone():
    held = {name: {quadrant.value for quadrant in mix} for name, mix in MIXES.items()}
    assert held == {
        "nsnr": {"NsNr"},
        "nsnr_psnr": {"NsNr", "PsNr"},
        "nsnr_nspr": {"NsNr", "NsPr"},
        "psnr": {"PsNr"},
    }
    assert Lineage().mixes[None] == set(Quadrant) - {Quadrant.PSPR}
    assert Lineage("nsnr").checked("vanilla").variant == "nsnr"
    with pytest.raises(EscError, match=r"VARIANT=nsnr is none of sp's: practical, ipo"):
        Lineage("nsnr").checked("sp")


def test_a_served_name_tells_variant_and_round():
    lineage = Lineage("nsnr_psnr", 2)
    assert adapters.served_name("vanilla", "dpo", lineage) == "vanilla-dpo-nsnr-psnr-r2"
    assert adapters.served_name("sp", "sft", Lineage("ipo")) == "sp-sft"
    dialogue = Lineage("ipo", 2, "dialogue")
    assert adapters.served_name("rg", "dpo", dialogue) == "rg-dpo-dialogue-ipo-r2"
    assert adapters.served_name("rg", "sft", dialogue) == "rg-sft-dialogue"
    assert adapters.start("rg", Lineage(layout="dialogue")) == "rg-sft-dialogue"


def test_the_entangled_model_has_one_layout_and_a_set_of_conversations_too():
    assert Lineage("psnr", layout="dialogue").checked("vanilla") == Lineage("psnr")
    with pytest.raises(EscError, match="has the layout turn alone"):
        Lineage("converse", layout="dialogue").checked("rg")
