"""Where everything lies. ``work`` is the root of what is generated (WORK, default ``.``)."""

from pathlib import Path

# Parent of the packages: the repository root, or site-packages in an installed kit.
ROOT = Path(__file__).resolve().parent.parent
RECIPES = ROOT / "llamafactory_configs"
SAMPLE = ROOT / "data_builders" / "sample" / "sample_corpus.json"

REGISTRY = "dataset_info.json"
SPLITS = ("train", "validation", "test")


def data(work: Path) -> Path:
    """The folder of the built sets."""
    return work / "data"


def data_manifest(work: Path) -> Path:
    """The manifest of the built sets; it exists exactly when they are complete."""
    return data(work) / "manifest.json"


def corpus(work: Path) -> Path:
    """The folder that keeps the corpus files the sets were built from."""
    return data(work) / "corpus"


def sft_file(task: str, split: str) -> str:
    """The name of a built SFT set, relative to the folder of the registry."""
    return f"data/{task}_sft_{split}.jsonl"


def dpo_file(task: str, model: str) -> str:
    """The name of a mined preference set, relative to the folder of the registry."""
    return f"data/esc_{task}_dpo_{model}.jsonl"


def sft_dataset(task: str, split: str = "train") -> str:
    """The registered name of a built SFT set."""
    return f"esc_{task}_sft" + ("" if split == "train" else f"_{split}")


def dpo_dataset(task: str, model: str) -> str:
    """The registered name of a mined preference set."""
    return f"esc_{task}_dpo_{model}"


def recipe(model: str, task: str, stage: str) -> Path:
    """The LLaMA-Factory YAML of one training."""
    return RECIPES / model / f"{task}_{stage}.yaml"


def adapter(model: str, task: str, stage: str) -> Path:
    """The output folder of one training, relative to ``work``."""
    return Path("saves") / model / f"{task}_{stage}"


def run(model: str, system: str, stage: str) -> Path:
    """The folder of one system's predictions, relative to ``work``."""
    return Path("runs") / model / f"{system}_{stage}"


def adapters(model: str) -> Path:
    """The folder of all of a model's adapters, relative to ``work``."""
    return Path("saves") / model


def server(model: str) -> Path:
    """The folder of the model's server: its state, log and chat template, relative to ``work``."""
    return Path("runs") / model / "server"
