"""A corpus's own replies in the form of predictions, so that their errors are found like a model's.

    python -m data_builders replies --esconv FailedESConv.json --out replies.jsonl

For FailedESConv, whose supporters are the "system" of Figure 2: `mining classify` reads the file.
Takes every layout that `build` takes, a file or a folder; writes one record a supporter turn, with
what was said before it. Dialogues that are all of the ESConv release, be it a part of it, get their
release positions as ids; others their place in the file.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from data_builders import esconv, release, source
from data_builders.turns import turns
from esc import cli, files, paths
from esc.dialogue import Dialogue, Exchange
from esc.exceptions import EscError
from esc.files import JsonlWriter, Row
from esc.run_folder import OPTIONS, check_own_file

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


def _dialogues(corpus: Sequence[Path]) -> Iterator[Dialogue]:
    """The dialogues of a corpus, at their positions in the release where it has them all."""
    places = [release.position_of(dialogue) for dialogue in esconv.read(corpus)[1]]
    is_known = None not in places and len(set(places)) == len(places)
    for dialogue, place in zip(esconv.read(corpus)[1], places, strict=True):
        yield replace(dialogue, position=place) if is_known and place is not None else dialogue


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


def main(argv: list[str]) -> None:
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
