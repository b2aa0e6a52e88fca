"""The adapters of a preference training, SFT's first, as one LoRA: what a server can serve.

    python -m serving compose --model smollm2-135m --task sp --drift

A DPO adapter is a difference to base + SFT (+ the rounds before it), and a request takes one
adapter. Concatenated, they are one of the summed rank, equal to merging them one after the other.
Writes ``saves/<model>/<task>_dpo[_variant][_rN]/served/``, the folder to serve and to publish.
With ``--drift`` it measures how far that policy is from its start (`training.drift`).
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from esc import adapters, backbones, cli, files, paths
from esc.files import EscError
from esc.paths import Lineage
from training import drift
from training.recipes import Policy

MANIFEST = "composed.json"


def compose(work: Path, model: str, task: str, lineage: Lineage = paths.PAPER) -> tuple[Path, bool]:
    """(folder of the composed adapter, whether it was made now); EscError where it cannot be."""
    backbone, parts = backbones.get(model), adapters.chain(work, model, task, "dpo", lineage)
    output = parts[-1] / adapters.SERVED
    rank = sum(int(files.read_json(part / adapters.CONFIG)["r"]) for part in parts)
    if rank > adapters.LARGEST_RANK:
        raise EscError(
            f"{' + '.join(part.name for part in parts)} has rank {rank}, and vLLM serves up to "
            f"{adapters.LARGEST_RANK}; train with a smaller lora_rank"
        )
    facts = {"made_from": {one.name: adapters.fingerprint(one) for one in parts}, "rank": rank}
    with files.exclusive(output.parent):
        whole = (output / adapters.FILE).is_file()
        if whole and files.read_json(output / MANIFEST, default={}) == facts:
            return output, False
        fresh = output.with_name(f".{adapters.SERVED}{files.TEMPORARY}")
        _concatenate(backbone.location, parts, fresh)
        if (parts[-1] / "run.json").is_file():
            shutil.copy(parts[-1] / adapters.FILE, fresh)
        else:
            template = adapters.of(backbone.location, backbone.template)
            files.write_text(fresh / adapters.FILE, template)
        files.write_json(fresh / MANIFEST, facts)
        shutil.rmtree(output, ignore_errors=True)
        fresh.rename(output)
    return output, True


def _concatenate(base: str, parts: Sequence[Path], output: Path) -> None:
    """A stacked over A, each scaled as it was, and B beside B: the product is the sum of all."""
    # Heavy, and needed for this one step only.
    import torch
    from safetensors.torch import load_file, save_file

    configs = [files.read_json(part / adapters.CONFIG) for part in parts]
    weights = [load_file(part / adapters.WEIGHTS) for part in parts]
    whole = {}
    for name in sorted(set().union(*weights)):
        is_a = name.endswith(".lora_A.weight")
        (*_, like) = (one[name] for one in weights if name in one)
        width = like.shape[1] if is_a else like.shape[0]
        blocks = []
        for config, of_part in zip(configs, weights, strict=True):
            rank, scale = config["r"], config["lora_alpha"] / config["r"]
            # A part may leave a layer as it is.
            nothing = torch.zeros((rank, width) if is_a else (width, rank))
            # In the base's own bfloat16 the sum would lose the smaller part, which is DPO's.
            blocks.append(of_part.get(name, nothing).float() * (scale if is_a else 1.0))
        whole[name] = torch.cat(blocks, 0 if is_a else 1).contiguous()
    rank = sum(config["r"] for config in configs)
    layers = {name.rpartition(".lora_")[0].rpartition(".")[2] for name in whole}
    config = {"base_model_name_or_path": base, "r": rank, "lora_alpha": rank}
    config["target_modules"] = sorted(layers)
    files.write_json(output / adapters.CONFIG, configs[0] | config)
    save_file(whole, output / adapters.WEIGHTS, metadata={"format": "pt"})


@cli.command(
    examples="  python -m serving compose --task sp\n"
    "  python -m serving compose --model qwen2.5-7b --task rg --variant practical --drift"
)
def main(
    policy: Policy,
    measure: Annotated[bool, typer.Option("--drift", help="say how far training moved it")] = False,
) -> None:
    """Make one adapter of SFT's and the preference training's, for a server."""
    of = policy.work, policy.model, policy.task, policy.at("dpo")
    output, made = compose(*of)
    print(f"{output} is {'composed' if made else 'up to date'}")
    if measure:
        print("\n".join(drift.report(drift.drift(*of), *of)))
