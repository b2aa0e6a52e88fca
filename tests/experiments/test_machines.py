"""Node 0's plan and another machine that follows it, as two threads over one folder."""

import errno
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml

from esc import files, nodes, paths
from esc.exceptions import EscError
from esc.paths import EMBEDDED
from experiments import machines, reproduce, variables
from experiments.plan import Step

PLAN = [Step(f"sft-{task}", f"sft-{task}", "", Path(task)) for task in ("sp", "rg")]


@pytest.fixture(autouse=True)
def _fast(monkeypatch):
    monkeypatch.setattr(machines, "BEAT", 0.02)
    monkeypatch.setattr(machines, "LOST", 0.4)
    monkeypatch.setattr(machines, "SLACK", 0.1)
    monkeypatch.setattr(nodes, "PATIENCE", 0.4)


class Follower(threading.Thread):
    """Another machine; each of its trainings is told when it begins, and ends when it may."""

    def __init__(self, path, code=0, *, lasts=False):
        super().__init__(daemon=True)
        self.path, self.answer, self.lasts = path, code, lasts
        self.ran, self.begun, self.code, self.error = [], threading.Event(), None, None

    def make(self, target, variables, left):
        self.ran.append(target)
        self.begun.set()
        while self.lasts and not left():
            time.sleep(0.01)
        return self.answer, "no room"

    def run(self):
        try:
            self.code = machines.follow(self.path, PLAN, self.make)
        except EscError as error:
            self.error = error


@pytest.fixture
def path(tmp_path):
    return tmp_path / machines.FILE


def go_through(path, follower, *steps):
    """Node 0: each training lasts until the other machine is in it."""
    with machines.Told(path) as told:
        follower.start()
        for step in steps:
            with told.at(step):
                assert follower.begun.wait(5)
            follower.begun.clear()
    follower.join(5)


def test_every_training_of_node_0_is_joined_once_and_in_order(path, capsys):
    other = Follower(path)
    go_through(path, other, *PLAN)
    assert (other.ran, other.code) == (["sft-sp", "sft-rg"], 0)
    assert "node 0's plan has ended; 2 trainings joined in" in capsys.readouterr().out


def test_a_training_begun_anew_is_joined_anew(path):
    other = Follower(path)
    go_through(path, other, PLAN[0], PLAN[0])
    assert other.ran == ["sft-sp", "sft-sp"]


def test_a_training_that_fails_here_is_told_and_the_next_one_joined(path, capsys):
    other = Follower(path, code=2)
    go_through(path, other, *PLAN)
    assert (len(other.ran), other.code) == (2, 1)
    assert "failed here: sft-sp (no room), sft-rg (no room)" in capsys.readouterr().out


def test_a_training_that_node_0_has_left_for_another_is_ended_before_that_is_joined(path, capsys):
    """It waits for a node 0 that failed at once, and must not become a part of the next one."""
    other = Follower(path, code=-15, lasts=True)
    go_through(path, other, *PLAN)
    assert (other.ran, other.code) == (["sft-sp", "sft-rg"], 1)
    assert "failed here: sft-sp (node 0 has left it), sft-rg" in capsys.readouterr().out


def test_a_training_may_outlast_node_0s_a_little(path):
    heard = machines.Heard(path)
    with machines.Told(path) as told:
        with told.at(PLAN[0]):
            heard.listen()
            training = heard.training
            time.sleep(0.6)
            assert not heard.has_left(training)
        assert not heard.has_left(training)
        time.sleep(0.2)
        assert not heard.has_left(training)
        with told.at(PLAN[1]):
            heard.listen()
            assert not heard.has_left(training)
            time.sleep(0.2)
            assert heard.has_left(training)


def test_a_disk_that_is_full_for_a_moment_does_not_silence_node_0(path, monkeypatch):
    write, full = files.write_json, threading.Event()

    def write_json(*given):
        if full.is_set():
            raise OSError(errno.ENOSPC, "no space")
        write(*given)

    monkeypatch.setattr(files, "write_json", write_json)
    with machines.Told(path) as told:
        full.set()
        with told.at(PLAN[0]):
            time.sleep(0.1)
            assert files.read_json(path)["training"] is None
            full.clear()
            time.sleep(0.2)
            assert files.read_json(path)["training"]["step"] == "sft-sp"


def test_what_an_earlier_plan_has_left_is_no_training(path):
    left = {"said": 1, "training": {"step": "sft-sp", "begun": 1}, "ended": False}
    files.write_json(path, left)
    other = Follower(path)
    other.start()
    other.join(5)
    assert other.ran == []
    assert f"nothing new of node 0 in {path}" in str(other.error)


def test_a_node_0_that_is_heard_no_more_is_one_line(path):
    told = machines.Told(path)
    told.__enter__()
    other = Follower(path)
    other.start()
    with told.at(PLAN[0]):
        assert other.begun.wait(5)
        told._ended.set()  # as when it is killed: it says nothing any more, not even its end
        told._beating.join()
        other.join(5)
    assert "start the same command on all machines" in str(other.error)


def test_a_plan_says_which_training_it_is_at(tmp_path, monkeypatch):
    (tmp_path / "Makefile").write_text(
        ".PHONY: sft-sp data\n"
        "sft-sp:\n\t@cp runs/m/plan/machines.json during; echo > sp\n"
        "data:\n\t@cp runs/m/plan/machines.json between; echo > data\n"
    )
    monkeypatch.chdir(tmp_path)
    told = machines.Told(Path("runs/m/plan/machines.json"))
    runner = reproduce.Runner("reproduce", "m", Path(), {}, own_server=False, machines=told)
    assert runner.run([PLAN[0], Step("data", "data", "", Path("data"))]) == 0
    assert files.read_json(tmp_path / "during")["training"]["step"] == "sft-sp"
    assert files.read_json(tmp_path / "between")["training"] is None
    assert files.read_json(told._path)["ended"]


def test_costs_are_of_all_machines(tmp_path, monkeypatch):
    def shown():
        asked = reproduce.Asked("qwen2.5-7b", tmp_path, variables.parsed(["NPROC=4"]))
        return "\n".join(reproduce.dry_run(asked))

    assert "on 4 processes" in shown()
    for name, value in (("NNODES", "2"), ("NODE_RANK", "0"), ("MASTER_ADDR", "10.0.0.1")):
        monkeypatch.setenv(name, value)
    assert "on 8 processes" in shown()


@pytest.mark.slow
def test_two_machines_train_what_one_of_them_plans(run, model, tmp_path, free_port):
    place = {"NNODES": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port)}
    command = ("-m", "experiments", "reproduce", "--work", str(tmp_path), "--steps", "sft-rg")
    small = "TRAIN_ARGS=max_steps=1 gradient_accumulation_steps=1"
    given = ("--set", "ESCONV=sample", "LIMIT=1", small)
    with ThreadPoolExecutor() as pool:
        both = [
            pool.submit(run, *command, *given, NODE_RANK=rank, OMP_NUM_THREADS="1", **place)
            for rank in ("0", "1")
        ]
        first, other = (one.result() for one in both)
    assert first.returncode == 0, first.stderr[-2000:]
    assert other.returncode == 0, other.stderr[-2000:]
    assert "sft-rg: this machine's share of it" in other.stdout
    assert "node 0's plan has ended; 1 trainings joined in" in other.stdout
    output = tmp_path / paths.adapter(EMBEDDED, "rg", "sft")
    assert yaml.safe_load((output / "recipe.yaml").read_text())["ddp_backend"] == "gloo"
    assert files.read_json(output / "run.json")["steps"] == 1
