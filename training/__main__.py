"""``python -m training STEP``: model, backbone, render, train, export, memory."""

import sys

from esc import cli

STEPS = {
    "model": ("embedded_model:main", "prepare the embedded default model"),
    "backbone": ("backbone:main", "what LLaMA-Factory and the hub have of one backbone"),
    "render": ("recipes:main", "write the recipes from the table of backbones"),
    "train": ("train:main", "one LoRA training with LLaMA-Factory: batch, resume, options"),
    "export": ("export:main", "a base and its adapters as one ordinary checkpoint"),
    "memory": ("memory:main", "the memory a training takes on each GPU, estimated"),
}

if __name__ == "__main__":
    sys.exit(cli.dispatch("training", STEPS))
