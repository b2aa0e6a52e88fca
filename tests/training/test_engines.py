"""How a training is spread: engines over every GPU backbone, machines, and what is started."""

import json
import re
import sys

import pytest
from trained import training as embedded

from esc import backbones, paths
from esc.files import EscError
from training import memory, recipes, train


def recipe(work, *overrides, **of):
    return recipes.recipe_for(embedded(work, *overrides, **{"model": "qwen2.5-7b"} | of))


def environment(work, **of):
    asked = embedded(work, **{"model": "qwen2.5-7b"} | of)
    return train.environment(asked, recipes.recipe_for(asked))


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
