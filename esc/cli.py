"""Running a step from the command line: one clear line for a mistake, a fixed exit code."""

from __future__ import annotations

import argparse
import errno
import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from esc.exceptions import EscError, Waiting

USER_ERROR, WAITING, INTERRUPTED = 2, 3, 130


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise EscError(f"{message}; '{self.prog} --help' shows examples")


def parser(*, prog: str, description: str | None, examples: str) -> argparse.ArgumentParser:
    """An argument parser whose help ends with ``examples``; it raises EscError for a mistake."""
    return _Parser(
        prog=prog,
        description=description,
        epilog=f"examples:\n{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_work(parser: argparse.ArgumentParser) -> None:
    """Add the option that names the root of everything that is made."""
    parser.add_argument("--work", type=Path, default=Path(), help="root of what is generated")


def optional(text: str) -> str | None:
    """An option's text, or None where make passes a variable that is not set."""
    return text or None


def optional_count(text: str) -> int | None:
    """An option's whole number of at least 1, or None where make passes an unset variable."""
    if text and not (text.isdecimal() and int(text)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text) if text else None


def optional_amount(text: str) -> float | None:
    """An option's amount above 0, or None where make passes an unset variable."""
    try:
        amount = float(text) if text else None
    except ValueError:
        amount = 0.0
    if amount is not None and not 0 < amount < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return amount


def optional_temperature(text: str) -> float | None:
    """An option's number of at least 0, or None where make passes an unset variable."""
    try:
        temperature = float(text) if text else None
    except ValueError:
        temperature = -1.0
    if temperature is not None and not 0 <= temperature < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 0")
    return temperature


def run(main: Callable[[list[str]], int | None], argv: list[str]) -> int:
    """Exit code of ``main(argv)``.

    0, or 2 for a mistake (one line on stderr), 3 where others have to work first, 130 for Ctrl-C.
    """
    try:
        return main(argv) or 0
    except Waiting as waiting:
        print(waiting, file=sys.stderr)
        return WAITING
    except EscError as error:
        message = str(error)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return INTERRUPTED
    except PermissionError as error:
        message = f"no permission to use {error.filename}; choose another WORK or change its owner"
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        message = f"{error.filename}: {(error.strerror or 'cannot be used').lower()}"
    except OSError as error:
        # A full disk can meet any write; every other OSError here is a bug and keeps its traceback.
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        message = f"the disk is full ({error.strerror}); free some space and run the command again"
    print(f"error: {message}", file=sys.stderr)
    return USER_ERROR


def dispatch(package: str, steps: Mapping[str, tuple[Callable[[list[str]], Any], str]]) -> int:
    """Exit code of the step named by ``sys.argv[1]``; ``steps`` maps a name to (main, summary)."""
    argv = sys.argv[1:]
    if argv and argv[0] in steps:
        return run(steps[argv[0]][0], argv[1:])
    asked_for_help = bool(argv) and argv[0] in ("-h", "--help")
    stream = sys.stdout if asked_for_help else sys.stderr
    if argv and not asked_for_help:
        print(f"error: unknown step {argv[0]!r}", file=stream)
    print(
        f"usage: python -m {package} STEP [options]   (STEP --help shows examples)\n", file=stream
    )
    for name, (_, summary) in steps.items():
        print(f"  {name:<12} {summary}", file=stream)
    return 0 if asked_for_help else USER_ERROR
