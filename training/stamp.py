"""What a training folder was begun with, and whether the training asked for may go on in it."""

from pathlib import Path

from esc import adapters, backbones, built, commands, files, paths
from esc.exceptions import EscError, OptionsDiffer
from esc.files import Row
from esc.secret import is_secret
from esc.weights import ELSEWHERE
from training.recipe import Training, world

OPTIONS = "options.json"
RECIPE = "recipe.yaml"
LOG = "trainer_log.jsonl"

_LEFT_BY_A_FAILED_START = {OPTIONS, RECIPE, LOG}


def stamp(training: Training, settings: Row) -> Row:
    """Everything that decides the adapter, under the names a user knows.

    Raises EscError where the training set is missing, or for a preference training an adapter it
    starts from is, the set was not mined from just that, or is older than a mining without pairs.
    """
    if training.stage == "dpo":
        built.refuse_without_pairs(training.work, training.model, training.task, training.lineage)
    name = settings["dataset"]
    registry = files.read_json(training.work / paths.REGISTRY, made_by="make data")
    if name not in registry and training.stage == "dpo":
        raise EscError(f"set {name!r} is not there; {_maker(training)} makes it")
    if name not in registry:
        raise EscError(
            f"set {name!r} is not in {training.work / paths.REGISTRY}; "
            f"'python -m data_builders registry --work {training.work}' writes it anew"
        )
    data = training.work / registry[name]["file_name"]
    if not data.is_file():
        raise EscError(f"{data} is not there; {_maker(training)} makes it")
    made_from: Row = {}
    if training.stage == "sft":
        manifest = files.read_json(paths.data_manifest(training.work), made_by="make data")
        made_from = dict(manifest["options"])
    else:
        for folder in training.starts_from:
            adapters.check(folder, training.work, training.model)
        _check_provenance(training, provenance(training, data))
        made_from = {
            f"adapter {folder.name}": adapters.fingerprint(folder)
            for folder in training.starts_from
        }
    recipe = decisive(settings)
    if training.merged_start:
        # Its adapters are named above, by what they hold.
        recipe["model_name_or_path"] = backbones.get(training.model).path
        made_from["start merged in"] = training.start_dtype
    if training.spread:
        # One engine does not go on from another's checkpoint.
        made_from["engine"] = training.spread.name
    batch = (
        settings["per_device_train_batch_size"]
        * settings["gradient_accumulation_steps"]
        * world(training)
    )
    return made_from | {
        "training set": files.sha256(data),
        "batch": batch,
        "recipe": recipe,
    }


def _maker(training: Training) -> str:
    if training.stage == "sft":
        return "make data"
    mining = training.lineage.mining
    return commands.make(
        f"mine-{training.task}", work=training.work, model=training.model, **mining.variables
    )


def provenance(training: Training, data: Path) -> Row:
    """What a mined set says it comes from.

    Raises EscError where it is empty, a row says nothing or something else, or a row's chosen
    answer is its rejected one.
    """
    found: Row = {}
    for number, row in enumerate(files.read_jsonl(data), start=1):
        said = row.get("provenance")
        if not isinstance(said, dict) or not said.keys() >= set(_DECISIVE):
            raise EscError(
                f"{data}, line {number}: does not say which model its pair is of (no provenance); "
                f"{_maker(training)} makes a set that does, llamafactory-cli train takes any"
            )
        here = {name: said[name] for name in _DECISIVE}
        if changed := files.differences(found or here, here):
            raise EscError(
                f"{data}, line {number}: of another mining than the rows before "
                f"({'; '.join(changed)}); {_maker(training)} writes one set of one mining"
            )
        if "chosen" in row and row["chosen"] == row.get("rejected"):
            raise EscError(f"{data}, line {number}: chosen equals rejected; {_maker(training)}")
        found = here
    if not found:
        raise EscError(f"{data} is empty; {_maker(training)} makes it")
    return found


_DECISIVE = ("model", "weights", "data", "smoke")


def _check_provenance(training: Training, mined: Row) -> None:
    """Raise EscError where pairs are of another model, adapter or train set than are here now."""
    if mined["model"] != training.model:
        raise EscError(
            f"the pairs of {training.task} were mined from MODEL={mined['model']}, not "
            f"{training.model}; {_maker(training)} mines that one's own errors"
        )
    start = adapters.start(training.task, training.lineage)
    present = adapters.fingerprint(adapters.folder(training.work, training.model, start))
    if mined["weights"] not in (present, ELSEWHERE):
        raise EscError(
            f"the pairs of {training.task} were mined from another {start} than is there now; "
            f"{_maker(training)} FORCE=1 mines this one's own errors"
        )
    changed = files.differences(mined["data"], built.train_set(built.manifest(training.work)))
    if changed:
        raise EscError(
            f"the pairs of {training.task} are of other train turns than are built now "
            f"({'; '.join(changed)}); build those again, or {_maker(training)} FORCE=1"
        )


# Where things lie, how a run is logged, computed and spread. The batch is stamped by itself.
_NOT_DECISIVE = {
    "adapter_name_or_path",
    "bf16",  # set by what the machine can do
    "cache_dir",
    "dataloader_num_workers",
    "dataset_dir",
    "ddp_backend",
    "ddp_timeout",
    "deepspeed",
    "disable_gradient_checkpointing",
    "disable_tqdm",
    "flash_attn",
    "fsdp",
    "fsdp_config",
    "gradient_accumulation_steps",
    "include_effective_tokens_per_second",
    "include_num_input_tokens_seen",
    "master_addr",
    "master_port",
    "output_dir",
    "overwrite_cache",
    "overwrite_output_dir",
    "per_device_train_batch_size",
    "plot_loss",
    "preprocessing_num_workers",
    "print_param_status",
    "project",
    "push_to_hub",
    "ray_init_kwargs",
    "ray_num_workers",
    "report_to",
    "run_name",
    "save_total_limit",
    "use_swanlab",
}
_NOT_DECISIVE_KINDS = ("hub_", "log_", "logging_", "swanlab_", "trackio_")
# What is measured and saved on the way, unless the training is steered by it.
_MEASURED = {"compute_accuracy", "do_eval", "per_device_eval_batch_size", "prediction_loss_only"}
_MEASURED_KINDS = ("eval_", "save_")


def decisive(settings: Row) -> Row:
    """What of a recipe decides the adapter; nothing that holds a secret is in it."""
    steered = (
        settings.get("load_best_model_at_end")
        or settings.get("early_stopping_steps")
        or settings.get("lr_scheduler_type") == "reduce_lr_on_plateau"
    )
    left_out = _NOT_DECISIVE if steered else _NOT_DECISIVE | _MEASURED
    kinds = _NOT_DECISIVE_KINDS if steered else (*_NOT_DECISIVE_KINDS, *_MEASURED_KINDS)
    return {
        key: value
        for key, value in settings.items()
        if key not in left_out and not key.startswith(kinds) and not is_secret(key)
    }


def _flat(options: Row) -> Row:
    # A folder may have been begun when more was held to decide.
    recipe = {f"recipe.{key}": value for key, value in decisive(options["recipe"]).items()}
    return {key: value for key, value in options.items() if key != "recipe"} | recipe


def same(path: Path, options: Row) -> bool:
    """Whether the stamp at ``path`` is of a training with these options."""
    return not files.differences(_flat(files.read_json(path)), _flat(options))


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
