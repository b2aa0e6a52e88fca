"""``python -m eval STEP``: from predictions to metrics, judges, people and the report."""

import sys

from esc import cli

STEPS = {
    "predict": ("predict:main", "a system's strategy and reply for every turn of a split"),
    "align": ("cases:align", "another system's predictions, by gold turn, in this kit's form"),
    "converse": ("converse:main", "systems in conversation with simulated seekers"),
    "rate": ("rate:main", "a judge's scores of whole conversations, and what it says of danger"),
    "metrics": ("metrics:main", "all automatic metrics with intervals, beside what chance gives"),
    "compare": ("metrics:compare", "the paper's questions as paired comparisons of systems"),
    "judge": ("judge:main", "a judge's scores of replies on four dimensions (Tables 2 and 3)"),
    "pairwise": ("pairwise:main", "which of two systems replies better, asked in both orders"),
    "human": ("human:main", "a blinded sheet for people, and what their votes say (Figure 6)"),
    "report": ("report.page:main", "everything that was run, on one page beside the paper"),
    "ui": ("ui.app:main", "talk, compare blind, check pairs, read: a page in the browser"),
    "chat": ("chat:main", "talk with planner and generator in the terminal"),
}

if __name__ == "__main__":
    sys.exit(cli.dispatch("eval", STEPS))
