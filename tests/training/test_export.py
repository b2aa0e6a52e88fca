"""The merged model: the sum it is, what it refuses, and that it answers as base and adapters do."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from trained import MODEL, scale
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from esc import adapters, backbones, files, paths
from esc.files import EscError
from training import export

NAME = "model.layers.0.mlp.up_proj"
PLAIN = {
    "peft_type": "LORA", "r": 2, "lora_alpha": 4, "bias": "none", "target_modules": ["up_proj"]
}  # fmt: skip


def lora(folder, size, *, name=NAME, whole=(), **config):
    """An adapter of rank 2 whose difference is ``size`` times 2 x 2 ones, scaled by 2."""
    folder.mkdir(parents=True)
    tensors = {
        f"base_model.model.{name}.lora_A.weight": torch.ones(2, 8),
        f"base_model.model.{name}.lora_B.weight": torch.full((16, 2), size),
    } | {f"base_model.model.{one}": torch.ones(2) for one in whole}
    save_file(tensors, folder / adapters.WEIGHTS)
    files.write_json(folder / adapters.CONFIG, PLAIN | config)
    return folder


@pytest.fixture
def base(tmp_path):
    """A model of one layer whose weights are ones, in bfloat16 as the backbones' are."""
    sizes = {"hidden_size": 8, "intermediate_size": 16, "num_attention_heads": 2, "vocab_size": 32}
    model = LlamaForCausalLM(LlamaConfig(**sizes, num_hidden_layers=1)).to(torch.bfloat16)
    with torch.no_grad():
        for weight in model.parameters():
            weight.fill_(1)
    model.save_pretrained(tmp_path / "base")
    return replace(backbones.get("qwen2.5-7b"), path=str(tmp_path / "base"), parameters=1e-6)


def merged(base, folder, dtype, *sizes):
    parts = [lora(folder / f"part{number}", size) for number, size in enumerate(sizes)]
    changed = export.merge(base, parts, folder / "fresh", dtype)
    return load_file(folder / "fresh" / "model.safetensors"), changed


def test_a_merged_weight_is_the_base_and_every_adapter_scaled(base, tmp_path):
    # Beside 1, bfloat16 knows no 2 ** -12: an adapter is added in float32, whatever the base is.
    weights, _ = merged(base, tmp_path, "float32", 0.25, 0.125 + 2**-12)
    assert weights.keys() == load_file(tmp_path / "base" / "model.safetensors").keys()
    # 2 ranks x scale 2: 1 + 4 x 0.25 + 4 x (0.125 + 2 ** -12).
    expected = torch.full((16, 8), 2.5 + 4 * 2**-12)
    assert torch.equal(weights.pop(f"{NAME}.weight"), expected)
    assert all(torch.equal(weight, torch.ones_like(weight)) for weight in weights.values())
    assert files.read_json(tmp_path / "fresh" / "config.json")["dtype"] == "float32"


@pytest.mark.parametrize(("size", "kept"), [(1e-5, 0), (1e-2, 128)])
def test_what_bfloat16_keeps_of_the_last_adapters_change_is_counted(base, tmp_path, size, kept):
    weights, changed = merged(base, tmp_path, "bfloat16", 0.25, size)
    assert {weight.dtype for weight in weights.values()} == {torch.bfloat16}
    assert changed == {"weights": 128, "rounded": kept}


NO_PLAIN = r"sp_sft is no plain LoRA \(\S+\): .* make sft-sp .* FORCE=1"


@pytest.mark.parametrize(
    ("odd", "free", "told"),
    [
        ({"use_rslora": True}, 1e9, NO_PLAIN),
        ({"init_lora_weights": "pissa_niter_16"}, 1e9, NO_PLAIN),
        ({"modules_to_save": ["lm_head"], "whole": ["lm_head.weight"]}, 1e9, NO_PLAIN),
        ({"name": "model.layers.9.mlp.up_proj"}, 1e9, r"has no model\.layers\.9\..*another base"),
        ({}, 10, r"^merging takes 0\.0 GB of memory, [^\n]*$"),
    ],
)
def test_another_kind_another_base_or_a_memory_too_small_is_one_line_and_nothing_is_written(
    base, tmp_path, monkeypatch, odd, free, told
):
    monkeypatch.setattr(export.psutil, "virtual_memory", lambda: SimpleNamespace(available=free))
    sft = lora(tmp_path / paths.adapter(MODEL, "sp", "sft"), 1.0, **odd)
    with pytest.raises(EscError, match=told):
        export.export(tmp_path, base, [sft], "float32")
    assert not [path for path in sft.iterdir() if path.is_dir()]


@pytest.mark.slow
def test_the_merged_model_answers_as_base_and_adapters_do_and_is_made_once(model, copied, capsys):
    sft, dpo = (copied / paths.adapter(MODEL, "sp", stage) for stage in ("sft", "dpo"))
    scale(dpo, 1e-3)

    def told(*given):
        export.main(["--task", "sp", "--stage", "dpo", "--work", str(copied), *given])
        return capsys.readouterr().out

    assert "SMOKE" in told()
    folder = dpo / "merged"
    facts = files.read_json(folder / export.MANIFEST)
    assert facts["dtype"] == "float32" and facts["smoke"] is True
    tokenizer, before = AutoTokenizer.from_pretrained(folder), AutoTokenizer.from_pretrained(model)
    expected = adapters.of(str(model), backbones.get(MODEL).template)
    assert (folder / adapters.FILE).read_text() == expected == tokenizer.chat_template
    ids = tokenizer("I lost my job last week.", return_tensors="pt").input_ids
    assert torch.equal(ids, before("I lost my job last week.", return_tensors="pt").input_ids)
    apart = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    for part in (sft, dpo):
        apart = PeftModel.from_pretrained(apart, str(part)).merge_and_unload()
    whole = AutoModelForCausalLM.from_pretrained(folder)
    assert whole.dtype == torch.float32
    with torch.inference_mode():
        # Float32 sums in another order: 1e-4 of logits up to about 20.
        torch.testing.assert_close(whole(ids).logits, apart(ids).logits, atol=1e-4, rtol=1e-4)
    assert "up to date" in told()
    assert "keep a change in bfloat16" in told("--dtype", "bfloat16")
    changed = files.read_json(dpo / "merged_bfloat16" / export.MANIFEST)["changed"]
    # So small a change is lost in nearly all weights.
    assert 0 < changed["rounded"] / changed["weights"] < 0.2
