"""SFT and DPO adapter as one: equal to merging one after the other."""

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from esc import adapters, files, paths
from esc.exceptions import EscError
from esc.paths import Lineage
from serving import compose as composing
from serving.compose import MANIFEST, compose

LARGEST = 1e-4
MODEL = "smollm2-135m"


def fresh(model):
    # In double precision: what is left is the rounding of the float32 files, on every CPU the same.
    return AutoModelForCausalLM.from_pretrained(model, dtype=torch.float64)


def random_adapter(model, folder, *, seed, alpha, rank=16):
    """An adapter that moves the model well beyond rounding."""
    torch.manual_seed(seed)
    config = LoraConfig(
        r=rank, lora_alpha=alpha, lora_dropout=0.05, target_modules="all-linear",
        task_type="CAUSAL_LM",
    )  # fmt: skip
    tuned = get_peft_model(fresh(model), config)
    with torch.no_grad():
        for name, weight in tuned.named_parameters():
            if "lora_B" in name:
                weight.normal_(0, 0.003)
    tuned.save_pretrained(folder)


def logits(model):
    ids = torch.arange(100, 180).reshape(2, 40)
    with torch.no_grad():
        return model(ids).logits


def merged_in_order(model, *folders):
    tuned = fresh(model)
    for folder in folders:
        tuned = PeftModel.from_pretrained(tuned, folder).merge_and_unload()
    return logits(tuned)


@pytest.mark.slow
def test_the_composed_adapter_gives_the_logits_of_the_merges_in_order(tmp_path, model):
    """Of SFT and two rounds after it, of other ranks and scales; none of them can be missing."""
    sft = tmp_path / paths.adapter(MODEL, "sp", "sft")
    rounds = [tmp_path / paths.adapter(MODEL, "sp", "dpo", Lineage("ipo", n)) for n in (1, 2)]
    parts = [sft, *rounds]
    for seed, (folder, rank, alpha) in enumerate(zip(parts, (16, 8, 16), (16, 32, 8), strict=True)):
        random_adapter(model, folder, seed=seed, alpha=alpha, rank=rank)
    served, made = compose(tmp_path, MODEL, "sp", Lineage("ipo", 2))
    assert made and files.read_json(served / MANIFEST)["rank"] == 40
    composed = logits(PeftModel.from_pretrained(fresh(model), served).eval())
    assert (composed - merged_in_order(model, *parts)).abs().max() < LARGEST
    for left in parts:
        others = merged_in_order(model, *(one for one in parts if one != left))
        assert (composed - others).abs().max() > 100 * LARGEST


def touch_adapter(folder):
    folder.mkdir(parents=True)
    save_file({"weight": torch.zeros(1)}, folder / adapters.WEIGHTS)
    (folder / "adapter_config.json").write_text('{"r": 16}')
    return folder


def concatenated(base, parts, output):
    touch_adapter(output)
    return 32


@pytest.fixture
def parts(tmp_path, monkeypatch):
    """A WORK folder with two adapters whose sum is made by hand."""
    for stage in ("sft", "dpo"):
        touch_adapter(tmp_path / paths.adapter(MODEL, "sp", stage))
    monkeypatch.setattr(composing, "concatenate", concatenated)
    monkeypatch.setattr(adapters, "of", lambda model, template: f"of {template}")
    return tmp_path


def test_it_is_renewed_exactly_when_a_part_or_its_template_is_another(parts):
    served, _ = compose(parts, MODEL, "sp")
    assert (served / adapters.FILE).read_text() == "of smollm2"
    assert compose(parts, MODEL, "sp") == (served, False)
    (served / adapters.FILE).unlink()
    assert compose(parts, MODEL, "sp") == (served, True)
    dpo = parts / paths.adapter(MODEL, "sp", "dpo")
    save_file({"weight": torch.ones(1)}, dpo / adapters.WEIGHTS)
    before = (served / MANIFEST).read_text()
    assert compose(parts, MODEL, "sp") == (served, True)
    assert (served / MANIFEST).read_text() != before
    assert adapters.found(parts, MODEL)["sp-dpo"] == served


def test_a_part_that_is_not_trained_is_named_with_its_command(tmp_path):
    touch_adapter(tmp_path / paths.adapter(MODEL, "rg", "sft"))
    with pytest.raises(EscError, match=r"make dpo-rg WORK=.* trains it"):
        compose(tmp_path, MODEL, "rg")


@pytest.mark.parametrize("stage", ["sft", "dpo"])
def test_a_part_that_is_no_plain_lora_is_refused(parts, stage):
    config = parts / paths.adapter(MODEL, "sp", stage) / adapters.CONFIG
    files.write_json(config, {"r": 16, "use_rslora": True})
    with pytest.raises(EscError, match=rf"sp_{stage} is no plain LoRA \(use_rslora\)"):
        compose(parts, MODEL, "sp")


def test_tensors_of_another_kind_are_refused_whatever_the_configuration_says(parts):
    sft = parts / paths.adapter(MODEL, "sp", "sft")
    save_file({"base_model.model.lm_head.weight": torch.zeros(1)}, sft / adapters.WEIGHTS)
    with pytest.raises(EscError, match=r"no plain LoRA \(base_model\.model\.lm_head\.weight\)"):
        compose(parts, MODEL, "sp")


def test_more_rank_than_a_server_takes_is_refused(parts):
    for stage in ("sft", "dpo"):
        files.write_json(parts / paths.adapter(MODEL, "sp", stage) / adapters.CONFIG, {"r": 300})
    with pytest.raises(EscError, match=r"sp_sft \+ sp_dpo has rank 600, and vLLM serves up to 512"):
        compose(parts, MODEL, "sp")


def test_a_delta_on_another_sft_adapter_is_refused(tmp_path):
    touch_adapter(tmp_path / paths.adapter(MODEL, "sp", "sft"))
    dpo = touch_adapter(tmp_path / paths.adapter(MODEL, "sp", "dpo"))
    (dpo / "options.json").write_text('{"adapter sp_sft": "of before"}')
    with pytest.raises(EscError, match=r"sp_dpo was trained on another adapter than .*sp_sft"):
        compose(tmp_path, MODEL, "sp")


def test_a_bare_dpo_adapter_is_refused_with_the_reason(tmp_path):
    touch_adapter(tmp_path / paths.adapter(MODEL, "sp", "dpo"))
    with pytest.raises(EscError, match=r"difference to base \+ SFT.*serving compose .*--task sp"):
        adapters.found(tmp_path, MODEL)


def test_every_adapter_is_served_under_its_own_name(tmp_path):
    saves = tmp_path / paths.adapters(MODEL)
    for name in ("sp_sft", "vanilla_sft"):
        touch_adapter(saves / name)
    touch_adapter(saves / "rg_dpo_ipo_r2" / adapters.SERVED)
    (saves / "rg_dpo_ipo_r2" / adapters.WEIGHTS).write_bytes(b"delta")
    touch_adapter(saves / "notes")
    (saves / "rg_sft").mkdir()
    assert adapters.found(tmp_path, MODEL) == {
        "rg-dpo-ipo-r2": saves / "rg_dpo_ipo_r2" / "served",
        "sp-sft": saves / "sp_sft",
        "vanilla-sft": saves / "vanilla_sft",
    }


def test_the_folder_of_a_served_name_is_found_again(tmp_path):
    touch_adapter(tmp_path / paths.adapter(MODEL, "sp", "sft"))
    assert adapters.folder(tmp_path, MODEL, "sp-sft") == tmp_path / paths.adapter(
        MODEL, "sp", "sft"
    )
    with pytest.raises(EscError, match=r"make sft-rg WORK=.* trains it"):
        adapters.folder(tmp_path, MODEL, "rg-sft")
