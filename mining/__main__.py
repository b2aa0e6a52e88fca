"""``python -m mining STEP``: sample, judge, route, stats, audit, classify."""

import sys

from esc import cli

STEPS = {
    "converse": ("converse:main", "pairs from simulated conversations on train cards"),
    "sample": ("sample:main", "sampled answers of the trained models to train turns"),
    "judge": ("judge:main", "a judge's verdict on every sampled reply"),
    "route": ("route:main", "pairs for each training phase, and why the rest is dropped"),
    "stats": ("stats:main", "the pairs beside the paper's: tables, figures, examples"),
    "audit": ("audit:main", "a sheet for people: is the error the judge named really there?"),
    "classify": ("classify:main", "the psychological error of every predicted reply"),
}

if __name__ == "__main__":
    sys.exit(cli.dispatch("mining", STEPS))
