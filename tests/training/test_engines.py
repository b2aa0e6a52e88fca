"""How a training is spread: engines over every GPU backbone, machines, and what a failure says."""

import errno
import json
import re
import socket
import sys
from types import SimpleNamespace

import pytest
import torch

from esc import backbones, nodes, paths
from esc.exceptions import EscError
from esc.paths import Lineage
from esc.prompts import TASKS
from training import follow, memory, recipes, train

GPU = [name for name, backbone in backbones.table().items() if backbone.settings["gpus"]]
PAPERS = [(task, stage) for task in TASKS for stage in ("sft", "dpo")]
SPREAD = [(engine, model, *of) for engine in backbones.ENGINES for model in GPU for of in PAPERS]


def training(
    work, *overrides, task="sp", stage="dpo", model="qwen2.5-7b", processes=4, engine=None,
    lineage=paths.PAPER, dtype=None,
):  # fmt: skip
    return recipes.Training(
        model, task, stage, work, processes, overrides, lineage, engine=engine, dtype=dtype
    )


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    for name in ("NNODES", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def two_nodes(monkeypatch):
    """As the second of two machines."""
    values = {"NNODES": "2", "NODE_RANK": "1", "MASTER_ADDR": "127.0.0.1"}
    for name, value in values.items():
        monkeypatch.setenv(name, value)


def test_every_engine_meets_every_recipe_of_the_paper_on_a_gpu():
    assert len(SPREAD) == 5 * 4 * 6


@pytest.mark.parametrize(("engine", "model", "task", "stage"), SPREAD)
def test_llamafactory_parses_it_and_the_batch_is_32(
    engine, model, task, stage, tmp_path, monkeypatch
):
    from llamafactory.hparams import get_ray_args, get_train_args

    one = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
    spread = backbones.engine(engine)
    for name, value in (one | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}).items():
        monkeypatch.setenv(name, value)
    for name, value in spread.environment.items():
        monkeypatch.setenv(name, value)
    asked = training(tmp_path, task=task, stage=stage, model=model, engine=engine, processes=8)
    made = recipes.recipe_for(asked)
    try:
        model_args, _, arguments, finetuning, _ = get_train_args(
            made | {"use_cpu": True, "ddp_backend": "gloo"}
        )
        assert get_ray_args(made).use_ray == (engine == "ray")
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
    # What LLaMA-Factory would not merge is merged before.
    merged = stage == "dpo" and engine in ("zero3", "fsdp", "qlora")
    assert (model_args.model_name_or_path != backbones.get(model).path) == merged
    assert finetuning.create_new_adapter == (stage == "dpo" and not merged)
    assert bool(arguments.deepspeed) == (engine in ("zero2", "zero3"))
    assert bool(arguments.fsdp) == (engine == "fsdp")
    assert (model_args.quantization_bit == 4) == (engine == "qlora")
    per_step = arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps
    assert per_step * 8 == 32


@pytest.mark.parametrize("name", ["zero2", "zero3"])
def test_a_deepspeed_configuration_has_its_stage_and_takes_the_batch_from_the_recipe(name):
    settings = json.loads((paths.RECIPES / "deepspeed" / f"{name}.json").read_text())
    assert settings["zero_optimization"]["stage"] == int(name[-1])
    batch = {key: value for key, value in settings.items() if "batch" in key}
    assert set(batch.values()) == {"auto"} and settings["gradient_accumulation_steps"] == "auto"


@pytest.mark.parametrize("engine", backbones.ENGINES)
def test_an_engines_header_says_what_it_is_its_hardware_the_command_and_an_override(engine):
    first, *others = (backbones.FOLDER / f"{engine}.yaml").read_text().splitlines()[:4]
    assert first.startswith(f"# ENGINE={engine}: ")
    starts = [line.partition(":")[0] for line in others]
    assert starts[0] == "# Hardware" and starts[1].startswith("# By hand")
    assert starts[2] == "# Another value" and f"ENGINE={engine} " in others[2]
    assert "llamafactory-cli train llamafactory_configs/qwen2.5-7b/sp_sft.yaml" in others[1]


ESTIMATE = re.compile(r"(\S+) on (\d+), SFT (\d+), DPO (\d+)")


@pytest.mark.parametrize("engine", ["zero2", "zero3", "fsdp", "qlora"])
def test_the_memory_in_an_engines_header_is_the_estimates(engine):
    told = ESTIMATE.findall((backbones.FOLDER / f"{engine}.yaml").read_text())
    assert told
    for model, processes, *sizes in told:
        of = {"engine": engine, "processes": int(processes), "length": 4096}
        found = [memory.gigabytes(backbones.get(model), stage=one, **of) for one in ("sft", "dpo")]
        assert [f"{size:.0f}" for size in found] == sizes


def test_the_memory_in_the_recipes_readme_is_the_estimates():
    readme = (paths.RECIPES / "README.md").read_text()
    rows = re.findall(r"^\| \W?(\w+)\W? \|.*\| ([\d.]+, [\d.]+) \|", readme, re.M)
    assert [name for name, _ in rows] == ["none", "zero2", "zero3", "fsdp", "qlora"]
    for name, told in rows:
        engine = None if name == "none" else name
        of = {"engine": engine, "processes": 4, "length": 4096}
        backbone = backbones.get("qwen2.5-7b")
        found = [memory.gigabytes(backbone, stage=stage, **of) for stage in ("sft", "dpo")]
        assert ", ".join(f"{size:.1f}" for size in found) == told


def test_an_unknown_engine_lists_the_known_ones(tmp_path):
    with pytest.raises(EscError, match="unknown ENGINE 'zero9'; known: zero2, zero3, fsdp"):
        recipes.recipe_for(training(tmp_path, engine="zero9"))


def test_an_engine_takes_the_place_of_the_backbones_own(tmp_path):
    made = recipes.recipe_for(training(tmp_path, model="qwen2.5-72b", engine="qlora"))
    assert "deepspeed" not in made and made["quantization_bit"] == 4


def test_a_later_round_starts_from_the_merged_model_of_the_round_before(tmp_path):
    made = recipes.recipe_for(training(tmp_path, engine="zero3", lineage=Lineage("ipo", 2)))
    saves = tmp_path / paths.adapters("qwen2.5-7b")
    assert made["model_name_or_path"] == str(saves / "sp_dpo_ipo" / "merged_bfloat16")
    assert not made.keys() & {"adapter_name_or_path", "create_new_adapter"}


@pytest.mark.parametrize(
    ("engine", "dtype", "folder"),
    [
        ("zero3", None, "merged_bfloat16"),
        ("fsdp", None, "merged_bfloat16"),
        ("qlora", None, "merged"),
        ("zero3", "float32", "merged"),
        ("qlora", "bfloat16", "merged_bfloat16"),
    ],
)
def test_a_merged_start_is_in_the_precision_the_engine_uses_or_the_one_asked_for(
    tmp_path, engine, dtype, folder
):
    made = recipes.recipe_for(training(tmp_path, engine=engine, dtype=dtype))
    assert made["model_name_or_path"].endswith(f"/sp_sft/{folder}")


@pytest.mark.parametrize("engine", ["zero3", "fsdp", "qlora"])
def test_a_merged_start_is_no_train_args_for_another_would_be_the_reference_too(tmp_path, engine):
    given = "model_name_or_path=Qwen/Qwen2.5-7B-Instruct"
    with pytest.raises(EscError, match=f"cannot set model_name_or_path: ENGINE={engine} starts"):
        recipes.recipe_for(training(tmp_path, given, engine=engine))


def test_a_backbone_whose_own_engine_takes_a_merged_start_keeps_it_too(tmp_path):
    with pytest.raises(EscError, match="cannot set model_name_or_path: ENGINE=zero3 starts"):
        recipes.recipe_for(training(tmp_path, "model_name_or_path=x", model="qwen2.5-72b"))


@pytest.mark.parametrize("loss", ["simpo", "orpo"])
@pytest.mark.parametrize("engine", ["zero2", "zero3", "fsdp", "qlora", "ray"])
def test_a_loss_without_reference_trains_on_every_engine(tmp_path, engine, loss):
    made = recipes.recipe_for(training(tmp_path, engine=engine, lineage=Lineage(loss)))
    assert made["pref_loss"] == loss


def test_stage_3_by_hand_is_refused_to_a_loss_that_could_not_show_it(tmp_path):
    given = f"deepspeed={paths.RECIPES / 'deepspeed' / 'zero3.json'}"
    with pytest.raises(EscError, match="deepspeed may keep the SFT adapter apart"):
        recipes.recipe_for(training(tmp_path, given, lineage=Lineage("orpo")))


def test_a_part_of_an_engines_settings_can_be_overridden(tmp_path):
    given = "fsdp_config.limit_all_gathers=false"
    made = recipes.recipe_for(training(tmp_path, given, engine="fsdp"))
    assert made["fsdp_config"] == {"cpu_ram_efficient_loading": True, "limit_all_gathers": False}


@pytest.mark.parametrize(
    ("engine", "why"),
    [
        ("fsdp", "no device to shard over"),
        ("ray", "10 CPU cores for each CPU core"),
        ("zero3", "before DeepSpeed knows of its proc"),
    ],
)
def test_an_engine_that_cannot_work_without_a_gpu_is_refused_there(tmp_path, engine, why):
    with pytest.raises(EscError, match=rf"^ENGINE={engine}: without GPUs .*{why}"):
        recipes.recipe_for(training(tmp_path, model="smollm2-135m", engine=engine))


def test_a_package_that_is_not_installed_names_what_installs_it(tmp_path, monkeypatch):
    monkeypatch.setattr(train, "find_spec", lambda name: None)
    with pytest.raises(EscError, match="ENGINE=zero3 needs deepspeed; make setup-scale installs"):
        train._check_packages(training(tmp_path, engine="zero3"), {})


def environment(work, **of):
    asked = training(work, **of)
    return train.environment(asked, recipes.recipe_for(asked))


def test_an_engine_that_shards_is_launched_by_torchrun_even_as_one_process(tmp_path):
    assert environment(tmp_path, engine="zero3", processes=1)["FORCE_TORCHRUN"] == "1"
    assert "FORCE_TORCHRUN" not in environment(tmp_path, engine="qlora", processes=1)


BUFFERS = """
from accelerate.utils.dataclasses import FullyShardedDataParallelPlugin
plugin = FullyShardedDataParallelPlugin(sync_module_states=False, cpu_ram_efficient_loading=False)
plugin.set_mixed_precision("bf16")
policy = plugin.mixed_precision_policy
print(policy.param_dtype, policy.reduce_dtype, policy.buffer_dtype)
"""


def test_under_fsdp_weights_are_rounded_and_the_rotary_frequencies_are_not(tmp_path, run):
    found = environment(tmp_path, engine="fsdp")
    shown = run(sys.executable, "-c", BUFFERS, PYTHONPATH=found.get("PYTHONPATH", ""))
    assert shown.returncode == 0, shown.stderr[-2000:]
    assert shown.stdout.split() == ["torch.bfloat16", "torch.bfloat16", "torch.float32"]


def test_what_fsdp_says_to_run_by_hand_keeps_the_rotary_frequencies_too():
    by_hand = (backbones.FOLDER / "fsdp.yaml").read_text().splitlines()[2]
    assert "PYTHONPATH=training/in_llamafactory llamafactory-cli train" in by_hand


def test_ray_starts_its_own_processes(tmp_path, monkeypatch):
    monkeypatch.setenv("FORCE_TORCHRUN", "1")
    found = environment(tmp_path, engine="ray", processes=8)
    assert found["USE_RAY"] == "1" and "FORCE_TORCHRUN" not in found


def test_rays_processes_are_mended_too_whatever_else_is_told_to_ray(tmp_path):
    asked = training(tmp_path, "ray_init_kwargs.address=auto", engine="ray")
    told = recipes.recipe_for(asked)["ray_init_kwargs"]
    assert told["address"] == "auto"
    assert told["runtime_env"]["env_vars"]["PYTHONPATH"].endswith("training/in_llamafactory")


def test_two_machines_share_the_batch_and_a_port(tmp_path, two_nodes):
    asked = training(tmp_path, processes=4)
    assert recipes.recipe_for(asked)["gradient_accumulation_steps"] == 4
    found = environment(tmp_path, processes=1)
    assert (found["FORCE_TORCHRUN"], found["MASTER_PORT"]) == ("1", "29500")


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"NNODES": "two"}, "NNODES='two' is not a whole number"),
        ({"NNODES": "2", "NODE_RANK": "0"}, "NNODES=2 needs MASTER_ADDR"),
        ({"NNODES": "2", "MASTER_ADDR": "a"}, "NNODES=2 needs NODE_RANK"),
        ({"NNODES": "2", "NODE_RANK": "2", "MASTER_ADDR": "a"}, "NODE_RANK=2 is none of NNODES=2"),
        ({"NODE_RANK": "1"}, "NODE_RANK=1 is none of NNODES=1"),
        ({"MASTER_PORT": "295000"}, "MASTER_PORT=295000 is no port: the last is 65535"),
    ],
)
def test_a_place_that_cannot_be_is_one_line(monkeypatch, given, told):
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(EscError, match=rf"^{told}[^\n]*$"):
        nodes.here()


def test_a_port_in_use_is_one_line_before_anything_starts(monkeypatch):
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        monkeypatch.setenv("MASTER_PORT", str(other.getsockname()[1]))
        with pytest.raises(EscError, match=r"^port \d+ is in use on this machine [^\n]*$"):
            nodes.check_port(nodes.here())


def test_a_port_that_may_not_be_listened_on_is_not_told_as_in_use(monkeypatch):
    class Refused(socket.socket):
        def bind(self, address):
            raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(nodes.socket, "socket", Refused)
    monkeypatch.setenv("MASTER_PORT", "80")
    with pytest.raises(EscError, match=r"^port 80 cannot be listened on [^\n]*permission denied"):
        nodes.check_port(nodes.here())


def start(tmp_path, monkeypatch, script):
    """A training whose llamafactory-cli is a script of these lines."""
    program = tmp_path / "llamafactory-cli"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(train.sys, "executable", str(tmp_path / "python"))
    asked = training(tmp_path, stage="sft", processes=1)
    log = tmp_path / "node0.log"
    settings = recipes.recipe_for(asked)
    of = {"log": log, "lock": None, "watch": lambda process: process.wait()}
    return train.run(tmp_path / "recipe.yaml", asked, settings, **of)


def test_what_it_prints_is_shown_and_kept(tmp_path, monkeypatch, capsys):
    assert start(tmp_path, monkeypatch, "echo step 1 of 2 >&2") > 0
    assert "step 1 of 2" in capsys.readouterr().err
    assert (tmp_path / "node0.log").read_text() == "step 1 of 2\n"


def test_a_process_killed_by_the_system_is_told_with_what_helps(tmp_path, monkeypatch):
    with pytest.raises(EscError, match=r"killed \(signal 9\): .* out of memory; ENGINE=zero3"):
        start(tmp_path, monkeypatch, "kill -9 $$")


def test_a_full_disk_is_told(tmp_path, monkeypatch):
    with pytest.raises(EscError, match="the disk is full; free some space"):
        start(
            tmp_path, monkeypatch, "echo 'OSError: [Errno 28] No space left on device' >&2; exit 1"
        )


def test_a_machine_that_waits_for_the_merged_start_says_what_makes_it(tmp_path, monkeypatch):
    monkeypatch.setattr(follow, "_PATIENCE", 0.0)
    monkeypatch.setattr(follow.export, "finished", lambda *of: None)
    with pytest.raises(
        EscError, match=r"did not come from node 0 .* make export MODEL=qwen2\.5-7b"
    ):
        follow._await_start(training(tmp_path, engine="zero3"), "bfloat16")


def test_a_machine_waits_for_the_merged_start_as_long_as_it_grows(tmp_path, monkeypatch):
    asked = training(tmp_path, engine="zero3")
    coming = follow.export.unfinished(asked.starts_from[-1], "bfloat16")
    coming.mkdir(parents=True)
    passed = []

    def sleep(seconds):
        """A quarter of an hour, in which node 0 writes another file."""
        passed.append(900.0)
        (coming / str(len(passed))).write_text("weights")

    clock = SimpleNamespace(monotonic=lambda: sum(passed), sleep=sleep)
    monkeypatch.setattr(follow, "time", clock)
    monkeypatch.setattr(follow.export, "finished", lambda *of: len(passed) == 8)
    follow._await_start(asked, "bfloat16")
    assert sum(passed) > 2 * follow._PATIENCE


ONE = nodes.Place(1, 0, "127.0.0.1", None)
TWO = nodes.Place(2, 0, "10.0.0.1", 29500)


def test_what_helps_out_of_memory_loses_no_data_and_says_what_begins_anew():
    line = train.reason(1, "torch.OutOfMemoryError: CUDA out of memory.", ONE)
    # LLaMA-Factory would cut rows without a word.
    assert "cutoff_len" not in line
    assert "another ENGINE begins anew: with FORCE=1, or another WORK" in line


def test_beside_a_server_a_lack_of_memory_is_answered_with_what_ends_the_server():
    for code, said in ((1, "torch.OutOfMemoryError: CUDA out of memory."), (-9, "")):
        line = train.reason(code, said, ONE, "a server runs; make stop frees it")
        assert "make stop frees it" in line and "ENGINE" not in line


def test_memory_grows_in_segments_on_one_gpu_too(tmp_path, monkeypatch):
    for name in ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF"):
        monkeypatch.delenv(name, raising=False)
    wanted = "expandable_segments:True"
    assert environment(tmp_path, processes=1)["PYTORCH_CUDA_ALLOC_CONF"] == wanted
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "backend:cudaMallocAsync")
    assert environment(tmp_path, processes=1)["PYTORCH_CUDA_ALLOC_CONF"].startswith("backend")


@pytest.mark.parametrize(
    ("code", "said", "place", "told"),
    [
        (-9, "", ONE, "was killed (signal 9): most likely the machine ran out of memory"),
        (1, "traceback : Signal 9 (SIGKILL) received by PID 7", TWO, "was killed (signal 9)"),
        (1, "torch.OutOfMemoryError: CUDA out of memory.", ONE, "ENGINE=qlora takes 4 bits"),
        (1, "OSError: [Errno 28] No space left on device", ONE, "the disk is full; free some"),
        (1, "DistStoreError: Timed out; 1/2 clients joined.", TWO, "not all NNODES=2 machines"),
        (1, "RuntimeError: Connection closed by peer", TWO, "another machine of the training"),
        (1, "ValueError: else", ONE, "LLaMA-Factory stopped with exit code 1"),
    ],
)
def test_the_reason_of_a_failure_is_one_line_with_the_way_on(code, said, place, told):
    line = train.reason(code, said, place)
    assert told in line and "\n" not in line
    assert "the same command goes on from the newest checkpoint" in line
