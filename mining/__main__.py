"""``python -m mining STEP``: sample, judge, route."""

import sys

from esc import cli
from mining import judge, route, sample

STEPS = {
    "sample": (sample.main, "sampled answers of the trained models to train turns"),
    "judge": (judge.main, "a judge's verdict on every sampled reply"),
    "route": (route.main, "pairs for each training phase, and why the rest is dropped"),
}

if __name__ == "__main__":
    sys.exit(cli.dispatch("mining", STEPS))
