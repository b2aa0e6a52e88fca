"""The backbones, from the one table ``backbones.yaml``, and the engines that spread a training."""

import os
import re
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import yaml

from esc import paths
from esc.files import EscError
from esc.paths import EMBEDDED

STAGES = ("sft", "dpo")
CUTOFF = 4096
BF16, FP32 = "bfloat16", "float32"
FOLDER = paths.RECIPES / "engines"


@dataclass(frozen=True, slots=True)
class Backbone:
    """One row of the table; what its fields mean stands there."""

    name: str
    licence: str
    hub: str | None
    """Its name on the hub; None where it has a folder alone."""
    path: str
    """Hub id, or a folder; for the embedded model the one that ``make model`` fills."""
    template: str
    parameters: float
    shape: Any
    """Sizes of the decoder: layers, hidden, query …"""
    decode: str
    reply_tokens: int
    judge: str
    settings: dict[str, Any]
    """What the recipes take: hardware, batch, DPO rates."""
    engine: str | None = None
    serving_gpus: int = 1

    @property
    def is_local(self) -> bool:
        """Whether its weights are in a folder here; EscError where its path can only be one."""
        if self.name == EMBEDDED or Path(self.path).is_dir():
            return True
        # The hub's names are of the form owner/name.
        if self.path.startswith(("/", ".", "~")) or self.path.count("/") > 1:
            table = f"{paths.RECIPES.name}/backbones.yaml"
            raise EscError(f"{self.path}, the path of MODEL={self.name} in {table}, is no folder")
        return False

    @property
    def location(self) -> str:
        """Where its weights are: the hub id, or the folder as an absolute path; raises as above."""
        return str(Path(self.path).resolve()) if self.is_local else self.path


@cache
def table() -> dict[str, Backbone]:
    """All backbones by name, in the table's order, then those of BACKBONES."""
    rows = yaml.safe_load((paths.RECIPES / "backbones.yaml").read_text(encoding="utf-8"))
    if own := os.environ.get("BACKBONES"):
        rows |= _added(Path(own), rows)
    for row in rows.values():
        row["shape"] = SimpleNamespace(**row["shape"])
        row.setdefault("hub", None if Path(row["path"]).is_dir() else row["path"])
        row["settings"] = {key: row.pop(key) for key in _RECIPES}
    return {name: Backbone(name, **row) for name, row in rows.items()}


_RECIPES = ("hardware", "gpus", "per_device_batch", "practical", "dpo")
_KNOWN = {*_RECIPES, *(field.name for field in fields(Backbone))} - {"name", "settings"}


def _added(path: Path, rows: dict[str, Any]) -> dict[str, Any]:
    """The rows of a user's table over the kit's; EscError where one is not in its form."""
    try:
        own = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise EscError(
            f"BACKBONES={path} cannot be read: {' '.join(str(error).split())}"
        ) from error
    if not isinstance(own, dict) or not all(isinstance(row, dict) for row in own.values()):
        raise EscError(f"BACKBONES={path} is no table of backbones; see backbones.yaml")
    for name, row in own.items():
        known = name in rows
        if unknown := {*row} - _KNOWN:
            raise EscError(f"BACKBONES={path}: {name} has an unknown field {min(unknown)!r}")
        if not re.fullmatch(r"[A-Za-z0-9.-]+", str(name)):
            raise EscError(f"BACKBONES={path}: {name!r} is no name (letters, digits, . and -)")
        if not known and not {"path", "template"} <= {*row}:
            raise EscError(f"BACKBONES={path}: {name} needs its path and its template")
    return {name: rows.get(name, rows["qwen2.5-7b"]) | row for name, row in own.items()}


def get(name: str) -> Backbone:
    """The backbone called ``name``; EscError lists the known ones."""
    if name not in table():
        raise EscError(f"unknown MODEL {name!r}; known: {', '.join(table())}")
    return table()[name]


def precision() -> str:
    """``bfloat16`` where the CPU multiplies in it; emulated, it is 30 times as slow as float32."""
    info = Path("/proc/cpuinfo")
    native = ("avx512_bf16", "amx_bf16")
    return BF16 if info.is_file() and any(flag in info.read_text() for flag in native) else FP32


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
    by_torchrun: bool | None = True
    """Whether torchrun starts its processes; None where it does from two on."""
    environment: dict[str, str] = field(default_factory=dict)
    """What LLaMA-Factory reads from there."""

    @property
    def text(self) -> str:
        """What it lays over a recipe, as lines, with paths from the repository's root."""
        text = (FOLDER / f"{self.name}.yaml").read_text(encoding="utf-8")
        return "\n".join(line for line in text.splitlines() if not line.startswith("#"))

    @property
    def settings(self) -> dict[str, Any]:
        """What it lays over a recipe; files of this kit by their full path."""
        settings: dict[str, Any] = yaml.safe_load(self.text)
        if "deepspeed" in settings:
            settings["deepspeed"] = str(paths.ROOT / settings["deepspeed"])
        return settings


ENGINES = {
    "zero2": Engine("zero2", None, False),
    "zero3": Engine("zero3", BF16, True),
    # Read before the model is loaded: it is loaded once, not on every GPU.
    "fsdp": Engine("fsdp", BF16, True, environment={"ACCELERATE_USE_FSDP": "true"}),
    "qlora": Engine("qlora", FP32, False, None),
    "ray": Engine("ray", None, False, False, {"USE_RAY": "1"}),
}


def engine(name: str) -> Engine:
    """The engine called ``name``; EscError lists the known ones."""
    if name not in ENGINES:
        raise EscError(f"unknown ENGINE {name!r}; known: {', '.join(ENGINES)}")
    return ENGINES[name]
