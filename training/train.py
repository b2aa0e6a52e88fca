"""One LoRA training with LLaMA-Factory, from the recipe of a model, task and stage.

    python -m training train --model smollm2-135m --task sp --stage sft

Reads the recipe and the built sets, writes ``saves/<model>/<task>_<stage>/``: ``recipe.yaml`` (the
recipe as it ran), the adapter, the loss curve, and ``run.json`` last. Goes on from the newest
checkpoint after an interruption, does nothing when done, and stops when the folder was made with
other options. The recipes also run without this step, with ``llamafactory-cli train`` itself. A
preference training (``--stage dpo``, of any ``--variant`` and ``--round``) is stopped at its first
step where the reference is not the model it starts from. ``--engine`` spreads a training over GPUs
in another way; where LLaMA-Factory would keep the SFT adapter apart then, the merged SFT model is
exported first.

On several machines (NNODES, NODE_RANK, MASTER_ADDR) the same command runs on each: node 0 writes
the folder, the others their own log beside it and their processes' part of each checkpoint.
"""

import math
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml
from packaging.requirements import Requirement

from esc import adapters, backbones, cli, files, nodes, paths, policy_server, step
from esc.adapters import ELSEWHERE
from esc.backbones import ENGINES, STAGES
from esc.exceptions import EscError, OptionsDiffer
from esc.files import Row
from esc.paths import EMBEDDED, at_stage
from esc.prompts import TASKS
from esc.step import is_smoke
from training import export, follow, recipes, reference
from training.recipes import Training, by_torchrun, is_secret, recipe_for, world
from training.reference import STATE

_STEP = re.compile(r"checkpoint-(\d+)")
_SHARE = re.compile(r"zero_pp_rank_(\d+)_mp_rank_\d+_optim_states\.pt$")


def newest(output: Path) -> Path | None:
    """The checkpoint that LLaMA-Factory goes on from: the one of the last step, whole or not."""
    steps = {int(m[1]): path for path in output.glob("*") if (m := _STEP.fullmatch(path.name))}
    return steps[max(steps)] if steps else None


def drop_torn(output: Path) -> None:
    """Delete checkpoints that a kill left half-written: LLaMA-Factory would choose the newest.

    The trainer writes a checkpoint's state last.
    """
    for checkpoint in output.glob("checkpoint-*"):
        try:
            files.read_json(checkpoint / STATE)
        except EscError:
            shutil.rmtree(checkpoint)


def drop(output: Path) -> None:
    """Delete all: on a shared disk node 0 does it at the same time."""
    for checkpoint in output.glob("checkpoint-*"):
        shutil.rmtree(checkpoint, ignore_errors=True)


def check_whole(output: Path) -> None:
    """Raise EscError on another machine than node 0 where the newest lacks what node 0 wrote."""
    checkpoint = newest(output)
    # One with weights and no state was torn on a shared disk: node 0 drops it.
    if checkpoint and not any((checkpoint / name).exists() for name in (STATE, adapters.WEIGHTS)):
        raise EscError(
            f"{checkpoint} is this machine's share alone: copy node 0's {checkpoint.name} over it "
            "(keep what is here), delete it where node 0 has none, or FORCE=1 on all machines"
        )


def check_processes(output: Path, training: Training, settings: Row) -> None:
    """Raise EscError where the newest is of another number of processes than ZeRO goes on with."""
    checkpoint = newest(output)
    if not checkpoint or not settings.get("deepspeed") or not (checkpoint / STATE).exists():
        return
    found = (_SHARE.search(path.name) for path in checkpoint.glob("global_step*/*"))
    ranks = {int(share[1]) for share in found if share}
    first = nodes.here().rank * training.processes
    own = set(range(first, first + training.processes))
    # Without a shared disk a machine has its own, and what was copied from node 0.
    if ranks and not own <= ranks <= set(range(world(training))):
        count = max(ranks) + 1
        machines = nodes.here().count
        needed = f"NPROC={count}" if machines == 1 else f"NPROC x NNODES = {count}"
        raise EscError(
            f"{checkpoint} was begun on {count} processes, and ZeRO goes on with no other number: "
            f"{needed} goes on, FORCE=1 begins anew"
        )


_TAIL = 100_000
_EVERY = 0.2
_AGAIN = "the same command goes on from the newest checkpoint, if there is one"


def environment(training: Training, settings: Row) -> dict[str, str]:
    """The variables LLaMA-Factory is started with."""
    place = nodes.here()
    # LLaMA-Factory looks torchrun up on the PATH, which an environment not activated is not on.
    programs = str(Path(sys.executable).parent)
    search = os.pathsep.join([programs, os.environ.get("PATH", os.defpath)])
    modules = [str(paths.IN_LLAMAFACTORY), *filter(None, [os.environ.get("PYTHONPATH")])]
    made = os.environ | {"PATH": search, "PYTHONUNBUFFERED": "1"}
    made["PYTHONPATH"] = os.pathsep.join(modules)
    if not settings.get("use_cpu") and "PYTORCH_ALLOC_CONF" not in made:
        # LLaMA-Factory sets it for several processes alone; without it, rows of ever other lengths
        # leave memory in pieces too small for the longest.
        made.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    # At its default it prints the model's configuration several times over.
    made.setdefault("LLAMAFACTORY_VERBOSITY", "WARN")
    # Set for one process too: LLaMA-Factory would start one on each GPU, with another batch.
    made["NPROC_PER_NODE"] = str(training.processes)
    if training.spread and not training.spread.launched_by_torchrun:
        made.pop("FORCE_TORCHRUN", None)
    if by_torchrun(training):
        made |= {"FORCE_TORCHRUN": "1", "MASTER_ADDR": place.address}
        made.setdefault("PET_RDZV_CONF", f"timeout={nodes.PATIENCE}")
    if place.port is not None:
        made["MASTER_PORT"] = str(place.port)
    if settings.get("use_cpu") and training.processes > 1:
        cores = (os.cpu_count() or 1) // training.processes
        made["OMP_NUM_THREADS"] = str(max(cores, 1))
    if training.spread:
        made |= training.spread.environment
    return made


def run(
    recipe: Path,
    training: Training,
    settings: Row,
    *,
    log: Path,
    lock: int | None,
    watch: Callable[[subprocess.Popen[bytes]], int],
) -> float:
    """Seconds that the training took; ``watch`` waits for it and gives its exit code.

    Raises EscError with the reason where it failed.
    """
    nodes.check_port(nodes.here())
    program = Path(sys.executable).with_name("llamafactory-cli")
    command = [str(program), "train", str(recipe)]
    print("running: " + " ".join([program.name, *command[1:]]), flush=True)
    begin = time.monotonic()
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_bytes(b"")
    with (
        log.open("ab") as stream,
        _shown(log),
        # The training holds the lock too: it outlives this process when only this one is killed.
        subprocess.Popen(
            command,
            env=environment(training, settings),
            stderr=stream,
            pass_fds=[] if lock is None else [lock],
        ) as process,
    ):
        code = watch(process)
    if code:
        beside = None if settings.get("use_cpu") else policy_server.beside_training(training.work)
        raise EscError(reason(code, _tail(log), nodes.here(), beside))
    return time.monotonic() - begin


@contextmanager
def _shown(log: Path) -> Iterator[None]:
    """Show on stderr what is written to ``log``, while the block runs."""
    ended = threading.Event()

    def follow() -> None:
        with log.open("rb") as stream:
            last = False
            while not last:
                # Asked before reading: what was written until then is read.
                last = ended.wait(_EVERY)
                sys.stderr.write(stream.read().decode(errors="replace"))
                sys.stderr.flush()

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _tail(log: Path) -> str:
    with log.open("rb") as stream:
        stream.seek(max(log.stat().st_size - _TAIL, 0))
        return stream.read().decode(errors="replace")


_FULL_DISK = (
    r"No space left on device|Disk quota exceeded|os error 28|PytorchStreamWriter failed writing"
)
_SMALLER = (
    "ENGINE=zero3 or fsdp shares the weights out, ENGINE=qlora takes 4 bits of them; another "
    "ENGINE begins anew: with FORCE=1, or another WORK. Where it is true, "
    "TRAIN_ARGS=disable_gradient_checkpointing=false leaves less to hold"
)


def reason(code: int, said: str, place: nodes.Place, beside: str | None = None) -> str:
    """One line: why it ended, and how to go on.

    ``said`` is the end of what it wrote to stderr, ``beside`` what else holds the GPUs' memory.
    """
    # Another engine does not help where the memory is somebody else's.
    smaller = beside or _SMALLER
    if re.search(_FULL_DISK, said):
        return f"the disk is full; free some space: {_AGAIN}"
    if re.search(r"OutOfMemoryError|out of memory|can't allocate memory", said):
        return f"the training ran out of memory; {smaller}: {_AGAIN}"
    if code in (-9, 137) or re.search(r"Signal 9 \(SIGKILL\)|exitcode\s*: -9\b", said):
        return (
            "a training process was killed (signal 9): most likely the machine ran out of memory; "
            f"{smaller}: {_AGAIN}"
        )
    if re.search(r"EADDRINUSE|[Aa]ddress already in use", said):
        return (
            f"port {place.port} is in use on node 0; set MASTER_PORT to a free one, the same on "
            "every machine"
        )
    if place.count > 1 and re.search(r"DistStoreError|DistNetworkError|clients joined", said):
        return (
            f"not all NNODES={place.count} machines came to {place.address}:{place.port} in time "
            "(600 s, or what PET_RDZV_CONF=timeout=… says); start the same command on each, with "
            f"its own NODE_RANK, and let the port through: {_AGAIN}"
        )
    if place.count > 1 and re.search(r"[Cc]onnection (closed|reset) by peer|ncclRemoteError", said):
        return f"another machine of the training was lost; start it on all of them again: {_AGAIN}"
    return f"LLaMA-Factory stopped with exit code {code} (its output is above); {_AGAIN}"


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
        step.refuse_without_pairs(training.work, training.model, training.task, training.lineage)
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
    return paths.make(
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
    changed = files.differences(mined["data"], step.train_set(step.manifest(training.work)))
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


DONE = "run.json"
# From 0.8 on, SwanLab is none that transformers 5.6 can begin a run of.
_REPORTERS = {name: name for name in ("mlflow", "tensorboard", "trackio", "wandb")} | {
    "swanlab": "swanlab<0.8"
}
"""Tracker to the package it needs."""
CURVE = "training_loss.png"


def train(training: Training, *, force: bool) -> Row | None:
    """What ``run.json`` says of the finished training; None on another machine than node 0.

    Raises EscError where LLaMA-Factory fails, the reference is wrong, or a CPU would train beside
    a server, OptionsDiffer where the folder is of another run.
    """
    settings = recipe_for(training)
    _check_packages(training, settings)
    options = stamp(training, settings)
    beside = training.output.with_name(f".{training.output.name}")
    if nodes.here().rank:
        done = training.output / DONE
        # On a shared disk; with force, node 0 deletes it.
        if force or not done.is_file() or not same(training.output / OPTIONS, options):
            follow.follow(training, settings, beside, force=force)
        return None
    with files.exclusive(beside) as lock:
        if settings.get("use_cpu") and (force or not (training.output / DONE).is_file()):
            policy_server.refuse_beside_training()
        if force:
            shutil.rmtree(training.output, ignore_errors=True)
        return _train(training, settings, options, lock)


def _check_packages(training: Training, settings: Row) -> None:
    """Raise EscError where the engine's packages, or one that it reports to, are not installed."""
    asked = settings.get("report_to")
    for name in asked if isinstance(asked, list) else [asked]:
        needed = _REPORTERS.get(str(name))
        if needed and not _is_installed(needed):
            raise EscError(
                f"report_to={name} needs the package {needed}; '.venv/bin/python -m pip install "
                f'"{needed}"\' installs it'
            )
    for name in training.spread.packages if training.spread else ():
        if find_spec(name) is None:
            assert training.spread is not None
            raise EscError(
                f"ENGINE={training.spread.name} needs {name}; {training.spread.installed_by} "
                "installs it"
            )


def _is_installed(needed: str) -> bool:
    wanted = Requirement(needed)
    try:
        return wanted.specifier.contains(metadata.version(wanted.name), prereleases=True)
    except metadata.PackageNotFoundError:
        return False


def _train(training: Training, settings: Row, options: Row, lock: int) -> Row:
    guard_options(training.output, options)
    done = training.output / DONE
    if done.is_file():
        print(f"{training.output} is trained already with these options; nothing to do")
        facts: Row = files.read_json(done)
        return facts
    recipe = training.output / RECIPE
    files.write_text(recipe, yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))
    drop_torn(training.output)
    check_processes(training.output, training, settings)
    if training.stage == "dpo":
        # Of a training that was begun before this call, perhaps not by this kit.
        reference.check_loss(training.output, recipes.of(training.lineage), settings)
    if training.start_dtype:
        start = export.export(
            training.work, backbones.get(training.model), training.starts_from, training.start_dtype
        )
        print("\n".join(export.report(start, training.starts_from[-1].name, start=True)))
    log = training.output.with_name(f".{training.output.name}") / "node0.log"
    if not settings.get("use_cpu") and (beside := policy_server.beside_training(training.work)):
        print(f"NOTE        {beside}", flush=True)
    seconds = run(
        recipe,
        training,
        settings,
        log=log,
        lock=lock,
        watch=lambda process: _watched(process, training, settings),
    )
    if training.stage == "dpo":
        reference.check_rewards(training.output, recipes.of(training.lineage), settings)
    # Whatever LLaMA-Factory has been told, without a whole adapter nothing is done.
    adapters.check(training.output, training.work, training.model)
    # Over the tokenizer's own: whoever loads the adapter's tokenizer gets the training's ids.
    text = adapters.of(settings["model_name_or_path"], settings["template"])
    files.write_text(training.output / adapters.FILE, text)
    facts = {
        "seconds": round(seconds, 1),
        "smoke": _is_smoke(training, settings),
    } | _losses(training.output)
    files.write_json(done, facts)
    return facts


def _is_smoke(training: Training, settings: Row) -> bool:
    if training.stage == "sft":
        return is_smoke(training.model, training.work)
    mined = provenance(training, training.work / paths.preference_file(settings["dataset"]))
    return bool(mined["smoke"])


def _watched(process: subprocess.Popen[bytes], training: Training, settings: Row) -> int:
    """Exit code of the training, watched for its reference where it has one to watch."""
    if training.stage == "sft":
        return process.wait()
    begun_here = not list(training.output.glob("checkpoint-*"))
    try:
        return reference.watched(process, training.output, recipes.of(training.lineage), settings)
    except EscError:
        # Steps against a wrong reference are worth nothing: the corrected command begins anew.
        if begun_here:
            shutil.rmtree(training.output)
        raise


def _losses(output: Path) -> dict[str, Any]:
    state = files.read_json(output / STATE)
    history = state["log_history"]
    # A run shorter than its logging interval has the mean loss alone.
    losses = [row["loss"] for row in history if "loss" in row] or [
        row["train_loss"] for row in history if "train_loss" in row
    ]
    if not losses:
        raise EscError(f"{output / STATE} shows no training step; is the training set empty?")
    if not 0 < losses[0] < math.inf:
        raise EscError(
            f"the first loss in {output} is {losses[0]}: {reference.NO_NUMBER}; FORCE=1 begins anew"
        )
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
    if facts["steps"] == 1:
        lines.append(
            "NOTE        one step alone is all warm-up, at rate 0: take more rows (LIMIT), or "
            "TRAIN_ARGS=gradient_accumulation_steps=1"
        )
    if facts["smoke"]:
        lines.append("SMOKE       embedded model or sample corpus: it runs, it is no result")
    return "\n".join(lines)


def _next(training: Training) -> str:
    """The command a user most likely wants now, with the same options."""
    if training.stage == "dpo":
        system = "vanilla" if training.task == "vanilla" else "decoupled"
        return paths.make(
            "predict",
            work=training.work,
            model=training.model,
            SYSTEM=system,
            STAGE="dpo",
            **training.lineage.variables,
        )
    if training.task == "vanilla":
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
        "ENGINE": training.engine,
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
            "  python -m training train --task sp --work demo --set num_train_epochs=1.0\n"
            "  python -m training train --task vanilla --stage dpo --variant nsnr_psnr\n"
            "  python -m training train --model qwen2.5-7b --task sp --stage dpo --engine zero3"
        ),
    )
    parser.add_argument("--model", default=EMBEDDED, help="folder of llamafactory_configs")
    parser.add_argument("--task", choices=TASKS, required=True)
    parser.add_argument("--stage", choices=STAGES, default="sft")
    parser.add_argument("--variant", type=cli.optional, help="of a preference training")
    parser.add_argument("--round", type=cli.optional_count, help="of mining (default: 1)")
    parser.add_argument("--work", type=Path, default=Path(), help="root of what is generated")
    processes = parser.add_argument(
        "--processes", type=cli.optional_count, help="training processes (default: all GPUs, or 1)"
    )
    settings = parser.add_argument(
        "--set", nargs="*", default=[], metavar="KEY=VALUE", help="for LLaMA-Factory"
    )
    cli.variable(processes, "NPROC")
    cli.variable(settings, "TRAIN_ARGS")
    parser.add_argument("--engine", type=cli.optional, help=f"{', '.join(ENGINES)}")
    parser.add_argument(
        "--dtype",
        type=cli.optional,
        choices=(*export.BYTES, None),
        help="of a merged start (default: the engine's)",
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
        lineage=at_stage(arguments.stage, arguments.variant, arguments.round),
        engine=arguments.engine,
        dtype=arguments.dtype,
    )
    facts = train(training, force=arguments.force)
    if facts is None:
        print(f"node {nodes.here().rank} is done; node 0 has written {training.output}")
    else:
        print(report(training, facts))


def _default_processes(model: str) -> int:
    """One for each GPU that may be used; one where there is none, or the recipe is for a CPU."""
    if not backbones.get(model).settings["gpus"]:
        return 1
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([device for device in visible.split(",") if device.strip()]) or 1
    return len(list(Path("/proc/driver/nvidia/gpus").glob("*"))) or 1
