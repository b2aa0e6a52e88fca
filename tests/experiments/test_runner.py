"""A plan is run by real make, over a Makefile of a few targets that write files.

Its server is a file, ``up``, which ``policy_server.running`` is made to look at.
"""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from esc import files, policy_server
from esc.paths import ROOT
from experiments.outcome import State
from experiments.plan import Step, only
from experiments.runner import TOGETHER, Runner
from experiments.variables import OWNED

MAKEFILE = """
.PHONY: a b c mine dies told long slow serve stop
a:
\t@echo a $(SIZE) $(OWN) >> log; echo a > $(WORK)/a
b:
\t@echo b >> log; test ! -f broken && echo b > $(WORK)/b
c:
\t@echo c >> log; echo c > $(WORK)/c
mine:
\t@echo mine >> log; echo '{"told": "0 pairs of 3 samples"}' > $(WORK)/none.json; false
dies:
\t@echo dies >> log; rm -f up; echo dies > $(WORK)/dies
told:
\t@env > $(WORK)/told
long:
\t@echo begins >> log; sleep 2; echo ends >> log; echo long > $(WORK)/long
slow:
\t@echo slow >> log; sleep 0.5; echo slow > $(WORK)/slow
serve:
\t@echo serve >> log; test ! -f no-server && touch up
stop:
\t@echo stop >> log; rm up
"""


def step(name, *needs, target=None, product=None, **more):
    return Step(name, target or name, f"makes {name}", Path(product or name), needs, **more)


@pytest.fixture
def runner(tmp_path, monkeypatch):
    (tmp_path / "Makefile").write_text(MAKEFILE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MAKEFLAGS", "SIZE=of-the-outer-make")
    up = tmp_path / "up"
    monkeypatch.setattr(policy_server, "running", lambda model, work: up if up.exists() else None)

    def make(**variables):
        return Runner("demo", "smollm2-135m", tmp_path, {"SIZE": "1"} | variables)

    return make


def log(tmp_path):
    return [line.split()[0] for line in (tmp_path / "log").read_text().splitlines()]


def states(runner):
    return {one.name: one.state for one in runner.outcomes}


def test_steps_run_in_order_with_the_plans_variables_and_their_own(runner, tmp_path):
    plan = [step("a", variables={"OWN": "2"}), step("b", "a")]
    assert runner().run(plan) == 0
    assert (tmp_path / "log").read_text().splitlines() == ["a 1 2", "b"]


def test_what_is_done_is_not_run_again(runner, tmp_path):
    plan = [step("a"), step("b", "a")]
    runner().run(plan)
    again = runner()
    assert again.run(plan) == 0
    assert log(tmp_path) == ["a", "b"]
    assert set(states(again).values()) == {State.DONE}


def test_after_a_kill_the_next_call_goes_on_behind_the_last_finished_step(runner, tmp_path):
    plan = [step("a"), step("b", "a"), step("c", "b")]
    runner().run(plan[:1])
    # A file that a killed step left is not the record of a finished one.
    (tmp_path / "b").write_text("half")
    runner().run(plan)
    assert log(tmp_path) == ["a", "b", "c"]


def test_a_step_whose_file_is_gone_or_changed_runs_again_with_what_needs_it(runner, tmp_path):
    plan = [step("a"), step("b", "a"), step("c")]
    runner().run(plan)
    (tmp_path / "a").write_text("another")
    runner().run(plan)
    assert log(tmp_path) == ["a", "b", "c", "a"]
    (tmp_path / "a").unlink()
    (tmp_path / "b").unlink()
    runner().run(plan)
    assert log(tmp_path) == ["a", "b", "c", "a", "a", "b"]


def test_with_other_variables_every_step_is_asked_anew(runner, tmp_path):
    plan = [step("a")]
    runner().run(plan)
    runner(SIZE="2").run(plan)
    assert (tmp_path / "log").read_text().splitlines() == ["a 1", "a 2"]


def test_a_failed_step_takes_down_only_what_needs_it(runner, tmp_path, capsys):
    (tmp_path / "broken").touch()
    last = step("page", "b", "c", target="a", product="a", takes_what_is_there=True)
    plan = [step("a"), step("b", "a"), step("c", "b"), last]
    failing = runner()
    assert failing.run(plan) == 1
    assert states(failing) == {
        "a": State.RAN, "b": State.FAILED, "c": State.LEFT_OUT, "page": State.RAN,
    }  # fmt: skip
    said = capsys.readouterr().out
    assert "=== 1 failed" in said and "needs b" in said
    assert "'make demo' with the same variables goes on" in said
    (tmp_path / "broken").unlink()
    mended = runner()
    assert mended.run(plan) == 0
    # The page is made again, of what is there now.
    assert log(tmp_path) == ["a", "b", "a", "b", "c", "a"]


def test_a_mining_without_pairs_is_not_run_with_its_reason_and_no_failure(runner, tmp_path):
    plan = [step("a"), step("mine", "a", nothing=Path("none.json")), step("c", "mine")]
    first = runner()
    assert first.run(plan) == 0
    assert states(first) == {"a": State.RAN, "mine": State.NOT_RUN, "c": State.NOT_RUN}
    assert "0 pairs of 3 samples" in next(o.why for o in first.outcomes if o.name == "mine")
    again = runner()
    again.run(plan)
    assert log(tmp_path) == ["a", "mine"]


def test_a_training_on_a_mix_that_no_pair_is_of_is_not_run(runner, tmp_path):
    plan = [step("a", pairs=Path("data/no_such_set.jsonl"))]
    one = runner()
    assert one.run(plan) == 0
    assert one.outcomes[0].state is State.NOT_RUN and "0 pairs" in one.outcomes[0].why
    assert not (tmp_path / "log").exists()


def test_a_server_is_started_once_for_the_steps_that_ask_it(runner, tmp_path):
    plan = [step("a"), step("b", "a", served=True), step("c", "a", served=True)]
    runner().run(plan)
    assert log(tmp_path) == ["a", "serve", "b", "c", "stop"]


def test_no_server_is_started_for_steps_that_are_done(runner, tmp_path):
    plan = [step("a", served=True)]
    runner().run(plan)
    runner().run(plan)
    assert log(tmp_path) == ["serve", "a", "stop"]


def test_where_no_server_starts_its_steps_are_left_out_and_the_others_run(runner, tmp_path):
    (tmp_path / "no-server").touch()
    one = runner()
    assert one.run([step("a", served=True), step("b", served=True), step("c")]) == 1
    assert states(one) == {
        "serve": State.FAILED, "a": State.LEFT_OUT, "b": State.LEFT_OUT, "c": State.RAN,
    }  # fmt: skip
    assert log(tmp_path) == ["serve", "c"]


def test_a_step_that_ends_well_without_its_file_has_failed(runner, tmp_path):
    one = runner()
    assert one.run([step("d", target="a")]) == 1
    assert one.outcomes[0].why == "d is not there"


def test_the_record_is_whole_after_every_step(runner, tmp_path):
    one = runner()
    one.run([step("a"), step("b", "a")])
    record = files.read_json(one.path)
    assert set(record["steps"]) == {"a", "b"} and record["options"] == {"SIZE": "1"}


def test_steps_that_may_run_together_do_and_each_is_kept(runner, tmp_path):
    plan = [step(name, together=True) for name in ("a", "b", "c")]
    (tmp_path / "broken").touch()
    one = runner()
    assert one.run(plan) == 1
    assert states(one) == {"a": State.RAN, "b": State.FAILED, "c": State.RAN}
    assert sorted(log(tmp_path)) == ["a", "b", "c"]
    assert {path.name for path in one.path.parent.glob("*.log")} == {"a.log", "b.log", "c.log"}
    (tmp_path / "broken").unlink()
    runner().run(plan)
    assert sorted(log(tmp_path)) == ["a", "b", "b", "c"]


def test_together_means_at_the_same_time(runner, tmp_path):
    """Each of the two waits for what the other makes."""
    waits = "".join(
        f"{name}:\n\t@for i in 1 2 3 4 5 6 7 8 9; do echo > begun-{name}; "
        f"test -f begun-{other} && echo {name} > $(WORK)/{name} && exit 0; sleep 0.3; done; false\n"
        for name, other in (("x", "y"), ("y", "x"))
    )
    (tmp_path / "Makefile").write_text(".PHONY: x y\n" + waits)
    assert runner().run([step("x", together=True), step("y", together=True)]) == 0


def test_the_server_is_stopped_before_a_training_and_at_the_end(runner, tmp_path):
    plan = [step("a", served=True), step("b"), step("c", served=True)]
    assert runner().run(plan) == 0
    assert log(tmp_path) == ["serve", "a", "stop", "b", "serve", "c", "stop"]


def test_a_server_that_an_earlier_run_has_left_is_stopped_first(runner, tmp_path):
    (tmp_path / "up").touch()
    assert runner().run([step("a", served=True)]) == 0
    assert log(tmp_path) == ["stop", "serve", "a", "stop"]


def test_a_server_that_is_not_this_plans_is_left_alone(runner, tmp_path):
    (tmp_path / "up").touch()
    elsewhere = replace(runner(), own_server=False)
    assert elsewhere.run([step("a", served=True), step("b")]) == 0
    assert log(tmp_path) == ["a", "b"]


def test_a_server_that_has_ended_is_started_again_for_the_next_step(runner, tmp_path):
    plan = [step("dies", served=True), step("a", served=True)]
    assert runner().run(plan) == 0
    assert log(tmp_path) == ["serve", "dies", "serve", "a", "stop"]


def test_beside_others_a_step_without_its_server_fails_and_starts_none(runner, tmp_path):
    # The first ones end the server between them; those behind would each start one of their own.
    first = [step(f"d{n}", target="dies", product="dies") for n in range(TOGETHER)]
    plan = [replace(one, served=True, together=True) for one in (*first, step("a"), step("b"))]
    ended = runner()
    assert ended.run(plan) == 1
    assert states(ended)["a"] is states(ended)["b"] is State.FAILED
    why = next(one.why for one in ended.outcomes if one.name == "a")
    told_in = tmp_path / "runs" / "smollm2-135m" / "server" / "server.log"
    assert why == f"the server has ended; see {told_in}"
    assert not {"a", "b"} & set(log(tmp_path))


def test_after_ctrl_c_no_further_step_begins(runner, tmp_path, monkeypatch):
    one = step("slow", together=True)
    many = [replace(one, name=f"slow-{number}") for number in range(4 * TOGETHER)]

    def interrupted(path, value):
        raise KeyboardInterrupt

    # Of the first that is kept: as if it came while the others run.
    monkeypatch.setattr(files, "write_json", interrupted)
    with pytest.raises(KeyboardInterrupt):
        runner().run(many)
    # Those that ran, and those that took their places meanwhile.
    assert len(log(tmp_path)) <= 2 * TOGETHER


def test_a_part_of_a_plan_is_done_only_while_what_the_whole_made_is_the_same(runner, tmp_path):
    page = step("c", "a", "b", takes_what_is_there=True)
    whole = [step("a"), step("b"), page]
    runner().run(whole)
    runner().run(only(whole, ["c"]), whole)
    assert log(tmp_path) == ["a", "b", "c"]
    (tmp_path / "b").write_text("another")
    part = runner()
    assert part.done(whole) == {"a"}
    part.run(only(whole, ["c"]), whole)
    assert log(tmp_path) == ["a", "b", "c", "c"]


def test_a_step_that_is_always_asked_leaves_the_others_done(runner, tmp_path):
    plan = [step("a", always=True), step("b", "a")]
    runner().run(plan)
    again = runner()
    assert again.run(plan) == 0
    assert states(again) == {"a": State.RAN, "b": State.DONE}
    assert log(tmp_path) == ["a", "b", "a"]


def test_what_a_plan_decides_reaches_a_step_from_the_plan_alone(runner, tmp_path, monkeypatch):
    for name in (*OWNED, "FORCE", "SERVE_ARGS"):
        monkeypatch.setenv(name, "leaked")
    assert runner(LIMIT="1").run([step("told", variables={"STAGE": "sft"})]) == 0
    lines = (tmp_path / "told").read_text().splitlines()
    seen = dict(line.split("=", 1) for line in lines if "=" in line)
    given = {"LIMIT": "1", "STAGE": "sft", "FORCE": "leaked", "SERVE_ARGS": "leaked"}
    assert {name: seen[name] for name in (*OWNED, *given) if name in seen} == given


def test_a_step_that_outlives_a_killed_plan_is_waited_for(runner, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(files, "_GRACE", 0.1)
    alone = (
        "from pathlib import Path; from experiments.plan import Step; "
        "from experiments.runner import Runner; "
        "Runner('demo', 'smollm2-135m', Path(), {'SIZE': '1'}).run("
        "[Step('long', 'long', 'sleeps', Path('long'))])"
    )
    path = os.pathsep.join([str(ROOT), *sys.path])
    killed = subprocess.Popen([sys.executable, "-c", alone], env=os.environ | {"PYTHONPATH": path})
    while not (tmp_path / "log").exists():
        assert killed.poll() is None
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert runner().run([step("long")]) == 0
    assert log(tmp_path) == ["begins", "ends", "begins", "ends"]
    assert "a step that a killed one had begun" in capsys.readouterr().out
