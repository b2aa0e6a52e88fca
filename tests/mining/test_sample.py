"""Sampling over HTTP: what is asked, of whom, what is kept, and that a kill loses nothing."""

import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from faulty_server import SERVER_ERROR, TOO_LONG, TRUNCATED, FaultyServer
from safetensors.torch import save_file

from esc import adapters, cli, files, paths
from esc.llm import derived_seed
from esc.paths import Lineage
from mining import sample

MODEL = "smollm2-135m"


@pytest.fixture
def server():
    with FaultyServer(models=("sp-sft", "rg-sft", "vanilla-sft", "rg-dpo-ipo")) as server:
        server.answer = lambda request: f"reply to seed {request.body['seed']}"
        yield server


@pytest.fixture
def draw(bench, server, model):
    """Exit code, stdout and stderr of sampling a task from the server."""

    def call(task, *options, url=server.url):
        argv = ["--work", str(bench.work), "--task", task, "--base-url", url, *options]
        code = cli.run(sample.main, argv)
        shown = bench.capsys.readouterr()
        return code, shown.out, shown.err

    return call


def samples(bench, task="rg"):
    return list(files.read_jsonl(bench.mining(task).folder / "samples.jsonl"))


def test_the_generator_gives_three_replies_to_each_train_turn_under_the_gold_strategy(
    draw, bench, server
):
    code, out, _ = draw("rg", "--limit", "2")
    turns = bench.turns(2)
    assert code == 0 and "SMOKE" not in out.splitlines()[0]
    rows = samples(bench)
    assert [(row["id"], row["sample"]) for row in rows] == [
        (turn.id, index) for turn in turns for index in range(3)
    ]
    assert {row["id"]: row["strategy"] for row in rows} == {
        turn.id: turn.strategy.value for turn in turns
    }
    told = {request.body["messages"][0]["content"] for request in server.chats()}
    assert all(any(turn.strategy.value in text for text in told) for turn in turns)


def test_every_sample_is_asked_with_a_seed_of_its_own_at_the_papers_temperature(draw, server):
    draw("rg", "--limit", "2", "--samples", "2")
    bodies = [request.body for request in server.chats()]
    assert {(body["temperature"], body["top_p"]) for body in bodies} == {(0.7, 0.95)}
    assert len({body["seed"] for body in bodies}) == len(bodies)


def test_a_sample_is_what_its_own_seed_was_answered(draw, bench):
    draw("rg", "--limit", "1")
    for row in samples(bench):
        assert row["seed"] == derived_seed(row["id"], row["sample"])
        assert row["text"] == f"reply to seed {row['seed']}"


def test_a_strategy_that_does_not_parse_is_counted_and_kept(draw, bench):
    code, out, _ = draw("sp", "--limit", "1", "--decode", "free")
    assert code == 0 and f"{len(samples(bench, 'sp'))} without a strategy that parses" in out
    assert {row["strategy"] for row in samples(bench, "sp")} == {None}


def test_an_entangled_answer_is_taken_apart(draw, bench, server):
    server.answer = lambda request: "[Question] And how are you?"
    draw("vanilla", "--limit", "1", "--decode", "free")
    (row, *_) = samples(bench, "vanilla")
    assert (row["strategy"], row["response"]) == ("Question", "And how are you?")


THOUGHT = "<think>\n[Others]?\n</think>\n\n"
AFTER_THINKING = {
    "sp": ("Question", "Question", None),
    "rg": ("And you?", None, "And you?"),
    "vanilla": ("[Question] And you?", "Question", "And you?"),
}


@pytest.mark.parametrize("task", AFTER_THINKING)
def test_what_a_model_thought_is_in_no_sample(draw, bench, server, task):
    said, strategy, response = AFTER_THINKING[task]
    server.answer = lambda request: THOUGHT + said
    draw(task, "--limit", "1", "--decode", "free")
    for row in samples(bench, task):
        assert (row["text"], row["response"]) == (said, response)
        assert row["strategy"] == (strategy or row["gold_strategy"])


def test_a_cut_answer_is_kept_and_counted(draw, bench, server):
    server.script = [TRUNCATED]
    _, out, _ = draw("rg", "--limit", "1")
    assert "1 cut at the length limit" in out
    assert sum(row["truncated"] for row in samples(bench)) == 1


def test_what_failed_is_counted_and_alone_asked_again(draw, bench, server):
    turn = bench.turns(2)[0]
    server.always = {turn.seeker: SERVER_ERROR}
    code, out, _ = draw("rg", "--limit", "2")
    failed = [row for row in samples(bench) if row["status"] == "failed"]
    assert code == 1 and turn.id in {row["id"] for row in failed}
    assert f"{len(failed)} server error; the same command asks again" in out
    assert not (bench.mining("rg").folder / "run.json").exists()
    server.always, before = {}, len(server.chats())
    assert draw("rg", "--limit", "2")[0] == 0
    assert len(server.chats()) == before + len(failed)


def test_a_turn_that_is_too_long_for_good_does_not_block_the_others(draw, bench, server):
    turn = bench.turns(2)[0]
    server.always = {turn.seeker: TOO_LONG}
    code, out, _ = draw("rg", "--limit", "2")
    failed = [row for row in samples(bench) if row["status"] == "failed"]
    assert code == 0 and failed and f"{len(failed)} failed" in out
    assert (bench.mining("rg").folder / "run.json").is_file()


def test_where_every_request_is_refused_nothing_is_complete(draw, bench, server):
    server.answer = lambda request: TOO_LONG
    assert draw("rg", "--limit", "1")[0] == 1
    assert not (bench.mining("rg").folder / "run.json").exists()


def test_the_same_command_again_does_nothing(draw, server):
    draw("rg", "--limit", "1")
    before = len(server.log)
    code, out, _ = draw("rg", "--limit", "1")
    assert code == 0 and "nothing to do" in out and len(server.log) == before


def test_other_options_are_refused_and_with_force_ask_only_what_is_new(draw, server, error_line):
    draw("rg", "--limit", "1")
    code, _, err = draw("rg", "--limit", "2")
    assert code == 2 and "LIMIT 1 -> 2" in error_line(err)
    before = {request.body["seed"] for request in server.chats()}
    asked = len(server.chats())
    assert draw("rg", "--limit", "2", "--force")[0] == 0
    assert not before & {request.body["seed"] for request in server.chats()[asked:]}


def test_killed_while_sampling_it_goes_on_to_the_same_bytes(draw, bench, server):
    folder = bench.mining("rg").folder
    argv = ["--work", str(bench.work), "--task", "rg", "--limit", "4", "--base-url", server.url]
    server.delay = 0.05
    process = subprocess.Popen(
        [sys.executable, "-m", "mining", "sample", *argv, "--in-flight", "3"],
        cwd=paths.ROOT,
        start_new_session=True,
        stderr=subprocess.DEVNULL,
    )
    try:
        patience = time.monotonic() + 60
        calls = folder / "calls.jsonl"
        while not calls.exists() or calls.read_bytes().count(b"\n") < 8:
            assert process.poll() is None and time.monotonic() < patience
            time.sleep(0.01)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert not (folder / "samples.jsonl").exists()
    stored = {row["seed"] for row in files.read_jsonl(calls) if "messages" in row}
    time.sleep(2 * server.delay)
    server.delay, before = 0.0, len(server.chats())
    assert draw("rg", "--limit", "4")[0] == 0
    asked = {request.body["seed"] for request in server.chats()[before:]}
    assert stored and not stored & asked
    whole = (folder / "samples.jsonl").read_bytes()
    shutil.rmtree(folder)
    assert draw("rg", "--limit", "4")[0] == 0
    assert (folder / "samples.jsonl").read_bytes() == whole


def test_a_dry_run_says_how_many_requests_and_sends_none(draw, bench, server):
    code, out, _ = draw("rg", "--limit", "1", "--dry-run")
    assert code == 0 and f"{3 * len(bench.turns(1))} requests" in out
    assert server.log == [] and not (bench.mining("rg").folder / "samples.jsonl").exists()


def test_a_second_round_samples_the_models_of_the_first_into_a_folder_of_its_own(
    draw, bench, server, hashes
):
    draw("rg", "--limit", "1")
    before = hashes(bench.mining("rg").folder)
    code, _, _ = draw("rg", "--limit", "1", "--variant", "ipo", "--round", "2")
    assert code == 0 and {"rg-sft", "rg-dpo-ipo"} == {r.body["model"] for r in server.chats()}
    second = bench.work / paths.mining(MODEL, Lineage("ipo", 2))
    assert second.name == "mining_ipo_r2" and (second / "rg" / "samples.jsonl").is_file()
    assert hashes(bench.mining("rg").folder) == before


def test_without_an_adapter_or_another_server_the_target_that_trains_it_is_named(
    bench, model, error_line
):
    code = cli.run(sample.main, ["--work", str(bench.work), "--task", "sp", "--limit", "1"])
    line = error_line(bench.capsys.readouterr().err)
    assert code == 2 and "sp_sft holds no adapter; make sft-sp" in line


@pytest.mark.parametrize("left", [b"", b"\x10\0\0\0\0\0\0\0{"])
def test_an_empty_or_torn_adapter_is_one_line(bench, model, error_line, left):
    folder = bench.work / paths.adapter(MODEL, "sp", "sft")
    folder.mkdir(parents=True)
    save_file({"weight": torch.zeros(1)}, folder / adapters.WEIGHTS)
    (folder / adapters.WEIGHTS).write_bytes(left)
    code = cli.run(sample.main, ["--work", str(bench.work), "--task", "sp", "--limit", "1"])
    line = error_line(bench.capsys.readouterr().err)
    assert code == 2 and "holds no weights (empty, or cut off)" in line


def test_a_server_without_the_sampled_model_is_one_line(draw, server, error_line):
    server.models = ("base",)
    code, _, err = draw("rg", "--limit", "1")
    assert code == 2 and "rg-sft" in error_line(err)
