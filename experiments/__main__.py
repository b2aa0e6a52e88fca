"""``python -m experiments STEP``: the kit as a whole; the doctor runs by itself before setup."""

import sys

from esc import cli

STEPS = {
    "estimate": ("estimate:main", "what a plan's steps would send, train and cost"),
    "summary": ("summary:main", "what became of a plan's steps"),
    "card": ("cards:main", "dataset and model cards in the Hugging Face hub's format"),
    "layout": ("layout:main", "the turn layout against the dialogue layout, by training"),
    "bench": ("bench:main", "speed figures as JSON"),
}

if __name__ == "__main__":
    sys.exit(cli.dispatch("experiments", STEPS))
