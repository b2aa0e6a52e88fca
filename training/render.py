"""Render the LLaMA-Factory recipes from the one table of backbones.

    python -m training render       # llamafactory_configs/<model>/<task>_<stage>[_variant].yaml

The rendered files are committed; a test renders again and compares.
"""

from pathlib import Path
from typing import Any

from esc import backbones, cli, engines, files, memory, paths, prompts
from esc.backbones import Backbone
from esc.exceptions import EscError
from esc.forms import TASKS
from esc.lineage import MIXES, Lineage, variants
from training import losses
from training.losses import Loss

STAGES = ("sft", "dpo")
BATCH = 32  # section 6.1, for SFT and DPO
CUTOFF = 4096
ONE_BATCH = 10**6
"""Rows: more than a set of KTO has."""
_SFT = {"learning_rate": 1e-5, "epochs": 3.0}  # section 6.1
_DPO_EPOCHS = 1.0  # section 6.1
_NAMES = {
    "sp": "strategy planner",
    "rg": "response generator",
    "vanilla": "entangled model",
}


def accumulation(per_device: int, processes: int, machines: int = 1) -> int:
    """Gradient accumulation steps that make the effective batch 32; ``processes`` a machine.

    Raises EscError where ``per_device`` times all processes does not divide it.
    """
    together = per_device * machines
    steps, rest = divmod(BATCH, together * processes)
    if rest or not steps:
        fitting = [str(n) for n in range(1, BATCH + 1) if BATCH % (n * together) == 0]
        way = f"use NPROC of {', '.join(fitting)}" if fitting else "no NPROC does"
        raise EscError(
            f"{f'{machines} machines x ' if machines > 1 else ''}{processes} processes x "
            f"{per_device} samples do not divide the paper's batch of {BATCH}; "
            f"{way}, or set TRAIN_ARGS"
        )
    return steps


def render(backbone: Backbone, task: str, stage: str, variant: str | None = None) -> str:
    """The text of one recipe."""
    settings, lineage = backbone.settings, Lineage(variant)
    world = max(settings["gpus"], 1)
    loss = None if stage == "sft" else losses.of(lineage)
    rates = _rates(settings, task, loss)
    on_gpu = settings["gpus"] > 0
    per_device = settings["per_device_batch"]
    if loss and loss.stage == "kto":
        per_device = max(per_device, memory.KTO_ROWS)
    # A pass over the validation turns takes tens of minutes on a CPU.
    validated = loss is None and on_gpu
    preferred = paths.preference_dataset(task, backbone.name, lineage)
    return (
        prompts.render(
            paths.RECIPES / "templates",
            "recipe.yaml.j2",
            what=f"{stage.upper()} of the {_NAMES[task]}{f' ({variant})' if variant else ''},",
            purpose=_purpose(loss, variant),
            make=_make(backbone.name, task, stage, variant),
            file=paths.recipe(backbone.name, task, stage, variant).name,
            model=backbone.name,
            path=backbone.path,
            template=backbone.template,
            mended=_mended(backbone, task, loss),
            task=task,
            stage=loss.stage if loss else stage,
            loss=loss,
            hardware=settings["hardware"],
            gpus=settings["gpus"],
            world=world,
            per_device_batch=per_device,
            one_batch=ONE_BATCH,
            batch=BATCH,
            cutoff=CUTOFF,
            accumulation=accumulation(per_device, world),
            learning_rate=f"{rates['learning_rate']:.1e}",
            beta=rates.get("beta"),
            epochs=rates["epochs"],
            dataset=paths.sft_dataset(task) if loss is None else preferred,
            eval_dataset=paths.sft_dataset(task, "validation") if validated else None,
            output=paths.adapter(backbone.name, task, stage, lineage),
            engine=backbone.engine,
            engine_settings=_engine_settings(backbone),
            memory=_memory(backbone, loss.stage if loss else stage) if on_gpu else None,
            sft_output=paths.adapter(backbone.name, task, "sft"),
            merged=_merged_start(backbone, task) if loss else None,
            merged_dtype=engines.get(backbone.engine).merged_start if backbone.engine else None,
            save_steps=100 if on_gpu else 5,
        )
        + "\n"
    )


def _mended(backbone: Backbone, task: str, loss: Loss | None) -> bool:
    """Whether LLaMA-Factory trains something else where `training/in_llamafactory` is not there."""
    if loss is not None:
        return loss.name == "ipo"
    # LLaMA-Factory takes seconds to import.
    from llamafactory.data.template import TEMPLATES

    return task == "rg" and TEMPLATES[backbone.template].efficient_eos


def _engine_settings(backbone: Backbone) -> str | None:
    """The lines of the backbone's own engine, with paths from the repository's root."""
    if not backbone.engine:
        return None
    text = (engines.FOLDER / f"{backbone.engine}.yaml").read_text(encoding="utf-8")
    return "\n".join(line for line in text.splitlines() if not line.startswith("#"))


def _merged_start(backbone: Backbone, task: str) -> Path | None:
    """The merged SFT model that a recipe starts from, where its engine keeps adapters apart."""
    dtype = engines.get(backbone.engine).merged_start if backbone.engine else None
    return paths.merged(paths.adapter(backbone.name, task, "sft"), dtype) if dtype else None


def _memory(backbone: Backbone, stage: str) -> str:
    """The estimate for the longest row that a recipe takes."""
    processes = backbone.settings["gpus"]
    found = memory.gigabytes(
        backbone, engine=backbone.engine, processes=processes, length=CUTOFF, stage=stage
    )
    return f"{found:.0f}"


def _rates(settings: dict[str, Any], task: str, loss: Loss | None) -> dict[str, float]:
    if loss is None:
        return _SFT
    rates: dict[str, float] = settings["dpo"][task] | {"epochs": _DPO_EPOCHS}
    if not loss.papers_rate:
        rates["learning_rate"] = settings["practical"]
    if loss.beta is not None:
        rates["beta"] = loss.beta
    return rates


def _purpose(loss: Loss | None, variant: str | None) -> str:
    if loss is None:
        return "LoRA supervised fine-tuning on ESConv."
    on = "its own mined errors"
    if variant in MIXES:
        on = f"PsPr against {' and '.join(sorted(MIXES[variant]))} alone"
    if not loss.papers_rate:
        on += ", at a rate that moves a LoRA"
    return f"preference optimisation from the SFT adapter, on {on}."


def _make(model: str, task: str, stage: str, variant: str | None) -> str:
    """The make command of a recipe."""
    return " ".join(
        ["make", f"{stage}-{task}", f"MODEL={model}", *([f"VARIANT={variant}"] if variant else [])]
    )


def recipes() -> dict[Path, str]:
    """Path to text of every recipe the table gives."""
    return {
        paths.recipe(name, task, stage, variant): render(backbone, task, stage, variant)
        for name, backbone in backbones.table().items()
        for task in TASKS
        for stage in STAGES
        for variant in (None, *(variants(task) if stage == "dpo" else ()))
    }


def main(argv: list[str]) -> None:
    """Command line of the step."""
    cli.parser(
        prog="python -m training render",
        description=__doc__,
        examples="  python -m training render",
    ).parse_args(argv)
    rendered = recipes()
    for path, text in rendered.items():
        files.write_text(path, text)
    print(f"{len(rendered)} recipes under {paths.RECIPES.name}/")
