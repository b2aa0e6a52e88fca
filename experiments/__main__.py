"""``python -m experiments STEP``: demo, bench. The doctor is run by itself, before any setup."""

import sys

from esc import cli
from experiments import bench, demo

STEPS = {
    "demo": (demo.main, "the kit in small, from nothing"),
    "bench": (bench.main, "speed figures as JSON"),
}

if __name__ == "__main__":
    sys.exit(cli.dispatch("experiments", STEPS))
