"""Preference sets made for tests from the adapter that is there, and a chain of trainings."""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from corpora import release_row
from safetensors.torch import load_file, save_file

from data_builders import build
from esc import adapters, files, paths
from esc.paths import EMBEDDED as MODEL
from esc.paths import Lineage
from esc.step import manifest, train_set
from training import recipes, train

TWO_ROWS = ("gradient_accumulation_steps=2", "bf16=false")
"""A step is of two rows, in float32."""
MOVED = ("max_steps=2", "learning_rate=1.0e-3", "warmup_steps=0")
"""Fast enough that two steps tell an adapter from the base."""


def training(work: Path, *overrides: str, **of: Any) -> recipes.Training:
    """A training of the embedded planner, DPO unless said otherwise."""
    of = {"task": "sp", "stage": "dpo", "processes": 1} | of
    return recipes.Training(work=work, overrides=list(overrides), **of)


def pairs(work: Path, lineage: Lineage = paths.PAPER, **changed: Any) -> Path:
    """A planner's mined set of two pairs, or their four replies for KTO, from the adapter there."""
    start = adapters.folder(work, MODEL, adapters.start("sp", lineage))
    data = train_set(manifest(work))
    weights = adapters.fingerprint(start)
    provenance = {"model": MODEL, "weights": weights, "data": data, "smoke": True} | changed
    rows = []
    for row in list(files.read_jsonl(work / paths.sft_file("sp", "train")))[:2]:
        same = {"id": row["id"], "system": row["system"], "provenance": provenance}
        said = [{"from": "human", "value": row["instruction"]}]
        chosen, rejected = ({"from": "gpt", "value": one} for one in (row["output"], "Information"))
        if lineage.kind == "kto":
            sides = ((chosen, True), (rejected, False))
            rows += [same | {"conversations": [*said, one], "label": good} for one, good in sides]
        else:
            rows.append(same | {"conversations": said, "chosen": chosen, "rejected": rejected})
    path = work / paths.preference_file(paths.preference_dataset("sp", MODEL, lineage))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def stub(folder: Path) -> Path:
    """An adapter that holds nothing a model could load."""
    folder.mkdir(parents=True)
    save_file({"weight": torch.zeros(1)}, folder / adapters.WEIGHTS)
    files.write_json(folder / adapters.CONFIG, {"r": 16})
    return folder


def scale(folder: Path, factor: float) -> None:
    """Scale what an adapter adds."""
    weights = load_file(folder / adapters.WEIGHTS)
    scaled = {name: one * factor if "lora_B" in name else one for name, one in weights.items()}
    save_file(scaled, folder / adapters.WEIGHTS, metadata={"format": "pt"})


def train_together(*asked: recipes.Training) -> list[files.Row | None]:
    """What the trainings leave; beside one another, a core each, for their start takes one."""
    with patch.dict(os.environ, OMP_NUM_THREADS="1"), ThreadPoolExecutor(2) as pool:
        return list(pool.map(partial(train.train, force=False), asked))


def train_chain(work: Path) -> Path:
    """SFT of planner and generator, pairs and DPO of the planner upon it, composed, in ``work``."""
    from serving.compose import compose

    corpus = work / "small.json"
    corpus.write_text(json.dumps([release_row(number) for number in range(20)]))
    build.build(str(corpus), work, build.BuildOptions())
    of = (*TWO_ROWS, *MOVED)
    train_together(*(training(work, *of, task=task, stage="sft") for task in ("sp", "rg")))
    pairs(work)
    train.train(training(work, *of), force=False)
    compose(work, MODEL, "sp")
    return work
