"""The backbones, from the one table ``backbones.yaml``, and the engines that spread a training."""

import os
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, RootModel, StringConstraints

from esc import files, paths
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


def shipped() -> dict[str, Any]:
    """The rows of ``backbones.yaml``."""
    rows: dict[str, Any] = yaml.safe_load((paths.RECIPES / "backbones.yaml").read_text("utf-8"))
    return rows


@cache
def own() -> Any:
    """The user's own table, from the file BACKBONES; empty without one. EscError as `_checked`."""
    path = os.environ.get("BACKBONES")
    return _checked(Path(path)) if path else {}


@cache
def table() -> dict[str, Backbone]:
    """All backbones by name, in the table's order, then those of BACKBONES."""
    rows = shipped()
    for name, row in own().items():
        if name not in rows and not {"path", "template"} <= row.keys():
            raise EscError(f"BACKBONES: {name} is new, and needs its path and its template")
        # What is not known of a new one is not that of another.
        new = rows["qwen2.5-7b"] | {"licence": "other", "hardware": "not measured"}
        before = rows.get(name, new)
        if "path" in row:
            before = {key: value for key, value in before.items() if key != "hub"}
        dpo = before["dpo"] | row.get("dpo", {})
        rows[name] = before | row | {"dpo": dpo}
    for row in rows.values():
        row["shape"] = SimpleNamespace(**row["shape"])
        row.setdefault("hub", None if Path(row["path"]).is_dir() else row["path"])
        row["settings"] = {key: row.pop(key) for key in _RECIPES}
    return {name: Backbone(name, **row) for name, row in rows.items()}


_RECIPES = ("hardware", "gpus", "per_device_batch", "practical", "dpo")


class _Rates(BaseModel):
    model_config = ConfigDict(extra="forbid")
    learning_rate: float = Field(gt=0)
    beta: float = Field(gt=0)


class _Row(BaseModel):
    """What a user may say of a backbone; the fields are told in ``backbones.yaml``."""

    model_config = ConfigDict(extra="forbid")
    path: str = ""
    hub: str = ""
    template: str = ""
    licence: str = ""
    hardware: str = ""
    judge: str = ""
    engine: str = ""
    decode: Literal["free", "choice"] = "free"
    parameters: float = Field(1, gt=0)
    shape: dict[str, int] = {}
    reply_tokens: int = Field(1, gt=0)
    gpus: int = Field(0, ge=0)
    per_device_batch: int = Field(1, gt=0)
    serving_gpus: int = Field(1, gt=0)
    practical: float = Field(1, gt=0)
    dpo: dict[Literal["sp", "rg", "vanilla"], _Rates] = {}


_Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9.-]*$")]


class _Table(RootModel[dict[_Name, _Row]]):
    """A user's own table."""


def _checked(path: Path) -> dict[str, Any]:
    """The rows of a user's table; EscError where they are not in its form."""
    rows: dict[str, Any] = files.read_yaml(path, _Table).model_dump(exclude_unset=True)
    return rows


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
