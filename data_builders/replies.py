"""A corpus's own replies in the form of predictions, so that their errors are found like a model's.

    python -m data_builders replies --esconv FailedESConv.json --out replies.jsonl

For FailedESConv, whose supporters are the "system" of Figure 2: `mining classify` reads the file.
Takes every layout that `build` takes; writes one record a supporter turn, with what was said
before it.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

from tqdm import tqdm

from data_builders import esconv
from data_builders.turns import turns
from esc import cli, files, paths
from esc.dialogue import Dialogue, Exchange
from esc.exceptions import EscError
from esc.files import JsonlWriter, Row


def records(dialogue: Dialogue) -> Iterator[Row]:
    """One record a supporter turn: its reply stands as gold and as predicted."""
    history: list[Exchange] = []
    for turn in turns(dialogue):
        yield {
            "id": turn.id,
            "context": {"history": [list(pair) for pair in history], "seeker": turn.seeker},
            "gold_strategy": turn.strategy.value,
            "gold_response": turn.response,
            "status": "ok",
            "predicted_strategy": turn.strategy.value,
            "raw_strategy": turn.strategy.value,
            "predicted_response": turn.response,
        }
        history.append((turn.seeker, turn.response))


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
    parser.add_argument("--esconv", type=Path, required=True, metavar="FILE")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    given = parser.parse_args(argv)
    if not given.esconv.is_file():
        raise EscError(f"{given.esconv}: no such file; name a corpus in one of ESConv's layouts")
    _, dialogues = esconv.read([given.esconv])
    count, rows = write(dialogues, given.out)
    # Beside the records, as for a system's: what they are of.
    sha256 = files.sha256(given.esconv)
    smoke = sha256 == files.sha256(paths.SAMPLE)
    made_of = {"corpus": given.esconv.name, "sha256": sha256, "smoke": smoke}
    files.write_json(given.out.with_name("options.json"), made_of)
    print(f"replies     {given.out}: {rows:,} of {count:,} dialogues")
    if smoke:
        print("SMOKE       sample corpus: no result")
