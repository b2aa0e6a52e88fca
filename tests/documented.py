"""What the docs say: their commands, taken apart and held against the code that runs them."""

import argparse
import ast
import fnmatch
import re
import shlex
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest import mock

from esc import paths
from esc.exceptions import EscError

SCRATCH = "try"
"""The folder that the docs' runnable commands work in."""
MARKS = frozenset({"GPU", "network", "key", "minutes", "hour", "server", "terminal"})
"""Words of a command's comment that say what it takes, so that no test of the docs runs it."""
DRY_RUN = "DRY_RUN=1"
GIVEN = re.compile(r"path/to|LLaMA-Factory/|\b(PATH|FILE|FOLDER)\b|sheet\.csv|votes_|[<…]")
"""What stands for something of the reader's."""
_SHELL = ("", "sh", "bash")
_PROGRAMS = ("make", "python", ".venv/bin/python", "llamafactory-cli")
_ASSIGNED = re.compile(r"([A-Z][A-Z0-9_]*)=(.*)", re.DOTALL)
TRACKED = frozenset(
    subprocess.run(
        ["git", "ls-files"], cwd=paths.ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
)
_FOLDERS = frozenset(name.partition("/")[0] for name in TRACKED if "/" in name)


@dataclass(frozen=True)
class Command:
    """One command as it stands in the docs."""

    words: tuple[str, ...]
    environment: dict[str, str]
    comment: str = ""
    inline: bool = False

    @property
    def is_marked(self) -> bool:
        return bool(MARKS & set(re.findall(r"\w+", self.comment)))

    @property
    def is_given(self) -> bool:
        """Whether it holds something that only a reader has."""
        return any(GIVEN.search(word) for word in self.words)

    @property
    def runs(self) -> bool:
        return not (self.inline or self.is_marked or self.is_given) and (
            self.only_reads or any(_scratch(word) for word in self.words)
        )

    @property
    def only_reads(self) -> bool:
        """Whether it writes nothing, wherever it runs."""
        return (
            self.words[1:] in (("help",), ("doctor",))
            or self.words[1:4] == ("-m", "training", "memory")
            or bool({"--help", DRY_RUN} & set(self.words))
        )

    def in_scratch(self, folder: Path) -> list[str]:
        """The words, with the scratch folder's real place; a dry run is of what lies there."""
        real = [re.sub(rf"(^|=){SCRATCH}(?=/|$)", rf"\g<1>{folder}", word) for word in self.words]
        # A user's own data would make another plan of it.
        elsewhere = DRY_RUN in real and not any(word.startswith("WORK=") for word in real)
        return [*real, f"WORK={folder}"] if elsewhere else real

    def __str__(self) -> str:
        return " ".join(self.words)


def _scratch(word: str) -> bool:
    return re.search(rf"(^|=){SCRATCH}(/|$)", word) is not None


@dataclass(frozen=True)
class Given:
    """A file that the docs show, under the name the reader gives it."""

    name: str
    text: str


def command_of(line: str, *, inline: bool = False) -> Command | None:
    """The command in a line, or None where it is none."""
    text, _, comment = line.partition(" #")
    try:
        words = shlex.split(text)
    except ValueError:
        return None
    environment = {}
    while words and (assigned := _ASSIGNED.fullmatch(words[0])):
        environment[assigned[1]] = assigned[2]
        words.pop(0)
    if len(words) < 2 or words[0] not in _PROGRAMS:
        return None
    return Command(tuple(words), environment, comment, inline)


def read(text: str) -> Iterator[Command | Given]:
    """Commands and shown files of a page, in its order."""
    outside: list[str] = []
    fence: tuple[str, str] | None = None
    block: list[str] = []
    for line in text.splitlines():
        if line.startswith("```"):
            if fence is None:
                yield from _inline("\n".join(outside))
                outside, block = [], []
                language, _, name = line[3:].strip().partition(" ")
                fence = language, name
            else:
                yield from _of_block(*fence, block)
                fence = None
        elif fence is not None:
            block.append(line)
        elif line.startswith("    ") and (command := command_of(line.strip())):
            yield command
        else:
            outside.append(line)
    yield from _inline("\n".join(outside))


def _of_block(language: str, name: str, block: list[str]) -> Iterator[Command | Given]:
    if name:
        yield Given(name, "\n".join(block) + "\n")
    elif language in _SHELL:
        for line in "\n".join(block).replace("\\\n", " ").splitlines():
            if command := command_of(line):
                yield command


def _inline(text: str) -> Iterator[Command]:
    for span in code_spans(text):
        if command := command_of(span, inline=True):
            yield command


def code_spans(text: str) -> list[str]:
    """What stands in backticks outside of fences, as one line each."""
    return [" ".join(found.split()) for found in re.findall(r"(?<!`)`([^`]+)`(?!`)", text)]


def problems(command: Command) -> Iterator[str]:
    """What is wrong with a command: targets, variables, steps, options, settings, files."""
    for name in command.environment:
        if name not in environment_names():
            yield f"nothing reads {name} from the environment"
    for word in command.words[1:]:
        yield from missing_file(word.rpartition("=")[2])
    program, *words = command.words
    if program == "make":
        yield from _of_make(words)
    elif program == "llamafactory-cli":
        yield from _settings(word for word in words[1:] if "=" in word)
    elif words[0] == "-m":
        yield from _of_step(command, words[1:])


def missing_file(word: str) -> Iterator[str]:
    """That a file of the repository is named which it does not have."""
    top = word.partition("/")[0]
    if "/" not in word or top not in _FOLDERS or re.search(r"[<>*$…{}\[ |]", word):
        return
    name = word.rstrip("/")
    if name not in TRACKED and not any(one.startswith(f"{name}/") for one in TRACKED):
        yield f"no file {word}"


def _of_make(words: list[str]) -> Iterator[str]:
    makefile = (paths.ROOT / "Makefile").read_text()
    targets = " ".join(re.findall(r"^([a-z-]+(?: [a-z-]+)*):", makefile, re.M)).split()
    variables = {*re.findall(r"^([A-Z0-9_]+) \?=", makefile, re.M), *environment_names()}
    for word in words:
        if assigned := _ASSIGNED.fullmatch(word):
            if assigned[1] not in variables:
                yield f"no variable {assigned[1]}"
            if assigned[1] == "TRAIN_ARGS":
                yield from _settings(assigned[2].split())
        elif word != "…" and not fnmatch.filter(targets, word):
            yield f"no target {word}"


@cache
def environment_names() -> frozenset[str]:
    """Names of capitals in the modules that read the environment, and in the Makefile's exports."""
    found = set(re.findall(r"^export ([A-Z0-9_]+)$", (paths.ROOT / "Makefile").read_text(), re.M))
    for name in TRACKED:
        text = (paths.ROOT / name).read_text() if _is_ours(name) else ""
        if "environ" in text:
            found |= {
                node.value
                for node in ast.walk(ast.parse(text))
                if isinstance(node, ast.Constant)
                and isinstance(node.value, str)
                and re.fullmatch(r"[A-Z][A-Z0-9_]{2,}", node.value)
            }
    return frozenset(found)


def _is_ours(name: str) -> bool:
    return name.endswith(".py") and not name.startswith("tests/")


def _settings(words: Any) -> Iterator[str]:
    for word in words:
        name = word.partition("=")[0]
        if "…" not in word and name not in _llamafactory_settings():
            yield f"LLaMA-Factory has no setting {name}"


@cache
def _llamafactory_settings() -> frozenset[str]:
    from llamafactory import hparams

    classes = (
        hparams.ModelArguments,
        hparams.DataArguments,
        hparams.TrainingArguments,
        hparams.FinetuningArguments,
        hparams.GeneratingArguments,
    )
    return frozenset(field.name for one in classes for field in fields(one))


class _Parsed(BaseException):
    """Raised in place of what a step does after it has parsed its arguments."""


def _of_step(command: Command, words: list[str]) -> Iterator[str]:
    package, *rest = words
    if "." in package:
        if f"{package.replace('.', '/')}.py" not in TRACKED:
            yield f"no module {package}"
        return
    if f"{package}/__main__.py" not in TRACKED:
        yield f"no package {package}"
        return
    steps = import_module(f"{package}.__main__").STEPS
    if not rest or rest[0] not in steps:
        yield f"no step {' '.join(words[:2])}"
        return
    if command.inline and len(rest) == 1:
        return
    try:
        parsed(steps[rest[0]][0], rest[1:], whole=not command.inline)
    except EscError as error:
        yield str(error)


def parsed(main: Callable[[list[str]], Any], argv: list[str], *, whole: bool) -> None:
    """Parse ``argv`` with a step's own parser and do no more; EscError where it is refused.

    What is no ``whole`` command may leave out what is required.
    """
    parse = argparse.ArgumentParser.parse_args

    def only(self: argparse.ArgumentParser, *given: Any, **named: Any) -> None:
        for one in () if whole else (*self._actions, *self._mutually_exclusive_groups):
            one.required = False
        parse(self, *given, **named)
        raise _Parsed

    with mock.patch.object(argparse.ArgumentParser, "parse_args", only):
        try:
            main(argv)
        except (_Parsed, SystemExit):
            return
    raise AssertionError(f"{main} parsed nothing")


@cache
def messages() -> tuple[str, ...]:
    """Every text in the code, with … for what is filled in."""
    found = set()
    for name in sorted(filter(_is_ours, TRACKED)):
        for node in ast.walk(ast.parse((paths.ROOT / name).read_text())):
            if isinstance(node, ast.JoinedStr):
                found.add("".join(_constant(part) for part in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)
    return tuple(" ".join(one.split()) for one in found)


def _constant(part: ast.expr) -> str:
    return str(part.value) if isinstance(part, ast.Constant) else "…"


def is_said(message: str) -> bool:
    """Whether the code has a text with the message's words, in their order, around each …."""
    words = [part.strip() for part in message.split("…") if part.strip(" ;,.:")]
    pattern = re.compile(".*".join(map(re.escape, words)))
    return bool(words) and any(pattern.search(one) for one in messages())
