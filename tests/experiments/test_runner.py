"""A plan is run by real make, over a Makefile of a few targets that write files."""

from pathlib import Path

import pytest

from esc import files
from experiments.outcome import State
from experiments.plan import Step
from experiments.runner import Runner

MAKEFILE = """
.PHONY: a b c mine serve stop
a:
\t@echo a $(SIZE) $(OWN) >> log; echo a > $(WORK)/a
b:
\t@echo b >> log; test ! -f broken && echo b > $(WORK)/b
c:
\t@echo c >> log; echo c > $(WORK)/c
mine:
\t@echo mine >> log; echo '{"told": "0 pairs of 3 samples"}' > $(WORK)/none.json; false
serve:
\t@echo serve >> log; test ! -f no-server
stop:
\t@echo stop >> log
"""


def step(name, *needs, target=None, product=None, **more):
    return Step(name, target or name, f"makes {name}", Path(product or name), needs, **more)


@pytest.fixture
def runner(tmp_path, monkeypatch):
    (tmp_path / "Makefile").write_text(MAKEFILE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MAKEFLAGS", "SIZE=of-the-outer-make")

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
    assert log(tmp_path) == ["a", "serve", "b", "c"]


def test_no_server_is_started_for_steps_that_are_done(runner, tmp_path):
    plan = [step("a", served=True)]
    runner().run(plan)
    runner().run(plan)
    assert log(tmp_path) == ["serve", "a"]


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
