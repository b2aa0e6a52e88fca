"""Where the corpus comes from: a path, the Hugging Face hub, a download, or the sample corpus.

Whatever it is, its files are kept in ``data/corpus``, so that a later build needs nothing else.
"""

import json
import os
import re
import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import requests

from data_builders import corpus
from esc import files, paths
from esc.files import EscError

OFFICIAL_URL = (
    "https://raw.githubusercontent.com/thu-coai/Emotional-Support-Conversation/main/ESConv.json"
)
URL_VARIABLE = "ESCONV_URL"
MAPPING = "mapping.yaml"
SAMPLE = "sample"
SUFFIXES = (".txt", ".jsonl", ".json", ".csv", ".tsv")
WAYS_OUT = (
    "give the corpus with ESCONV=path (the official ESConv.json, a folder with the Hugging Face "
    "files, or FailedESConv.json), or connect this machine to the network so that it can be "
    "downloaded"
)


@dataclass(frozen=True, slots=True)
class Source:
    """Corpus files that are on this machine."""

    files: tuple[Path, ...]
    origin: str
    """What a manifest says of where they came from: a file name, a hub name or an address."""
    mapping: Path | None = None
    """The user's own mapping of it."""


def locate(named: str | None, work: Path, mapping: Path | None = None) -> Source:
    """The corpus that ESCONV names; without it, the one kept from before, else the official one.

    Raises EscError with one line that says what to do.
    """
    found = _locate(named, work, mapping)
    return replace(found, mapping=mapping) if mapping else found


def _locate(named: str | None, work: Path, mapping: Path | None) -> Source:
    if named is None:
        return _kept(work) or _download(work)
    if named == SAMPLE:
        return Source((paths.SAMPLE,), SAMPLE)
    if Path(named).exists():
        return of_path(Path(named))
    # Not a file name: a path that was mistyped must not be looked up on the hub.
    if re.fullmatch(r"[\w-]+/[\w-]+", named):
        return _from_hub(named, work, mapping)
    raise EscError(f"ESCONV={named}: no such file or folder; {WAYS_OUT}")


def of_path(path: Path) -> Source:
    """The corpus in a file, or in a folder in one of ESConv's layouts; EscError without one."""
    if not path.is_dir():
        return Source((path,), path.name)
    official = path / "ESConv.json"
    if official.is_file():
        return Source((official,), path.resolve().name)
    there = [one for one in sorted(path.iterdir()) if one.suffix in SUFFIXES]
    # The order in which the Hugging Face files follow one another.
    parts = [[one for one in there if corpus.side_of(one.stem) == side] for side in paths.SPLITS]
    if any(len(found) != 1 for found in parts):
        raise EscError(
            f"{path} holds neither ESConv.json nor one file each for train, valid and test, of "
            f"{', '.join(SUFFIXES)} (found: {', '.join(one.name for one in there) or 'none'})"
        )
    return Source(tuple(found[0] for found in parts), path.resolve().name)


def keep(source: Source, work: Path) -> None:
    """Copy the corpus into ``data/corpus``, in place of what was kept there before."""
    folder = work / paths.CORPUS
    if all(path.parent == folder for path in source.files):
        if source.mapping and source.mapping != folder / MAPPING:
            shutil.copyfile(source.mapping, folder / MAPPING)
        return
    fresh = folder.with_name(f".{folder.name}{files.TEMPORARY}")
    fresh.mkdir(parents=True)
    for path in source.files:
        shutil.copyfile(path, fresh / path.name)
    if source.mapping:
        shutil.copyfile(source.mapping, fresh / MAPPING)
    names = [path.name for path in source.files]
    files.write_json(fresh / "source.json", {"origin": source.origin, "files": names})
    shutil.rmtree(folder, ignore_errors=True)
    fresh.rename(folder)


def _kept(work: Path) -> Source | None:
    folder = work / paths.CORPUS
    if not (folder / "source.json").is_file():
        return None
    note = files.read_json(folder / "source.json")
    mapping = folder / MAPPING if (folder / MAPPING).is_file() else None
    kept = Source(tuple(folder / name for name in note["files"]), note["origin"], mapping)
    lost = [path for path in kept.files if not path.is_file()]
    if lost and not kept.origin.startswith("http"):
        raise EscError(f"{lost[0]}, kept from {kept.origin}, is gone; {WAYS_OUT}")
    return None if lost else kept


def _from_hub(name: str, work: Path, mapping: Path | None) -> Source:
    # Heavy, and needed for this one origin only.
    import datasets

    try:
        splits = datasets.load_dataset(name)
    except (OSError, ValueError, datasets.exceptions.DatasetNotFoundError) as error:
        reason = type(error).__name__
        raise EscError(f"ESCONV={name} could not be loaded ({reason}); {WAYS_OUT}") from error
    contents = {}
    for part, rows in splits.items():
        # The hub's files are read as plain text, one JSON object a line, or as columns.
        lines = (row["text"] if set(row) == {"text"} else json.dumps(row) for row in rows)
        contents[f"{name.replace('/', '_')}_{part}.jsonl"] = "\n".join(lines).encode()
    return _fetched(contents, name, work, mapping)


def _download(work: Path) -> Source:
    url = os.environ.get(URL_VARIABLE, OFFICIAL_URL)
    print(f"downloading {url}")
    try:
        # urllib3, below it, refuses an answer that is shorter than announced.
        response = requests.get(url, timeout=30)
        response.raise_for_status()
    except requests.RequestException as error:
        reason = type(error).__name__
        raise EscError(f"no corpus, and the download failed ({reason}); {WAYS_OUT}") from error
    found = _fetched({"ESConv.json": response.content}, url, work, None)
    print(f"downloaded {found.files[0].name}: SHA-256 {files.sha256(found.files[0])}")
    return found


def _fetched(contents: dict[str, bytes], origin: str, work: Path, mapping: Path | None) -> Source:
    """The fetched files as the kept corpus; EscError, and nothing kept, where they are none."""
    with tempfile.TemporaryDirectory() as folder:
        fetched = Source(tuple(Path(folder, name) for name in contents), origin, mapping)
        for path, content in zip(fetched.files, contents.values(), strict=True):
            path.write_bytes(content)
        try:
            list(corpus.read(fetched.files, corpus.read_mapping(mapping) if mapping else None)[1])
        except EscError as error:
            raise EscError(f"what {origin} answered is no corpus ({error}); {WAYS_OUT}") from error
        keep(fetched, work)
    return Source(tuple(work / paths.CORPUS / name for name in contents), origin, mapping)
