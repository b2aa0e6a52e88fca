import contextlib
import errno
import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pytest
import typer

from esc import cli
from esc.files import EscError


def raising(error):
    def main(argv):
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (EscError("no such thing; make it"), 2, "error: no such thing; make it"),
        (OSError(errno.ENOSPC, "No space left on device"), 2, "error: the disk is full"),
        (PermissionError(errno.EACCES, "denied", "/x"), 2, "error: no permission to use /x"),
        (OSError(errno.EROFS, "Read-only file system", "/x"), 2, "error: /x: read-only"),
        (OSError(errno.ENOLCK, "No locks available"), 2, "error: the file system has no locks"),
        (FileExistsError(errno.EEXIST, "File exists", "/x"), 2, "error: /x: file exists; name"),
        (EscError("no \x1b[2J\u202e"), 2, "error: no \\x1b[2J\\u202e"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_what_a_user_can_cause_is_one_line_and_an_exit_code(capsys, error, code, line):
    assert cli.run(raising(error), []) == code
    shown = capsys.readouterr().err
    assert shown.startswith(line) and shown.count("\n") == 1


def test_a_bug_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        cli.run(raising(ZeroDivisionError()), [])


@pytest.mark.parametrize("package", ["data_builders", "training", "serving", "mining", "eval"])
def test_every_step_has_help_with_examples(capsys, package):
    steps = importlib.import_module(f"{package}.__main__").STEPS
    for name in steps:
        with contextlib.suppress(SystemExit):
            cli.step_of(package, steps, name)(["--help"])
        assert "examples:" in capsys.readouterr().out


def test_an_unknown_step_lists_the_known_ones(run):
    shown = run("-m", "data_builders", "nonsense")
    assert shown.returncode == 2 and "build" in shown.stderr


@dataclass
class Spending:
    price: Annotated[str | None, typer.Option(envvar="PRICE")] = None
    max_cost: Annotated[float | None, typer.Option(envvar="MAX_COST", parser=cli.amount)] = None


given = []


@cli.command(examples="  make it", name="it")
def made(
    spending: Spending,
    task: cli.Tasks,
    work: cli.Work = Path(),
    limit: cli.Limit = None,
    force: cli.Force = False,
) -> int:
    """Make it."""
    given[:] = [spending, task, work, limit, force]
    return 3


def test_options_override_the_variables_and_an_empty_variable_is_unset(monkeypatch):
    for name, value in {"TASK": "sp rg", "LIMIT": "", "FORCE": "1", "PRICE": "1/2"}.items():
        monkeypatch.setenv(name, value)
    assert made(["--work", "x"]) == 3
    assert given == [Spending("1/2", None), ["sp", "rg"], Path("x"), None, True]
    made(["--task", "rg", "vanilla", "--limit=2", "--price", "3/4", "--task", "sp"])
    assert given == [Spending("3/4", None), ["rg", "vanilla", "sp"], Path(), 2, True]


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        ([], "Missing option '--task'"),
        (["--task", "sp", "--limit", "0"], "'--limit'.* greater than or equal to 1"),
        (["--task", "sp", "--max-cost", "nan"], "'nan' is not a number above 0"),
        (["--tusk", "sp"], "No such option: --tusk"),
    ],
)
def test_a_wrong_option_is_one_line_that_names_the_help(argv, line):
    with pytest.raises(EscError, match=f"{line}.*; 'python -m tests it --help' shows examples"):
        made(argv)


def test_help_shows_examples_and_the_variable_of_each_option(capsys):
    assert made(["--help"]) == 0
    shown = capsys.readouterr().out
    assert "examples:\n" in shown and "make it" in shown and "[env var: MAX_COST]" in shown
