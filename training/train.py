"""One LoRA training with LLaMA-Factory, from the recipe of a model, task and stage.

    python -m training train --model smollm2-135m --task sp --stage sft

Reads the recipe and the built sets, writes ``saves/<model>/<task>_<stage>/``: ``recipe.yaml`` (the
recipe as it ran), the adapter, the loss curve, and ``run.json`` last. Goes on from the newest
checkpoint after an interruption, does nothing when done, and stops when the folder was made with
other options. The recipes also run without this step, with ``llamafactory-cli train`` itself.
"""

import os
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from esc import backbones, cli, files, paths
from esc.exceptions import EscError, OptionsDiffer
from esc.files import Row
from esc.forms import TASKS
from training.render import STAGES, accumulation

OPTIONS = "options.json"
DONE = "run.json"
RECIPE = "recipe.yaml"
STATE = "trainer_state.json"
LOG = "trainer_log.jsonl"
CURVE = "training_loss.png"
WEIGHTS = "adapter_model.safetensors"

_LEFT_BY_A_FAILED_START = {OPTIONS, RECIPE, LOG}
_SET_BY_MAKE = {"adapter_name_or_path", "dataset", "dataset_dir", "output_dir", "stage"}


@dataclass(frozen=True, slots=True)
class Training:
    """One training that a user asks for."""

    model: str
    task: str
    stage: str
    work: Path
    processes: int
    """Training processes of this node, each with a GPU of its own where there are any."""
    overrides: tuple[str, ...]
    """Extra ``key=value`` for LLaMA-Factory; they win over everything."""

    @property
    def output(self) -> Path:
        """The folder of the adapter."""
        return self.work / paths.adapter(self.model, self.task, self.stage)


def recipe_for(training: Training) -> Row:
    """The recipe as it will run: WORK's paths, the batch for the processes, the overrides.

    Raises EscError for an unknown model, an override of another form, or a batch that does not fit.
    """
    backbones.get(training.model)
    path = paths.recipe(training.model, training.task, training.stage)
    settings: Row = yaml.safe_load(path.read_text(encoding="utf-8"))
    settings["dataset_dir"] = str(training.work)
    settings["output_dir"] = str(training.output)
    if training.stage == "dpo":
        settings["adapter_name_or_path"] = str(training.work / settings["adapter_name_or_path"])
    extra = _parsed(training.overrides)
    if fixed := _SET_BY_MAKE & extra.keys():
        raise EscError(
            f"TRAIN_ARGS cannot set {', '.join(sorted(fixed))}: the target and WORK=folder do; "
            "llamafactory-cli train takes any"
        )
    if settings.get("use_cpu") and _cpu_has_bf16():
        settings["bf16"] = True
    settings |= extra
    for key in ("per_device_train_batch_size", "gradient_accumulation_steps"):
        if not isinstance(settings[key], int) or settings[key] < 1:
            raise EscError(f"TRAIN_ARGS: {key}={settings[key]} is not a whole number of at least 1")
    if "gradient_accumulation_steps" not in extra:
        per_device = settings["per_device_train_batch_size"]
        settings["gradient_accumulation_steps"] = accumulation(per_device, _world(training))
    if training.processes > 1 and any(letter.isspace() for letter in str(training.work)):
        raise EscError(
            f"WORK={str(training.work)!r} holds a blank, at which LLaMA-Factory splits torchrun's "
            "command; choose another WORK or NPROC=1"
        )
    if settings.get("use_cpu") and training.processes > 1:
        settings["ddp_backend"] = "gloo"
    return settings


def _world(training: Training) -> int:
    """Training processes on all nodes; NNODES is the launcher's own variable."""
    return training.processes * int(os.environ.get("NNODES", "1"))


def _parsed(overrides: tuple[str, ...]) -> Row:
    for override in overrides:
        if "=" not in override:
            raise EscError(f"TRAIN_ARGS: {override!r} is not key=value")
    try:
        # LLaMA-Factory's own way with them, to which 2e-5 is a number.
        parsed = OmegaConf.to_container(OmegaConf.from_dotlist(list(overrides)))
    except (OmegaConfBaseException, yaml.YAMLError) as error:
        raise EscError(f"TRAIN_ARGS: {str(error).splitlines()[0]}") from error
    assert isinstance(parsed, dict)
    return {str(key): value for key, value in parsed.items()}


def _cpu_has_bf16() -> bool:
    """Whether this CPU multiplies in bfloat16 itself; emulated, it is slower than float32."""
    info = Path("/proc/cpuinfo")
    return info.is_file() and any(flag in info.read_text() for flag in ("avx512_bf16", "amx_bf16"))


def stamp(training: Training, settings: Row) -> Row:
    """Everything that decides the adapter, under the names a user knows.

    Raises EscError where the training set, or for DPO the SFT adapter, is missing.
    """
    name = settings["dataset"]
    registry = files.read_json(training.work / paths.REGISTRY, made_by="make data")
    if name not in registry:
        raise EscError(
            f"set {name!r} is not in {training.work / paths.REGISTRY}; "
            f"'python -m data_builders registry --work {training.work}' writes it anew"
        )
    data = training.work / registry[name]["file_name"]
    if not data.is_file():
        step = "make data" if training.stage == "sft" else f"make mine-{training.task}"
        raise EscError(f"{data} is not there; {step} makes it")
    made_from: Row = {}
    if training.stage == "sft":
        manifest = files.read_json(paths.data_manifest(training.work), made_by="make data")
        made_from = manifest["options"]
    else:
        weights = Path(settings["adapter_name_or_path"]) / WEIGHTS
        if not weights.is_file():
            raise EscError(f"{weights} is not there; make sft-{training.task} trains it")
        made_from = {"SFT adapter": files.sha256(weights)}
    batch = (
        settings["per_device_train_batch_size"]
        * settings["gradient_accumulation_steps"]
        * _world(training)
    )
    return made_from | {
        "training set": files.sha256(data),
        "batch": batch,
        "recipe": {key: value for key, value in settings.items() if key not in _NOT_DECISIVE},
    }


# Where things lie, how a run is logged, computed and spread. The batch is stamped by itself.
_NOT_DECISIVE = {
    "adapter_name_or_path",
    "bf16",  # set by what the machine can do
    "dataloader_num_workers",
    "dataset_dir",
    "ddp_backend",
    "ddp_timeout",
    "disable_gradient_checkpointing",
    "gradient_accumulation_steps",
    "logging_steps",
    "output_dir",
    "overwrite_cache",
    "per_device_train_batch_size",
    "plot_loss",
    "preprocessing_num_workers",
    "report_to",
    "save_steps",
    "save_total_limit",
}


def _flat(options: Row) -> Row:
    recipe = {f"recipe.{key}": value for key, value in options["recipe"].items()}
    return {key: value for key, value in options.items() if key != "recipe"} | recipe


def guard_options(output: Path, options: Row) -> None:
    """Raise OptionsDiffer where ``output`` was begun with other options; else leave the stamp.

    A folder that holds only what a failed start leaves takes the new options.
    """
    path = output / OPTIONS
    if {item.name for item in output.glob("*")} <= _LEFT_BY_A_FAILED_START:
        (output / LOG).unlink(missing_ok=True)
        files.write_json(path, options)
        return
    ways_out = "use another WORK=folder, or FORCE=1 to delete it and train anew"
    if not path.is_file():
        raise OptionsDiffer(f"{output} holds files that this kit did not make; {ways_out}")
    changed = files.differences(_flat(files.read_json(path)), _flat(options))
    if changed:
        raise OptionsDiffer(
            f"{output} was made with other options ({'; '.join(_telling(changed))}); {ways_out}"
        )


def _telling(changed: list[str]) -> list[str]:
    """Without the hash of the training set, where an option already explains it."""
    named = [change for change in changed if not change.startswith("training set ")]
    return named or changed


def train(training: Training, *, force: bool) -> Row:
    """What ``run.json`` says of the finished training.

    Raises EscError where LLaMA-Factory fails, OptionsDiffer where the folder is of another run.
    """
    settings = recipe_for(training)
    options = stamp(training, settings)
    with files.exclusive(training.output.with_name(f".{training.output.name}")) as lock:
        if force:
            shutil.rmtree(training.output, ignore_errors=True)
        return _train(training, settings, options, lock)


def _train(training: Training, settings: Row, options: Row, lock: int) -> Row:
    guard_options(training.output, options)
    done = training.output / DONE
    if done.is_file():
        print(f"{training.output} is trained already with these options; nothing to do")
        facts: Row = files.read_json(done)
        return facts
    recipe = training.output / RECIPE
    files.write_text(recipe, yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))
    drop_torn_checkpoints(training.output)
    seconds = _launch(recipe, training, settings, lock)
    facts = {"seconds": round(seconds, 1), "smoke": _is_smoke(training)} | _losses(training.output)
    files.write_json(done, facts)
    return facts


def drop_torn_checkpoints(output: Path) -> None:
    """Delete checkpoints that a kill left half-written: LLaMA-Factory would choose the newest.

    The trainer writes a checkpoint's state last.
    """
    for checkpoint in output.glob("checkpoint-*"):
        try:
            files.read_json(checkpoint / STATE)
        except EscError:
            shutil.rmtree(checkpoint)


def _launch(recipe: Path, training: Training, settings: Row, lock: int) -> float:
    program = Path(sys.executable).with_name("llamafactory-cli")
    # LLaMA-Factory looks torchrun up on the PATH, which an environment not activated is not on.
    search = os.pathsep.join([str(program.parent), os.environ.get("PATH", os.defpath)])
    environment = os.environ | {"PATH": search, "PYTHONUNBUFFERED": "1"}
    # At its default it prints the model's configuration several times over.
    environment.setdefault("LLAMAFACTORY_VERBOSITY", "WARN")
    # Set for one process too: LLaMA-Factory would start one on each GPU, with another batch.
    environment["NPROC_PER_NODE"] = str(training.processes)
    if training.processes > 1:
        environment["FORCE_TORCHRUN"] = "1"
        if settings.get("use_cpu"):
            cores = (os.cpu_count() or 1) // training.processes
            environment["OMP_NUM_THREADS"] = str(max(cores, 1))
    command = [str(program), "train", str(recipe)]
    print("running: " + " ".join([program.name, *command[1:]]), flush=True)
    begin = time.monotonic()
    # The training holds the lock too: it outlives this process when only this one is killed.
    result = subprocess.run(command, env=environment, check=False, pass_fds=[lock])
    if result.returncode:
        raise EscError(
            f"LLaMA-Factory stopped with exit code {result.returncode} (its output is above); "
            "the same command goes on from the newest checkpoint, if there is one"
        )
    return time.monotonic() - begin


def _is_smoke(training: Training) -> bool:
    manifest = files.read_json(paths.data_manifest(training.work), made_by="make data")
    return training.model == backbones.EMBEDDED or bool(manifest["smoke"])


def _losses(output: Path) -> dict[str, Any]:
    state = files.read_json(output / STATE)
    history = state["log_history"]
    # A run shorter than its logging interval has the mean loss alone.
    losses = [row["loss"] for row in history if "loss" in row] or [
        row["train_loss"] for row in history if "train_loss" in row
    ]
    if not losses:
        raise EscError(f"{output / STATE} shows no training step; is the training set empty?")
    return {"steps": state["global_step"], "first_loss": losses[0], "last_loss": losses[-1]}


def report(training: Training, facts: Row) -> str:
    """The adapter, the loss curve and the next command."""
    lines = [
        f"adapter     {training.output}",
        f"loss        {facts['first_loss']:.4f} -> {facts['last_loss']:.4f} "
        f"in {facts['steps']} steps, {facts['seconds']:,.0f} s",
        f"loss curve  {training.output / CURVE}",
        f"next        {_next(training)}",
    ]
    if facts["smoke"]:
        lines.append("SMOKE       embedded model or sample corpus: it runs, it is no result")
    return "\n".join(lines)


def _next(training: Training) -> str:
    """The command a user most likely wants now, with the same options."""
    if training.task == "vanilla" or training.stage == "dpo":
        backbone = backbones.get(training.model)
        return (
            f"llamafactory-cli chat model_name_or_path={backbone.path} "
            f"adapter_name_or_path={training.output} template={backbone.template}"
        )
    options = files.read_json(training.output / OPTIONS)
    variables = {
        "MODEL": training.model,
        "WORK": None if training.work == Path() else training.work,
        "SPLIT": options.get("SPLIT"),
        "LIMIT": options.get("LIMIT"),
        "CONSECUTIVE": options.get("CONSECUTIVE"),
        "TRAIN_ARGS": " ".join(training.overrides) or None,
    }
    target = {"sp": "sft-rg", "rg": "sft-vanilla"}[training.task]
    given = [shlex.quote(f"{k}={v}") for k, v in variables.items() if v is not None]
    return " ".join(["make", target, *given])


def main(argv: list[str]) -> None:
    """Command line of the step."""
    parser = cli.parser(
        prog="python -m training train",
        description=__doc__,
        examples=(
            "  python -m training train --task sp\n"
            "  python -m training train --model qwen2.5-7b --task rg --processes 4\n"
            "  python -m training train --task sp --work demo --set num_train_epochs=1.0"
        ),
    )
    parser.add_argument(
        "--model", default=backbones.EMBEDDED, help="folder of llamafactory_configs"
    )
    parser.add_argument("--task", choices=TASKS, required=True)
    parser.add_argument("--stage", choices=STAGES, default="sft")
    parser.add_argument("--work", type=Path, default=Path(), help="root of what is generated")
    parser.add_argument(
        "--processes", type=cli.optional_count, help="training processes (default: all GPUs, or 1)"
    )
    parser.add_argument(
        "--set", nargs="*", default=[], metavar="KEY=VALUE", help="for LLaMA-Factory"
    )
    parser.add_argument("--force", action="store_true", help="delete an adapter of other options")
    arguments = parser.parse_args(argv)
    training = Training(
        model=arguments.model,
        task=arguments.task,
        stage=arguments.stage,
        work=arguments.work,
        processes=arguments.processes or _default_processes(arguments.model),
        overrides=tuple(arguments.set),
    )
    facts = train(training, force=arguments.force)
    print(report(training, facts))


def _default_processes(model: str) -> int:
    """One for each GPU that may be used; one where there is none, or the recipe is for a CPU."""
    if not backbones.get(model).settings["gpus"]:
        return 1
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([device for device in visible.split(",") if device.strip()]) or 1
    return len(list(Path("/proc/driver/nvidia/gpus").glob("*"))) or 1
