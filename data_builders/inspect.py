"""What a corpus file holds, and a mapping to start from.

    python -m data_builders inspect corpus.json --out mapping.yaml

Guesses by the commonest forms; what it writes is to be looked at, and mended where it is wrong.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from statistics import mean
from typing import Annotated, Any

import typer
import yaml

from data_builders.corpus import LINES, SHIPPED, values
from esc import cli, files
from esc.files import EscError, Row
from esc.strategies import parse
from esc.visible import visible

MOST_SPEAKERS, MOST_LABELS = 6, 60
_LABELS = ("strateg", "behaviour", "behavior", "label", "act", "intent")
_SEEKERS = (
    "seeker",
    "usr",
    "user",
    "client",
    "speaker",
    "persuadee",
    "student",
    "human",
    "patient",
)


def flat(row: Any, before: str = "") -> Iterator[tuple[str, Any]]:
    """(key, value) of a row, keys inside keys joined with dots; lists stay whole."""
    for key, value in row.items() if isinstance(row, dict) else ():
        if isinstance(value, dict):
            yield from flat(value, f"{before}{key}.")
        elif value not in (None, ""):
            yield f"{before}{key}", value


def columns(rows: Iterable[Any]) -> dict[str, list[Any]]:
    """Key to its values over all rows that have one."""
    found: dict[str, list[Any]] = defaultdict(list)
    for row in rows:
        for key, value in flat(row):
            found[key].append(value)
    return dict(found)


def _lists(columns: Mapping[str, Sequence[Any]]) -> list[str]:
    """Keys that hold lists of objects, the longest lists first."""
    sizes = {
        key: mean(len(one) for one in found)
        for key, found in columns.items()
        if all(isinstance(one, list) and all(isinstance(x, dict) for x in one) for one in found)
    }
    return sorted(sizes, key=lambda key: -sizes[key])


def _named(columns: Iterable[str], *parts: str) -> str | None:
    """The first key whose name holds one of ``parts``, the first part first."""
    keys = list(columns)
    return next((key for part in parts for key in keys if part in key.casefold()), None)


def guess(path: Path) -> tuple[Row, list[Any], dict[str, list[Any]]]:
    """(fields of a mapping, the first dialogue's utterances, columns of all utterances).

    Raises EscError where the file holds no list of utterances.
    """
    mapping: Row = {}
    try:
        # One object, which may go over many lines.
        every = [files.read_json(path)]
    except EscError:
        every = list(values(path))
    if not every:
        raise EscError(f"{path} is empty")
    about = columns(every)
    if len(every) == 1 and (lists := _lists(about)):
        of_list = {name: columns(about[name][0]) for name in lists}
        # An object with one list: of dialogues, where those have lists of their own.
        if inner := next((name for name in lists if _lists(of_list[name])), None):
            mapping["dialogues"], every = inner, about[inner][0]
            about = of_list[inner]
    if lists := _lists(about):
        mapping["turns"] = lists[0]
        by_dialogue = about[lists[0]]
    elif id_key := _named(about, "dialogue_id", "dialog_id", "transcript_id", "conv", "b4", "id"):
        mapping |= {"turns": LINES, "id": id_key, "utterance": _named(about, "utterance_id")}
        by_dialogue = [
            list(of_one) for _, of_one in groupby(every, key=lambda row: row.get(id_key))
        ]
    else:
        raise EscError(f"{path} holds no list of utterances, nor lines with a dialogue's id")
    every = [one for dialogue in by_dialogue for one in dialogue]
    said = columns(every)
    kinds = {key: Counter(map(str, found)) for key, found in said.items()}
    # By its name, else by its values.
    label = _named((key for key in said if len(kinds[key]) <= MOST_LABELS), *_LABELS) or next(
        (key for key in said if all(map(parse, kinds[key]))), None
    )
    lengths = {
        key: mean(len(str(one)) for one in found) for key, found in said.items() if key != label
    }
    full = [key for key in lengths if len(said[key]) == len(every)]
    few = [key for key in full if 2 <= len(kinds[key]) <= MOST_SPEAKERS]
    speaker = _named(few, "speaker", "role", "interlocutor", "from", "b2") or next(iter(few), None)
    if speaker:
        mapping |= {"speaker": speaker, "text": max(full, key=lengths.__getitem__)}
        names = list(kinds[speaker])
    else:
        # Speakers as keys of what they say: no utterance has two of them.
        mapping["speaker"], names = None, sorted(lengths, key=lambda key: -lengths[key])[:2]
    seekers = [one for one in names if one.casefold() in _SEEKERS] or names[:1]
    mapping |= {"seeker": seekers, "supporter": [one for one in names if one not in seekers]}
    mapping["strategy"] = label
    if label:
        unknown = [one for one in kinds[label] if parse(one) is None]
        # Each says which strategy it means; the list of strategies is that of STRATEGIES.
        mapping["labels"] = dict.fromkeys(unknown, "?")
    for name in ("situation", "split", "emotion_type", "problem_type"):
        mapping[name] = _named(about, name, name.removesuffix("_type"))
    if "id" not in mapping:
        mapping["id"] = next((key for key in about if key.endswith("id")), None)
    return mapping, by_dialogue[0], said


def report(path: Path, mapping: Row, first: Sequence[Any], said: Mapping[str, Any]) -> list[str]:
    """What one should see of a corpus."""
    lines = [f"{path}: utterances under {mapping['turns']!r}, with the keys"]
    for key, found in said.items():
        kinds = Counter(map(str, found))
        told = ", ".join(f"{kind} {count:,}" for kind, count in kinds.most_common(12))
        shown = told if len(kinds) <= MOST_LABELS else f"such as {found[0]!s:.60}"
        lines.append(f"  {key:<22}{len(found):>7,}  {len(kinds):,} different: {shown}")
    lines.append("the first dialogue:")
    for one in first[:6]:
        about = dict(flat(one))
        parts = (f"{key}: {about[key]!s:.70}" for key in said if key in about)
        lines.append("  " + " ".join("; ".join(parts).split()))
    return lines


@cli.command(
    examples="  python -m data_builders inspect MESC.json\n"
    "  python -m data_builders inspect annomi.csv --out annomi.yaml"
)
def main(
    file: Annotated[Path, typer.Argument(help="a corpus: JSON, JSON lines, CSV or TSV")],
    out: Annotated[Path, typer.Option(help="where the mapping goes")] = Path("mapping.yaml"),
) -> None:
    """What a corpus file holds, and a mapping of it to start from."""
    if not file.is_file():
        raise EscError(f"{file}: no such file")
    if out.exists():
        raise EscError(f"{out} is there already; name another file in --out")
    mapping, first, said = guess(file)
    print(visible("\n".join(report(file, mapping, first, said))))
    shipped = yaml.safe_load(SHIPPED.read_text(encoding="utf-8"))
    text = yaml.safe_dump(shipped | mapping, sort_keys=False, allow_unicode=True, width=100)
    about = "# Look at each line; labels that name no strategy of the list stand under `labels`.\n"
    files.write_text(out, about + text)
    if todo := len(mapping.get("labels", ())):
        print(f"labels      {todo} are to be filled in: which strategy each means")
    print(f"written     {out}; then: make data ESCONV={file} MAPPING={out}")
