"""``python -m experiments STEP``: demo, evaluate, bench; the doctor runs by itself before setup."""

import sys

from esc import cli
from experiments import bench, demo, evaluate

STEPS = {
    "demo": (demo.main, "the kit in small, from nothing"),
    "evaluate": (evaluate.main, "what is missing of the evaluation of every system"),
    "bench": (bench.main, "speed figures as JSON"),
}

if __name__ == "__main__":
    sys.exit(cli.dispatch("experiments", STEPS))
