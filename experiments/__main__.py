"""``python -m experiments STEP``: demo, evaluate, bench; the doctor runs by itself before setup."""

import sys

from esc import cli
from experiments import bench, demo, evaluate, reproduce, volumes

STEPS = {
    "demo": (demo.main, "the kit in small, from nothing"),
    "reproduce": (reproduce.main, "the paper's whole experiment for one backbone"),
    "evaluate": (evaluate.main, "what is missing of the evaluation of every system"),
    "volumes": (volumes.main, "how much text the corpus is, for the costs of a plan"),
    "bench": (bench.main, "speed figures as JSON"),
}

if __name__ == "__main__":
    sys.exit(cli.dispatch("experiments", STEPS))
