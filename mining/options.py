"""The options by which the mining steps are told which mining is meant."""

import argparse

from esc import backbones, cli
from esc.forms import TASKS
from esc.judge import add_judge_name, add_judge_url
from esc.lineage import Lineage
from mining.folders import Mining


def add_mining(parser: argparse.ArgumentParser) -> None:
    """Add the options that name one or several minings."""
    backbones.add_model(parser)
    cli.add_work(parser)
    parser.add_argument("--task", choices=TASKS, nargs="+", required=True)
    add_lineage(parser)


def add_lineage(parser: argparse.ArgumentParser) -> None:
    """Add variant and round."""
    parser.add_argument(
        "--variant",
        type=cli.optional,
        help="whose models a later round samples (default: the paper's own training)",
    )
    parser.add_argument("--round", type=cli.optional_count, help="default: 1, from the SFT models")


def add_judge(parser: argparse.ArgumentParser) -> None:
    """Add the options that name a judge of pairs, and how it is asked."""
    add_judge_name(parser)
    add_judge_url(parser)
    add_blind(parser)


def add_blind(parser: argparse.ArgumentParser) -> None:
    """Add the option that hides from the judge which reply is the gold one."""
    parser.add_argument(
        "--blind",
        action="store_true",
        help="do not tell which reply is the gold one; sides are shuffled by the record",
    )


def minings_of(given: argparse.Namespace) -> list[Mining]:
    """The minings that parsed arguments name.

    Raises EscError for an unknown model, or a variant that a task does not have.
    """
    backbones.get(given.model)
    asked = Lineage(given.variant, given.round or 1)
    return [
        Mining(given.work, given.model, task, asked.checked(task).mining) for task in given.task
    ]
