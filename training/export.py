"""The merged model: a base and its adapters as one ordinary checkpoint, with its chat template.

    python -m training export --model smollm2-135m --task sp --stage dpo
    python -m training export --model qwen2.5-7b --task rg --stage dpo --dtype bfloat16

Writes ``saves/<model>/<task>_<stage>[…]/merged/`` in float32, or where asked ``merged_bfloat16/``:
weights, configuration, tokenizer, the chat template of the training, and ``merged.json`` last. A
DPO adapter is merged after the SFT adapter it was trained on. One file of the base after the other
is read, so that a model takes no more memory than the largest of them. A rerun does it again only
where an adapter has changed.

In bfloat16 a weight moves in steps of 0.4 to 0.8 % of itself, and most of what DPO at Table 7's
rates adds is smaller. How much is left is counted and told.
"""

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from esc import adapters, backbones, cli, files, paths
from esc.backbones import STAGES, Backbone
from esc.exceptions import EscError
from esc.files import Row
from esc.paths import EMBEDDED, at_stage
from esc.prompts import TASKS

_PREFIX = "base_model.model."


@dataclass(frozen=True, slots=True)
class Lora:
    """What an adapter adds: name of a base's weight to the factors of the difference."""

    weights: dict[str, tuple[Any, Any]]
    """(A, rank x inputs; B, outputs x rank), float32."""
    scale: float

    @classmethod
    def load(cls, folder: Path) -> "Lora":
        """The adapter in ``folder``, a plain LoRA as `adapters.check` has found it to be."""
        # Heavy, and needed for this one step only.
        from safetensors.torch import load_file

        config = files.read_json(folder / adapters.CONFIG)
        tensors = load_file(folder / adapters.WEIGHTS)
        weights = {
            f"{name.removeprefix(_PREFIX).removesuffix('.lora_A.weight')}.weight": (
                tensor.float(),
                tensors[name.replace(".lora_A.", ".lora_B.")].float(),
            )
            for name, tensor in tensors.items()
            if name.endswith(".lora_A.weight")
        }
        return cls(weights, config["lora_alpha"] / config["r"])

    def added(self, name: str) -> Any:
        """What it adds to a weight, or 0."""
        if name not in self.weights:
            return 0
        a, b = self.weights[name]
        return self.scale * (b @ a)


@dataclass(slots=True)
class Changed:
    """How many weights the last adapter changes, and how many of these differ once rounded."""

    weights: int = 0
    rounded: int = 0

    @property
    def kept(self) -> float:
        """Share of the changes that the precision keeps."""
        return self.rounded / self.weights if self.weights else 0.0


def merge_file(
    source: Path, loras: Sequence[Lora], target: Path, dtype: str, changed: Changed
) -> set[str]:
    """Write ``source`` with the LoRAs added, and count in ``changed``; the weights' names."""
    import torch
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import save_file

    precision = getattr(torch, dtype)
    merged = {}
    with safe_open(source, "pt") as stream:
        for name in tqdm(stream.keys(), desc=f"merging {source.name}", unit=" weights"):
            before = stream.get_tensor(name).float()
            for lora in loras[:-1]:
                before = before + lora.added(name)
            after = before + loras[-1].added(name)
            merged[name] = after.to(precision)
            changed.weights += int((after != before).sum())
            changed.rounded += int((merged[name] != before.to(precision)).sum())
        names = set(merged)
    try:
        save_file(merged, target, metadata={"format": "pt"})
    except SafetensorError as error:
        raise EscError(
            f"{target} could not be written ({error}); free some space and run the command again"
        ) from error
    return names


MANIFEST = "merged.json"
BYTES = {"float32": 4, "bfloat16": 2}
"""Of a weight, by the precisions a model can be exported in."""
_INDEX = "model.safetensors.index.json"
_CONFIGURATIONS = ("config.json", "generation_config.json", _INDEX)


@dataclass(frozen=True, slots=True)
class Merged:
    """A merged model."""

    folder: Path
    made: bool
    """Whether it was made now, or was there."""
    facts: Row
    """Its manifest."""


def export(work: Path, backbone: Backbone, parts: Sequence[Path], dtype: str) -> Merged:
    """The base with all adapters of ``parts`` merged, oldest first, in the last one's folder.

    Raises EscError where an adapter is missing, torn or of another kind, the base cannot be had, or
    the disk is too small.
    """
    for part in parts:
        adapters.check(part, work, backbone.name)
    folder = paths.merged(parts[-1], dtype)
    with files.exclusive(parts[-1]):
        if facts := finished(backbone, parts, dtype):
            return Merged(folder, False, facts)
        base = base_files(backbone)
        _check_room(base, parts[-1], dtype)
        fresh = unfinished(parts[-1], dtype)
        fresh.mkdir()
        changed, written = _merge(base, [Lora.load(part) for part in parts], fresh, dtype)
        _write_the_rest(base, backbone, fresh, dtype)
        facts = _asked(backbone, parts, dtype) | {
            "changed": asdict(changed),
            "smoke": _is_smoke(parts[-1], backbone),
            "files": {
                path.name: written.get(path.name) or _told(path) for path in sorted(fresh.iterdir())
            },
        }
        files.write_json(fresh / MANIFEST, facts)
        shutil.rmtree(folder, ignore_errors=True)
        fresh.rename(folder)
    return Merged(folder, True, facts)


def unfinished(last: Path, dtype: str) -> Path:
    """The folder that a merged model is written in, of the last of its adapters."""
    return last / f".{paths.merged(last, dtype).name}{files.TEMPORARY}"


def _told(path: Path) -> Row:
    return {"bytes": path.stat().st_size, "sha256": files.sha256(path)}


def _asked(backbone: Backbone, parts: Sequence[Path], dtype: str) -> Row:
    return {
        "base": backbone.path,
        "dtype": dtype,
        "made_from": {part.name: adapters.fingerprint(part) for part in parts},
    }


def finished(backbone: Backbone, parts: Sequence[Path], dtype: str) -> Row | None:
    """The manifest of the merged model where it is whole and of just these parts, or None."""
    folder = paths.merged(parts[-1], dtype)
    manifest = folder / MANIFEST
    if not manifest.is_file():
        return None
    facts: Row = files.read_json(manifest)
    if any(facts.get(key) != value for key, value in _asked(backbone, parts, dtype).items()):
        return None
    sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
    whole = all(sizes.get(name) == one["bytes"] for name, one in facts["files"].items())
    return facts if whole else None


def base_files(backbone: Backbone) -> Path:
    """The folder of the base's files, fetched from the hub where they are not on this machine."""
    if backbone.is_local:
        return Path(backbone.location)
    # Heavy, and needed for this one step only.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    try:
        return Path(snapshot_download(backbone.path, allow_patterns=["*.json", "*.safetensors"]))
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        reason = str(error).strip().splitlines()[0]
        raise EscError(
            f"{backbone.path} cannot be had from the hub ({reason}); check the network, and that "
            "its licence is accepted there"
        ) from error


def _shards(base: Path) -> list[Path]:
    """The base's files of weights."""
    if (base / _INDEX).is_file():
        names = set(files.read_json(base / _INDEX)["weight_map"].values())
        return [base / name for name in sorted(names)]
    return [base / "model.safetensors"]


def _check_room(base: Path, folder: Path, dtype: str) -> None:
    # The base's weights are in 16 bits, all of this kit's table.
    needed = sum(path.stat().st_size for path in _shards(base)) * BYTES[dtype] // 2
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise EscError(
            f"the merged model takes {needed / 1e9:,.1f} GB, and {free / 1e9:,.1f} GB are free in "
            f"{folder}; free some space, use another WORK, or DTYPE=bfloat16 for half of it"
        )


def _merge(
    base: Path, loras: Sequence[Lora], fresh: Path, dtype: str
) -> tuple[Changed, dict[str, Row]]:
    """(what it changes, size and hash of each file of weights)."""
    changed = Changed()
    met: set[str] = set()
    written = {}
    for shard in _shards(base):
        met |= merge_file(shard, loras, fresh / shard.name, dtype, changed)
        # While the system still holds it in memory: at the end all would be read from the disk.
        written[shard.name] = _told(fresh / shard.name)
    if lost := {name for lora in loras for name in lora.weights} - met:
        raise EscError(f"{base} has no {min(lost)}, which the adapter changes: it is another base")
    return changed, written


def _write_the_rest(base: Path, backbone: Backbone, fresh: Path, dtype: str) -> None:
    """Configuration, tokenizer and chat template, as LLaMA-Factory trains with them."""
    tokenizer, template = adapters.load(backbone.location, backbone.template)
    tokenizer.save_pretrained(fresh)
    files.write_text(fresh / adapters.FILE, template._get_jinja_template(tokenizer))
    for name in _CONFIGURATIONS:
        if (base / name).is_file():
            files.write_json(fresh / name, dict(_as(files.read_json(base / name), name, dtype)))


def _as(configuration: dict[str, Any], name: str, dtype: str) -> Iterator[tuple[str, Any]]:
    """The configuration's entries, for weights of another precision."""
    for key, value in configuration.items():
        if name == _INDEX and key == "metadata":
            yield key, value | {"total_size": value["total_size"] * BYTES[dtype] // 2}
        else:
            yield key, dtype if key in ("dtype", "torch_dtype") else value


def _is_smoke(part: Path, backbone: Backbone) -> bool:
    trained = part / "run.json"
    known = json.loads(trained.read_text()) if trained.is_file() else {}
    return backbone.name == EMBEDDED or bool(known.get("smoke"))


def report(merged: Merged, last: str, *, start: bool = False) -> Iterator[str]:
    """Where it is, how large, and in bfloat16 what is left of the last adapter.

    ``start`` is for what a training starts from, and computes in bfloat16 anyway.
    """
    facts = merged.facts
    size = sum(one["bytes"] for one in facts["files"].values()) / 1e9
    state = "made" if merged.made else "up to date"
    yield f"merged      {merged.folder} ({facts['dtype']}, {size:,.1f} GB, {state})"
    yield f"from        {facts['base']} + {' + '.join(facts['made_from'])}"
    if facts["dtype"] != "float32":
        changed = Changed(**facts["changed"])
        kept = (
            f"of {changed.weights:,} weights that {last} changes, {changed.kept:.1%} keep a change "
            f"in {facts['dtype']}; the rest are rounded back to what they were"
        )
        if start:
            yield f"NOTE        {kept}, as where LLaMA-Factory merges into the base itself"
        else:
            yield f"WARNING     {kept}. The adapter, or DTYPE=float32, keeps all"
    if facts["smoke"]:
        yield "SMOKE       embedded model, sample corpus or random judge: no result"


def main(argv: list[str]) -> None:
    """Command line of the step."""
    parser = cli.parser(
        prog="python -m training export",
        description=__doc__,
        examples="  python -m training export --task sp --stage dpo\n"
        "  python -m training export --model qwen2.5-7b --task rg --stage dpo --variant practical",
    )
    parser.add_argument("--model", default=EMBEDDED, help="folder of llamafactory_configs")
    parser.add_argument("--task", choices=TASKS, required=True)
    parser.add_argument("--stage", type=cli.optional, choices=(*STAGES, None), help="default: dpo")
    parser.add_argument("--variant", type=cli.optional, help="of a preference training")
    parser.add_argument("--round", type=cli.optional_count, help="of mining (default: 1)")
    parser.add_argument(
        "--dtype", type=cli.optional, choices=(*BYTES, None), help="default: float32"
    )
    parser.add_argument("--work", type=Path, default=Path(), help="root of what is generated")
    given = parser.parse_args(argv)
    stage = given.stage or "dpo"
    lineage = at_stage(stage, given.variant, given.round).checked(given.task)
    backbone = backbones.get(given.model)
    parts = adapters.chain(given.work, given.model, given.task, stage, lineage)
    merged = export(given.work, backbone, parts, given.dtype or "float32")
    print("\n".join(report(merged, parts[-1].name)))
