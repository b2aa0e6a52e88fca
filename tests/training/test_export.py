"""The merged model: the sum it is, what it refuses, and that it answers as base and adapters do."""

import json

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from esc import adapters, backbones, files, paths
from esc.exceptions import EscError
from training import export
from training.export import Changed, Lora, merge_file

MODEL = "smollm2-135m"
NAME = "model.layers.0.mlp.up_proj"
PLAIN = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "bias": "none"}


def lora(folder, size, *, name=NAME, **config):
    """An adapter of rank 2 whose difference is ``size`` times 2 x 2 x 4 ones, scaled by 2."""
    folder.mkdir(parents=True)
    tensors = {
        f"base_model.model.{name}.lora_A.weight": torch.ones(2, 3),
        f"base_model.model.{name}.lora_B.weight": torch.full((4, 2), size),
    }
    save_file(tensors, folder / adapters.WEIGHTS)
    files.write_json(folder / "adapter_config.json", PLAIN | config)
    return folder


@pytest.fixture
def base(tmp_path):
    """A file of two weights, in bfloat16 as the backbones' are."""
    path = tmp_path / "model.safetensors"
    ones = torch.ones(4, 3, dtype=torch.bfloat16)
    save_file({f"{NAME}.weight": ones, "model.norm.weight": ones[0].clone()}, path)
    return path


def merged(base, dtype, *sizes):
    loras = [
        Lora.load(lora(base.parent / f"part{number}", size)) for number, size in enumerate(sizes)
    ]
    changed = Changed()
    target = base.with_name("merged.safetensors")
    names = merge_file(base, loras, target, dtype, changed)
    return names, load_file(target), changed


def test_a_merged_weight_is_the_base_and_every_adapter_scaled(base):
    names, weights, _ = merged(base, "float32", 0.25, 0.125)
    assert names == {f"{NAME}.weight", "model.norm.weight"}
    # 2 ranks x scale 2: 1 + 4 x 0.25 + 4 x 0.125.
    assert torch.equal(weights[f"{NAME}.weight"], torch.full((4, 3), 2.5))
    assert torch.equal(weights["model.norm.weight"], torch.ones(3))


@pytest.mark.parametrize(("size", "kept"), [(1e-5, 0.0), (1e-2, 1.0)])
def test_what_bfloat16_keeps_of_the_last_adapters_change_is_counted(base, size, kept):
    _, weights, changed = merged(base, "bfloat16", 0.25, size)
    assert weights[f"{NAME}.weight"].dtype == torch.bfloat16
    assert (changed.weights, changed.kept) == (12, kept)


@pytest.mark.parametrize(
    "given",
    [
        {"use_dora": True},
        {"use_rslora": True},
        {"bias": "all"},
        {"init_lora_weights": "pissa_niter_16"},
        {"modules_to_save": ["lm_head"]},
    ],
)
def test_an_adapter_that_is_no_plain_lora_is_refused(tmp_path, given):
    sft = tmp_path / paths.adapter(MODEL, "sp", "sft")
    with pytest.raises(
        EscError, match=r"sp_sft is no plain LoRA \(.*\): .* make sft-sp .* FORCE=1"
    ):
        export.export(tmp_path, backbones.get(MODEL), [lora(sft, 1.0, **given)], "float32")


def test_an_adapter_of_another_base_is_refused(base):
    other = Lora.load(lora(base.parent / "part", 1.0, name="model.layers.9.mlp.up_proj"))
    fresh = base.parent / "fresh"
    fresh.mkdir()
    with pytest.raises(EscError, match=r"has no model\.layers\.9\..*: it is another base"):
        export._merge(base.parent, [other], fresh, "float32")


def test_the_hash_of_each_file_is_taken_as_it_is_written(base):
    fresh = base.parent / "fresh"
    fresh.mkdir()
    _, written = export._merge(
        base.parent, [Lora.load(lora(base.parent / "part", 1.0))], fresh, "float32"
    )
    path = fresh / "model.safetensors"
    expected = {"bytes": path.stat().st_size, "sha256": files.sha256(path)}
    assert written == {"model.safetensors": expected}


def test_a_bfloat16_start_notes_what_rounding_left_and_does_not_warn_of_it(tmp_path):
    facts = {
        "files": {}, "dtype": "bfloat16", "base": "b", "made_from": {"sp_sft": "x"}, "smoke": False,
        "changed": {"weights": 4, "rounded": 1},
    }  # fmt: skip
    merged = export.Merged(tmp_path, True, facts)
    assert "NOTE        of 4 weights" in "\n".join(export.report(merged, "sp_sft", start=True))
    assert "WARNING     of 4 weights" in "\n".join(export.report(merged, "sp_sft"))


def test_a_disk_too_small_is_one_line_before_anything_is_written(base, monkeypatch):
    monkeypatch.setattr(export.shutil, "disk_usage", lambda folder: type("Free", (), {"free": 10}))
    with pytest.raises(EscError, match=r"^the merged model takes [^\n]* free some space[^\n]*$"):
        export._check_room(base.parent, base.parent, "float32")


def test_an_sft_adapter_that_was_trained_again_is_not_merged_under_the_old_dpo(tmp_path):
    sft, dpo = (tmp_path / paths.adapter(MODEL, "sp", stage) for stage in ("sft", "dpo"))
    lora(sft, 1.0)
    lora(dpo, 1.0)
    files.write_json(dpo / "options.json", {"adapter sp_sft": "0" * 64})
    with pytest.raises(EscError, match=r"was trained on another adapter than .* FORCE=1"):
        adapters.chain(tmp_path, MODEL, "sp", "dpo", paths.PAPER)


def test_the_index_of_several_files_tells_the_size_in_the_new_precision():
    given = {"metadata": {"total_size": 100}, "weight_map": {"a": "b"}}
    made = dict(export._as(given, export._INDEX, "float32"))
    assert made == {"metadata": {"total_size": 200}, "weight_map": {"a": "b"}}


def adapter(model, folder, scale, seed):
    torch.manual_seed(seed)
    config = LoraConfig(r=16, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    tuned = get_peft_model(AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32), config)
    with torch.no_grad():
        for name, weight in tuned.named_parameters():
            if "lora_B" in name:
                weight.normal_(0, scale)
    tuned.save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_the_merged_model_answers_as_base_and_adapters_do_and_is_made_once(model, tmp_path, capsys):
    sft, dpo = (tmp_path / paths.adapter(MODEL, "sp", stage) for stage in ("sft", "dpo"))
    adapter(model, sft, 1e-2, 1)
    adapter(model, dpo, 1e-5, 2)
    files.write_json(dpo / "options.json", {"adapter sp_sft": adapters.fingerprint(sft)})

    def told(*given):
        export.main(["--task", "sp", "--stage", "dpo", "--work", str(tmp_path), *given])
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
    changed = json.loads((dpo / "merged_bfloat16" / export.MANIFEST).read_text())["changed"]
    # A change of a hundred-thousandth is lost in nearly all weights.
    assert 0 < changed["rounded"] / changed["weights"] < 0.2
