"""SFT and DPO adapter of a task into one LoRA, which is what a server can serve.

    python -m serving compose --model smollm2-135m --task sp

A DPO adapter is a difference to base + SFT, and a request takes one adapter. Concatenated, the two
are one adapter of the summed rank, equal to merging them one after the other. Writes
``saves/<model>/<task>_dpo/served/``; a rerun renews it where either has changed.
"""

import shutil
from pathlib import Path

from esc import adapters, backbones, cli, commands, files, paths
from esc.exceptions import EscError
from esc.forms import TASKS

MANIFEST = "composed.json"


def compose(work: Path, model: str, task: str) -> tuple[Path, bool]:
    """(folder of the composed adapter, whether it was made now).

    Raises EscError where one of the two is not trained, or the DPO adapter on another SFT adapter.
    """
    parts = {}
    for stage in ("sft", "dpo"):
        folder = work / paths.adapter(model, task, stage)
        if not (folder / adapters.WEIGHTS).is_file():
            step = commands.make(f"{stage}-{task}", work=work, model=model)
            raise EscError(f"{folder} holds no adapter; {step} trains it")
        parts[stage] = folder
    output = parts["dpo"] / adapters.SERVED
    made_from = {stage: adapters.fingerprint(folder) for stage, folder in parts.items()}
    options = parts["dpo"] / "options.json"
    if options.is_file() and files.read_json(options).get("SFT adapter") != made_from["sft"]:
        raise EscError(
            f"{parts['dpo']} was trained on another SFT adapter than {parts['sft']} holds now; "
            "train the DPO adapter again, with FORCE=1"
        )
    with files.exclusive(parts["dpo"]):
        manifest = output / MANIFEST
        if manifest.is_file() and files.read_json(manifest)["made_from"] == made_from:
            return output, False
        fresh = parts["dpo"] / f".{adapters.SERVED}{files.TEMPORARY}"
        backbone = backbones.get(model)
        rank = concatenate(backbone.location, parts["sft"], parts["dpo"], fresh)
        files.write_json(fresh / MANIFEST, {"made_from": made_from, "rank": rank})
        shutil.rmtree(output, ignore_errors=True)
        fresh.rename(output)
    return output, True


def concatenate(base: str, sft: Path, dpo: Path, output: Path) -> int:
    """Write the one adapter equal to ``sft`` followed by ``dpo``; returns its rank.

    PEFT's ``cat``: A stacked over A, B beside B, each scaled as it was, so that the product is the
    sum of the two. The base's weights are not needed, only its shape.
    """
    # Heavy, and needed for this one step only.
    import torch
    from accelerate import init_empty_weights
    from peft import PeftModel
    from transformers import AutoConfig, AutoModelForCausalLM

    with init_empty_weights():
        config = AutoConfig.from_pretrained(base)
        # In the base's own bfloat16 the sum would lose the smaller part, which is DPO's.
        empty = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    # Memory that is never written takes none: the base is a shape to hang the adapters on.
    empty.to_empty(device="cpu")
    model = PeftModel.from_pretrained(empty, str(sft), "sft")
    model.load_adapter(str(dpo), "dpo")
    model.add_weighted_adapter(["sft", "dpo"], [1.0, 1.0], "served", combination_type="cat")
    rank = int(model.peft_config["served"].r)
    model.peft_config["served"].base_model_name_or_path = base
    scratch = output.with_name(f"{output.name}.parts{files.TEMPORARY}")
    model.save_pretrained(str(scratch), selected_adapters=["served"])
    shutil.rmtree(output, ignore_errors=True)
    (scratch / "served").rename(output)
    shutil.rmtree(scratch)
    return rank


def main(argv: list[str]) -> None:
    """Command line of the step."""
    parser = cli.parser(
        prog="python -m serving compose",
        description=__doc__,
        examples="  python -m serving compose --task sp\n"
        "  python -m serving compose --model qwen2.5-7b --task rg",
    )
    parser.add_argument(
        "--model", default=backbones.EMBEDDED, help="folder of llamafactory_configs"
    )
    parser.add_argument("--task", choices=TASKS, required=True)
    parser.add_argument("--work", type=Path, default=Path(), help="root of what is generated")
    given = parser.parse_args(argv)
    output, made = compose(given.work, given.model, given.task)
    print(f"{output} is {'composed' if made else 'up to date'}")
