"""Mining through batch files: what it writes is what a live run with the same answers writes."""

import shutil

import pytest
from batches import play, requests
from faulty_server import FaultyServer

from esc import cli
from mining import sample


@pytest.fixture
def models():
    with FaultyServer(models=("sp-sft", "rg-sft", "vanilla-sft")) as server:
        server.answer = lambda request: answer(request.body)
        yield server


def answer(body):
    """A model's answer, which its seed decides."""
    return f"reply to seed {body['seed']}"


@pytest.fixture
def draw(bench, models):
    """Exit code, stdout and stderr of sampling; the served names are another machine's."""

    def call(*options, task=("rg",)):
        argv = ["--work", str(bench.work), "--task", *task, "--base-url", models.url]
        code = cli.run(sample.main, [*argv, "--limit", "2", *options])
        shown = bench.capsys.readouterr()
        return code, shown.out, shown.err

    return call


@pytest.mark.parametrize("kept", [0, 3])
def test_begun_live_or_not_it_writes_through_files_the_bytes_of_a_live_run(
    draw, bench, models, kept
):
    folder = bench.mining("rg").folder
    assert draw()[0] == 0
    samples, calls = folder / "samples.jsonl", folder / "calls.jsonl"
    live, stored = samples.read_bytes(), calls.read_bytes().splitlines(keepends=True)
    shutil.rmtree(folder)
    if kept:
        folder.mkdir()
        calls.write_bytes(b"".join(stored[:kept]))
    sent = len(models.chats())
    code, out, err = draw("--batch", "write", "--shard", "5")
    assert code == cli.WAITING and "BATCH=read" in err and out == "" and not samples.exists()
    asked = [len(requests(shard)) for shard in folder.glob("batch/*.requests.jsonl")]
    assert max(asked) == 5 and sum(asked) == len(stored) - kept
    play(folder / "batch", answer)
    code, out, _ = draw("--batch", "read")
    assert code == 0 and f"{sum(asked)} answered, {kept} from the cache" in out
    assert samples.read_bytes() == live and (folder / "run.json").is_file()
    assert len(models.chats()) == sent


def test_every_task_leaves_its_shards_and_what_has_its_answers_is_finished(
    draw, bench, models, error_line
):
    options, tasks = ("--decode", "free"), ("rg", "vanilla")
    code, _, err = draw("--batch", "write", *options, task=tasks)
    folders = [bench.mining(task).folder for task in tasks]
    assert code == cli.WAITING and all(f"wait in {one / 'batch'}" in err for one in folders)
    play(folders[1] / "batch", answer)
    code, _, err = draw("--batch", "read", *options, task=tasks)
    assert code == cli.WAITING and str(folders[0]) in err and str(folders[1]) not in err
    assert [(one / "run.json").is_file() for one in folders] == [False, True]
    # An engine of this work runs nothing of others.
    code, _, err = draw("--batch", "vllm", *options)
    reason = f"BATCH=vllm runs this WORK's own models here (base), not rg-sft, {models.url}"
    assert code == 2 and reason in error_line(err)
