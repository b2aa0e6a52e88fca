"""The adapters of a preference training, SFT's first, as one LoRA: what a server can serve.

    python -m serving compose --model smollm2-135m --task sp

A DPO adapter is a difference to base + SFT (+ the rounds before it), and a request takes one
adapter. Concatenated, they are one adapter of the summed rank, equal to merging them one after the
other. Writes ``saves/<model>/<task>_dpo[_variant][_rN]/served/``, with the chat template of the
training: the folder to serve and to publish. A rerun renews it where a part has changed.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

from esc import adapters, backbones, cli, files, paths
from esc.files import EscError
from esc.paths import EMBEDDED, Lineage
from esc.prompts import TASKS

MANIFEST = "composed.json"


def compose(work: Path, model: str, task: str, lineage: Lineage = paths.PAPER) -> tuple[Path, bool]:
    """(folder of the composed adapter, whether it was made now).

    Raises EscError where a part is not trained or no plain LoRA, the last one not on the others as
    they are, or the sum of their ranks more than a server takes.
    """
    parts = adapters.chain(work, model, task, "dpo", lineage)
    output = parts[-1] / adapters.SERVED
    rank = sum(int(files.read_json(part / adapters.CONFIG)["r"]) for part in parts)
    if rank > adapters.LARGEST_RANK:
        raise EscError(
            f"{' + '.join(part.name for part in parts)} has rank {rank}, and vLLM serves up to "
            f"{adapters.LARGEST_RANK}; train with a smaller lora_rank"
        )
    made_from = {folder.name: adapters.fingerprint(folder) for folder in parts}
    with files.exclusive(output.parent):
        manifest = output / MANIFEST
        whole = manifest.is_file() and (output / adapters.FILE).is_file()
        if whole and files.read_json(manifest)["made_from"] == made_from:
            return output, False
        fresh = output.with_name(f".{adapters.SERVED}{files.TEMPORARY}")
        backbone = backbones.get(model)
        rank = concatenate(backbone.location, parts, fresh)
        text = adapters.of(backbone.location, backbone.template)
        files.write_text(fresh / adapters.FILE, text)
        files.write_json(fresh / MANIFEST, {"made_from": made_from, "rank": rank})
        shutil.rmtree(output, ignore_errors=True)
        fresh.rename(output)
    return output, True


def concatenate(base: str, parts: Sequence[Path], output: Path) -> int:
    """Write the one adapter equal to all ``parts`` one after the other; returns its rank.

    PEFT's ``cat``: A stacked over A, B beside B, each scaled as it was, so that the product is the
    sum of all. The base's weights are not needed, only its shape.
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
    first, *others = names = [str(number) for number in range(len(parts))]
    model = PeftModel.from_pretrained(empty, str(parts[0]), first)
    for name, part in zip(others, parts[1:], strict=True):
        model.load_adapter(str(part), name)
    model.add_weighted_adapter(names, [1.0] * len(names), "served", combination_type="cat")
    rank = int(model.peft_config["served"].r)
    model.peft_config["served"].base_model_name_or_path = base
    scratch = output.with_name(f"{output.name}.parts{files.TEMPORARY}")
    model.save_pretrained(str(scratch), selected_adapters=["served"])
    shutil.rmtree(output, ignore_errors=True)
    (scratch / "served").rename(output)
    shutil.rmtree(scratch)
    return rank


@cli.command(
    examples="  python -m serving compose --task sp\n"
    "  python -m serving compose --model qwen2.5-7b --task rg --variant practical"
)
def main(
    task: cli.Task,
    model: cli.Model = EMBEDDED,
    variant: cli.Variant = None,
    round: cli.Round = 1,  # noqa: A002
    work: cli.Work = Path(),
) -> None:
    """Make one adapter of SFT's and the preference training's, for a server."""
    if task not in TASKS:
        raise EscError(f"TASK={task} is none of {', '.join(TASKS)}")
    output, made = compose(work, model, task, Lineage(variant, round).checked(task))
    print(f"{output} is {'composed' if made else 'up to date'}")
