import re
from fractions import Fraction

import pytest
import yaml

from esc import backbones, paths
from esc.exceptions import EscError
from esc.paths import LOSSES, MIXES, Lineage, variants
from esc.prompts import TASKS
from training import memory, recipes

ENGINES = sorted(backbones.FOLDER.glob("*.yaml"))
RECIPES = sorted(set(paths.RECIPES.glob("*/*.yaml")) - set(ENGINES))
# Table 7: learning rate and beta of DPO.
TABLE_7 = {
    ("qwen2.5-7b", "vanilla"): ("7e-7", "0.2"),
    ("qwen2.5-7b", "sp"): ("5e-8", "0.5"),
    ("qwen2.5-7b", "rg"): ("7e-7", "0.2"),
    ("llama3.1-8b", "vanilla"): ("5e-7", "0.2"),
    ("llama3.1-8b", "sp"): ("8e-8", "0.5"),
    ("llama3.1-8b", "rg"): ("3e-7", "0.2"),
}
BACKBONES = ["qwen2.5-7b", "llama3.1-8b", "gemma2-9b", "qwen2.5-72b", "smollm2-135m"]

MERGED = "qwen2.5-72b"
"""The backbone whose own engine, ZeRO-3, has DPO start from a merged SFT model."""
PREFERENCES = [(task, variant) for task in TASKS for variant in (None, *variants(task))]


def settings(model, task, stage, variant=None):
    return yaml.safe_load(paths.recipe(model, task, stage, variant).read_text())


def test_there_are_125_recipes_and_5_engines_and_no_other_yaml():
    assert (len(RECIPES), len(ENGINES)) == (125, 5)
    assert {path.stem for path in ENGINES} == set(backbones.ENGINES)
    others = {*ENGINES, paths.RECIPES / "backbones.yaml"}
    assert set(paths.RECIPES.rglob("*.yaml")) == {*RECIPES, *others}


def test_the_committed_recipes_are_what_the_table_renders():
    assert {path: path.read_text() for path in RECIPES} == recipes.recipes()


@pytest.fixture
def distributed(monkeypatch):
    """As one of torchrun's processes: DeepSpeed and FSDP are refused to any other."""
    import torch

    one = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
    for name, value in (one | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}).items():
        monkeypatch.setenv(name, value)
    yield
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_llamafactory_parses_it(path, tmp_path, distributed):
    from llamafactory.hparams import get_train_args

    changed = {"use_cpu": True, "ddp_backend": "gloo", "output_dir": str(tmp_path / "out")}
    parsed = get_train_args(yaml.safe_load(path.read_text()) | changed)
    model_args, data_args, training_args, finetuning_args, _ = parsed
    assert (finetuning_args.lora_rank, finetuning_args.lora_alpha) == (16, 16)
    assert finetuning_args.lora_dropout == 0.05
    assert data_args.cutoff_len == 4096
    merged = path.parent.name == MERGED
    upon_adapter = finetuning_args.stage != "sft" and not merged
    assert finetuning_args.create_new_adapter == upon_adapter
    assert (model_args.adapter_name_or_path is not None) == upon_adapter
    assert (training_args.deepspeed is not None) == merged
    assert isinstance(training_args.learning_rate, float)


def test_llamafactory_trains_without_a_reference_exactly_where_the_table_expects_no_start():
    from llamafactory.hparams import FinetuningArguments

    for variant in (None, *LOSSES):
        loss = recipes.of(Lineage(variant))
        kind = {} if loss.stage == "kto" else {"pref_loss": loss.name}
        arguments = FinetuningArguments(stage=loss.stage, **kind)
        # In KTO's stage the reference needs no switch.
        referenced = arguments.use_ref_model or loss.stage == "kto"
        assert referenced == (loss.start is not None)


@pytest.mark.parametrize("model", BACKBONES)
@pytest.mark.parametrize("task", TASKS)
def test_sft_has_the_papers_rate_and_epochs(model, task):
    recipe = settings(model, task, "sft")
    assert (recipe["stage"], recipe["learning_rate"], recipe["num_train_epochs"]) == (
        "sft",
        1e-5,
        3,
    )


@pytest.mark.parametrize(("row", "values"), TABLE_7.items())
def test_dpo_has_the_values_of_table_7(row, values):
    recipe = settings(*row, "dpo")
    expected = tuple(float(Fraction(value)) for value in values)
    assert (recipe["learning_rate"], recipe["pref_beta"]) == expected
    assert (recipe["num_train_epochs"], recipe["pref_loss"]) == (1, "sigmoid")


@pytest.mark.parametrize("mix", MIXES)
def test_a_mix_differs_from_the_papers_training_in_its_pairs_alone(mix):
    whole, part = (settings("qwen2.5-7b", "vanilla", "dpo", one) for one in (None, mix))
    changed = {key for key in whole | part if whole.get(key) != part.get(key)}
    assert changed == {"dataset", "output_dir"}
    assert part["dataset"] == f"esc_vanilla_dpo_qwen2.5-7b_{mix}"


@pytest.mark.parametrize("model", BACKBONES)
@pytest.mark.parametrize("task", TASKS)
def test_practical_differs_from_the_papers_training_in_its_rate_alone(model, task):
    papers, practical = (settings(model, task, "dpo", one) for one in (None, "practical"))
    changed = {key for key in papers | practical if papers.get(key) != practical.get(key)}
    assert changed == {"learning_rate", "output_dir"}
    assert practical["learning_rate"] >= 5 * papers["learning_rate"]


@pytest.mark.parametrize("task", TASKS)
def test_every_loss_is_trained_on_the_same_mined_pairs_but_kto(task):
    sets = {loss: settings("llama3.1-8b", task, "dpo", loss)["dataset"] for loss in LOSSES}
    assert sets.pop("kto") == f"esc_{task}_kto_llama3.1-8b"
    assert set(sets.values()) == {f"esc_{task}_dpo_llama3.1-8b"}


@pytest.mark.parametrize("model", BACKBONES)
@pytest.mark.parametrize(("task", "variant"), PREFERENCES)
def test_dpo_starts_from_the_output_of_sft_and_logs_every_step(model, task, variant):
    dpo, sft = settings(model, task, "dpo", variant), settings(model, task, "sft")["output_dir"]
    assert dpo["logging_steps"] == 1
    if model == MERGED:
        assert dpo["model_name_or_path"] == f"{sft}/merged_bfloat16"
        assert not dpo.keys() & {"adapter_name_or_path", "create_new_adapter"}
    else:
        assert (dpo["adapter_name_or_path"], dpo["create_new_adapter"]) == (sft, True)


@pytest.mark.parametrize("model", BACKBONES)
def test_history_is_masked_in_generator_sft_alone(model):
    masked = {
        (task, stage)
        for task in TASKS
        for stage in recipes.STAGES
        if settings(model, task, stage).get("mask_history")
    }
    assert masked == {("rg", "sft")}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_the_batch_is_32_on_the_processes_of_the_header(path):
    recipe = yaml.safe_load(path.read_text())
    processes = max(backbones.get(path.parent.name).settings["gpus"], 1)
    per_step = recipe["per_device_train_batch_size"] * recipe["gradient_accumulation_steps"]
    assert per_step * processes == 32
    assert f"Written for {processes} process" in path.read_text()


@pytest.mark.parametrize(
    "name", [name for name in BACKBONES if backbones.get(name).settings["gpus"]]
)
def test_the_rows_that_a_backbones_hardware_takes_are_the_estimates(name):
    backbone = backbones.get(name)
    told = re.findall(
        r"([\d,]+) and ([\d,]+)(?: tokens)? on (\d+) GB", backbone.settings["hardware"]
    )
    assert told
    of = {"engine": backbone.engine, "processes": backbone.settings["gpus"]}
    for *lengths, card in told:
        for stage, length in zip(("sft", "dpo"), lengths, strict=True):
            row = int(length.replace(",", ""))
            assert memory.gigabytes(backbone, length=row, stage=stage, **of) <= int(card)
            # A seventh more is too much, unless it is beyond what a recipe takes.
            longer = memory.gigabytes(backbone, length=row * 8 // 7, stage=stage, **of)
            assert row == recipes.CUTOFF or longer > int(card)


def test_the_memory_of_the_embedded_models_hardware_is_the_estimates_and_a_little_more():
    backbone = backbones.get("smollm2-135m")
    (told,) = re.findall(r"(\d+) GB in SFT and (\d+) GB in DPO", backbone.settings["hardware"])
    for stage, size in zip(("sft", "dpo"), told, strict=True):
        # ESConv's longest dialogue.
        of = {"engine": None, "processes": 1, "length": 3348, "stage": stage}
        assert 0.7 * int(size) < memory.gigabytes(backbone, **of) < int(size)


@pytest.mark.parametrize(("per_device", "processes"), [(1, 1), (1, 8), (2, 4), (4, 8), (1, 32)])
def test_accumulation_keeps_the_batch_at_32(per_device, processes):
    assert recipes.accumulation(per_device, processes) * per_device * processes == 32


@pytest.mark.parametrize(("per_device", "processes"), [(1, 3), (1, 64)])
def test_a_batch_that_does_not_divide_is_refused_with_what_fits(per_device, processes):
    with pytest.raises(EscError, match="do not divide the paper's batch of 32; use NPROC of"):
        recipes.accumulation(per_device, processes)


def test_a_batch_that_no_number_of_processes_divides_is_refused_without_one():
    with pytest.raises(EscError, match="of 32; no NPROC does, or set TRAIN_ARGS"):
        recipes.accumulation(3, 1)


@pytest.mark.parametrize(
    ("machines", "processes", "way"),
    [(2, 3, "use NPROC of 1, 2, 4, 8, 16,"), (3, 8, "no NPROC does,")],
)
def test_a_refused_batch_counts_the_processes_that_fit_on_each_machine(machines, processes, way):
    told = f"{machines} machines x {processes} processes x 1 samples .*{way} or set TRAIN_ARGS"
    with pytest.raises(EscError, match=told):
        recipes.accumulation(1, processes, machines)


def test_kto_has_its_set_as_one_batch_and_four_rows_a_process():
    for path in paths.RECIPES.glob("*/*_kto.yaml"):
        made = yaml.safe_load(path.read_text())
        assert made["per_device_train_batch_size"] == 4
        assert "preprocessing_num_workers" not in made
        assert made["preprocessing_batch_size"] == recipes.ONE_BATCH


def test_the_embedded_model_has_no_validation_pass():
    for task in TASKS:
        assert "eval_dataset" not in settings("smollm2-135m", task, "sft")
        assert settings("qwen2.5-7b", task, "sft")["eval_dataset"] == f"esc_{task}_sft_validation"


def test_what_a_recipe_says_to_run_is_mended_where_it_has_to_be():
    mended = {
        path
        for path in RECIPES
        if "PYTHONPATH=training/in_llamafactory llamafactory-cli train" in path.read_text()
    }
    generator = paths.recipe("gemma2-9b", "rg", "sft")
    assert mended == {*paths.RECIPES.glob("*/*_dpo_ipo.yaml"), generator}


def test_the_words_of_yaml_are_kept_for_no_setting_that_llamafactory_takes_as_true_or_false():
    from dataclasses import fields

    from llamafactory.hparams import (
        DataArguments,
        FinetuningArguments,
        ModelArguments,
        TrainingArguments,
    )

    taken = DataArguments, FinetuningArguments, ModelArguments, TrainingArguments
    types = {one.name: str(one.type) for group in taken for one in fields(group)}
    kept = {name for name in types if recipes._WORDS.search(name)}
    assert not any("bool" in types[name] for name in kept)
    assert {name for name in types if name.endswith("_strategy")} < kept
    assert {"run_name", "report_to", "swanlab_run_name"} < kept
    assert types.keys() >= recipes._OTHER_ADAPTERS.keys()
