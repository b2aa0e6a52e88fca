"""Running a step from the command line: typed options, one clear line for a mistake, exit codes.

An option that is not given takes make's variable from the environment; an empty one is unset.
"""

from __future__ import annotations

import argparse
import errno
import functools
import importlib
import inspect
import io
import math
import os
import sys
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from esc.files import EscError, NoPairs, Waiting
from esc.visible import visible

Step = Callable[[list[str]], int | None]

USER_ERROR, WAITING, INTERRUPTED, NOBODY_READS = 2, 3, 130, 141
_NO_PLACE = "{name}: {why}; name another place"
_DENIED = "no permission to use {name}; choose another WORK or change its owner"
_FULL = "the disk is full ({why}); free some space and run the command again"
_MENDED = {
    **dict.fromkeys((errno.EACCES, errno.EPERM), _DENIED),
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), _FULL),
    **dict.fromkeys((errno.ENOENT, errno.EISDIR, errno.ENOTDIR, errno.EEXIST), _NO_PLACE),
    **dict.fromkeys((errno.ELOOP, errno.ENAMETOOLONG, errno.EROFS), _NO_PLACE),
    errno.ENOLCK: "the file system has no locks ({why}); choose a WORK on another one",
}
"""What a user can mend; any other error of the system is a bug and keeps its traceback."""

Work = Annotated[Path, typer.Option(envvar="WORK", help="root of what is generated")]
Model = Annotated[str, typer.Option(envvar="MODEL", help="a folder of llamafactory_configs")]
Esconv = Annotated[str, typer.Option(envvar="ESCONV", help="corpus: a path, hf:NAME or sample")]
Task = Annotated[Literal["sp", "rg", "vanilla"], typer.Option(envvar="TASK", help="of the model")]
Tasks = Annotated[list[str], typer.Option("--task", envvar="TASK", help="of sp, rg, vanilla")]
Stage = Annotated[str | None, typer.Option(envvar="STAGE", help="base, sft or dpo")]
Variant = Annotated[str | None, typer.Option(envvar="VARIANT", help="of a preference training")]
Layout = Annotated[
    Literal["turn", "dialogue"],
    typer.Option(envvar="LAYOUT", help="a row of planner and generator is a turn, or a dialogue"),
]
Round = Annotated[int, typer.Option(envvar="ROUND", min=1, help="of mining")]
Limit = Annotated[int | None, typer.Option(envvar="LIMIT", min=1, help="dialogues of a split")]
Decode = Annotated[
    Literal["free", "choice"] | None,
    typer.Option(envvar="DECODE", help="how a strategy is drawn [default: as the backbone's]"),
]
BaseUrl = Annotated[
    str | None, typer.Option(envvar="BASE_URL", help="running servers, separated by commas")
]
Force = Annotated[
    bool, typer.Option("--force", envvar="FORCE", help="make anew what other options made")
]
Planned = Annotated[
    bool, typer.Option("--planned", envvar="PLANNED", help="a task without pairs is no failure")
]
DryRun = Annotated[bool, typer.Option("--dry-run", envvar="DRY_RUN", help="say what it would do")]


def amount(text: str) -> float:
    """An option's amount above 0; typer's ``parser`` for it."""
    with suppress(ValueError):
        if 0 < (value := float(text)) < math.inf:
            return value
    raise typer.BadParameter(f"{text!r} is not a number above 0")


_EPILOG = (
    "\b\nexamples:\n{}\n\n\b\nevery step: --strategies, --errors, --backbones FILE "
    "in place of the kit's own lists"
)


def command(*, examples: str, name: str = "") -> Callable[[Callable[..., int | None]], Step]:
    """Make a function with typed options the ``main`` of a step, which takes its arguments.

    A parameter whose type is a dataclass brings the fields of it as options. A step of another name
    than its module's is given its ``name``.
    """

    def decorated(function: Callable[..., int | None]) -> Step:
        package, *_, module = function.__module__.split(".")
        prog = f"python -m {package} {name or module}"

        @functools.wraps(function)
        def main(argv: list[str]) -> int | None:
            app = typer.Typer(add_completion=False, rich_markup_mode=None)
            app.command(help=function.__doc__, epilog=_EPILOG.format(examples))(_flat(function))
            made = typer.main.get_command(app)
            words = _spread(argv, {p.opts[0] for p in made.params if getattr(p, "multiple", 0)})
            # Not click's own main, which makes other errors of Ctrl-C and of a pipe nobody reads.
            try:
                with made.make_context(prog, list(words)) as context:
                    code: int | None = made.invoke(context)
                    return code
            except typer.Exit as shown:
                return shown.exit_code
            except typer.TyperException as error:
                why = " ".join(error.format_message().split()).rstrip(".")
                raise EscError(f"{why}; '{prog} --help' shows examples") from error

        return main

    return decorated


def _flat(function: Callable[..., int | None]) -> Callable[..., int | None]:
    """The function with the fields of its dataclasses as parameters of its own."""
    flat: list[inspect.Parameter] = []
    groups: dict[str, Any] = {}
    for parameter in inspect.signature(function, eval_str=True).parameters.values():
        if is_dataclass(parameter.annotation):
            groups[parameter.name] = parameter.annotation
            flat += inspect.signature(groups[parameter.name], eval_str=True).parameters.values()
        else:
            flat.append(parameter)

    def call(**given: Any) -> int | None:
        for name, group in groups.items():
            given[name] = group(**{field.name: given.pop(field.name) for field in fields(group)})
        return function(**given)

    by_name = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in flat]
    vars(call).update(__signature__=inspect.Signature(by_name))
    call.__annotations__ = {one.name: one.annotation for one in flat}
    return call


def _spread(argv: Iterable[str], lists: Container[str]) -> Iterator[str]:
    """``--task sp rg`` as click reads it: ``--task sp --task rg``."""
    option = ""
    for word in argv:
        if word.startswith("--"):
            option = word if word in lists else ""
            yield from [] if option else [word]
        else:
            yield from [option, word] if option else [word]


def run(main: Step, argv: list[str]) -> int:
    """0, or 2 for a mistake (one line on stderr), 3 where others work first, 130 for Ctrl-C."""
    try:
        return main(argv) or 0
    except Waiting as waiting:
        message, code = str(waiting), WAITING
    except EscError as error:
        message, code = f"error: {error}", USER_ERROR
    except KeyboardInterrupt:
        message, code = "interrupted; the same command goes on from here", INTERRUPTED
    except OSError as error:
        if not (told := mended(error)):
            raise
        message, code = f"error: {told}", USER_ERROR
    print(visible(message), file=sys.stderr)
    return code


def mended(error: OSError) -> str:
    """What a user can do about an error of the system; empty where it is a bug."""
    told = _MENDED.get(error.errno or 0, "")
    return told.format(name=error.filename, why=str(error.strerror).lower())


class _Shown(io.TextIOWrapper):
    """Standard output; what a model said reaches a terminal without steering it."""

    def write(self, text: str, /) -> int:
        super().write(visible(text))
        return len(text)


def each(tasks: Iterable[Any], do: Callable[[Any], Iterable[str]], *, planned: bool) -> None:
    """Print the lines that ``do`` has to say of each task's mining: one is none of another's.

    Raises EscError at the end for all that failed. In a plan one without pairs is no failure.
    """
    failed = []
    for one in tasks:
        try:
            print(*do(one), sep="\n")
        except EscError as error:
            if planned and isinstance(error, NoPairs):
                print(f"not run     {error}")
            else:
                failed.append(str(error))
    if failed:
        raise EscError("; ".join(failed))


Steps = Mapping[str, tuple[str, str]]
"""Name of a step to (module of its package and function, as in ``build:main``; summary)."""


LISTS = ("strategies", "errors", "backbones")
"""Files that take the place of the kit's own, by variable or by an option of every step."""


def _without_lists(argv: list[str]) -> list[str]:
    """The arguments of a step; lists among them go to the environment, where modules read them."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for name in LISTS:
        parser.add_argument(f"--{name}", dest=name.upper())
    try:
        given, rest = parser.parse_known_args(argv)
    except argparse.ArgumentError as error:
        raise EscError(str(error)) from error
    os.environ |= {name: path for name, path in vars(given).items() if path}
    return rest


def step_of(package: str, steps: Steps, name: str) -> Step:
    """A step's main; its module alone is loaded, so that a finished step says so at once."""
    module, _, function = steps[name][0].partition(":")
    main: Step = getattr(importlib.import_module(f"{package}.{module}"), function)
    return main


def dispatch(package: str, steps: Steps) -> int:
    """Exit code of the step named by ``sys.argv[1]``."""
    sys.stdout = _Shown(
        sys.stdout.buffer,
        encoding=sys.stdout.encoding,
        errors="backslashreplace",
        line_buffering=sys.stdout.isatty(),
        write_through=True,
    )
    name, *argv = sys.argv[1:] or [""]

    def step(argv: list[str]) -> int | None:
        # The lists first: a step's modules read them when they are loaded.
        rest = _without_lists(argv)
        return step_of(package, steps, name)(rest)

    try:
        code = run(step, argv) if name in steps else _help(package, steps)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # As `head` leaves it. What is still to be flushed at Python's end goes nowhere, quietly.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return NOBODY_READS


def _help(package: str, steps: Steps) -> int:
    asked = sys.argv[1:2] in (["-h"], ["--help"])
    lines = [] if asked or not sys.argv[1:] else [f"error: unknown step {sys.argv[1]!r}"]
    lines += [f"usage: python -m {package} STEP [options]   (STEP --help shows examples)\n"]
    lines += [f"  {name:<12} {summary}" for name, (_, summary) in steps.items()]
    print("\n".join(lines), file=sys.stdout if asked else sys.stderr)
    return 0 if asked else USER_ERROR
