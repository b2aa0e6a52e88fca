"""The recipes as they are rendered, and as one training runs them."""

import pytest
import yaml
from omegaconf import OmegaConf
from trained import training

from esc import backbones, paths
from esc.files import EscError
from esc.paths import LOSSES, MIXES, Lineage, variants
from esc.prompts import TASKS
from training import recipes

ENGINES = sorted(backbones.FOLDER.glob("*.yaml"))
RECIPES = sorted(set(paths.RECIPES.glob("*/*.yaml")) - set(ENGINES))
# Table 7: learning rate and beta of DPO.
TABLE_7 = {
    ("qwen2.5-7b", "vanilla"): (7e-7, 0.2),
    ("qwen2.5-7b", "sp"): (5e-8, 0.5),
    ("qwen2.5-7b", "rg"): (7e-7, 0.2),
    ("llama3.1-8b", "vanilla"): (5e-7, 0.2),
    ("llama3.1-8b", "sp"): (8e-8, 0.5),
    ("llama3.1-8b", "rg"): (3e-7, 0.2),
}
MODELS = list(backbones.table())
MERGED = "qwen2.5-72b"
"""The backbone whose own engine, ZeRO-3, has DPO start from a merged SFT model."""


def settings(model, task, stage, variant=None):
    return yaml.safe_load(paths.recipe(model, task, stage, Lineage(variant)).read_text())


def recipe_for(work, *overrides, **of):
    return recipes.recipe_for(training(work, *overrides, **{"stage": "sft"} | of))


def test_the_210_committed_recipes_are_what_the_table_renders_and_there_is_no_other_yaml():
    rendered = recipes.recipes()
    assert len(rendered) == 210 and {path: path.read_text() for path in RECIPES} == rendered
    assert {path.stem for path in ENGINES} == set(backbones.ENGINES)
    others = {*ENGINES, paths.RECIPES / "backbones.yaml"}
    assert set(paths.RECIPES.rglob("*.yaml")) == {*RECIPES, *others}


SPREAD = [
    (paths.recipe(model, task, stage), engine)
    for model, backbone in backbones.table().items()
    for task in TASKS
    for stage in backbones.STAGES
    for engine in backbones.ENGINES
    if backbone.settings["gpus"]
]


@pytest.mark.parametrize(("path", "engine"), [*((path, None) for path in RECIPES), *SPREAD])
def test_llamafactory_parses_every_recipe_and_every_engine_on_the_papers_and_the_batch_is_32(
    path, engine, tmp_path, monkeypatch, one_process
):
    from llamafactory.hparams import get_ray_args, get_train_args

    model, processes = path.parent.name, max(backbones.get(path.parent.name).settings["gpus"], 1)
    recipe = yaml.safe_load(path.read_text())
    if engine:
        for name, value in backbones.engine(engine).environment.items():
            monkeypatch.setenv(name, value)
        task, stage = path.stem.split("_")
        of = {"task": task, "stage": stage, "model": model, "processes": processes}
        recipe = recipe_for(tmp_path, engine=engine, **of)
        assert get_ray_args(recipe).use_ray == (engine == "ray")
    changed = {"use_cpu": True, "ddp_backend": "gloo", "output_dir": str(tmp_path / "out")}
    model_args, data_args, arguments, finetuning, _ = get_train_args(recipe | changed)
    assert (finetuning.lora_rank, finetuning.lora_alpha, finetuning.lora_dropout) == (16, 16, 0.05)
    assert data_args.cutoff_len == 4096 and isinstance(arguments.learning_rate, float)
    # Its own engine gives way.
    engine = engine or backbones.get(model).engine
    assert bool(arguments.deepspeed) == (engine in ("zero2", "zero3"))
    assert bool(arguments.fsdp) == (engine == "fsdp")
    assert (model_args.quantization_bit == 4) == (engine == "qlora")
    # What LLaMA-Factory would not merge is merged before.
    starts, merged = finetuning.stage != "sft", engine in ("zero3", "fsdp", "qlora")
    own = backbones.get(model).path
    assert (model_args.model_name_or_path != own) == (starts and merged)
    assert finetuning.create_new_adapter == (starts and not merged)
    assert (model_args.adapter_name_or_path is not None) == (starts and not merged)
    per_step = arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps
    of_dialogues = path.stem.endswith("sft_dialogue")
    per_step *= min(processes, 2) if of_dialogues else processes
    assert per_step == (2 if of_dialogues else 32)


def test_llamafactory_trains_without_a_reference_exactly_where_the_table_expects_no_start():
    from llamafactory.hparams import FinetuningArguments

    for variant in (None, *LOSSES):
        loss = recipes.of(Lineage(variant))
        kind = {} if loss.stage == "kto" else {"pref_loss": loss.name}
        arguments = FinetuningArguments(stage=loss.stage, **kind)
        # In KTO's stage the reference needs no switch.
        referenced = arguments.use_ref_model or loss.stage == "kto"
        assert referenced == (loss.start is not None)


@pytest.mark.parametrize(("row", "values"), TABLE_7.items())
def test_dpo_has_the_values_of_table_7(row, values):
    recipe = settings(*row, "dpo")
    assert (recipe["learning_rate"], recipe["pref_beta"]) == values
    assert (recipe["num_train_epochs"], recipe["pref_loss"]) == (1, "sigmoid")


def changed(one, other):
    return {key for key in one | other if one.get(key) != other.get(key)}


@pytest.mark.parametrize("model", MODELS)
def test_every_recipe_of_a_backbone_is_the_papers_but_for_what_its_name_says(model):
    for task in TASKS:
        sft = settings(model, task, "sft")
        assert (sft["learning_rate"], sft["num_train_epochs"]) == (1e-5, 3)
        # Every reply in the generator's history would be a label too.
        assert sft.get("mask_history", False) == (task == "rg")
        for variant in (None, *variants(task)):
            dpo = settings(model, task, "dpo", variant)
            assert dpo["logging_steps"] == 1 and not dpo.get("mask_history")
            # It starts from the output of SFT.
            if model == MERGED:
                assert dpo["model_name_or_path"] == f"{sft['output_dir']}/merged_bfloat16"
            else:
                assert dpo["adapter_name_or_path"] == sft["output_dir"]
                assert dpo["create_new_adapter"] is True
    papers = settings(model, "vanilla", "dpo")
    for mix in MIXES:
        assert changed(papers, settings(model, "vanilla", "dpo", mix)) == {"dataset", "output_dir"}
    practical = settings(model, "vanilla", "dpo", "practical")
    assert changed(papers, practical) == {"learning_rate", "output_dir"}
    assert practical["learning_rate"] >= 5 * papers["learning_rate"]
    for loss in LOSSES:
        kind = "kto" if loss == "kto" else "dpo"
        assert settings(model, "sp", "dpo", loss)["dataset"] == f"esc_sp_{kind}_{model}"
    kto = settings(model, "sp", "dpo", "kto")
    # One batch of preprocessing, and four mismatched replies a process.
    assert kto["per_device_train_batch_size"] == 4 and "preprocessing_num_workers" not in kto
    assert kto["preprocessing_batch_size"] == 10**6


def test_what_a_recipe_says_to_run_is_mended_where_it_has_to_be():
    command = "PYTHONPATH=training/in_llamafactory llamafactory-cli train"
    mended = {path for path in RECIPES if command in path.read_text()}
    generator = paths.recipe("gemma2-9b", "rg", "sft")
    assert mended == {*paths.RECIPES.glob("*/*_dpo_ipo.yaml"), generator}
    assert command in (backbones.FOLDER / "fsdp.yaml").read_text().splitlines()[2]


@pytest.mark.parametrize(("per_device", "processes"), [(1, 3), (1, 64), (3, 1)])
def test_a_batch_that_does_not_divide_is_refused(per_device, processes):
    with pytest.raises(EscError, match="do not divide the paper's batch of 32; use another NPROC"):
        recipes.accumulation(per_device, processes)


def test_a_recipe_runs_in_work_with_the_batch_for_the_processes(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,2,3,5")
    made = recipe_for(tmp_path, task="rg", model="qwen2.5-7b", processes=None)
    assert made["output_dir"] == str(tmp_path / "saves/qwen2.5-7b/rg_sft")
    assert (made["dataset_dir"], made["gradient_accumulation_steps"]) == (str(tmp_path), 8)
    # A machine with GPUs gives the embedded model one process.
    dpo = recipe_for(tmp_path, stage="dpo", processes=None)
    assert dpo["adapter_name_or_path"] == str(tmp_path / "saves/smollm2-135m/sp_sft")
    assert dpo["gradient_accumulation_steps"] == 32


def test_overrides_win_and_reach_llamafactory_as_what_it_takes_there(tmp_path):
    given = ("learning_rate=2e-5", "bf16=false", "gradient_accumulation_steps=3")
    words = ("save_strategy=no", "run_name=on", "plot_loss=no", "loraplus_lr_ratio=16.0")
    # As LLaMA-Factory reads the file that it is given.
    made = OmegaConf.create(yaml.safe_dump(recipe_for(tmp_path, *given, *words)))
    assert (made.learning_rate, made.bf16, made.gradient_accumulation_steps) == (2e-5, False, 3)
    assert (made.save_strategy, made.run_name, made.plot_loss) == ("no", "on", False)
    assert made.loraplus_lr_ratio == 16


DPO, QWEN = {"stage": "dpo"}, {"model": "qwen2.5-7b"}


@pytest.mark.parametrize(
    ("given", "of", "told"),
    [
        ("output_dir=x", {}, "cannot set output_dir: the target, WORK and NPROC do"),
        ("a=[1", {}, ""),
        ("fast", {}, "'fast' is not key=value"),
        ("per_device_train_batch_size=many", {}, "no whole number from 1"),
        ("per_device_train_batch_size=2", DPO | {"variant": "kto"}, "from 4 to"),
        ("lora_rank=1024", {}, "no whole number from 1 to 512"),
        ("use_rslora=true", {}, "no plain LoRA"),
        ("use_dora=true", {}, "no plain LoRA"),
        ("pissa_init=true", DPO, "no plain LoRA"),
        ("additional_target=embed_tokens", {}, "no plain LoRA"),
        ("lora_target=q_proj,lm_head", DPO, "no plain LoRA"),
        ("pref_loss=hinge", DPO, "the loss is the VARIANT's"),
        ("logging_steps=10", DPO, "the loss is the VARIANT's"),
        ("val_size=8", DPO | {"variant": "kto"}, "replies of a row's own turn"),
        ("model_name_or_path=x", DPO | QWEN | {"engine": "zero3"}, "ENGINE=zero3 starts from"),
        ("model_name_or_path=x", DPO | {"model": "qwen2.5-72b"}, "ENGINE=zero3 starts from"),
        ("deepspeed=zero3.json", DPO | {"variant": "orpo"}, "keep the SFT adapter apart"),
        ("create_new_adapter=false", DPO | {"variant": "simpo"}, "the SFT adapter apart"),
    ],
)
def test_what_cannot_be_or_be_served_or_would_hide_the_reference_is_refused_in_one_line(
    tmp_path, given, of, told
):
    with pytest.raises(EscError, match=rf"^TRAIN_ARGS[^\n]*{told}[^\n]*$"):
        recipe_for(tmp_path, given, **of)


@pytest.mark.parametrize(
    ("folder", "of", "told"),
    [
        ("", {"model": "gpt9"}, "unknown MODEL 'gpt9'; known: qwen2"),
        ("", DPO | {"variant": "psnr"}, "VARIANT=psnr is none of sp's: practical, ipo"),
        ("", {"variant": "ipo"}, "VARIANT and ROUND name a DPO training"),
        ("", {"engine": "zero9"}, "unknown ENGINE 'zero9'; known: zero2, zero3, fsdp"),
        ("", {"engine": "fsdp"}, "ENGINE=fsdp: LLaMA-Factory 0.9.5 needs GPUs"),
        ("my work", {"processes": 2}, "holds a blank or a comma"),
        # LLaMA-Factory starts torchrun by itself where it sees several GPUs.
        ("my work", QWEN, "holds a blank or a comma"),
        ("a,b", DPO, "holds a blank or a comma"),
    ],
)
def test_an_unknown_name_or_a_work_that_llamafactory_would_split_is_one_line(
    tmp_path, folder, of, told
):
    with pytest.raises(EscError, match=rf"^[^\n]*{told}[^\n]*$"):
        recipe_for(tmp_path / folder, **of)
    # One process on a CPU is not started by torchrun.
    assert "my work" in recipe_for(tmp_path / "my work")["output_dir"]


@pytest.mark.parametrize(
    "given",
    ["hf_hub_token=s3cr3t", "ray_init_kwargs={env: {WANDB_API_KEY: s3cr3t}}", "a.HF_TOKEN=[s3cr3t"],
)
def test_a_secret_is_refused_and_not_repeated(tmp_path, given):
    with pytest.raises(EscError, match=r"cannot hold .*the libraries read HF_TOKEN") as refused:
        recipe_for(tmp_path, given)
    assert "s3cr3t" not in str(refused.value)
    recipe_for(tmp_path, "max_new_tokens=8", "skip_special_tokens=true")
