"""``python -m training STEP``: model, render, train, drift."""

import sys

from esc import cli
from training import drift, embedded_model, render, train

STEPS = {
    "model": (embedded_model.main, "prepare the embedded default model"),
    "render": (render.main, "write the recipes from the table of backbones"),
    "train": (train.main, "one LoRA training with LLaMA-Factory: batch, resume, options"),
    "drift": (drift.main, "how far a preference training moved the served policy"),
}

if __name__ == "__main__":
    sys.exit(cli.dispatch("training", STEPS))
