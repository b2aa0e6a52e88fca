"""Render the LLaMA-Factory recipes from the one table of backbones.

    python -m training render            # write llamafactory_configs/<model>/<task>_<stage>.yaml

The rendered files are committed; a test renders again and compares.
"""

from pathlib import Path

from esc import backbones, cli, files, paths, prompts
from esc.backbones import Backbone
from esc.exceptions import EscError
from esc.forms import TASKS

STAGES = ("sft", "dpo")
BATCH = 32  # section 6.1, for SFT and DPO
_SFT = {"learning_rate": 1e-5, "epochs": 3.0}  # section 6.1
_DPO_EPOCHS = 1.0  # section 6.1
_NAMES = {
    "sp": "strategy planner",
    "rg": "response generator",
    "vanilla": "entangled model",
}
_PURPOSE = {
    "sft": "LoRA supervised fine-tuning on ESConv.",
    "dpo": "preference optimisation from the SFT adapter, on its own mined errors.",
}


def accumulation(per_device: int, processes: int) -> int:
    """Gradient accumulation steps that make the effective batch 32.

    Raises EscError where ``per_device`` times ``processes`` does not divide it.
    """
    steps, rest = divmod(BATCH, per_device * processes)
    if rest or not steps:
        fitting = [n for n in range(1, BATCH + 1) if BATCH % (n * per_device) == 0]
        raise EscError(
            f"{processes} processes x {per_device} samples do not divide the paper's batch of "
            f"{BATCH}; use NPROC of {', '.join(map(str, fitting))}, or set TRAIN_ARGS"
        )
    return steps


def render(backbone: Backbone, task: str, stage: str) -> str:
    """The text of one recipe."""
    settings = backbone.settings
    world = max(settings["gpus"], 1)
    rates = _SFT if stage == "sft" else _dpo_rates(settings["dpo"][task])
    on_gpu = settings["gpus"] > 0
    sft = stage == "sft"
    # A pass over the validation turns takes tens of minutes on a CPU.
    validated = sft and on_gpu
    return (
        prompts.render(
            paths.RECIPES / "templates",
            "recipe.yaml.j2",
            what=f"{stage.upper()} of the {_NAMES[task]},",
            purpose=_PURPOSE[stage],
            model=backbone.name,
            path=backbone.path,
            template=backbone.template,
            task=task,
            stage=stage,
            hardware=settings["hardware"],
            gpus=settings["gpus"],
            world=world,
            per_device_batch=settings["per_device_batch"],
            batch=BATCH,
            accumulation=accumulation(settings["per_device_batch"], world),
            learning_rate=f"{rates['learning_rate']:.1e}",
            beta=rates.get("beta"),
            epochs=rates["epochs"],
            dataset=(
                paths.sft_dataset(task) if sft else paths.preference_dataset(task, backbone.name)
            ),
            eval_dataset=paths.sft_dataset(task, "validation") if validated else None,
            output=paths.adapter(backbone.name, task, stage),
            sft_output=paths.adapter(backbone.name, task, "sft"),
            save_steps=100 if on_gpu else 5,
        )
        + "\n"
    )


def _dpo_rates(row: dict[str, float]) -> dict[str, float]:
    return row | {"epochs": _DPO_EPOCHS}


def recipes() -> dict[Path, str]:
    """Path to text of every recipe the table gives."""
    return {
        paths.recipe(name, task, stage): render(backbone, task, stage)
        for name, backbone in backbones.table().items()
        for stage in STAGES
        for task in TASKS
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
