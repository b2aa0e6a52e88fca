"""One LoRA training with LLaMA-Factory, from the recipe of a model, task and stage.

    python -m training train --model smollm2-135m --task sp --stage sft

Reads the recipe and the built sets, writes ``saves/<model>/<task>_<stage>/``: ``recipe.yaml`` (as
it ran), the adapter, the loss curve, and ``run.json`` last. Goes on from the newest checkpoint,
does nothing when done, and stops where the folder is of other options. LLaMA-Factory's own output
goes to a log beside the folder; V=1 shows it. The recipes also run with ``llamafactory-cli train``.

A preference training (``--stage dpo``) starts as its own reference, since a fresh LoRA changes
nothing: the first loss is a constant of the loss, and all rewards are 0. Where they are not, the
reference is another model, and the training is stopped at that step.

On several machines (NNODES, NODE_RANK, MASTER_ADDR) the same command runs on each: node 0 writes
the folder, the others their own log beside it and their processes' part of each checkpoint.
"""

import json
import math
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import psutil
import yaml
from tqdm import tqdm

from esc import adapters, cli, files, paths, policy_server, step
from esc.files import EscError, OptionsDiffer, Row
from training import export
from training.recipes import Loss, Training, is_secret, place, recipe_for

OPTIONS, RECIPE, DONE, CURVE = "options.json", "recipe.yaml", "run.json", "training_loss.png"
LOG, STATE = "trainer_log.jsonl", "trainer_state.json"
TOLERANCE = 1e-3
"""Of the first loss and of the first rewards."""
_EVERY, _GRACE = 0.5, 20.0


def train(training: Training, *, force: bool) -> Row | None:
    """What ``run.json`` says of the finished training; None on another machine than node 0.

    Raises EscError where LLaMA-Factory fails, the reference is wrong, or a CPU would train beside
    a server, OptionsDiffer where the folder is of another run.
    """
    settings = recipe_for(training)
    options = stamp(training, settings)
    output, node = training.output, place()[1]
    beside, on_cpu = output.with_name(f".{output.name}"), settings.get("use_cpu")
    is_done = (output / DONE).is_file() and not force
    if node:
        if training.merged_start and not training.merged_start.is_dir():
            raise EscError(f"{training.merged_start} is not there: make it first, with make export")
        if not is_done:
            run(training, settings, beside / f"node{node}.yaml", lock=None)
        return None
    with files.exclusive(beside) as lock:
        beside_it = policy_server.beside_training(training.work)
        if beside_it and on_cpu and not is_done:
            raise EscError(beside_it)
        if force:
            shutil.rmtree(output, ignore_errors=True)
        claim(output, options)
        if is_done:
            print(f"{output} is trained already with these options; nothing to do")
            return files.read_json(output / DONE)
        _drop_torn(output)
        if training.start_dtype:
            of = training.work, training.backbone, training.starts_from, training.start_dtype
            print(f"start       {export.export(*of)[0]}", flush=True)
        if beside_it:
            print(f"NOTE        {beside_it}", flush=True)
        seconds = run(training, settings, output / RECIPE, lock=lock)
        # Whatever LLaMA-Factory has been told, without a whole adapter nothing is done.
        adapters.check(output, training.work, training.model)
        facts = {"seconds": round(seconds, 1)} | learned(training, settings)
        files.write_json(output / DONE, facts)
    return facts


def learned(training: Training, settings: Row) -> Row:
    """Whether it is a SMOKE, steps, first and last loss; EscError where the first step is wrong."""
    state = files.read_json(training.output / STATE)
    # A run shorter than its logging interval has the mean loss alone.
    rows = [row for row in state["log_history"] if "loss" in row] or [
        {"loss": row["train_loss"]} for row in state["log_history"] if "train_loss" in row
    ]
    check_first(rows[0], training.loss, settings, training.output)
    smoke = step.is_smoke(training.model, training.work)
    if training.loss:
        mined = files.read_jsonl(training.work / paths.preference_file(settings["dataset"]))
        smoke = next(mined)["provenance"]["smoke"]
    losses = {"first_loss": rows[0]["loss"], "last_loss": rows[-1]["loss"]}
    return {"smoke": smoke, "steps": state["global_step"]} | losses


def check_first(first: Row, loss: Loss | None, settings: Row, output: Path) -> None:
    """Raise EscError where the first step that a trainer has logged is not what it must be.

    Without a reference that is any loss above 0. The rewards are in the trainer's own state alone.
    """
    found, name = float(first["loss"]), loss.name if loss else "SFT"
    if loss is None or loss.start is None:
        if not 0 < found < math.inf:
            raise EscError(
                f"the first {name} loss in {output} is {found}: it was no number (which the "
                "trainer may show as 0); a setting of TRAIN_ARGS, or the precision, is wrong"
            )
        return
    expected = loss.start(settings["pref_beta"])
    # KTO has a side's rewards only where the first batch has replies of that side.
    rewards = {
        side: first[side] for side in ("rewards/chosen", "rewards/rejected") if side in first
    }
    # Written so that what is no number is wrong too.
    if all(abs(off) <= TOLERANCE for off in (found - expected, *rewards.values())):
        return
    if "adapter_name_or_path" not in settings:
        why = "a setting of TRAIN_ARGS changes the first step from the merged SFT model"
    elif not settings.get("create_new_adapter"):
        why = "create_new_adapter is not true, so the SFT adapter itself is trained; leave it true"
    else:
        why = (
            "LLaMA-Factory did not merge the SFT adapter (a quantized base, DeepSpeed ZeRO-3 and "
            "unsloth keep it apart), or a setting of TRAIN_ARGS changes the first step"
        )
    told = "".join(f", {side} {reward:.4f}, not 0" for side, reward in rewards.items())
    raise EscError(
        f"the first {name} loss in {output} is {found:.4f}, not {expected:.4f}{told}: the "
        f"reference is not the model it starts from; {why}"
    )


def stamp(training: Training, settings: Row) -> Row:
    """Everything that decides the adapter, under the names a user knows.

    Raises EscError where the training set is missing, or for a preference training an adapter it
    starts from is, the set was not mined from just that, or is older than a mining without pairs.
    """
    work, name, parts = training.work, settings["dataset"], training.starts_from
    registry = files.read_json(work / paths.REGISTRY, made_by="make data")
    data = work / registry.get(name, {}).get("file_name", name)
    if training.stage == "dpo":
        step.refuse_without_pairs(work, training.model, training.task, training.lineage)
    if name not in registry or not data.is_file():
        where = work / paths.REGISTRY
        raise EscError(f"set {name!r} is not there, or not in {where}; {_maker(training)} makes it")
    recipe = decisive(settings)
    if training.stage == "sft":
        options = dict(files.read_json(work / paths.MANIFEST, made_by="make data")["options"])
    else:
        for folder in parts:
            adapters.check(folder, work, training.model)
        _check_mined(training, provenance(training, data))
        options = {f"adapter {part.name}": adapters.fingerprint(part) for part in parts}
    if training.merged_start:
        # Its adapters are named above, by what they hold.
        recipe["model_name_or_path"] = training.backbone.path
        options["start merged in"] = training.start_dtype
    if training.spread:
        # One engine does not go on from another's checkpoint, nor ZeRO on other processes.
        options["engine"] = training.spread.name
    if settings.get("deepspeed"):
        options["processes"] = training.world
    per_device = settings["per_device_train_batch_size"] * settings["gradient_accumulation_steps"]
    batch = per_device * training.world
    return options | {"training set": files.sha256(data), "batch": batch, "recipe": recipe}


def _maker(training: Training) -> str:
    if training.stage == "sft":
        return "make data"
    mining = training.lineage.mining.variables
    return paths.make(f"mine-{training.task}", work=training.work, model=training.model, **mining)


def provenance(training: Training, data: Path) -> Row:
    """What a mined set says it comes from: ``model``, ``weights``, ``data`` and ``smoke``.

    Raises EscError where it is empty, a row says nothing or something else, or a row's chosen
    answer is its rejected one.
    """
    found: Row = {}
    for number, row in enumerate(files.read_jsonl(data), start=1):
        said = row.get("provenance") or {}
        here = {name: said.get(name) for name in ("model", "weights", "data", "smoke")}
        why = ""
        if None in here.values():
            why = "does not say which model its pair is of (no provenance)"
        elif here != (found or here):
            why = f"of another mining than the rows before ({files.differences(found, here)[0]})"
        elif "chosen" in row and row["chosen"] == row.get("rejected"):
            why = "chosen equals rejected"
        if why:
            raise EscError(f"{data}, line {number}: {why}; {_maker(training)} makes a sound set")
        found = here
    if not found:
        raise EscError(f"{data} is empty; {_maker(training)} makes it")
    return found


def _check_mined(training: Training, mined: Row) -> None:
    """Raise EscError where pairs are of another model, adapter or train set than are here now."""
    work, model = training.work, training.model
    start = adapters.start(training.task, training.lineage)
    known = adapters.fingerprint(adapters.folder(work, model, start)), adapters.ELSEWHERE
    turns = files.differences(mined["data"], step.train_set(step.manifest(work)))
    for wrong, why in (
        (mined["model"] != model, f"were mined from MODEL={mined['model']}, not {model}"),
        (mined["weights"] not in known, f"were mined from another {start} than now"),
        (turns, f"are of other train turns than now ({'; '.join(turns)})"),
    ):
        if wrong:
            raise EscError(
                f"the pairs of {training.task} {why}; {_maker(training)} FORCE=1 mines this one's "
                "own errors"
            )


_NOT_DECISIVE = re.compile(
    "(hub|log|logging|swanlab|trackio|ddp|fsdp|ray|master|include|overwrite|eval|save)_.*"
    "|adapter_name_or_path|bf16|(cache|dataset|output)_dir|compute_accuracy|dataloader_num_workers"
    "|deepspeed|disable_gradient_checkpointing|disable_tqdm|do_eval|flash_attn|fsdp"
    "|gradient_accumulation_steps|per_device_(train|eval)_batch_size|plot_loss"
    "|prediction_loss_only|preprocessing_num_workers|print_param_status|project|push_to_hub"
    "|report_to|run_name|use_swanlab"
)
"""Where things lie, how a run is logged, saved, measured, computed and spread."""


def decisive(settings: Row) -> Row:
    """What of a recipe decides the adapter; nothing that holds a secret is in it."""
    return {
        key: value
        for key, value in settings.items()
        if not _NOT_DECISIVE.fullmatch(key) and not is_secret(key)
    }


def claim(output: Path, options: Row) -> None:
    """Raise OptionsDiffer where ``output`` was begun with other options; else leave the stamp.

    A folder that holds only what a failed start leaves takes the new options.
    """
    path = output / OPTIONS
    if {item.name for item in output.glob("*")} <= {OPTIONS, RECIPE, LOG}:
        (output / LOG).unlink(missing_ok=True)
        files.write_json(path, options)
        return
    ways_out = "use another WORK=folder, or FORCE=1 to delete it and train anew"
    if not path.is_file():
        raise OptionsDiffer(f"{output} holds files that this kit did not make; {ways_out}")
    # A folder may have been begun when more was held to decide.
    both = ({**one, "recipe": decisive(one["recipe"])} for one in (files.read_json(path), options))
    if changed := files.differences(*both):
        told = "; ".join(changed)
        raise OptionsDiffer(f"{output} was made with other options ({told}); {ways_out}")


def _drop_torn(output: Path) -> None:
    """Delete checkpoints that a kill left half-written: LLaMA-Factory would choose the newest.

    The trainer writes a checkpoint's state last.
    """
    for checkpoint in output.glob("checkpoint-*"):
        try:
            files.read_json(checkpoint / STATE)
        except EscError:
            shutil.rmtree(checkpoint)


def environment(training: Training, settings: Row) -> dict[str, str]:
    """The variables LLaMA-Factory is started with."""
    given = os.environ
    # LLaMA-Factory looks torchrun up on the PATH, which an environment not activated is not on.
    programs = [str(Path(sys.executable).parent), given.get("PATH", os.defpath)]
    modules = [str(paths.IN_LLAMAFACTORY), *filter(None, [given.get("PYTHONPATH")])]
    made = {
        # At its default it prints the model's configuration several times over.
        "LLAMAFACTORY_VERBOSITY": "WARN",
        **{name: value for name, value in given.items() if name != "FORCE_TORCHRUN"},
        "PATH": os.pathsep.join(programs),
        "PYTHONPATH": os.pathsep.join(modules),
        "PYTHONUNBUFFERED": "1",
        # Set for one process too: LLaMA-Factory would start one on each GPU, with another batch.
        "NPROC_PER_NODE": str(training.here),
    }
    if settings.get("use_cpu"):
        if training.here > 1:
            made["OMP_NUM_THREADS"] = str(max((os.cpu_count() or 1) // training.here, 1))
    elif "PYTORCH_ALLOC_CONF" not in made:
        # LLaMA-Factory sets it for several processes alone; without it, rows of ever other lengths
        # leave memory in pieces too small for the longest.
        made.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    if training.by_torchrun:
        made["FORCE_TORCHRUN"] = "1"
    if place()[0] > 1:
        # torchrun's own port; LLaMA-Factory would draw another one on each machine.
        made["MASTER_PORT"] = made.get("MASTER_PORT") or "29500"
        made.setdefault("PET_RDZV_CONF", "timeout=600")
    return made | (training.spread.environment if training.spread else {})


def run(training: Training, settings: Row, recipe: Path, *, lock: int | None) -> float:
    """Seconds that LLaMA-Factory took; EscError where it failed, or its first step is wrong."""
    files.write_text(recipe, yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))
    output = training.output
    log = output.with_name(f".{output.name}") / f"node{place()[1]}.log"
    program = Path(sys.executable).with_name("llamafactory-cli")
    print(f"running: {program.name} train {recipe} (its output: {log})", flush=True)
    begin = time.monotonic()
    begun_here = not list(output.glob("checkpoint-*"))
    with (
        _written(log) as stream,
        # The training holds the lock too: it outlives this process when only this one is killed.
        subprocess.Popen(
            [str(program), "train", str(recipe)],
            env=environment(training, settings),
            stdout=stream,
            stderr=stream,
            pass_fds=[] if lock is None else [lock],
        ) as process,
        tqdm(desc=output.name, unit=" steps") as bar,
    ):
        try:
            while process.poll() is None:
                _look(training, settings, bar)
                time.sleep(_EVERY)
            _look(training, settings, bar)
        except BaseException as error:
            _end(process)
            # Steps against a wrong reference are worth nothing: the corrected command begins anew.
            if isinstance(error, EscError) and begun_here:
                shutil.rmtree(output, ignore_errors=True)
            raise
    if process.returncode:
        server = None if settings.get("use_cpu") else policy_server.beside_training(training.work)
        raise EscError(reason(process.returncode, log, server))
    return time.monotonic() - begin


@contextmanager
def _written(log: Path) -> Iterator[IO[bytes] | None]:
    """Where LLaMA-Factory writes to: a log, which with V=1 is shown on stderr too."""
    log.parent.mkdir(parents=True, exist_ok=True)
    if os.environ.get("V") != "1":
        with log.open("wb") as stream:
            yield stream
        return
    with subprocess.Popen(["tee", log], stdin=subprocess.PIPE, stdout=2) as shown:  # noqa: S607
        yield shown.stdin


def _look(training: Training, settings: Row, bar: "tqdm[Any]") -> None:
    """Show the steps that a training has logged; EscError where its first one is wrong."""
    log = training.output / LOG
    lines = log.read_text(encoding="utf-8").splitlines(keepends=True) if log.is_file() else []
    # The trainer writes on, so half a line is none.
    rows = [json.loads(line) for line in lines if line.endswith("\n")]
    if first := [row for row in rows if "loss" in row]:
        check_first(first[0], training.loss, settings, training.output)
    if rows:
        bar.total = rows[-1]["total_steps"]
        bar.update(rows[-1]["current_steps"] - bar.n)


def _end(training: subprocess.Popen[bytes]) -> None:
    """End a training and the workers it has launched."""
    if training.poll() is not None:
        return
    first = psutil.Process(training.pid)
    processes = [first, *first.children(recursive=True)]
    for process in processes:
        process.terminate()
    for process in psutil.wait_procs(processes, timeout=_GRACE)[1]:
        process.kill()


_SMALLER = (
    "ENGINE=zero3 or fsdp shares the weights out, ENGINE=qlora takes 4 bits of them; another "
    "ENGINE begins anew: with FORCE=1, or another WORK. Where it is true, "
    "TRAIN_ARGS=disable_gradient_checkpointing=false leaves less to hold"
)
_REASONS = {
    r"No space left on device|Disk quota exceeded|os error 28|PytorchStreamWriter failed writing": (
        "the disk is full; free some space"
    ),
    r"OutOfMemoryError|out of memory|can't allocate memory|SIGKILL|exitcode\s*: -9\b": (
        "the training ran out of memory, or was killed (signal 9), most likely for that; {smaller}"
    ),
    r"EADDRINUSE|[Aa]ddress already in use|DistStoreError|DistNetworkError|clients joined"
    r"|[Cc]onnection (closed|reset) by peer|ncclRemoteError": (
        "the machines of NNODES did not come together, or one was lost; start the same command on "
        "each within 600 s (PET_RDZV_CONF=timeout=… is another patience), with its own NODE_RANK, "
        "and a MASTER_PORT that is free on node 0 and let through"
    ),
}
"""What stands in the log, and what helps; the first that is found counts."""


def reason(code: int, log: Path, server: str | None = None) -> str:
    """One line: why it ended, and how to go on; ``server`` is what else holds the GPUs' memory."""
    said = log.read_text(encoding="utf-8", errors="replace")[-100_000:]
    if code in (-9, 137):
        said += "SIGKILL"
    again = "the same command goes on from the newest checkpoint, if there is one"
    # Another engine does not help where the memory is somebody else's.
    for pattern, told in _REASONS.items():
        if re.search(pattern, said):
            return f"{told.format(smaller=server or _SMALLER)}: {again}"
    errors = re.findall(r"^\w*(?:Error|Exception): .*$", said, re.M) or said.strip().splitlines()
    last = f": {errors[-1].strip()}" if errors else ""
    return f"LLaMA-Factory stopped with exit code {code}{last} (all of it: {log}); {again}"


@cli.command(
    examples="  python -m training train --task sp\n"
    "  python -m training train --model qwen2.5-7b --task rg --stage dpo --engine zero3"
)
def main(training: Training, force: cli.Force = False) -> None:
    """One LoRA training with LLaMA-Factory: batch, resume, options, reference."""
    facts = train(training, force=force)
    if facts is None:
        print(f"node {place()[1]} is done; node 0 has written {training.output}")
        return
    print(
        f"adapter     {training.output}\n"
        f"loss        {facts['first_loss']:.4f} -> {facts['last_loss']:.4f} "
        f"in {facts['steps']} steps, {facts['seconds']:,.0f} s\n"
        f"loss curve  {training.output / CURVE}"
    )
    if facts["smoke"]:
        print(step.SMOKE)
