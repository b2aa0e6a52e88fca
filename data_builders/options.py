"""The options of a build, and the stamp that tells a later call what ``data/`` was made with."""

import argparse
from dataclasses import dataclass

from data_builders.turns import CONSECUTIVE
from esc import built, cli
from esc.files import Row

FORMAT = 2
"""Raised with every change of the rules, so that sets built before it are built anew."""


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """What a user asks of a build."""

    split: str | None = None
    """``paper``, ``seed:N``, or None for the corpus's default."""
    limit: int | None = None
    """Dialogues per split, or None for all."""
    consecutive: str = CONSECUTIVE[0]

    @classmethod
    def of(cls, arguments: argparse.Namespace) -> "BuildOptions":
        """The options in parsed arguments."""
        return cls(arguments.split, arguments.limit, arguments.consecutive)

    def stamp(self, split: str, *, corpus: str) -> Row:
        """Everything that decides the bytes of the sets, under the names a user knows."""
        return {
            "format": FORMAT,
            "ESCONV": corpus,
            "SPLIT": split,
            "LIMIT": self.limit,
            "CONSECUTIVE": self.consecutive,
            "prompts": built.wording(),
        }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of a build to a parser; unset ones may be given as empty text."""
    parser.add_argument(
        "--esconv",
        type=cli.optional,
        help="corpus: a file, a folder, thu-coai/esconv, or 'sample'; "
        "default: the one used before, else the official download",
    )
    cli.add_work(parser)
    parser.add_argument("--split", type=cli.optional, help="'paper' or 'seed:N'")
    parser.add_argument(
        "--limit", type=cli.optional_count, help="dialogues per split, drawn by their id"
    )
    parser.add_argument(
        "--consecutive",
        choices=CONSECUTIVE,
        default=CONSECUTIVE[0],
        help="what becomes of consecutive supporter utterances (default: the paper's way)",
    )
