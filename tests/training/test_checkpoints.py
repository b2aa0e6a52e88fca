"""Checkpoints of several machines: what one can go on from, and what it says where it cannot."""

import pytest

from esc import adapters, files, paths
from esc.exceptions import EscError
from training import follow, recipes, train
from training.reference import STATE

ZERO = {"deepspeed": "zero2.json"}


def training(work, processes=8):
    return recipes.Training("qwen2.5-7b", "sp", "sft", work, processes, (), engine="zero2")


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    for name in ("NNODES", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)


def machine(monkeypatch, rank):
    """As one of two."""
    for name, value in (("NNODES", "2"), ("NODE_RANK", rank), ("MASTER_ADDR", "10.0.0.1")):
        monkeypatch.setenv(name, value)


def checkpoint(output, step, *, state=True, ranks=()):
    """A checkpoint with the state that node 0 writes, and ZeRO's shares of these processes."""
    folder = output / f"checkpoint-{step}"
    (folder / f"global_step{step}").mkdir(parents=True)
    for rank in ranks:
        (folder / f"rng_state_{rank}.pth").touch()
        name = f"bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt"
        (folder / f"global_step{step}" / name).touch()
    if state:
        files.write_json(folder / STATE, {})
        (folder / adapters.WEIGHTS).touch()
    return folder


def test_a_half_written_checkpoint_is_dropped_before_resuming(tmp_path):
    for name, state in (("checkpoint-5", "{}"), ("checkpoint-10", None), ("checkpoint-15", "{")):
        (tmp_path / name).mkdir()
        if state is not None:
            (tmp_path / name / STATE).write_text(state)
    train.drop_torn(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-5"]


def test_the_newest_is_of_the_last_step_as_llamafactory_takes_it(tmp_path):
    from transformers.trainer_utils import get_last_checkpoint

    for step in (5, 100, 20):
        checkpoint(tmp_path, step)
    assert str(train.newest(tmp_path)) == get_last_checkpoint(str(tmp_path))


@pytest.fixture
def followed(tmp_path, monkeypatch):
    """A function that follows as the second of two machines; what it gives is the launches."""
    machine(monkeypatch, "1")
    launched = []
    monkeypatch.setattr(train, "run", lambda *of, **named: launched.append(of))

    def call(force=False):
        asked = training(tmp_path)
        follow.follow(asked, recipes.recipe_for(asked), tmp_path / ".beside", force=force)
        return launched

    return call


def output(work):
    return work / paths.adapter("qwen2.5-7b", "sp", "sft")


def test_a_machine_with_its_own_part_of_the_newest_checkpoint_says_what_to_copy(tmp_path, followed):
    checkpoint(output(tmp_path), 100, ranks=range(16))
    checkpoint(output(tmp_path), 200, state=False, ranks=range(8, 16))
    with pytest.raises(EscError, match=r"-200 is this machine's share alone: copy node 0"):
        followed()


def test_with_force_a_machine_deletes_its_own_parts_and_begins_with_node_0(tmp_path, followed):
    checkpoint(output(tmp_path), 200, state=False, ranks=range(8, 16))
    assert followed(force=True)
    assert not list(output(tmp_path).glob("checkpoint-*"))


def test_a_checkpoint_torn_on_a_shared_disk_is_left_to_node_0(tmp_path, followed):
    (checkpoint(output(tmp_path), 200, ranks=range(16)) / STATE).unlink()
    assert followed()


def test_node_0s_checkpoint_copied_over_a_machines_own_part_is_gone_on_from(tmp_path, followed):
    checkpoint(output(tmp_path), 200, ranks=range(16))
    assert followed()


def test_zero_on_another_number_of_processes_names_the_one_it_was_begun_on(tmp_path):
    checkpoint(tmp_path, 200, ranks=range(8))
    with pytest.raises(EscError, match=r"begun on 8 processes.* NPROC=8 goes on, FORCE=1 begins"):
        train.check_processes(tmp_path, training(tmp_path, 4), ZERO)


def test_zero_goes_on_with_as_many_processes(tmp_path):
    checkpoint(tmp_path, 100, ranks=range(4))
    checkpoint(tmp_path, 200, ranks=range(8))
    train.check_processes(tmp_path, training(tmp_path, 8), ZERO)


def test_without_zero_any_number_of_processes_goes_on(tmp_path):
    checkpoint(tmp_path, 200, ranks=range(8))
    train.check_processes(tmp_path, training(tmp_path, 4), {})


@pytest.mark.parametrize(("rank", "there"), [("0", range(8)), ("0", range(16)), ("1", range(16))])
def test_zero_goes_on_with_shared_disks_and_with_each_machines_own(
    tmp_path, monkeypatch, rank, there
):
    machine(monkeypatch, rank)
    checkpoint(tmp_path, 200, ranks=there)
    train.check_processes(tmp_path, training(tmp_path, 8), ZERO)


def test_zero_begun_on_other_machines_tells_the_processes_of_all(tmp_path, monkeypatch):
    machine(monkeypatch, "1")
    checkpoint(tmp_path, 200, ranks=range(8))
    with pytest.raises(EscError, match=r"begun on 8 processes.*NPROC x NNODES = 8 goes on"):
        train.check_processes(tmp_path, training(tmp_path, 8), ZERO)
