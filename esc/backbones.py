"""The backbones with recipes, from the one table ``llamafactory_configs/backbones.yaml``."""

import argparse
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from esc import paths
from esc.exceptions import EscError
from esc.paths import EMBEDDED

STAGES = ("sft", "dpo")
CUTOFF = 4096
DECODE = ("free", "choice")
"""How a strategy is drawn: freely, or among the eight names alone."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a decoder, as its own configuration names them."""

    layers: int
    hidden: int
    query: int
    """Attention heads times their width."""
    key_value: int
    """Heads of keys (or values) times their width."""
    intermediate: int
    vocabulary: int
    tied: bool
    """Whether the embedding is the output layer too."""


@dataclass(frozen=True, slots=True)
class Backbone:
    """One row of the table."""

    name: str
    licence: str
    """The base model's, as the Hugging Face hub names it."""
    hub: str | None
    """Its name there; None where it has a folder alone."""
    path: str
    """Hub id, or a folder; for the embedded model the one that ``make model`` fills."""
    template: str
    """Name of LLaMA-Factory's chat template."""
    parameters: float
    """Billions."""
    shape: Shape
    decode: str
    """``free``, or ``choice`` where the model would not keep to the form by itself."""
    reply_tokens: int
    """Room for a reply."""
    judge: str
    """Who judges mined replies unless JUDGE says otherwise."""
    engine: str | None
    """How its training is spread over GPUs unless ENGINE says otherwise; None is plain torchrun."""
    serving_gpus: int
    """GPUs that one server shares the weights out over."""
    settings: dict[str, Any]
    """What the recipes take: hardware, batch, DPO rates."""

    @property
    def is_local(self) -> bool:
        """Whether its weights are in a folder of this machine, and not fetched from the hub.

        Raises EscError where the path can only be a folder's, and there is none.
        """
        if self.name == EMBEDDED or Path(self.path).is_dir():
            return True
        if _is_folder_name(self.path):
            raise EscError(
                f"{self.path}, the path of MODEL={self.name} in {paths.RECIPES.name}/"
                "backbones.yaml, is no folder of this machine"
            )
        return False

    @property
    def location(self) -> str:
        """Where its weights are: the hub id, or the folder as an absolute path.

        Raises EscError where that is not there.
        """
        return str(Path(self.path).resolve()) if self.is_local else self.path


def _is_folder_name(path: str) -> bool:
    """Whether no model of the hub could be called so: ``owner/name`` is its form."""
    return path.startswith(("/", ".", "~")) or path.count("/") > 1


@cache
def table() -> dict[str, Backbone]:
    """All backbones by name, in the table's order."""
    rows = yaml.safe_load((paths.RECIPES / "backbones.yaml").read_text(encoding="utf-8"))
    return {
        name: Backbone(
            name,
            licence=row.pop("licence"),
            hub=row.pop("hub", None if Path(row["path"]).is_dir() else row["path"]),
            path=row.pop("path"),
            template=row.pop("template"),
            parameters=row.pop("parameters"),
            shape=Shape(**row.pop("shape")),
            decode=row.pop("decode"),
            reply_tokens=row.pop("reply_tokens"),
            judge=row.pop("judge"),
            engine=row.pop("engine", None),
            serving_gpus=row.pop("serving_gpus", 1),
            settings=row,
        )
        for name, row in rows.items()
    }


def get(name: str) -> Backbone:
    """The backbone called ``name``; EscError lists the known ones."""
    try:
        return table()[name]
    except KeyError:
        known = ", ".join(table())
        raise EscError(f"unknown MODEL {name!r}; known: {known}") from None


def add_model(
    parser: argparse.ArgumentParser, what: str = "folder of llamafactory_configs"
) -> None:
    """Add the option that names a backbone."""
    parser.add_argument("--model", default=EMBEDDED, help=what)


BF16, FP32 = "bfloat16", "float32"


def precision() -> str:
    """``bfloat16`` where the CPU multiplies in it itself; emulated, it is far slower than float32.

    A CPU with AVX2 alone multiplies float32 thirty times as fast as emulated bfloat16.
    """
    info = Path("/proc/cpuinfo")
    native = ("avx512_bf16", "amx_bf16")
    return BF16 if info.is_file() and any(flag in info.read_text() for flag in native) else FP32


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


def engine(name: str) -> Engine:
    """The engine called ``name``; EscError lists the known ones."""
    try:
        return ENGINES[name]
    except KeyError:
        raise EscError(f"unknown ENGINE {name!r}; known: {', '.join(ENGINES)}") from None
