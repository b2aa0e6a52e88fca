"""Build the SFT sets: ``data/{sp,rg,vanilla}_sft_{train,validation,test}.jsonl`` and a manifest.

    python -m data_builders build --esconv ESConv.json

Reads the corpus once. Writes nine sets, then ``data/manifest.json``; the manifest exists
exactly when the sets are complete. Does nothing when they are there and were made with the same
options.
The mined preference sets are not built here but by ``mining``.
"""

import argparse
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from data_builders import registry, source, split
from data_builders.corpus import at_release_positions, read
from data_builders.split import Survey
from esc import cli, files, paths, prompts, step
from esc.dialogue import CONSECUTIVE, Dialogue, Exchange, Role, Turn, turns
from esc.exceptions import CorpusError, EscError
from esc.files import JsonlWriter, Row
from esc.step import OPTIONS, check_own_file
from esc.strategies import tag

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
            "prompts": step.wording(),
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


def sp_rows(turns: Sequence[Turn], provenance: Row) -> Iterator[Row]:
    """Planner rows: the whole conversation in one user message, the strategy's name as answer."""
    transcript = ""
    for index, turn in enumerate(turns):
        transcript += prompts.transcript_line(Role.SEEKER, turn.seeker)
        yield {
            "id": turn.id,
            "system": prompts.sp_system(),
            "instruction": transcript,
            "input": "",
            "output": turn.strategy.value,
            "provenance": provenance | {"turn": index},
        }
        transcript += prompts.transcript_line(Role.SUPPORTER, turn.response)


def rg_rows(turns: Sequence[Turn], provenance: Row) -> Iterator[Row]:
    """Generator rows: the strategy in the system prompt, the chat as real turns, one reply."""
    history: list[Exchange] = []
    for index, turn in enumerate(turns):
        yield {
            "id": turn.id,
            "system": prompts.rg_system(turn.strategy),
            "instruction": turn.seeker,
            "input": "",
            "output": turn.response,
            "history": [list(exchange) for exchange in history],
            "strategy": turn.strategy.value,
            "provenance": provenance | {"turn": index},
        }
        history.append((turn.seeker, turn.response))


def vanilla_rows(turns: Sequence[Turn], provenance: Row) -> Iterator[Row]:
    """The one entangled row of a dialogue: every reply is ``[Strategy] response``."""
    conversations = []
    for turn in turns:
        conversations.append({"from": "human", "value": turn.seeker})
        conversations.append({"from": "gpt", "value": tag(turn.strategy, turn.response)})
    yield {
        "id": turns[0].id.partition("-")[0],
        "system": prompts.vanilla_system(),
        "conversations": conversations,
        "provenance": provenance,
    }


ROWS = {"sp": sp_rows, "rg": rg_rows, "vanilla": vanilla_rows}
"""Task to its row function."""


_ESCONV_LICENCE = "{}: CC BY-NC 4.0, academic use; so are these files, which are built from it"
LICENCES = {
    "esconv": _ESCONV_LICENCE.format("ESConv"),
    "failed-esconv": _ESCONV_LICENCE.format("FailedESConv"),
    "sample": "sample corpus of this project, Apache-2.0; for trying the software out, not results",
    "other": "the licence of the corpus these files are built from applies to them",
}
"""Kind of corpus to the notice that its files carry."""


def build(
    esconv_option: str | None, work: Path, wanted: BuildOptions
) -> tuple[dict[str, Any], bool]:
    """(manifest of the nine sets, whether they were built now).

    Where they are complete and were made with the same options, nothing is written. Raises
    CorpusError or EscError, with the old sets left whole, where the corpus or an option is wrong.
    """
    # Several machines begin the same training, and each builds the sets first.
    waiting = f"waiting: another process works on the sets in {paths.data(work)}"
    with files.exclusive(paths.data(work), waiting=waiting):
        return _build(esconv_option, work, wanted)


def _build(
    esconv_option: str | None, work: Path, wanted: BuildOptions
) -> tuple[dict[str, Any], bool]:
    found = source.locate(esconv_option, work)
    digests = _digests(found)
    layout, dialogues = read(found.files)
    survey = Survey(list(tqdm(dialogues, "reading", unit=" dialogues", leave=False, delay=1)))
    spec = split.resolve(wanted.split, is_release=survey.is_release)
    stamp = wanted.stamp(spec, corpus=survey.corpus)
    # Before any set is replaced, so that a clash there leaves all as it was.
    registry.write_for(work)
    up_to_date = _finished(work, stamp)
    if up_to_date:
        return up_to_date, False
    sides = split.assign(survey, spec)
    chosen = split.subset(sides, wanted.limit)
    leaks = split.leaks(survey, sides, chosen)
    kind = _kind(found, layout, survey.is_release)
    if _digests(found) != digests:
        raise CorpusError(f"{found.origin} was changed while it was read; build again")
    picked = tqdm(
        (survey.dialogues[place] for place in chosen),
        "building",
        len(chosen),
        unit=" dialogues",
        leave=False,
    )
    sets = _write(picked, sides, work, wanted.consecutive, kind)
    source.keep(found, work)
    manifest = {
        "corpus": {
            "kind": kind,
            "origin": found.origin,
            "layout": layout,
            "dialogues": len(survey.dialogues),
            "utterances": sum(len(one.utterances) for one in survey.dialogues),
            "files": digests,
        },
        "licence": LICENCES[kind],
        "smoke": kind == "sample",
        "options": stamp,
        "dialogues": {name: sum(sides[place] == name for place in chosen) for name in paths.SPLITS},
        "leaks": leaks,
        "sets": sets,
    }
    files.write_json(paths.data_manifest(work), manifest)
    return manifest, True


def _digests(found: source.Source) -> dict[str, str]:
    return {path.name: files.sha256(path) for path in found.files}


def _kind(found: source.Source, layout: str, is_release: bool) -> str:
    # By content: given by its path, or kept from before, it is still the sample corpus.
    if files.sha256(found.files[0]) == files.sha256(paths.SAMPLE):
        return "sample"
    if is_release:
        return "esconv"
    return "failed-esconv" if layout == "failed" else "other"


def _finished(work: Path, stamp: files.Row) -> dict[str, Any] | None:
    path = paths.data_manifest(work)
    if not path.is_file():
        return None
    try:
        manifest = files.read_json(path)
    except EscError:
        return None  # not finished: it is built anew
    whole = (
        isinstance(manifest, dict)
        and manifest.get("options") == stamp
        and all(
            (work / name).is_file() and files.sha256(work / name) == facts["sha256"]
            for name, facts in manifest["sets"].items()
        )
    )
    return manifest if whole else None


def _write(
    dialogues: Iterable[Dialogue], sides: Sequence[str], work: Path, consecutive: str, kind: str
) -> dict[str, Any]:
    names = [paths.sft_file(task, name) for name in paths.SPLITS for task in ROWS]
    with ExitStack() as stack:
        writers = {
            name: files.JsonlWriter(stack.enter_context(files.atomic_writer(work / name)))
            for name in names
        }
        for dialogue in dialogues:
            name = sides[dialogue.position]
            exchanges = turns(dialogue, consecutive=consecutive)
            provenance = {
                "corpus": kind,
                "split": name,
                "dialogue": dialogue.position,
                "turns": len(exchanges),
            }
            for task, rows in ROWS.items():
                writer = writers[paths.sft_file(task, name)]
                for row in rows(exchanges, provenance):
                    writer.write(row)
        for name in paths.SPLITS:
            if not writers[paths.sft_file("vanilla", name)].facts().rows:
                raise CorpusError(
                    f"the {name} split has no dialogue (the corpus has {len(sides)}); it takes at "
                    "least 10, of situations that differ"
                )
        for writer in writers.values():
            writer.flush()
        # All is on the disk; from the first renaming on, the sets are no longer those it describes.
        paths.data_manifest(work).unlink(missing_ok=True)
        return {name: asdict(writer.facts()) for name, writer in writers.items()}


def report(manifest: dict[str, Any], work: Path) -> str:
    """What one should see after a build: rows per set, what the leak check found, the licence."""
    corpus = manifest["corpus"]
    known = "the ESConv release" if corpus["kind"] == "esconv" else "not the ESConv release"
    lines = [
        f"corpus   {corpus['origin']} ({known}): {corpus['dialogues']:,} dialogues, "
        f"{corpus['utterances']:,} utterances, layout {corpus['layout']}",
        *(f"         SHA-256 {digest}  {name}" for name, digest in corpus["files"].items()),
        f"split    {manifest['options']['SPLIT']}",
    ]
    for split_name in paths.SPLITS:
        rows = {task: manifest["sets"][paths.sft_file(task, split_name)]["rows"] for task in ROWS}
        lines.append(
            f"  {split_name:<11}{manifest['dialogues'][split_name]:>6,} dialogues"
            + "".join(f"  {task} {count:,}" for task, count in rows.items())
        )
    leaked = manifest["leaks"]
    lines.append(
        "leaks    "
        + (
            f"{len(leaked)} pairs on two sides of the split: "
            + ", ".join(f"{leak['what']} {'/'.join(leak['ids'])}" for leak in leaked[:5])
            + (", …" if len(leaked) > 5 else "")
            if leaked
            else "none: no dialogue and no near-identical situation on two sides"
        )
    )
    lines.append(f"licence  {manifest['licence']}")
    if manifest["smoke"]:
        lines.append("SMOKE    sample corpus: every number from here on is a smoke test, no result")
    lines.append(f"written  {paths.data_manifest(work)}")
    return "\n".join(lines)


def main(argv: list[str]) -> None:
    """Command line of the step."""
    parser = cli.parser(
        prog="python -m data_builders build",
        description=__doc__,
        examples=(
            "  python -m data_builders build                         # download ESConv\n"
            "  python -m data_builders build --esconv ESConv.json --split paper\n"
            "  python -m data_builders build --esconv sample --work demo --limit 4"
        ),
    )
    add_arguments(parser)
    arguments = parser.parse_args(argv)
    wanted = BuildOptions.of(arguments)
    manifest, built_now = build(arguments.esconv, arguments.work, wanted)
    if built_now:
        print(report(manifest, arguments.work))
    else:
        print(f"{paths.data(arguments.work)} is up to date ({manifest['corpus']['origin']})")


MARK = "sha256"
"""In the options of this step: the hash of the corpus that the replies are of."""


def records(dialogue: Dialogue) -> Iterator[Row]:
    """One record a supporter turn: its reply stands as gold and as predicted."""
    history: list[Exchange] = []
    of_dialogue = turns(dialogue)
    for turn in of_dialogue:
        yield {
            "id": turn.id,
            "dialogue_turns": len(of_dialogue),
            "context": {"history": [list(pair) for pair in history], "seeker": turn.seeker},
            "gold_strategy": turn.strategy.value,
            "gold_response": turn.response,
            "status": "ok",
            "predicted_strategy": turn.strategy.value,
            "raw_strategy": turn.strategy.value,
            "predicted_response": turn.response,
        }
        history.append((turn.seeker, turn.response))


def _dialogues(corpus: Sequence[Path]) -> list[Dialogue]:
    """The dialogues of a corpus, at their positions in the release where it has them all."""
    dialogues = list(read(corpus)[1])
    return at_release_positions(dialogues) or dialogues


def write(dialogues: Iterable[Dialogue], out: Path) -> tuple[int, int]:
    """(number of dialogues, number of their records written to ``out``)."""
    count = 0
    with files.atomic_writer(out) as stream:
        writer = JsonlWriter(stream)
        for dialogue in tqdm(dialogues, unit=" dialogues", leave=False):
            count += 1
            for record in records(dialogue):
                writer.write(record)
    return count, writer.facts().rows


def replies_main(argv: list[str]) -> None:
    """Command line of the step."""
    parser = cli.parser(
        prog="python -m data_builders replies",
        description=__doc__,
        examples="  python -m data_builders replies --esconv FailedESConv.json --out replies.jsonl",
    )
    parser.add_argument("--esconv", type=Path, required=True, metavar="PATH")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    given = parser.parse_args(argv)
    if not given.esconv.exists():
        raise EscError(f"{given.esconv}: no such file; name a corpus in one of ESConv's layouts")
    corpus = source.of_path(given.esconv).files
    out: Path = given.out
    beside = check_own_file(out, MARK)
    if beside and MARK not in beside:
        raise EscError(f"{out.parent} holds another run; name a folder of its own in --out")
    count, rows = write(_dialogues(corpus), out)
    # Beside the records, as for a system's: what they are of.
    smoke = files.sha256(corpus[0]) == files.sha256(paths.SAMPLE)
    sha256 = files.sha256(corpus[0]) if len(corpus) == 1 else files.sha256_of(corpus)
    made_of = {"corpus": given.esconv.name, MARK: sha256, "smoke": smoke}
    written = sorted({*beside.get("files", ()), out.name})
    files.write_json(out.with_name(OPTIONS), made_of | {"files": written})
    print(f"replies     {out}: {rows:,} of {count:,} dialogues")
    if smoke:
        print("SMOKE       sample corpus: no result")
