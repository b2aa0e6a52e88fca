"""One file of a base's weights with LoRAs added, in float32, and what a coarser precision loses."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from esc import adapters, files
from esc.exceptions import EscError

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
