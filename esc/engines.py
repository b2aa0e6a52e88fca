"""How a training is spread over GPUs: LLaMA-Factory's own ways, under the names ENGINE gives them.

An engine is a file of settings, ``llamafactory_configs/engines/<name>.yaml``, that is laid over a
recipe, and what of it no setting can say. Without one, each GPU holds the whole model (torchrun,
DDP).
"""

from dataclasses import dataclass, field
from typing import Any

import yaml

from esc import paths
from esc.exceptions import EscError

FOLDER = paths.RECIPES / "engines"


@dataclass(frozen=True, slots=True)
class Engine:
    """What no setting of LLaMA-Factory's says about an engine."""

    name: str
    merged_start: str | None
    """The precision of the exported SFT model that a preference training starts from; or None.

    LLaMA-Factory keeps an SFT adapter apart in a ZeRO-3 or quantized model: it would train it on,
    against the base as reference. Under FSDP all processes but one have no weights to merge into.
    ZeRO-3 and FSDP compute with bfloat16 weights whatever the file holds, so they start from those.
    """
    shards_weights: bool
    """Whether a GPU holds its share of the weights only."""
    packages: tuple[str, ...]
    """What it needs beside requirements/train.txt."""
    installed_by: str = "make setup-scale"
    environment: dict[str, str] = field(default_factory=dict)
    """What LLaMA-Factory reads from there."""
    launched_by_torchrun: bool = True

    @property
    def settings(self) -> dict[str, Any]:
        """What it lays over a recipe; files of this kit by their full path."""
        text = (FOLDER / f"{self.name}.yaml").read_text(encoding="utf-8")
        settings: dict[str, Any] = yaml.safe_load(text)
        if "deepspeed" in settings:
            settings["deepspeed"] = str(paths.ROOT / settings["deepspeed"])
        return settings


_SHARDED = {"ACCELERATE_USE_FSDP": "true"}
ENGINES = {
    engine.name: engine
    for engine in (
        Engine("zero2", None, False, ("deepspeed",)),
        Engine("zero3", "bfloat16", True, ("deepspeed",)),
        # Read before the model is loaded: it is loaded once, not on every GPU.
        Engine("fsdp", "bfloat16", True, (), environment=_SHARDED),
        Engine("qlora", "float32", False, ("bitsandbytes",)),
        Engine(
            "ray",
            merged_start=None,
            shards_weights=False,
            packages=("ray",),
            installed_by=".venv/bin/python -m pip install --no-deps -r requirements/scale-ray.txt",
            environment={"USE_RAY": "1"},
            launched_by_torchrun=False,
        ),
    )
}


def get(name: str) -> Engine:
    """The engine called ``name``; EscError lists the known ones."""
    try:
        return ENGINES[name]
    except KeyError:
        raise EscError(f"unknown ENGINE {name!r}; known: {', '.join(ENGINES)}") from None
