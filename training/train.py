"""One LoRA training with LLaMA-Factory, from the recipe of a model, task and stage.

    python -m training train --model smollm2-135m --task sp --stage sft

Reads the recipe and the built sets, writes ``saves/<model>/<task>_<stage>/``: ``recipe.yaml`` (the
recipe as it ran), the adapter, the loss curve, and ``run.json`` last. Goes on from the newest
checkpoint after an interruption, does nothing when done, and stops when the folder was made with
other options. The recipes also run without this step, with ``llamafactory-cli train`` itself. A
preference training (``--stage dpo``, of any ``--variant`` and ``--round``) is stopped at its first
step where the reference is not the model it starts from.
"""

import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from esc import backbones, chat_template, cli, commands, files, paths, policy_server
from esc.exceptions import EscError
from esc.files import Row
from esc.forms import TASKS
from esc.lineage import at_stage
from esc.smoke import is_smoke
from training import losses, reference
from training.recipe import Training, recipe_for
from training.reference import STATE
from training.render import STAGES
from training.stamp import OPTIONS, RECIPE, guard_options, provenance, stamp

DONE = "run.json"
CURVE = "training_loss.png"
IN_LLAMAFACTORY = Path(__file__).parent / "in_llamafactory"
"""Folder of the one module that runs inside LLaMA-Factory, for the loss it would not use."""


def train(training: Training, *, force: bool) -> Row:
    """What ``run.json`` says of the finished training.

    Raises EscError where LLaMA-Factory fails, the reference is wrong, or a CPU would train beside
    a server, OptionsDiffer where the folder is of another run.
    """
    settings = recipe_for(training)
    options = stamp(training, settings)
    with files.exclusive(training.output.with_name(f".{training.output.name}")) as lock:
        if settings.get("use_cpu") and (force or not (training.output / DONE).is_file()):
            policy_server.refuse_beside_training()
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
    if training.stage == "dpo":
        # Of a training that was begun before this call, perhaps not by this kit.
        reference.check_loss(training.output, losses.of(training.lineage), settings)
    seconds = _launch(recipe, training, settings, lock)
    if training.stage == "dpo":
        reference.check_rewards(training.output, losses.of(training.lineage), settings)
    # Over the tokenizer's own: whoever loads the adapter's tokenizer gets the training's ids.
    text = chat_template.of(settings["model_name_or_path"], settings["template"])
    files.write_text(training.output / chat_template.FILE, text)
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
    if settings.get("pref_loss") == "ipo":
        found = [str(IN_LLAMAFACTORY), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment["PYTHONPATH"] = os.pathsep.join(found)
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
    with subprocess.Popen(command, env=environment, pass_fds=[lock]) as process:
        code = _watched(process, training, settings)
    if code:
        raise EscError(
            f"LLaMA-Factory stopped with exit code {code} (its output is above); "
            "the same command goes on from the newest checkpoint, if there is one"
        )
    return time.monotonic() - begin


def _watched(process: subprocess.Popen[bytes], training: Training, settings: Row) -> int:
    """Exit code of the training, watched for its reference where it has one to watch."""
    if training.stage == "sft":
        return process.wait()
    begun_here = not list(training.output.glob("checkpoint-*"))
    try:
        return reference.watched(process, training.output, losses.of(training.lineage), settings)
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
        return commands.make(
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
            "  python -m training train --task vanilla --stage dpo --variant nsnr_psnr"
        ),
    )
    parser.add_argument(
        "--model", default=backbones.EMBEDDED, help="folder of llamafactory_configs"
    )
    parser.add_argument("--task", choices=TASKS, required=True)
    parser.add_argument("--stage", choices=STAGES, default="sft")
    parser.add_argument("--variant", type=cli.optional, help="of a preference training")
    parser.add_argument("--round", type=cli.optional_count, help="of mining (default: 1)")
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
        lineage=at_stage(arguments.stage, arguments.variant, arguments.round),
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
