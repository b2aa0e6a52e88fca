"""SFT and DPO adapter as one: equal to merging one after the other."""

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from esc import adapters, files, paths
from esc.files import EscError
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


@pytest.fixture
def parts(tmp_path, monkeypatch):
    """A WORK folder with two adapters whose sum is made by hand."""
    for stage in ("sft", "dpo"):
        touch_adapter(tmp_path / paths.adapter(MODEL, "sp", stage))
    monkeypatch.setattr(
        composing, "concatenate", lambda base, parts, out: touch_adapter(out) and 32
    )
    monkeypatch.setattr(adapters, "of", lambda model, template: f"of {template}")
    return tmp_path


def test_it_is_renewed_exactly_when_a_part_or_its_template_is_another(parts):
    served, _ = compose(parts, MODEL, "sp")
    assert (served / adapters.FILE).read_text() == "of smollm2"
    assert compose(parts, MODEL, "sp") == (served, False)
    (served / adapters.FILE).unlink()
    assert compose(parts, MODEL, "sp") == (served, True)
    save_file(
        {"weight": torch.ones(1)}, parts / paths.adapter(MODEL, "sp", "dpo") / adapters.WEIGHTS
    )
    assert compose(parts, MODEL, "sp") == (served, True)
    assert adapters.found(parts, MODEL)["sp-dpo"] == served


REFUSED = [
    ({"sft": None}, r"make sft-sp WORK=.* trains it"),
    ({"sft": {"r": 16, "use_rslora": True}}, r"sp_sft is no plain LoRA \(use_rslora\)"),
    ({"dpo": {"r": 16, "use_rslora": True}}, r"sp_dpo is no plain LoRA \(use_rslora\)"),
    ({"sft": {"r": 300}, "dpo": {"r": 300}}, r"sp_sft \+ sp_dpo has rank 600, .* up to 512"),
]


@pytest.mark.parametrize(("changed", "reason"), REFUSED)
def test_parts_that_do_not_make_one_adapter_are_refused(parts, changed, reason):
    for stage, config in changed.items():
        folder = parts / paths.adapter(MODEL, "sp", stage)
        if config is None:
            (folder / adapters.WEIGHTS).unlink()
        else:
            files.write_json(folder / adapters.CONFIG, config)
    with pytest.raises(EscError, match=reason):
        compose(parts, MODEL, "sp")


def test_a_delta_on_another_sft_adapter_or_alone_is_refused(parts):
    with pytest.raises(EscError, match=r"difference to base \+ SFT.*serving compose .*--task sp"):
        adapters.found(parts, MODEL)
    options = parts / paths.adapter(MODEL, "sp", "dpo") / "options.json"
    options.write_text('{"adapter sp_sft": "of before"}')
    with pytest.raises(EscError, match=r"sp_dpo was trained on another adapter than .*sp_sft"):
        compose(parts, MODEL, "sp")


def test_every_adapter_is_served_under_its_own_name(tmp_path):
    saves = tmp_path / paths.adapters(MODEL)
    touch_adapter(saves / "sp_sft")
    touch_adapter(saves / "rg_dpo_ipo_r2" / adapters.SERVED)
    (saves / "rg_dpo_ipo_r2" / adapters.WEIGHTS).write_bytes(b"delta")
    touch_adapter(saves / "notes")
    (saves / "rg_sft").mkdir()
    assert adapters.found(tmp_path, MODEL) == {
        "rg-dpo-ipo-r2": saves / "rg_dpo_ipo_r2" / "served",
        "sp-sft": saves / "sp_sft",
    }
    assert adapters.folder(tmp_path, MODEL, "sp-sft") == saves / "sp_sft"
