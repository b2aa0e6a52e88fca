"""Mining through batch files: what it writes is what a live run with the same answers writes."""

import shutil

import pytest
from batches import play, requests
from faulty_server import FaultyServer, Request

from esc import cli
from esc.psych_errors import PsychError
from mining import sample

LIMIT = ("--limit", "2")


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
        argv = ["--work", str(bench.work), "--task", *task, "--base-url", models.url, *LIMIT]
        code = cli.run(sample.main, [*argv, *options])
        shown = bench.capsys.readouterr()
        return code, shown.out, shown.err

    return call


def test_sampled_through_files_it_writes_the_bytes_of_a_live_run(draw, bench, models):
    folder = bench.mining("rg").folder
    assert draw()[0] == 0
    live = (folder / "samples.jsonl").read_bytes()
    shutil.rmtree(folder)
    code, out, err = draw("--batch", "write", "--shard", "10")
    assert code == cli.WAITING and "BATCH=read" in err
    assert out == "" and not (folder / "samples.jsonl").exists()
    asked = len(models.chats())
    assert play(folder / "batch", answer) > 1
    code, out, _ = draw("--batch", "read")
    assert code == 0 and f"{len(live.splitlines())} answered, 0 from the cache" in out
    assert (folder / "samples.jsonl").read_bytes() == live
    assert (folder / "run.json").is_file() and len(models.chats()) == asked


def test_a_run_begun_live_goes_on_through_files(draw, bench, models):
    draw()
    live = bench.mining("rg").folder / "samples.jsonl"
    whole = live.read_bytes()
    calls = live.with_name("calls.jsonl")
    kept = calls.read_bytes().splitlines(keepends=True)[:4]
    calls.write_bytes(b"".join(kept))
    for name in ("samples.jsonl", "run.json"):
        live.with_name(name).unlink()
    assert draw("--batch", "write")[0] == cli.WAITING
    (shard,) = live.parent.glob("batch/*.requests.jsonl")
    assert len(requests(shard)) == len(whole.splitlines()) - 3
    play(shard.parent, answer)
    assert draw("--batch", "read")[0] == 0 and live.read_bytes() == whole


def test_every_task_leaves_its_shards_and_what_has_its_answers_is_finished(draw, bench):
    both = {"task": ("rg", "vanilla")}
    options = ("--decode", "free")
    code, _, err = draw("--batch", "write", *options, **both)
    folders = [bench.mining(task).folder for task in both["task"]]
    assert code == cli.WAITING and all(f"wait in {one / 'batch'}" in err for one in folders)
    play(folders[1] / "batch", answer)
    code, _, err = draw("--batch", "read", *options, **both)
    assert code == cli.WAITING and str(folders[0]) in err and str(folders[1]) not in err
    assert [(one / "run.json").is_file() for one in folders] == [False, True]


def test_an_engine_of_this_work_runs_nothing_of_others(draw, models, error_line):
    code, _, err = draw("--batch", "vllm")
    reason = f"BATCH=vllm runs this WORK's own models here (base), not rg-sft, {models.url}"
    assert code == 2 and reason in error_line(err)


def test_an_unknown_engine_lists_the_known_ones(draw, error_line, monkeypatch):
    monkeypatch.setenv("BATCH", "spark")
    code, _, err = draw()
    assert code == 2 and "'spark' is not one of 'vllm', 'ray'" in error_line(err)


def test_judged_through_files_it_writes_the_bytes_of_a_live_run(bench, planted, server, error_line):
    replies = [f"reply {number}" for number in range(3)]
    bench.sample("rg", lambda turn, index: f"{replies[index]} {turn.id}", 3, limit=2)
    planted.plan = {f"{replies[0]} {t.id}": PsychError.LACK_OF_EMPATHY for t in bench.turns(2)}
    assert bench.judge("rg", url=server.url)[0] == 0
    live = bench.judged("rg") / "verdicts.jsonl"
    verdicts = live.read_bytes()
    assert bench.route("rg")[0] == 0
    pairs = (bench.mining("rg").routed / "pairs.jsonl").read_bytes()
    for folder in (bench.judged("rg"), bench.mining("rg").routed):
        shutil.rmtree(folder)
    code, _, err = bench.judge("rg", "--batch", "openai")
    assert code == 2 and "OPENAI_API_KEY is not set" in error_line(err)
    # No key: nobody hosted is asked.
    assert bench.judge("rg", "--batch", "write")[0] == cli.WAITING
    play(bench.judged("rg") / "batch", lambda body: planted(Request("", body, {})))
    assert bench.judge("rg", "--batch", "read")[0] == 0
    assert live.read_bytes() == verdicts
    assert bench.route("rg")[0] == 0
    assert (bench.mining("rg").routed / "pairs.jsonl").read_bytes() == pairs and pairs
