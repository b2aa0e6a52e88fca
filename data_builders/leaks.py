"""What a model has seen: the dialogues it learned from against those it is tested on.

A dialogue is known by the hash of its utterances, a near one by its situation. Both stand in
``data/dialogues.json`` for every built dialogue, and in ``trained_on.json`` beside an adapter for
those of its train set.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from data_builders import corpus
from data_builders.split import Survey, alike, words_of
from esc import files, paths
from esc.files import Row

TRAINED_ON = "trained_on.json"
Known = Mapping[str, str]
"""Fingerprint of a dialogue's utterances, in hex, to its situation."""


def built(survey: Survey, sides: Sequence[str], chosen: Iterable[int]) -> Row:
    """Of each side: id to fingerprint and situation of its dialogues."""
    found: dict[str, dict[str, list[str]]] = {side: {} for side in paths.SPLITS}
    for place in chosen:
        about = [survey.fingerprints[place].hex(), survey.dialogues[place].situation]
        found[sides[place]][survey.dialogues[place].id] = about
    return found


def of_ids(work: Path, ids: Iterable[str]) -> dict[str, str]:
    """What is known of the built dialogues that these ids of turns or dialogues name."""
    sides = files.read_json(work / paths.DIALOGUES, made_by="make data").values()
    known = {name: about for side in sides for name, about in side.items()}
    named = {one.partition("-")[0] for one in ids}
    return dict(known[name] for name in sorted(named & known.keys()))


def remember(work: Path, adapter: Path, starts_from: Iterable[Path]) -> None:
    """Leave beside an adapter what it was trained on: the train set, and what its start saw."""
    sides = files.read_json(work / paths.DIALOGUES, made_by="make data")
    seen: dict[str, str] = {}
    for start in starts_from:
        seen |= files.read_json(start / TRAINED_ON, default={})
    files.write_json(adapter / TRAINED_ON, seen | dict(sides["train"].values()))


def overlap(tested: Known, adapters: Iterable[Path]) -> Row:
    """How many ``dialogues`` are tested, and how many of them the adapters have ``seen``.

    ``near`` are further ones of nearly the same situation as one that was seen; of ``unknown``
    adapters nothing says what they were trained on.
    """
    seen: dict[str, str] = {}
    unknown = []
    for adapter in adapters:
        seen |= files.read_json(adapter / TRAINED_ON, default={})
        unknown += [] if (adapter / TRAINED_ON).is_file() else [adapter.name]
    new = {sha1: situation for sha1, situation in tested.items() if sha1 not in seen}
    found = {"dialogues": len(tested), "seen": len(tested) - len(new)}
    return found | {"near": len(near([*new.values()], seen.values())), "unknown": unknown}


def near(situations: Sequence[str], seen: Iterable[str]) -> set[int]:
    """The places of those that are nearly one that was seen."""
    sets = [words_of(situation) for situation in (*situations, *seen)]
    return {one for one, other, _ in alike(sets) if one < len(situations) <= other}


def told(found: Row) -> str:
    """The overlap in words; empty where there is none."""
    of = f"of {found['dialogues']:,} tested dialogues"
    lines = []
    if found["seen"]:
        lines.append(f"{found['seen']:,} {of} are in the train set of the model that answers")
    if found["near"]:
        lines.append(f"{found['near']:,} {of} have nearly the situation of one in it")
    if found["unknown"]:
        lines.append(f"what {', '.join(found['unknown'])} learned from is not known here")
    return "; ".join(lines)


def recognised(tested: Known) -> list[str]:
    """Which sides of the release's two splits hold the tested dialogues, with their numbers."""
    sides = corpus.release()
    found = [sides[sha1] for sha1 in map(bytes.fromhex, tested) if sha1 in sides]
    lines = []
    for name, words in (("paper", "the paper's"), ("hf", "the Hugging Face")):
        sizes = [(side, sum(one[name] == side for one in found)) for side in paths.SPLITS]
        shown = ", ".join(f"{count:,} in its {side}" for side, count in sizes if count)
        if shown:
            lines.append(f"{words} split: {shown}")
    return lines
