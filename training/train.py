"""One LoRA training with LLaMA-Factory, from the recipe of a model, task and stage.

    python -m training train --model smollm2-135m --task sp --stage sft

Writes ``saves/<model>/<task>_<stage>/``: ``recipe.yaml`` (as it ran), the adapter, the loss curve,
and ``run.json`` last. Goes on from the newest checkpoint, does nothing when done, and stops where
the folder is of other options. What LLaMA-Factory says is in a log beside the folder; V=1 shows it.

A preference training starts as its own reference, since a fresh LoRA changes nothing: the first
loss is a constant of the loss, and all rewards are 0. Where they are not, it is stopped there.
"""

import json
import math
import os
import re
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import yaml
from tqdm import tqdm

from data_builders import leaks
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
    """What ``run.json`` says of the finished training; None on another machine than node 0."""
    settings = recipe_for(training)
    options = stamp(training, settings)
    output, node = training.output, place()[1]
    beside = output.with_name(f".{output.name}")
    is_done = (output / DONE).is_file() and not force
    if node:
        if training.merged_start and not training.merged_start.is_dir():
            raise EscError(f"{training.merged_start} is not there: make it first, with make export")
        if not is_done:
            run(training, settings, beside / f"node{node}.yaml", lock=None)
        return None
    with files.exclusive(beside) as lock:
        server = None if is_done else policy_server.beside_training(training.work)
        if server and settings.get("use_cpu"):
            raise EscError(server)
        if force:
            shutil.rmtree(output, ignore_errors=True)
        claim(output, options)
        if is_done:
            print(f"{output} is trained already with these options; nothing to do")
            return files.read_json(output / DONE)
        for checkpoint in output.glob("checkpoint-*"):
            # The state is written last: without it a kill left one that LLaMA-Factory would take.
            try:
                files.read_json(checkpoint / STATE)
            except EscError:
                shutil.rmtree(checkpoint)
        if training.start_dtype:
            of = training.work, training.backbone, training.starts_from, training.start_dtype
            print(f"start       {export.export(*of)[0]}", flush=True)
        if server:
            print(f"NOTE        {server}", flush=True)
        seconds = run(training, settings, output / RECIPE, lock=lock)
        # Whatever LLaMA-Factory has been told, without a whole adapter nothing is done.
        adapters.check(output, training.work, training.model)
        facts = {"seconds": round(seconds, 1)} | learned(training, settings)
        leaks.remember(training.work, output, training.starts_from)
        files.write_json(output / DONE, facts)
        # What is finished goes on from none of them.
        for checkpoint in output.glob("checkpoint-*") if os.environ.get("KEEP") != "1" else ():
            shutil.rmtree(checkpoint)
    return facts


def learned(training: Training, settings: Row) -> Row:
    """Whether it is a SMOKE, steps, first and last loss; EscError where the first step is wrong."""
    state = files.read_json(training.output / STATE)
    # A run shorter than its logging interval has the mean loss alone.
    history = state["log_history"]
    rows = [row for row in history if "loss" in row] or [{"loss": history[-1]["train_loss"]}]
    check_first(rows[0], training.loss, settings, training.output)
    smoke = step.is_smoke(training.model, training.work)
    if training.loss:
        mined = files.read_jsonl(training.work / paths.preference_file(settings["dataset"]))
        smoke = next(mined)["provenance"]["smoke"]
    losses = {"first_loss": rows[0]["loss"], "last_loss": rows[-1]["loss"]}
    return {"smoke": smoke, "steps": state["global_step"]} | losses


def check_first(first: Row, loss: Loss | None, settings: Row, output: Path) -> None:
    """Raise EscError where the first step that a trainer has logged is not what it must be."""
    found, name = float(first["loss"]), loss.name if loss else "SFT"
    if loss is None or loss.start is None:
        if not 0 < found < math.inf:
            raise EscError(
                f"the first {name} loss in {output} is {found}: it was no number (which the "
                "trainer may show as 0); a setting of TRAIN_ARGS, or the precision, is wrong"
            )
        return
    expected = loss.start(settings["pref_beta"])
    # In the trainer's state alone; KTO has a side's only where the first batch has such replies.
    rewards = {
        side: first[side] for side in ("rewards/chosen", "rewards/rejected") if side in first
    }
    # Written so that what is no number is wrong too.
    if not all(abs(off) <= TOLERANCE for off in (found - expected, *rewards.values())):
        told = "".join(f", {side} {reward:.4f}, not 0" for side, reward in rewards.items())
        raise EscError(
            f"the first {name} loss in {output} is {found:.4f}, not {expected:.4f}{told}: the "
            "reference is not the model it starts from; create_new_adapter is not true, "
            "LLaMA-Factory did not merge the SFT adapter (a quantized base, DeepSpeed ZeRO-3 and "
            "unsloth keep it apart), or another setting of TRAIN_ARGS changes the first step"
        )


def stamp(training: Training, settings: Row) -> Row:
    """Everything that decides the adapter; EscError where its set or start is not there or fits."""
    work, name = training.work, settings["dataset"]
    registry = files.read_json(work / paths.REGISTRY, made_by="make data")
    data = work / registry.get(name, {}).get("file_name", name)
    if training.loss:
        step.refuse_without_pairs(work, training.model, training.task, training.lineage)
    if name not in registry or not data.is_file():
        what = f"set {name!r} is not there, or not in {work / paths.REGISTRY}"
        raise EscError(f"{what}; {_maker(training)} makes it")
    recipe = {
        key: value
        for key, value in settings.items()
        if not _NOT_DECISIVE.fullmatch(key) and not is_secret(key)
    }
    if training.loss:
        for folder in training.starts_from:
            adapters.check(folder, work, training.model)
        _check_mined(training, provenance(training, data))
        options: Row = {
            f"adapter {one.name}": adapters.fingerprint(one) for one in training.starts_from
        }
    else:
        options = dict(step.built(work).options)
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


_NOT_DECISIVE = re.compile(
    "(hub|log|logging|swanlab|trackio|ddp|fsdp|ray|master|include|overwrite|eval|save)_.*"
    "|adapter_name_or_path|bf16|(cache|dataset|output)_dir|compute_accuracy|dataloader_num_workers"
    "|deepspeed|disable_gradient_checkpointing|disable_tqdm|do_eval|flash_attn|fsdp"
    "|gradient_accumulation_steps|per_device_(train|eval)_batch_size|plot_loss"
    "|prediction_loss_only|preprocessing_num_workers|print_param_status|project|push_to_hub"
    "|report_to|run_name|use_swanlab"
)
"""Where things lie, how a run is logged, saved, measured, computed and spread."""


def _maker(training: Training) -> str:
    if not training.loss:
        return "make data"
    mining = training.lineage.mining.variables
    target = f"mine-{training.task}"
    if training.variant == paths.CONVERSE:
        target, mining = "mine-converse", {}
    return paths.make(target, work=training.work, model=training.model, **mining)


def provenance(training: Training, data: Path) -> Row:
    """What every row of a mined set says it comes from; EscError where one is no such pair."""
    found: Row = {}
    for number, row in enumerate(files.read_jsonl(data), start=1):
        said = row.get("provenance") or {}
        here = {name: said.get(name) for name in ("model", "weights", "data", "smoke")}
        same = "chosen" in row and row["chosen"] == row.get("rejected")
        if None in here.values() or here != (found or here) or same:
            raise EscError(
                f"{data}, line {number}: chosen equals rejected, or its provenance is missing or "
                f"not that of the rows before; {_maker(training)} makes a sound set"
            )
        found = here
    if not found:
        raise EscError(f"{data} is empty; {_maker(training)} makes it")
    return found


def _check_mined(training: Training, mined: Row) -> None:
    work, start = training.work, adapters.start(training.task, training.lineage)
    weights = adapters.fingerprint(adapters.folder(work, training.model, start))
    was = {"MODEL": mined["model"], start: mined["weights"], **mined["data"]}
    now = {"MODEL": training.model, start: weights, **step.train_set(step.manifest(work))}
    if was[start] == adapters.ELSEWHERE:
        now[start] = adapters.ELSEWHERE
    if changed := files.differences(was, now):
        raise EscError(
            f"the pairs of {training.task} were mined from another model or other train turns than "
            f"are here now ({'; '.join(changed)}); {_maker(training)} FORCE=1 mines this one's own "
            "errors"
        )


def claim(output: Path, options: Row) -> None:
    """Raise OptionsDiffer where ``output`` was begun with other options; else leave the stamp."""
    path = output / OPTIONS
    # What a failed start leaves takes the new options.
    if {item.name for item in output.glob("*")} <= {OPTIONS, RECIPE, LOG}:
        (output / LOG).unlink(missing_ok=True)
        files.write_json(path, options)
        return
    ways_out = "use another WORK=folder, or FORCE=1 to delete it and train anew"
    if not path.is_file():
        raise OptionsDiffer(f"{output} holds files that this kit did not make; {ways_out}")
    if changed := files.differences(files.read_json(path), options):
        told = "; ".join(changed)
        raise OptionsDiffer(f"{output} was made with other options ({told}); {ways_out}")


def environment(training: Training, settings: Row) -> dict[str, str]:
    """The variables LLaMA-Factory is started with."""
    # LLaMA-Factory looks torchrun up on the PATH, which an environment not activated is not on.
    programs = [str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]
    modules = [str(paths.IN_LLAMAFACTORY), *filter(None, [os.environ.get("PYTHONPATH")])]
    made = {
        # At its default it prints the model's configuration several times over.
        "LLAMAFACTORY_VERBOSITY": "WARN",
        **os.environ,
        "PATH": os.pathsep.join(programs),
        "PYTHONPATH": os.pathsep.join(modules),
        "PYTHONUNBUFFERED": "1",
        # Set for one process too: LLaMA-Factory would start one on each GPU, with another batch.
        "NPROC_PER_NODE": str(training.here),
        "FORCE_TORCHRUN": "1" if training.by_torchrun else "0",
    }
    if settings.get("use_cpu"):
        if training.here > 1:
            made["OMP_NUM_THREADS"] = str(max((os.cpu_count() or 1) // training.here, 1))
    elif "PYTORCH_ALLOC_CONF" not in made:
        # LLaMA-Factory sets it for several processes alone; without it, rows of ever other lengths
        # leave memory in pieces too small for the longest.
        made.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    if place()[0] > 1:
        # torchrun's own port; LLaMA-Factory would draw another one on each machine.
        made["MASTER_PORT"] = made.get("MASTER_PORT") or "29500"
        made.setdefault("PET_RDZV_CONF", "timeout=600")
    return made | (training.spread.environment if training.spread else {})


def run(training: Training, settings: Row, recipe: Path, *, lock: int | None) -> float:
    """Seconds that LLaMA-Factory took; EscError where it failed, or its first step is wrong."""
    output = training.output
    log = output.with_name(f".{output.name}") / f"node{place()[1]}.log"
    for path in (recipe, log):
        path.parent.mkdir(parents=True, exist_ok=True)
    # Not by way of a temporary file: node 0 deletes those of others, as left by a kill.
    text = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
    recipe.write_text(text, encoding="utf-8")
    program = Path(sys.executable).with_name("llamafactory-cli")
    print(f"running: {program.name} train {recipe} (its output: {log})", flush=True)
    begin, begun_here = time.monotonic(), not list(output.glob("checkpoint-*"))
    with (
        log.open("wb") as written,
        log.open(encoding="utf-8", errors="replace") as said,
        # The training holds the lock too: it outlives this process when only this one is killed.
        subprocess.Popen(
            [str(program), "train", str(recipe)],
            env=environment(training, settings),
            stdout=written,
            stderr=written,
            pass_fds=[] if lock is None else [lock],
        ) as process,
        tqdm(desc=output.name, unit=" steps") as bar,
    ):
        try:
            code = None
            while code is None:
                with suppress(subprocess.TimeoutExpired):
                    code = process.wait(_EVERY)
                if os.environ.get("V") == "1":
                    print(said.read(), end="", file=sys.stderr, flush=True)
                # The trainer writes on, so half a line is none.
                logged = output / LOG
                text = logged.read_text(encoding="utf-8") if logged.is_file() else ""
                rows = [json.loads(one) for one in text.splitlines(True) if one.endswith("\n")]
                if first := [row for row in rows if "loss" in row]:
                    check_first(first[0], training.loss, settings, output)
                if rows:
                    bar.total = rows[-1]["total_steps"]
                    bar.update(rows[-1]["current_steps"] - bar.n)
        except BaseException as error:
            if process.poll() is None:
                leader = psutil.Process(process.pid)
                processes = [leader, *leader.children(recursive=True)]
                for one in processes:
                    one.terminate()
                for one in psutil.wait_procs(processes, timeout=_GRACE)[1]:
                    one.kill()
            # Steps against a wrong reference are worth nothing: the corrected command begins anew.
            if isinstance(error, EscError) and begun_here:
                shutil.rmtree(output, ignore_errors=True)
            raise
    if code:
        raise EscError(reason(code, log))
    return time.monotonic() - begin


# What stands in the log, and what helps; the first that is found counts.
_REASONS = {
    r"No space left on device|Disk quota exceeded|os error 28|PytorchStreamWriter failed writing": (
        "the disk is full; free some space"
    ),
    r"OutOfMemoryError|out of memory|can't allocate memory|SIGKILL|exitcode\s*: -9\b": (
        "the training ran out of memory, or was killed (signal 9), most likely for that; "
        "ENGINE=zero3, fsdp or qlora takes less, but begins anew: with FORCE=1, or another WORK; "
        "TRAIN_ARGS=disable_gradient_checkpointing=false does where it is true"
    ),
    r"EADDRINUSE|[Aa]ddress already in use|DistStoreError|DistNetworkError|clients joined"
    r"|[Cc]onnection (closed|reset) by peer|ncclRemoteError": (
        "the machines of NNODES did not come together, or one was lost; start the same command on "
        "each within 600 s (PET_RDZV_CONF=timeout=… is another patience), with its own NODE_RANK, "
        "and a MASTER_PORT that is free on node 0 and let through"
    ),
}


def reason(code: int, log: Path) -> str:
    """One line: why it ended, and how to go on."""
    said = log.read_text(encoding="utf-8", errors="replace")[-100_000:]
    if code in (-9, 137):
        said += "SIGKILL"
    again = "the same command goes on from the newest checkpoint, if there is one"
    for pattern, told in _REASONS.items():
        if re.search(pattern, said):
            return f"{told}: {again}"
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
