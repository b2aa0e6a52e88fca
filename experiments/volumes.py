"""How much text a corpus is for each task: what a plan's costs are computed from.

Counted from the built sets where they are, else from ``esconv_volumes.json``: facts of the ESConv
release under the paper's split and this kit's prompts, so that a plan can be costed on a machine
without corpus or tokenizer. ``python -m experiments volumes --work WORK`` writes it anew from the
built release.
"""

import argparse
from dataclasses import asdict, dataclass
from pathlib import Path

from esc import cli, files, paths
from esc.exceptions import EscError
from esc.forms import TASKS
from esc.plan_and_speak import chat_and_gold
from esc.turns import gold_turns

COMMITTED = Path(__file__).parent / "esconv_volumes.json"


@dataclass(frozen=True, slots=True)
class Volume:
    """One split of a corpus."""

    dialogues: int
    turns: int
    prompts: dict[str, int]
    """Task to characters of all prompts, one for each turn, the system prompts included."""
    answers: dict[str, int]
    """Task to characters of all gold answers."""
    conversations: int
    """Characters of all entangled conversations, which `prompts` holds many times over."""

    def part(self, dialogues: int | None) -> "Volume":
        """That of so many of its dialogues, of the mean length."""
        if dialogues is None or dialogues >= self.dialogues:
            return self
        share = dialogues / self.dialogues
        return Volume(
            dialogues,
            round(self.turns * share),
            {task: round(count * share) for task, count in self.prompts.items()},
            {task: round(count * share) for task, count in self.answers.items()},
            round(self.conversations * share),
        )


def measured(work: Path, split: str, limit: int | None = None) -> Volume:
    """Of a built split; EscError where it is not built."""
    prompts = dict.fromkeys(TASKS, 0)
    answers = dict.fromkeys(TASKS, 0)
    conversations: dict[str, int] = {}
    turns = gold_turns(work, split, limit)
    for turn in turns:
        for task in TASKS:
            chat, gold = chat_and_gold(task, turn)
            size = sum(len(message.content) for message in chat)
            prompts[task] += size
            answers[task] += len(gold)
            if task == "vanilla":
                # The last turn's prompt and answer are the whole conversation.
                conversations[turn.id.rpartition("-")[0]] = size + len(gold)
    return Volume(len(conversations), len(turns), prompts, answers, sum(conversations.values()))


def committed(split: str) -> Volume:
    """Of a split of the ESConv release."""
    return Volume(**files.read_json(COMMITTED)[split])


def volumes(work: Path) -> tuple[dict[str, Volume], str]:
    """(split to volume, where it is known from); of the release where nothing is built."""
    if paths.data_manifest(work).is_file():
        return {split: measured(work, split) for split in paths.SPLITS}, "the built sets"
    known = {split: committed(split) for split in paths.SPLITS}
    return known, "committed statistics of the ESConv release, since no sets are built here"


def main(argv: list[str]) -> None:
    """Command line of the step."""
    given = _parser().parse_args(argv)
    manifest = files.read_json(paths.data_manifest(given.work), made_by="make data")
    if manifest["corpus"]["kind"] != "esconv" or manifest["options"]["LIMIT"] is not None:
        raise EscError(f"{given.work} does not hold the whole ESConv release; build that first")
    found = {split: asdict(measured(given.work, split)) for split in paths.SPLITS}
    files.write_json(COMMITTED, found)
    print(f"written {COMMITTED.name}: {sum(one['turns'] for one in found.values()):,} turns")


def _parser() -> argparse.ArgumentParser:
    parser = cli.parser(
        prog="python -m experiments volumes",
        description=__doc__,
        examples="  python -m experiments volumes --work esconv",
    )
    parser.add_argument("--work", type=Path, default=Path(), help="root of the built release")
    return parser
