"""``python -m eval STEP``: predict, chat."""

import sys

from esc import cli
from eval import predict, talk

STEPS = {
    "predict": (predict.main, "a system's strategy and reply for every turn of a split"),
    "chat": (talk.main, "talk with planner and generator in the terminal"),
}

if __name__ == "__main__":
    sys.exit(cli.dispatch("eval", STEPS))
