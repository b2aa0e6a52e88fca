"""How a training is spread: engines over every GPU backbone, machines, and what is started."""

import json
import re
import sys

import pytest
from trained import training as embedded

from esc import backbones, paths
from esc.files import EscError
from esc.prompts import TASKS
from training import memory, recipes, train

GPU = [name for name, backbone in backbones.table().items() if backbone.settings["gpus"]]


def recipe(work, *overrides, **of):
    return recipes.recipe_for(embedded(work, *overrides, **{"model": "qwen2.5-7b"} | of))


def environment(work, **of):
    asked = embedded(work, **{"model": "qwen2.5-7b"} | of)
    return train.environment(asked, recipes.recipe_for(asked))


@pytest.mark.parametrize("model", GPU)
@pytest.mark.parametrize("engine", backbones.ENGINES)
def test_llamafactory_parses_every_engine_on_every_recipe_of_the_paper_and_the_batch_is_32(
    engine, model, tmp_path, monkeypatch, one_process
):
    from llamafactory.hparams import get_ray_args, get_train_args

    for name, value in backbones.engine(engine).environment.items():
        monkeypatch.setenv(name, value)
    for task, stage in [(task, stage) for task in TASKS for stage in ("sft", "dpo")]:
        of = {"task": task, "stage": stage, "model": model, "engine": engine, "processes": 8}
        made = recipe(tmp_path, **of)
        model_args, _, arguments, finetuning, _ = get_train_args(
            made | {"use_cpu": True, "ddp_backend": "gloo"}
        )
        assert get_ray_args(made).use_ray == (engine == "ray")
        # What LLaMA-Factory would not merge is merged before.
        merged = stage == "dpo" and engine in ("zero3", "fsdp", "qlora")
        assert (model_args.model_name_or_path != backbones.get(model).path) == merged
        assert finetuning.create_new_adapter == (stage == "dpo" and not merged)
        assert bool(arguments.deepspeed) == (engine in ("zero2", "zero3"))
        assert bool(arguments.fsdp) == (engine == "fsdp")
        # Its own engine gives way.
        assert (model_args.quantization_bit == 4) == (engine == "qlora")
        per_step = arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps
        assert per_step * 8 == 32


@pytest.mark.parametrize("name", ["zero2", "zero3"])
def test_a_deepspeed_configuration_has_its_stage_and_takes_the_batch_from_the_recipe(name):
    settings = json.loads((paths.RECIPES / "deepspeed" / f"{name}.json").read_text())
    assert settings["zero_optimization"]["stage"] == int(name[-1])
    batch = {key: value for key, value in settings.items() if "batch" in key}
    assert set(batch.values()) == {"auto"} and settings["gradient_accumulation_steps"] == "auto"


def test_the_memory_in_the_engines_headers_and_the_readme_is_the_estimates():
    def estimated(model, engine, processes):
        of = backbones.get(model), engine, int(processes), 4096
        return [memory.gigabytes(*of, stage) for stage in ("sft", "dpo")]

    for engine in backbones.ENGINES:
        text = (backbones.FOLDER / f"{engine}.yaml").read_text()
        assert text.startswith(f"# ENGINE={engine}: ")
        for model, processes, *told in re.findall(r"(\S+) on (\d+), SFT (\d+), DPO (\d+)", text):
            assert [f"{one:.0f}" for one in estimated(model, engine, processes)] == told
    readme = (paths.RECIPES / "README.md").read_text()
    rows = re.findall(r"^\| \W?(\w+)\W? \|.*\| ([\d.]+), ([\d.]+) \|", readme, re.M)
    assert [name for name, *_ in rows] == ["none", "zero2", "zero3", "fsdp", "qlora"]
    for name, *told in rows:
        found = estimated("qwen2.5-7b", None if name == "none" else name, 4)
        assert [f"{one:.1f}" for one in found] == told


def test_a_later_round_starts_from_the_model_of_the_round_before_merged_or_not(tmp_path):
    made = recipe(tmp_path, engine="zero3", variant="ipo", round=2)
    saves = tmp_path / paths.adapters("qwen2.5-7b")
    assert made["model_name_or_path"] == str(saves / "sp_dpo_ipo" / "merged_bfloat16")
    merged = recipe(tmp_path, engine="zero2", variant="ipo", round=2)["adapter_name_or_path"]
    assert merged == f"{saves}/sp_sft,{saves}/sp_dpo_ipo"


@pytest.mark.parametrize("engine", backbones.ENGINES)
def test_a_loss_without_reference_trains_on_every_engine(tmp_path, engine):
    for variant in ("orpo", "simpo"):
        assert recipe(tmp_path, engine=engine, variant=variant)["pref_loss"] == variant


@pytest.mark.parametrize(
    ("engine", "processes", "by_torchrun"),
    [("zero3", 1, "1"), (None, 2, "1"), ("qlora", 1, "0"), ("ray", 8, "0")],
)
def test_torchrun_starts_an_engine_that_shards_and_several_processes_and_ray_its_own(
    tmp_path, monkeypatch, engine, processes, by_torchrun
):
    monkeypatch.setenv("FORCE_TORCHRUN", "1")
    found = environment(tmp_path, engine=engine, processes=processes)
    assert found["FORCE_TORCHRUN"] == by_torchrun
    assert (found.get("USE_RAY") == "1") == (engine == "ray")


def test_rays_processes_are_mended_and_its_settings_laid_over(tmp_path):
    told = recipe(tmp_path, "ray_init_kwargs.address=auto", engine="ray")["ray_init_kwargs"]
    assert told["address"] == "auto"
    assert told["runtime_env"]["env_vars"]["PYTHONPATH"].endswith("training/in_llamafactory")


BUFFERS = """
from accelerate.utils.dataclasses import FullyShardedDataParallelPlugin
plugin = FullyShardedDataParallelPlugin(sync_module_states=False, cpu_ram_efficient_loading=False)
plugin.set_mixed_precision("bf16")
policy = plugin.mixed_precision_policy
print(policy.param_dtype, policy.reduce_dtype, policy.buffer_dtype)
"""


@pytest.mark.slow
def test_under_fsdp_weights_are_rounded_and_the_rotary_frequencies_are_not(tmp_path, run):
    found = environment(tmp_path, engine="fsdp")
    shown = run(sys.executable, "-c", BUFFERS, PYTHONPATH=found["PYTHONPATH"])
    assert shown.returncode == 0, shown.stderr[-2000:]
    assert shown.stdout.split() == ["torch.bfloat16", "torch.bfloat16", "torch.float32"]


def test_two_machines_share_the_batch_and_a_port(tmp_path, monkeypatch):
    for name, value in {"NNODES": "2", "NODE_RANK": "1", "MASTER_ADDR": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    assert recipe(tmp_path, processes=4)["gradient_accumulation_steps"] == 4
    found = environment(tmp_path, processes=1)
    assert (found["FORCE_TORCHRUN"], found["MASTER_PORT"]) == ("1", "29500")


@pytest.mark.parametrize(
    "given",
    [
        {"NNODES": "two"},
        {"NNODES": "2", "NODE_RANK": "0"},
        {"NNODES": "2", "NODE_RANK": "2", "MASTER_ADDR": "a"},
        {"NODE_RANK": "1"},
    ],
)
def test_a_place_that_cannot_be_is_one_line(monkeypatch, given):
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(EscError, match=r"^NNODES=\w* NODE_RANK=\w* is no place [^\n]*$"):
        recipes.place()
