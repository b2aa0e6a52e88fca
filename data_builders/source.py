"""Where the corpus comes from: a path, the Hugging Face hub, a download, or the sample corpus.

Whatever it is, its files are kept in ``data/corpus``, so that a later build needs nothing else.
"""

import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import requests
from tqdm import tqdm

from data_builders import corpus
from esc import files, paths
from esc.exceptions import CorpusError

OFFICIAL_URL = (
    "https://raw.githubusercontent.com/thu-coai/Emotional-Support-Conversation/main/ESConv.json"
)
URL_VARIABLE = "ESCONV_URL"
SAMPLE = "sample"
TIMEOUT_SECONDS = 30
WAYS_OUT = (
    "give the corpus with ESCONV=path (the official ESConv.json, a folder with the Hugging Face "
    "files, or FailedESConv.json), or connect this machine to the network so that it can be "
    "downloaded"
)
# Not a file name: a path that was mistyped must not be looked up on the hub.
_HUB_NAME = re.compile(r"[\w-]+/[\w-]+")
# The order in which the Hugging Face files follow one another.
_HF_ORDER = ("train", "valid", "test")


@dataclass(frozen=True, slots=True)
class Source:
    """Corpus files that are on this machine."""

    files: tuple[Path, ...]
    origin: str
    """What a manifest says of where they came from: a file name, a hub name or an address."""


def locate(named: str | None, work: Path) -> Source:
    """The corpus that ESCONV names; without it, the one kept from before, else the official one.

    Raises CorpusError with one line that says what to do.
    """
    if named is None:
        return _kept(work) or _download(work)
    if named == SAMPLE:
        return Source((paths.SAMPLE,), SAMPLE)
    path = Path(named)
    if path.exists():
        return of_path(path)
    if _HUB_NAME.fullmatch(named):
        return _from_hub(named, work)
    raise CorpusError(f"ESCONV={named}: no such file or folder; {WAYS_OUT}")


def of_path(path: Path) -> Source:
    """The corpus in a file, or in a folder in one of ESConv's layouts; CorpusError without one."""
    if path.is_dir():
        return Source(_in_folder(path), path.resolve().name)
    return Source((path,), path.name)


def keep(source: Source, work: Path) -> None:
    """Copy the corpus into ``data/corpus``, in place of what was kept there before."""
    folder = paths.corpus(work)
    if all(path.parent == folder for path in source.files):
        return
    fresh = folder.with_name(f".{folder.name}{files.TEMPORARY}")
    fresh.mkdir(parents=True)
    try:
        for path in source.files:
            shutil.copyfile(path, fresh / path.name)
        _note(fresh, source)
        shutil.rmtree(folder, ignore_errors=True)
        fresh.rename(folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _note(folder: Path, source: Source) -> None:
    names = [path.name for path in source.files]
    files.write_json(folder / "source.json", {"origin": source.origin, "files": names})


def _kept(work: Path) -> Source | None:
    folder = paths.corpus(work)
    if not (folder / "source.json").is_file():
        return None
    note = files.read_json(folder / "source.json")
    kept = Source(tuple(folder / name for name in note["files"]), note["origin"])
    lost = [path for path in kept.files if not path.is_file()]
    if lost and not kept.origin.startswith("http"):
        raise CorpusError(f"{lost[0]}, kept from {kept.origin}, is gone; {WAYS_OUT}")
    return None if lost else kept


def _in_folder(folder: Path) -> tuple[Path, ...]:
    official = folder / "ESConv.json"
    if official.is_file():
        return (official,)
    lines = [p for p in sorted(folder.iterdir()) if p.suffix in (".txt", ".jsonl")]
    parts = [[p for p in lines if part in p.stem] for part in _HF_ORDER]
    if any(len(found) != 1 for found in parts):
        names = ", ".join(p.name for found in parts for p in found) or "none"
        raise CorpusError(
            f"{folder} holds neither ESConv.json nor one file each for train, valid and test, "
            f".txt or .jsonl (found: {names})"
        )
    return tuple(found[0] for found in parts)


def _from_hub(name: str, work: Path) -> Source:
    # Heavy, and needed for this one origin only.
    import datasets

    try:
        splits = datasets.load_dataset(name)
    except (OSError, ValueError, datasets.exceptions.DatasetNotFoundError) as error:
        reason = type(error).__name__
        raise CorpusError(f"ESCONV={name} could not be loaded ({reason}); {WAYS_OUT}") from error
    target = paths.corpus(work) / f"{name.replace('/', '_')}.jsonl"
    with files.atomic_writer(target) as stream:
        for part in splits.values():
            for row in part:
                # The hub's files are read as plain text, one JSON object a line.
                stream.write(row["text"].encode() if "text" in row else json.dumps(row).encode())
                stream.write(b"\n")
    return _keep_fetched(target, name)


def _download(work: Path) -> Source:
    url = os.environ.get(URL_VARIABLE, OFFICIAL_URL)
    target = paths.corpus(work) / "ESConv.json"
    try:
        with requests.get(url, stream=True, timeout=TIMEOUT_SECONDS) as response:
            response.raise_for_status()
            _save(response, target)
    except requests.RequestException as error:
        reason = type(error).__name__
        raise CorpusError(f"no corpus, and the download failed ({reason}); {WAYS_OUT}") from error
    print(f"downloaded {target.name}: SHA-256 {files.sha256(target)}")
    return _keep_fetched(target, url)


def _keep_fetched(target: Path, origin: str) -> Source:
    """The fetched file as the kept corpus; it is deleted again if it is none."""
    try:
        for _ in corpus.read([target])[1]:
            pass
    except CorpusError as error:
        target.unlink()
        raise CorpusError(f"what {origin} answered is no corpus ({error}); {WAYS_OUT}") from error
    source = Source((target,), origin)
    _note(target.parent, source)
    return source


def _save(response: requests.Response, target: Path) -> None:
    announced = int(response.headers.get("Content-Length", 0))
    received = 0
    with (
        tqdm(desc="ESConv", total=announced or None, unit="B", unit_scale=True) as bar,
        files.atomic_writer(target) as stream,
    ):
        for chunk in response.iter_content(1 << 16):
            stream.write(chunk)
            received += len(chunk)
            bar.update(len(chunk))
        # A gzip-encoded answer is longer unpacked, and is checked by its own trailer.
        if announced and "Content-Encoding" not in response.headers and received != announced:
            raise CorpusError(
                f"the download broke off after {received:,} of {announced:,} bytes; run it again, "
                "or give the corpus with ESCONV=path"
            )
