"""``python -m experiments STEP``: the kit as a whole; the doctor runs by itself before setup."""

import sys

from esc import cli
from experiments import bench, demo, estimate, evaluate, reproduce
from experiments import cards as card

STEPS = {
    "demo": (demo.main, "the kit in small, from nothing"),
    "reproduce": (reproduce.main, "the paper's whole experiment for one backbone"),
    "evaluate": (evaluate.main, "what is missing of the evaluation of every system"),
    "volumes": (estimate.main, "how much text the corpus is, for the costs of a plan"),
    "card": (card.main, "dataset and model cards in the Hugging Face hub's format"),
    "bench": (bench.main, "speed figures as JSON"),
}

if __name__ == "__main__":
    sys.exit(cli.dispatch("experiments", STEPS))
