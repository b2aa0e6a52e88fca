"""The backbones with recipes, from the one table ``llamafactory_configs/backbones.yaml``."""

import argparse
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from esc import paths
from esc.exceptions import EscError

EMBEDDED = "smollm2-135m"
"""The default model: small, openly licensed, and runnable without a GPU or a model hub."""

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
