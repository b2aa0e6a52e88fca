"""Files that are whole or absent, option stamps, and the kit's own errors: one line each."""

import codecs
import fcntl
import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import orjson
import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

Row = dict[str, Any]
Model = TypeVar("Model", bound=BaseModel)

TEMPORARY = ".tmp"
"""Ending of what is half-written; `exclusive` removes what a killed writer left of it."""
_LOCK = ".lock"
_GRACE = 3.0
"""Seconds: a killed process with gigabytes of memory holds its lock a moment longer."""


class EscError(Exception):
    """A mistake of the user or of the data; shown as one line, without a traceback."""


class OptionsDiffer(EscError):
    """An output that was made with other options than the ones asked for."""


class NoPairs(EscError):
    """A mining that ended without a pair: an error of a step, not run in a plan."""


class Waiting(EscError):
    """No mistake: what is to be done next is done elsewhere, and the same command then goes on."""


@contextmanager
def atomic_writer(path: Path) -> Iterator[BinaryIO]:
    """A binary file that appears under ``path`` only when the block ends without an error.

    It keeps its mode and the links to it. EscError where it is read-only, though its folder is not.
    """
    path = path.resolve()
    if path.is_file() and not path.stat().st_mode & 0o222:
        raise EscError(f"{path} is read-only, and so is left as it is; make it writable first")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}{TEMPORARY}")
    try:
        with temporary.open("xb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        if path.exists():
            shutil.copymode(path, temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def exclusive(folder: Path, *, patience: float = _GRACE) -> Iterator[int]:
    """The only process that writes in ``folder``; removes what a killed one left half-written.

    Yields the lock's descriptor: a child that inherits it holds it beyond our own death. EscError
    where another process is still at work after ``patience`` seconds.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / _LOCK).open("wb") as lock:
        until = time.monotonic() + patience
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    told = f"another process is writing in {folder}; wait for it to end"
                    raise EscError(told) from None
            time.sleep(0.05)
        for path in list(_half_written(folder)):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        yield lock.fileno()


def _half_written(folder: Path) -> Iterator[Path]:
    """What a killed writer left there and below, but where another may be at work with its lock."""
    for path in folder.iterdir():
        if path.name.startswith(".") and path.name.endswith(TEMPORARY):
            yield path
        elif path.is_dir() and not path.is_symlink() and not (path / _LOCK).exists():
            yield from _half_written(path)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8, whole or not at all."""
    with atomic_writer(path) as stream:
        stream.write(text.encode())


def write_json(path: Path, value: object) -> None:
    """Write ``value`` as indented JSON, whole or not at all."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def read_json(path: Path, *, made_by: str | None = None, default: Row | None = None) -> Row:
    """The JSON object in ``path``; EscError where it is none, or missing without a ``default``."""
    try:
        value = json.loads(path.read_text(encoding="utf-8-sig"))
        # Half a surrogate pair can be escaped in JSON, and never be written again.
        json.dumps(value, ensure_ascii=False).encode()
    except FileNotFoundError:
        if default is not None:
            return default
        hint = f"; {made_by} makes it" if made_by else ""
        raise EscError(f"{path} does not exist{hint}") from None
    except (ValueError, RecursionError) as error:
        raise EscError(f"{path} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise EscError(f"{path} holds a {type(value).__name__}, not a JSON object")
    return value


def checked(model: type[Model], value: Any, fault: str) -> Model:
    """``value`` as a ``model``; EscError that says ``fault`` and the place of the first one."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        wrong = error.errors()[0]
        place = ".".join(map(str, wrong["loc"])) or "all of it"
        why = wrong["msg"].removeprefix("Value error, ")
        raise EscError(f"{fault} ({place}: {why[:1].lower()}{why[1:]})") from error


def read_yaml(path: Path, model: type[Model]) -> Model:
    """The YAML file in ``path`` as a ``model``; EscError where it is none."""
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        why = " ".join(str(error).split())
        raise EscError(f"{path} cannot be read as YAML: {why}") from error
    if found is None:
        raise EscError(f"{path} is empty")
    return checked(model, found, f"{path} is not in the form of the kit's own")


def read_as(model: type[Model], path: Path, *, made_by: str) -> Model:
    """The JSON object in ``path``, as what ``made_by`` writes; EscError where it is not."""
    found = read_json(path, made_by=made_by)
    return checked(model, found, f"{path} is not what {made_by} writes")


def read_jsonl(path: Path) -> Iterator[Row]:
    """The rows of a JSONL file, one by one, blank lines left out; EscError names file and line."""
    if not path.is_file():
        raise EscError(f"{path} does not exist")
    with path.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            if line.isspace():
                continue
            try:
                row = orjson.loads(line.removeprefix(codecs.BOM_UTF8) if number == 1 else line)
            except ValueError as error:
                raise EscError(f"{path}, line {number}: not JSON ({error})") from error
            if not isinstance(row, dict):
                raise EscError(f"{path}, line {number}: not a JSON object")
            yield row


class Written(BaseModel):
    """What a manifest says of a JSONL file."""

    model_config = ConfigDict(frozen=True)

    rows: int
    bytes: int
    sha256: str


class JsonlWriter:
    """Rows into an open binary stream, with the facts a manifest needs."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._digest = stream, hashlib.sha256()
        self._rows = self._bytes = 0

    def write(self, row: Row) -> None:
        """Append one row as one line."""
        line = orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE)
        self._stream.write(line)
        self._digest.update(line)
        self._rows += 1
        self._bytes += len(line)

    def facts(self) -> Written:
        """Of what was written so far."""
        return Written(rows=self._rows, bytes=self._bytes, sha256=self._digest.hexdigest())


@contextmanager
def jsonl_together(folder: Path, *names: str, described_in: Path) -> Iterator[list[JsonlWriter]]:
    """Writers of JSONL files that appear together; what describes those before them goes first."""
    with ExitStack() as stack:
        streams = [stack.enter_context(atomic_writer(folder / name)) for name in names]
        yield [JsonlWriter(stream) for stream in streams]
        for stream in streams:
            # So that a full disk shows now.
            stream.flush()
        described_in.unlink(missing_ok=True)


def sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256_of(paths: Iterable[Path]) -> str:
    """One SHA-256 over several files, in order."""
    return hashlib.sha256("".join(map(sha256, paths)).encode()).hexdigest()


def differences(made_with: Row, asked_for: Row) -> list[str]:
    """One ``NAME old -> new`` for each option, nested ones too, in which two stamps differ."""
    made_with, asked_for = _flat(made_with), _flat(asked_for)
    missing = object()
    return [
        f"{name} {_shown(made_with.get(name))} -> {_shown(asked_for.get(name))}"
        for name in made_with | asked_for
        if made_with.get(name, missing) != asked_for.get(name, missing)
    ]


def _flat(options: Row) -> Row:
    flat: Row = {}
    for name, value in options.items():
        if isinstance(value, dict):
            flat |= {f"{name}.{part}": one for part, one in value.items()}
        else:
            flat[name] = value
    return flat


def _shown(value: object) -> str:
    text = "unset" if value is None else str(value)
    # Long hashes tell a reader nothing beyond "another one".
    return f"{text[:12]}…" if len(text) == 64 else text
