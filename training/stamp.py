"""What a training folder was begun with, and whether the training asked for may go on in it."""

from pathlib import Path

from esc import files, paths
from esc.exceptions import EscError, OptionsDiffer
from esc.files import Row
from training.recipe import Training, world

OPTIONS = "options.json"
RECIPE = "recipe.yaml"
LOG = "trainer_log.jsonl"
WEIGHTS = "adapter_model.safetensors"

_LEFT_BY_A_FAILED_START = {OPTIONS, RECIPE, LOG}


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
        * world(training)
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
