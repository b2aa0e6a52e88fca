"""SFT and DPO adapter as one: equal to merging one after the other."""

import shutil

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from trained import MODEL, stub
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from esc import adapters, files, paths
from esc.files import EscError
from esc.paths import Lineage
from serving.compose import MANIFEST, compose


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A small model."""
    folder = tmp_path_factory.mktemp("base")
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4}
    config = LlamaConfig(**sizes, num_hidden_layers=2, vocab_size=64)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def fresh(base):
    # In double precision: what is left is the rounding of the float32 files, on every CPU the same.
    return AutoModelForCausalLM.from_pretrained(base, dtype=torch.float64)


def random_adapter(base, folder, *, alpha=16, rank=16, layers="all-linear"):
    """An adapter that moves the model well beyond rounding."""
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=layers, task_type="CAUSAL_LM")
    tuned = get_peft_model(fresh(base), config)
    with torch.no_grad():
        for name, weight in tuned.named_parameters():
            if "lora_B" in name:
                weight.normal_(0, 0.1)
    tuned.save_pretrained(folder)
    # As a training leaves it.
    files.write_json(folder / "run.json", {})
    files.write_text(folder / adapters.FILE, "the training's")


def logits(model):
    with torch.no_grad():
        return model(torch.arange(60).reshape(2, 30)).logits


def merged_in_order(base, *folders):
    tuned = fresh(base)
    for folder in folders:
        tuned = PeftModel.from_pretrained(tuned, folder).merge_and_unload()
    return logits(tuned)


def test_the_composed_adapter_gives_the_logits_of_the_merges_in_order(tmp_path, base):
    """Of SFT and two rounds, of other ranks, scales and layers; none of them can be missing."""
    lineage = Lineage("ipo", 2)
    parts = adapters.folders_of(tmp_path, MODEL, "sp", "dpo", lineage)
    random_adapter(base, parts[0])
    random_adapter(base, parts[1], rank=8, alpha=32)
    random_adapter(base, parts[2], alpha=8, layers=["q_proj", "up_proj"])
    served, made = compose(tmp_path, MODEL, "sp", lineage)
    assert made and files.read_json(served / MANIFEST)["rank"] == 40
    composed = logits(PeftModel.from_pretrained(fresh(base), served).eval())
    assert (composed - merged_in_order(base, *parts)).abs().max() < 1e-6
    for left in parts:
        others = merged_in_order(base, *(one for one in parts if one != left))
        assert (composed - others).abs().max() > 1e-4


@pytest.fixture
def parts(base, tmp_path):
    """A WORK folder with an adapter of SFT and one of DPO."""
    for folder in adapters.folders_of(tmp_path, MODEL, "sp", "dpo"):
        random_adapter(base, folder)
    return tmp_path


def test_it_is_renewed_exactly_when_a_part_is_another_or_its_template_is_missing(parts):
    served, _ = compose(parts, MODEL, "sp")
    assert (served / adapters.FILE).read_text() == "the training's"
    assert compose(parts, MODEL, "sp") == (served, False)
    (served / adapters.FILE).unlink()
    assert compose(parts, MODEL, "sp") == (served, True)
    sft, dpo = adapters.folders_of(parts, MODEL, "sp", "dpo")
    shutil.copy(sft / adapters.WEIGHTS, dpo)
    assert compose(parts, MODEL, "sp") == (served, True)
    assert adapters.found(parts, MODEL)["sp-dpo"] == served


@pytest.mark.parametrize(
    ("name", "left", "reason"),
    [
        (f"sp_sft/{adapters.WEIGHTS}", None, r"make sft-sp WORK=.* trains it"),
        (f"sp_sft/{adapters.CONFIG}", {"r": 500}, r"sp_sft \+ sp_dpo has rank 516, .* up to 512"),
        ("sp_dpo/options.json", {"adapter sp_sft": "of before"}, r"sp_dpo was trained on another"),
    ],
)
def test_parts_that_do_not_make_one_adapter_are_refused(parts, name, left, reason):
    path = parts / paths.adapters(MODEL) / name
    if left is None:
        path.unlink()
    else:
        files.write_json(path, left)
    with pytest.raises(EscError, match=reason):
        compose(parts, MODEL, "sp")


def test_every_adapter_is_served_under_its_own_name_and_a_bare_delta_is_refused(tmp_path):
    saves = tmp_path / paths.adapters(MODEL)
    for name in ("sp_sft", "rg_dpo_ipo_r2", "rg_dpo_ipo_r2/served", "notes"):
        stub(saves / name)
    (saves / "rg_sft").mkdir()
    expected = {"rg-dpo-ipo-r2": saves / "rg_dpo_ipo_r2" / "served", "sp-sft": saves / "sp_sft"}
    assert adapters.found(tmp_path, MODEL) == expected
    assert adapters.folder(tmp_path, MODEL, "sp-sft") == saves / "sp_sft"
    stub(saves / "sp_dpo")
    with pytest.raises(EscError, match=r"difference to base \+ SFT.*serving compose .*--task sp"):
        adapters.found(tmp_path, MODEL)
