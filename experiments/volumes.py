"""How much text a corpus is for each task: what a plan's costs are computed from.

Counted from the built sets where they are those asked for, else from ``esconv_volumes.json``:
facts of the ESConv release under the paper's split and this kit's prompts, so that a plan can be
costed on a machine without corpus or tokenizer. ``python -m experiments volumes --work WORK``
writes it anew from the built release.
"""

import argparse
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from esc import cli, files, paths
from esc.exceptions import EscError
from esc.files import Row
from esc.forms import TASKS
from esc.plan_and_speak import chat_and_gold
from esc.turns import gold_turns
from experiments import variables

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


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a corpus before anything is built from it."""

    volumes: Mapping[str, Volume]
    """Of every split."""
    told: str
    """Where they are known from."""
    as_asked: bool
    """Whether the built sets are the very ones asked for, and so the pairs that are mined."""


def known(work: Path, given: Mapping[str, str]) -> Known:
    """What the built sets say, or those of the release where they are not what make is given."""
    why = "no sets are built here"
    if paths.data_manifest(work).is_file():
        manifest = files.read_json(paths.data_manifest(work))
        limit = manifest["options"]["LIMIT"]
        others = difference(manifest, given)
        if others is None:
            found = {split: measured(work, split) for split in paths.SPLITS}
            return Known(found, "the built sets", limit == variables.count(given, "LIMIT"))
        why = f"the sets built here are of {others}"
    found = {split: committed(split) for split in paths.SPLITS}
    return Known(found, f"committed statistics of the ESConv release, since {why}", False)


def difference(manifest: Row, given: Mapping[str, str]) -> str | None:
    """The option of built sets that is not make's, such as ``LIMIT=2``; None where all agree.

    A part can be reckoned from whole sets: of them, LIMIT may be any.
    """
    corpus, built = manifest["corpus"], manifest["options"]
    default = "paper" if corpus["kind"] == "esconv" else "seed:42"
    asked = given.get("ESCONV")
    if asked and corpus["origin"] not in (asked, Path(asked).resolve().name):
        return f"ESCONV={corpus['origin']}"
    if built["LIMIT"] not in (None, variables.count(given, "LIMIT")):
        return f"LIMIT={built['LIMIT']}"
    if built["SPLIT"] != given.get("SPLIT", default):
        return f"SPLIT={built['SPLIT']}"
    if built["CONSECUTIVE"] != given.get("CONSECUTIVE", "separate"):
        return f"CONSECUTIVE={built['CONSECUTIVE']}"
    return None


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
