"""Where everything lies. ``work`` is the root of what is generated (WORK, default ``.``)."""

import re
from pathlib import Path

from esc.lineage import Lineage, of_suffix

# Parent of the packages: the repository root, or site-packages in an installed kit.
ROOT = Path(__file__).resolve().parent.parent
RECIPES = ROOT / "llamafactory_configs"
SAMPLE = ROOT / "data_builders" / "sample" / "sample_corpus.json"
IN_LLAMAFACTORY = ROOT / "training" / "in_llamafactory"
"""Folder of the one module that runs inside LLaMA-Factory, and mends it there."""

REGISTRY = "dataset_info.json"
SPLITS = ("train", "validation", "test")
PAPER = Lineage()
"""The paper's own preference training."""
# No backbone's name holds an underscore.
_PREFERENCE = re.compile(
    r"esc_(?P<task>[a-z]+)_(?P<kind>dpo|kto)_(?P<model>[^_]+)(?P<suffix>(?:_.+)?)"
)


def data(work: Path) -> Path:
    """The folder of the built sets."""
    return work / "data"


def data_manifest(work: Path) -> Path:
    """The manifest of the built sets; it exists exactly when they are complete."""
    return data(work) / "manifest.json"


def data_stats(work: Path) -> Path:
    """The statistics of the built train set."""
    return data(work) / "stats" / "stats.json"


def checked(work: Path, model: str) -> Path:
    """What the token check found in all sets of a model."""
    return data(work) / f"check_{model}.json"


def corpus(work: Path) -> Path:
    """The folder that keeps the corpus files the sets were built from."""
    return data(work) / "corpus"


def sft_file(task: str, split: str) -> str:
    """The name of a built SFT set, relative to the folder of the registry."""
    return f"data/{task}_sft_{split}.jsonl"


def sft_dataset(task: str, split: str = "train") -> str:
    """The registered name of a built SFT set."""
    return f"esc_{task}_sft" + ("" if split == "train" else f"_{split}")


def preference_dataset(task: str, model: str, lineage: Lineage = PAPER) -> str:
    """The registered name of a mined set: pairs, or for KTO single replies."""
    return f"esc_{task}_{lineage.kind}_{model}{lineage.data_suffix}"


def preference_file(dataset: str) -> str:
    """The name of a mined set's file, relative to the folder of the registry."""
    return f"data/{dataset}.jsonl"


def preference_of(dataset: str) -> tuple[str, str, Lineage] | None:
    """(task, model, lineage) of a mined set's registered name, or None for another name."""
    match = _PREFERENCE.fullmatch(dataset)
    if match is None:
        return None
    lineage = of_suffix(match["suffix"])
    if lineage is None:
        return None
    if match["kind"] == "kto":
        lineage = Lineage("kto", lineage.round)
    return match["task"], match["model"], lineage


def preference_manifest(task: str, model: str, mining: Lineage) -> str:
    """The manifest of the sets of one mining, relative to the folder of the registry."""
    return f"data/esc_{task}_dpo_{model}{mining.suffix}.manifest.json"


def recipe(model: str, task: str, stage: str, variant: str | None = None) -> Path:
    """The LLaMA-Factory YAML of one training."""
    return RECIPES / model / f"{task}_{stage}{Lineage(variant).suffix}.yaml"


def adapter(model: str, task: str, stage: str, lineage: Lineage = PAPER) -> Path:
    """The output folder of one training, relative to ``work``."""
    return adapters(model) / f"{task}_{stage}{lineage.suffix}"


def merged(adapter: Path, dtype: str = "float32") -> Path:
    """The folder of the whole model that an adapter makes of its base."""
    return adapter / ("merged" if dtype == "float32" else f"merged_{dtype}")


def run(model: str, system: str, stage: str, lineage: Lineage = PAPER) -> Path:
    """The folder of one system's predictions, relative to ``work``."""
    return Path("runs") / model / f"{system}_{stage}{lineage.suffix}"


def mining(model: str, lineage: Lineage = PAPER) -> Path:
    """The folder of one mining, relative to ``work``."""
    return Path("runs") / model / f"mining{lineage.mining.suffix}"


def no_pairs(model: str, task: str, lineage: Lineage = PAPER) -> Path:
    """What a mining leaves that no pair came out of, relative to ``work``."""
    return mining(model, lineage) / task / "routed" / "no_pairs.json"


def adapters(model: str) -> Path:
    """The folder of all of a model's adapters, relative to ``work``."""
    return Path("saves") / model


def server(model: str) -> Path:
    """The folder of the model's server: its state, log and chat template, relative to ``work``."""
    return Path("runs") / model / "server"
