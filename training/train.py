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
import shlex
import shutil
import subprocess
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml
from packaging.requirements import Requirement

from esc import (
    adapters,
    backbones,
    chat_template,
    cli,
    commands,
    files,
    nodes,
    paths,
    policy_server,
)
from esc.engines import ENGINES
from esc.exceptions import EscError
from esc.files import Row
from esc.forms import TASKS
from esc.lineage import at_stage
from esc.smoke import is_smoke
from training import checkpoints, export, follow, launch, losses, reference
from training.recipe import Training, recipe_for
from training.reference import STATE
from training.render import STAGES
from training.stamp import OPTIONS, RECIPE, guard_options, provenance, same, stamp

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
    checkpoints.drop_torn(training.output)
    checkpoints.check_processes(training.output, training, settings)
    if training.stage == "dpo":
        # Of a training that was begun before this call, perhaps not by this kit.
        reference.check_loss(training.output, losses.of(training.lineage), settings)
    if training.start_dtype:
        start = export.export(
            training.work, backbones.get(training.model), training.starts_from, training.start_dtype
        )
        print("\n".join(export.report(start, training.starts_from[-1].name, start=True)))
    log = training.output.with_name(f".{training.output.name}") / "node0.log"
    if not settings.get("use_cpu") and (beside := policy_server.beside_training(training.work)):
        print(f"NOTE        {beside}", flush=True)
    seconds = launch.run(
        recipe,
        training,
        settings,
        log=log,
        lock=lock,
        watch=lambda process: _watched(process, training, settings),
    )
    if training.stage == "dpo":
        reference.check_rewards(training.output, losses.of(training.lineage), settings)
    # Whatever LLaMA-Factory has been told, without a whole adapter nothing is done.
    adapters.check(training.output, training.work, training.model)
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
