"""Real, short trainings with LLaMA-Factory, and what guards them."""

import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import yaml
from omegaconf import OmegaConf

from data_builders import build
from esc import adapters, files, paths
from esc.exceptions import EscError, OptionsDiffer
from training import recipes, train
from training import train as step

QUICK = ("max_steps=10", "gradient_accumulation_steps=2", "save_steps=1")


def training(
    work, *overrides, task="sp", stage="sft", model="smollm2-135m", processes=1, lineage=paths.PAPER
):
    return recipes.Training(model, task, stage, work, processes, overrides, lineage)


@pytest.fixture
def work(small_corpus, tmp_path):
    build.build(str(small_corpus), tmp_path, build.BuildOptions())
    return tmp_path


def test_the_recipe_runs_in_work_with_the_batch_for_the_processes(tmp_path):
    made = recipes.recipe_for(training(tmp_path, task="rg", model="qwen2.5-7b", processes=8))
    assert made["output_dir"] == str(tmp_path / "saves/qwen2.5-7b/rg_sft")
    assert made["dataset_dir"] == str(tmp_path)
    assert made["gradient_accumulation_steps"] == 4
    assert made["mask_history"] is True


def test_dpo_in_work_starts_from_the_sft_adapter_of_work(tmp_path):
    made = recipes.recipe_for(training(tmp_path, stage="dpo"))
    assert made["adapter_name_or_path"] == str(tmp_path / "saves/smollm2-135m/sp_sft")


def test_overrides_win_and_keep_their_types(tmp_path):
    given = ("learning_rate=2.0e-5", "bf16=false", "gradient_accumulation_steps=3")
    made = recipes.recipe_for(training(tmp_path, *given))
    assert (made["learning_rate"], made["bf16"]) == (2e-5, False)
    assert made["gradient_accumulation_steps"] == 3


def test_an_exponent_without_a_point_is_a_number_as_it_is_to_llamafactory(tmp_path):
    assert recipes.recipe_for(training(tmp_path, "learning_rate=2e-5"))["learning_rate"] == 2e-5


@pytest.mark.parametrize(
    "given",
    [
        "output_dir=x",
        "ray_num_workers=8",
        "per_device_train_batch_size=many",
        "gradient_accumulation_steps=0",
        "a=[1",
    ],
)
def test_an_override_that_cannot_be_is_one_line(tmp_path, given):
    with pytest.raises(EscError, match=r"^TRAIN_ARGS[^\n]*$"):
        recipes.recipe_for(training(tmp_path, given))


@pytest.mark.parametrize("stage", ["sft", "dpo"])
@pytest.mark.parametrize(
    "given",
    [
        "use_rslora=true",
        "use_dora=true",
        "pissa_init=true",
        "additional_target=embed_tokens",
        "lora_target=q_proj,lm_head",
        "finetuning_type=full",
        "finetuning_type=oft",
        "resize_vocab=true",
        "add_tokens=<plan>",
        "lora_rank=1024",
    ],
)
def test_an_adapter_that_could_not_be_composed_merged_or_served_is_refused(tmp_path, stage, given):
    with pytest.raises(EscError, match=rf"^TRAIN_ARGS.*{given.partition('=')[0]}[^\n]*$"):
        recipes.recipe_for(training(tmp_path, given, stage=stage))


def test_ranks_add_up_over_the_adapters_that_are_composed(tmp_path):
    sft = tmp_path / paths.adapter("smollm2-135m", "sp", "sft")
    files.write_json(sft / adapters.CONFIG, {"r": 500})
    with pytest.raises(EscError, match="an adapter of rank 516, and vLLM serves up to 512"):
        recipes.recipe_for(training(tmp_path, stage="dpo"))


def test_loraplus_is_a_learning_rate_and_taken(tmp_path):
    made = recipes.recipe_for(training(tmp_path, "loraplus_lr_ratio=16.0"))
    assert made["loraplus_lr_ratio"] == 16


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("hf_hub_token=s3cr3t", "cannot hold hf_hub_token, .* set HF_TOKEN in"),
        ("hub_token=s3cr3t", "set HF_TOKEN in"),
        ("swanlab_api_key=s3cr3t", "set SWANLAB_API_KEY in"),
        ("swanlab_lark_secret=s3cr3t", "leave it out"),
        ("ray_init_kwargs={env: {WANDB_API_KEY: s3cr3t}}", "set WANDB_API_KEY in"),
        ("ray_init_kwargs.env.HF_TOKEN=s3cr3t", "cannot hold HF_TOKEN"),
        ("hf_hub_token=[s3cr3t", "set HF_TOKEN in"),
    ],
)
def test_a_secret_is_refused_and_not_repeated(tmp_path, given, told):
    with pytest.raises(EscError, match=told) as refused:
        recipes.recipe_for(training(tmp_path, given))
    assert "s3cr3t" not in str(refused.value)


@pytest.mark.parametrize("given", ["add_tokens=", "max_new_tokens=8", "skip_special_tokens=true"])
def test_a_setting_of_tokens_is_no_secret(tmp_path, given):
    recipes.recipe_for(training(tmp_path, given))


@pytest.mark.parametrize(
    ("given", "value"),
    [
        ("save_strategy=no", "no"),
        ("eval_strategy=no", "no"),
        ("run_name=on", "on"),
        ("plot_loss=no", False),
        ("overwrite_cache=yes", True),
    ],
)
def test_a_word_reaches_llamafactory_as_what_it_takes_there(tmp_path, given, value):
    made = recipes.recipe_for(training(tmp_path, given))
    key = given.partition("=")[0]
    # As LLaMA-Factory reads the file that it is given.
    read = OmegaConf.to_container(OmegaConf.create(yaml.safe_dump(made)))
    assert read[key] == value and type(read[key]) is type(value)


def test_a_reporter_that_is_not_installed_or_too_new_is_one_line(tmp_path, monkeypatch):
    there = {"wandb": "0.31.0", "swanlab": "0.10.3"}

    def version(name):
        if name not in there:
            raise step.metadata.PackageNotFoundError(name)
        return there[name]

    monkeypatch.setattr(step.metadata, "version", version)
    for given, needed in (("[wandb,tensorboard]", "tensorboard"), ("swanlab", "swanlab<0.8")):
        asked = training(tmp_path, f"report_to={given}")
        with pytest.raises(EscError, match=f"needs the package {needed}; .*pip install"):
            step._check_packages(asked, recipes.recipe_for(asked))
    for given in ("none", "wandb"):
        asked = training(tmp_path, f"report_to={given}")
        step._check_packages(asked, recipes.recipe_for(asked))


def test_run_json_is_written_only_where_the_adapter_is(work, monkeypatch):
    monkeypatch.setattr(train, "run", lambda *given, **named: 1.0)
    asked = training(work, "do_train=false")
    with pytest.raises(EscError, match=r"sp_sft holds no adapter; make sft-sp"):
        step.train(asked, force=False)
    assert not (asked.output / step.DONE).exists()


def test_a_machine_with_gpus_gives_the_embedded_model_one_process(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,2,3")
    assert step._default_processes("smollm2-135m") == 1
    assert step._default_processes("qwen2.5-7b") == 3


def test_an_override_of_another_form_is_refused(tmp_path):
    with pytest.raises(EscError, match="'fast' is not key=value"):
        recipes.recipe_for(training(tmp_path, "fast"))


def test_an_unknown_model_lists_the_known_ones(tmp_path):
    with pytest.raises(EscError, match="unknown MODEL 'gpt9'; known: qwen2"):
        recipes.recipe_for(training(tmp_path, model="gpt9"))


def test_a_training_set_that_is_not_there_names_the_target_that_makes_it(work):
    asked = training(work, stage="dpo", task="rg")
    with pytest.raises(
        EscError, match=r"esc_rg_dpo_smollm2-135m\.jsonl is not there; make mine-rg"
    ):
        step.train(asked, force=False)


def test_a_set_missing_in_the_registry_is_named(work):
    files.write_json(work / paths.REGISTRY, {})
    with pytest.raises(EscError, match="'esc_sp_sft' is not in"):
        step.train(training(work), force=False)


def stamped(work, *overrides):
    asked = training(work, *overrides)
    return asked.output, train.stamp(asked, recipes.recipe_for(asked))


def begun(work, *overrides):
    """A folder in which a training with these options has saved a checkpoint."""
    output, options_of_run = stamped(work, *overrides)
    train.guard_options(output, options_of_run)
    (output / "checkpoint-1").mkdir()
    return output


def test_the_same_options_go_on(work):
    begun(work)
    train.guard_options(*stamped(work))


def test_other_options_stop_with_the_difference_and_both_ways_out(work, small_corpus):
    begun(work)
    build.build(None, work, build.BuildOptions(limit=2))
    with pytest.raises(OptionsDiffer, match=r"\(LIMIT unset -> 2\); use another WORK.* or FORCE=1"):
        train.guard_options(*stamped(work))


def test_another_way_to_spread_the_same_batch_is_the_same_training(work):
    output = begun(work)
    asked = training(work, processes=2)
    train.guard_options(output, train.stamp(asked, recipes.recipe_for(asked)))


def test_how_a_run_is_logged_and_saved_does_not_bind_it(work):
    begun(work, "seed=1", "max_steps=2")
    given = ("max_steps=2", "seed=1", "save_steps=7", "disable_gradient_checkpointing=false")
    more = (
        *("save_strategy=no", "eval_strategy=no", "eval_steps=7", "run_name=a", "report_to=wandb"),
        *("push_to_hub=true", "hub_model_id=a/b", "flash_attn=sdpa", "swanlab_mode=local"),
    )
    train.guard_options(*stamped(work, *given, *more))


def test_what_is_measured_binds_a_training_that_is_steered_by_it(work):
    steered = ("load_best_model_at_end=true", "eval_strategy=steps")
    begun(work, *steered, "eval_steps=1")
    with pytest.raises(OptionsDiffer, match=r"recipe\.eval_steps 1 -> 2"):
        train.guard_options(*stamped(work, *steered, "eval_steps=2"))


def test_a_stamp_with_settings_that_no_longer_bind_goes_on_and_tells_no_secret(work):
    output = begun(work)
    kept = files.read_json(output / train.OPTIONS)
    kept["recipe"] |= {"flash_attn": "auto", "hf_hub_token": "s3cr3t"}
    files.write_json(output / train.OPTIONS, kept)
    train.guard_options(*stamped(work))
    with pytest.raises(OptionsDiffer) as differ:
        train.guard_options(*stamped(work, "seed=1"))
    assert "s3cr3t" not in str(differ.value)


def test_a_failed_start_does_not_bind_the_folder(work):
    train.guard_options(*stamped(work))
    train.guard_options(*stamped(work, "learning_rate=1.0e-3"))


def test_files_of_others_in_the_folder_are_not_touched(work):
    output, wanted = stamped(work)
    output.mkdir(parents=True)
    (output / "notes.txt").write_text("x")
    with pytest.raises(OptionsDiffer, match="this kit did not make"):
        train.guard_options(output, wanted)
    assert (output / "notes.txt").exists()


def test_a_run_shorter_than_its_logging_interval_counts_as_trained(tmp_path):
    state = {"global_step": 3, "log_history": [{"train_loss": 2.5, "step": 3}]}
    files.write_json(tmp_path / "trainer_state.json", state)
    assert step._losses(tmp_path) == {"steps": 3, "first_loss": 2.5, "last_loss": 2.5}


@pytest.mark.parametrize("first", [0.0, float("nan"), float("inf")])
def test_a_training_whose_first_loss_is_no_number_is_not_done(tmp_path, first):
    state = {"global_step": 2, "log_history": [{"loss": first}, {"loss": 2.5}]}
    files.write_json(tmp_path / "trainer_state.json", state)
    with pytest.raises(EscError, match=r"first loss in .* it was no number"):
        step._losses(tmp_path)


def test_the_batch_counts_all_nodes(tmp_path, monkeypatch):
    for name, value in (("NNODES", "2"), ("NODE_RANK", "0"), ("MASTER_ADDR", "10.0.0.1")):
        monkeypatch.setenv(name, value)
    made = recipes.recipe_for(training(tmp_path, model="qwen2.5-7b", processes=4))
    assert made["gradient_accumulation_steps"] == 4


def test_a_blank_in_work_is_refused_for_several_processes(tmp_path):
    with pytest.raises(EscError, match="holds a blank"):
        recipes.recipe_for(training(tmp_path / "my work", processes=2))


def test_a_blank_in_work_is_refused_for_one_process_that_may_see_several_gpus(tmp_path):
    with pytest.raises(EscError, match=r"holds a blank, .* choose another WORK$"):
        recipes.recipe_for(training(tmp_path / "my work", model="qwen2.5-7b"))


def test_a_blank_in_work_does_not_matter_to_one_process_on_a_cpu(tmp_path):
    assert "my work" in recipes.recipe_for(training(tmp_path / "my work"))["output_dir"]


def test_the_next_command_carries_the_options(work):
    build.build(None, work, build.BuildOptions(limit=2))
    asked = training(work, "max_steps=1", "seed=2")
    train.guard_options(*stamped(work, "max_steps=1", "seed=2"))
    shown = step._next(asked)
    assert shown.startswith(f"make sft-rg MODEL=smollm2-135m WORK={work} SPLIT=seed:42 LIMIT=2 ")
    assert shown.endswith("'TRAIN_ARGS=max_steps=1 seed=2'")


def command(work, *overrides, task="sp"):
    return (
        *("-m", "training", "train", "--task", task, "--work", str(work)),
        *("--processes", "1", "--set", *overrides),
    )


@pytest.mark.slow
def test_a_killed_training_goes_on_from_its_checkpoint_and_is_then_done(run, model, work):
    output = training(work).output
    begin = [sys.executable, *command(work, *QUICK)]
    with subprocess.Popen(
        begin, cwd=paths.ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:  # fmt: skip
        deadline = time.monotonic() + 300
        while not (output / "checkpoint-1" / "trainer_state.json").is_file():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL and not (output / step.DONE).exists()
    resumed = run(*command(work, *QUICK), LLAMAFACTORY_VERBOSITY="INFO")
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert re.search(r"Resuming training from .*checkpoint-\d", resumed.stdout + resumed.stderr)
    assert (output / "adapter_model.safetensors").is_file() and (output / step.CURVE).is_file()
    assert files.read_json(output / step.DONE)["steps"] == 10
    for named in (str(output), step.CURVE, "make sft-rg", "SMOKE"):
        assert named in resumed.stdout
    again = run(*command(work, *QUICK))
    assert again.returncode == 0 and "nothing to do" in again.stdout
    other = run(*command(work, "max_steps=11"))
    assert (
        other.returncode == 2
        and "recipe.max_steps 10 -> 11" in other.stderr
        and other.stderr.count("\n") == 1
    )


@pytest.mark.slow
def test_force_deletes_an_adapter_of_other_options_and_trains_anew(run, model, work):
    quick = ("gradient_accumulation_steps=1", "max_steps=1")
    output = begun(work, *quick, "seed=1")
    forced = run(*command(work, *quick), "--force")
    assert forced.returncode == 0, forced.stderr[-2000:]
    assert files.read_json(output / step.DONE)["steps"] == 1
    assert files.read_json(output / train.OPTIONS)["recipe"].get("seed") is None


@pytest.mark.slow
def test_a_recipe_trains_with_llamafactory_cli_itself(run, model, work):
    source = paths.recipe("smollm2-135m", "vanilla", "sft")
    cli = str(paths.ROOT / ".venv" / "bin" / "llamafactory-cli")
    output = work / "direct"
    shown = run(
        *(cli, "train", str(source), f"dataset_dir={work}", f"output_dir={output}"),
        *("max_steps=1", "gradient_accumulation_steps=1"),
    )
    assert shown.returncode == 0, shown.stderr[-2000:]
    assert (output / "adapter_model.safetensors").is_file()


def first_step(run, work, processes, accumulation, **nodes):
    """A training of one step on two rows, as one command; what it printed."""
    return run(
        *("-m", "training", "train", "--task", "rg", "--work", str(work)),
        *("--processes", str(processes), "--set", "max_steps=1", "bf16=false"),
        f"gradient_accumulation_steps={accumulation}",
        **nodes,
    )


@pytest.mark.slow
def test_one_process_two_processes_and_two_nodes_begin_with_the_same_loss(
    run, model, small_corpus, tmp_path, free_port
):
    found = {}
    place = {"NNODES": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port)}
    place["OMP_NUM_THREADS"] = "1"
    for name, processes, accumulation in (("one", 1, 2), ("two", 2, 1), ("nodes", 1, 1)):
        work = tmp_path / name
        build.build(str(small_corpus), work, build.BuildOptions())
        if name == "nodes":
            with ThreadPoolExecutor() as pool:
                both = [
                    pool.submit(
                        first_step, run, work, processes, accumulation, NODE_RANK=rank, **place
                    )
                    for rank in ("0", "1")
                ]
            shown, follower = (one.result() for one in both)
            assert follower.returncode == 0, follower.stderr[-2000:]
            assert "node 1 is done; node 0 has written" in follower.stdout
        else:
            shown = first_step(run, work, processes, accumulation)
        assert shown.returncode == 0, shown.stderr[-2000:]
        output = training(work, task="rg").output
        found[name] = files.read_json(output / step.DONE)["first_loss"]
        expected = None if name == "one" else "gloo"
        assert yaml.safe_load((output / train.RECIPE).read_text()).get("ddp_backend") == expected
    # The same two rows in float32, weighed by their labels, which the trainer counts over all
    # processes: what is left is the order of sums, and the four digits that are logged.
    assert found["two"] == pytest.approx(found["one"], abs=2e-3)
    assert found["nodes"] == pytest.approx(found["one"], abs=2e-3)


@pytest.mark.slow
def test_a_machine_that_does_not_come_is_one_last_line(run, model, work, free_port):
    place = {"NNODES": "2", "NODE_RANK": "0", "MASTER_ADDR": "127.0.0.1"}
    shown = first_step(
        run, work, 1, 1, **place, MASTER_PORT=str(free_port), PET_RDZV_CONF="timeout=2"
    )
    assert shown.returncode == 2
    last = shown.stderr.strip().splitlines()[-1]
    assert last.startswith("error: not all NNODES=2 machines came to 127.0.0.1:")


@pytest.mark.slow
def test_a_training_that_fails_says_so_in_one_last_line(run, model, work):
    shown = run(*command(work, "max_steps=1", "template=nonsense"))
    assert shown.returncode == 2
    last = shown.stderr.strip().splitlines()[-1]
    assert last.startswith("error: LLaMA-Factory stopped with exit code 1")
