import os
import shlex
import sys
import time

import pytest

from experiments import told

BROKEN = "import sys; print('so far', file=sys.stderr); print('error: no room', file=sys.stderr); "


def test_what_is_said_passes_through_and_its_error_line_is_kept(capfdbinary):
    code, why = told.run([sys.executable, "-c", BROKEN + "sys.exit(2)"], os.environ)
    assert (code, why) == (2, "no room")
    assert b"so far" in capfdbinary.readouterr().err


def test_a_command_that_ends_well_has_no_reason():
    assert told.run([sys.executable, "-c", BROKEN], os.environ) == (0, "")


def test_a_killed_command_is_said_to_lack_memory():
    code, why = told.run(["sh", "-c", "kill -9 $$"], os.environ)
    assert code == -9 and "memory" in why


def test_what_a_command_leaves_running_is_not_waited_for():
    code, why = told.run(["sh", "-c", "sleep 60 & echo 'error: gone' >&2; exit 3"], os.environ)
    assert (code, why) == (3, "gone")


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("error: one\nerror: two\nmake: *** [Makefile:9: x] Error 2\n", "two"),
        ("10%|#   |\r100%|####|\rerror: full\n", "full"),
        ("make: *** [Makefile:9: x] Killed\n", "killed, most likely for want of memory"),
        ("Traceback\nmake: *** [Makefile:9: x] Error 1\n", "exit code 2; its output is above"),
    ],
)
def test_the_last_error_line_is_the_reason(said, why):
    assert told.reason(said, 2) == why


def test_without_an_error_line_the_reason_names_the_log(tmp_path):
    log = tmp_path / "step.log"
    code, why = told.run(["sh", "-c", "echo so far; exit 3"], os.environ, log)
    assert (code, why) == (3, f"exit code 3; see {log}")
    assert log.read_text() == "so far\n"


def test_a_command_that_is_to_end_ends_with_all_it_has_started(tmp_path, monkeypatch):
    monkeypatch.setattr(told, "_GRACE", 0.5)
    alive = f"trap '' TERM; while :; do date +%N > {tmp_path / 'beat'}; sleep 0.1; done"
    begin = time.monotonic()
    code, _ = told.run(
        ["sh", "-c", f"sh -c {shlex.quote(alive)} & wait"],
        os.environ,
        until=lambda: (tmp_path / "beat").exists(),
    )
    assert code < 0 and time.monotonic() - begin < 15
    beat = (tmp_path / "beat").read_text()
    time.sleep(0.5)
    assert (tmp_path / "beat").read_text() == beat


def test_a_command_that_may_go_on_ends_by_itself():
    assert told.run(["sh", "-c", "exit 3"], os.environ, until=lambda: False)[0] == 3
