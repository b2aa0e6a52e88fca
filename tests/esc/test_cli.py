import errno
from pathlib import Path

import pytest

from esc import cli
from esc.exceptions import EscError
from esc.judging import add_arguments as add_sending


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
        (EscError("no \x1b[2J\u202e"), 2, "error: no \\x1b[2J\\u202e"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_what_a_user_can_cause_is_one_line_and_an_exit_code(capsys, error, code, line):
    assert cli.run(raising(error), []) == code
    shown = capsys.readouterr().err
    assert shown.startswith(line) and shown.count("\n") == 1


@pytest.mark.parametrize("use", [Path.read_bytes, Path.resolve])
def test_links_in_a_circle_are_one_line(tmp_path, capsys, use):
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    assert cli.run(lambda _: use(loop), []) == 2
    shown = capsys.readouterr().err
    assert str(loop) in shown and shown.count("\n") == 1


def test_a_bug_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        cli.run(raising(ZeroDivisionError()), [])


@pytest.mark.parametrize("package", ["data_builders", "training", "experiments"])
def test_every_step_has_help_with_examples(run, package):
    listing = run("-m", package, "--help")
    steps = [line.split()[0] for line in listing.stdout.splitlines() if line.startswith("  ")]
    assert listing.returncode == 0 and steps
    for step in steps:
        shown = run("-m", package, step, "--help")
        assert shown.returncode == 0 and "examples:" in shown.stdout


@pytest.mark.parametrize("arguments", [["nonsense"], []])
def test_an_unknown_step_lists_the_known_ones(run, arguments):
    shown = run("-m", "data_builders", *arguments)
    assert shown.returncode == 2 and "build" in shown.stderr


def test_an_option_that_is_not_given_takes_its_variable(monkeypatch):
    parser = cli.parser(prog="x", description=None, examples="")
    add_sending(parser)
    parser.add_argument("--limit", type=cli.optional_count)
    parser.add_argument("--task", nargs="+", required=True)
    set_here = {"LIMIT": "3", "TASK": "sp rg", "DRY_RUN": "1", "MAX_COST": "", "IN_FLIGHT": "4"}
    for name, value in set_here.items():
        monkeypatch.setenv(name, value)
    given = parser.parse_args(["--in-flight", "2"])
    assert (given.limit, given.task, given.dry_run) == (3, ["sp", "rg"], True)
    assert given.max_cost is None and given.in_flight == 2
    assert all(name in parser.format_help() for name in set_here)


def test_a_switch_is_set_by_1_alone_and_a_wrong_variable_is_one_line(monkeypatch):
    parser = cli.parser(prog="x", description=None, examples="")
    parser.add_argument("--force", action="store_true")
    parser.add_argument("--limit", type=cli.optional_count)
    monkeypatch.setenv("FORCE", "0")
    assert not parser.parse_args([]).force
    monkeypatch.setenv("LIMIT", "some")
    with pytest.raises(EscError, match="--limit: 'some' is not a whole number"):
        parser.parse_args([])


@pytest.mark.parametrize("text", ["nan", "inf", "-1", "0", "soon"])
def test_seconds_and_money_are_numbers_above_0(text):
    parser = cli.parser(prog="x", description=None, examples="")
    add_sending(parser)
    for option in ("--timeout", "--max-cost"):
        with pytest.raises(EscError, match="is not a number above 0"):
            parser.parse_args([f"{option}={text}"])
    assert parser.parse_args(["--timeout", "1.5"]).timeout == 1.5
