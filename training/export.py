"""The merged model: a base and its adapters as one ordinary checkpoint, with its chat template.

    python -m training export --model qwen2.5-7b --task rg --stage dpo --dtype bfloat16

Writes ``saves/<model>/<task>_<stage>[…]/merged/`` in float32, or where asked ``merged_bfloat16/``,
``merged.json`` last. PEFT merges, in float32, and takes the memory of the whole model in it.
In bfloat16 a weight moves in steps of 0.4 to 0.8 % of itself, and most of what DPO at Table 7's
rates adds is smaller: how much is left is counted and told.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import psutil
import typer

from esc import adapters, backbones, cli, files, paths, step
from esc.backbones import Backbone
from esc.files import EscError, Row
from esc.paths import EMBEDDED
from training.recipes import Policy

MANIFEST = "merged.json"


def export(work: Path, backbone: Backbone, parts: Sequence[Path], dtype: str) -> tuple[Path, Row]:
    """(folder, manifest) of the base with all adapters merged, in the folder of the last one."""
    for part in parts:
        adapters.check(part, work, backbone.name)
    last, folder = parts[-1], paths.merged(parts[-1], dtype)
    made_from = {part.name: adapters.fingerprint(part) for part in parts}
    asked: Row = {"base": backbone.path, "dtype": dtype, "made_from": made_from}
    with files.exclusive(last):
        facts: Row = files.read_json(folder / MANIFEST, default={})
        if asked.items() <= facts.items():
            print(f"{folder} is up to date")
            return folder, facts
        fresh = last / f".{folder.name}{files.TEMPORARY}"
        changed = merge(backbone, parts, fresh, dtype)
        tokenizer, template = adapters.load(backbone.location, backbone.template)
        tokenizer.chat_template = template._get_jinja_template(tokenizer)
        tokenizer.save_pretrained(fresh)
        trained = files.read_json(last / "run.json", default={"smoke": False})
        facts = asked | {
            "changed": changed,
            "smoke": backbone.name == EMBEDDED or trained["smoke"],
            "files": {
                path.name: {"bytes": path.stat().st_size, "sha256": files.sha256(path)}
                for path in sorted(fresh.iterdir())
            },
        }
        files.write_json(fresh / MANIFEST, facts)
        shutil.rmtree(folder, ignore_errors=True)
        fresh.rename(folder)
    return folder, facts


def merge(backbone: Backbone, parts: Sequence[Path], fresh: Path, dtype: str) -> dict[str, int]:
    """Write base + adapters; how many ``weights`` the last changes, and does once ``rounded``."""
    # Heavy, and needed for this one step only.
    import torch
    from peft import PeftModel
    from peft.tuners.lora import LoraLayer
    from transformers import AutoModelForCausalLM
    from transformers.utils import cached_file

    base, precision = backbone.location, getattr(torch, dtype)
    needed, free = backbone.parameters * 4e9, psutil.virtual_memory().available
    if free < needed:
        raise EscError(
            f"merging takes {needed / 1e9:,.1f} GB of memory, and {free / 1e9:,.1f} GB are free; "
            "end what holds it, or merge on another machine"
        )
    try:
        # In the base's own bfloat16 PEFT would round the adapters, and the sum.
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    except OSError as error:
        reason = str(error).strip().splitlines()[0]
        raise EscError(
            f"{base} cannot be had ({reason}); check the network, and that its licence is accepted"
        ) from error
    for part in parts:
        names = (name.rpartition(".lora_")[0] for name in adapters.tensors(part))
        changed_here = {f"{name.removeprefix('base_model.model.')}.weight" for name in names}
        if lost := changed_here - model.state_dict().keys():
            raise EscError(
                f"{base} has no {min(lost)}, which {part.name} changes: it is another base"
            )
        tuned = PeftModel.from_pretrained(model, str(part))
        if part != parts[-1]:
            model = tuned.merge_and_unload()
    changed = {"weights": 0, "rounded": 0}
    with torch.inference_mode():
        for layer in (module for module in tuned.modules() if isinstance(module, LoraLayer)):
            before = layer.get_base_layer().weight.clone()
            layer.merge()
            after = layer.get_base_layer().weight
            changed["weights"] += int((after != before).sum())
            changed["rounded"] += int((after.to(precision) != before.to(precision)).sum())
    tuned.unload().to(precision).save_pretrained(fresh, max_shard_size="5GB")
    # As the base has it: an older transformers reads another form of it wrongly, without a word.
    config: Row = files.read_json(Path(cached_file(base, "config.json")))
    of_weights = {key: dtype for key in ("dtype", "torch_dtype") if key in config}
    files.write_json(fresh / "config.json", config | of_weights)
    return changed


@cli.command(
    examples="  python -m training export --task sp --stage dpo\n"
    "  python -m training export --model qwen2.5-7b --task rg --stage dpo --variant practical"
)
def main(
    policy: Policy,
    stage: Annotated[Literal["sft", "dpo"], typer.Option(envvar="STAGE", help="merged")] = "dpo",
    dtype: Annotated[
        Literal["float32", "bfloat16"], typer.Option(envvar="DTYPE", help="of the weights")
    ] = "float32",
) -> None:
    """The merged model: a base and its adapters as one ordinary checkpoint."""
    parts = adapters.chain(policy.work, policy.model, policy.task, stage, policy.at(stage))
    folder, facts = export(policy.work, policy.backbone, parts, dtype)
    size = sum(one["bytes"] for one in facts["files"].values()) / 1e9
    print(f"merged      {folder} ({dtype}, {size:,.1f} GB)")
    print(f"from        {facts['base']} + {' + '.join(facts['made_from'])}")
    if dtype != backbones.FP32:
        weights, rounded = facts["changed"]["weights"], facts["changed"]["rounded"]
        print(
            f"WARNING     of {weights:,} weights that the last adapter changes, "
            f"{rounded / max(weights, 1):.1%} keep a change in {dtype}; DTYPE=float32, or the "
            "adapter, keeps all"
        )
    if facts["smoke"]:
        print(step.SMOKE)
