"""Sampling over HTTP: what is asked, of whom, what is kept, and that a kill loses nothing."""

import shutil

import pytest
from faulty_server import SERVER_ERROR, TOO_LONG, TRUNCATED, FaultyServer

from esc import adapters, files, paths
from esc.llm import derived_seed
from esc.paths import EMBEDDED, Lineage
from mining import sample


@pytest.fixture
def server():
    with FaultyServer(models=("sp-sft", "rg-sft", "vanilla-sft", "rg-dpo-ipo")) as server:
        server.answer = lambda request: f"reply to seed {request.body['seed']}"
        yield server


@pytest.fixture
def draw(bench, server, model):
    """Exit code, stdout and stderr of sampling a task from the server."""
    url = ("--base-url", server.url)
    return lambda task, *options: bench.run(sample.main, "--task", task, *url, *options)


def samples(bench, task="rg"):
    return list(files.read_jsonl(bench.mining(task).folder / "samples.jsonl"))


def test_the_generator_gives_three_replies_to_each_turn_each_of_a_seed_of_its_own(
    draw, bench, server
):
    assert draw("rg", "--limit", "2")[0] == 0
    turns, rows = bench.turns(2), samples(bench)
    assert [(row["id"], row["sample"], row["strategy"]) for row in rows] == [
        (turn.id, index, turn.strategy) for turn in turns for index in range(3)
    ]
    for row in rows:
        assert row["seed"] == derived_seed(row["id"], row["sample"])
        assert row["text"] == f"reply to seed {row['seed']}"
    bodies = [request.body for request in server.chats()]
    assert {(body["temperature"], body["top_p"]) for body in bodies} == {(0.7, 0.95)}
    assert len({body["seed"] for body in bodies}) == len(bodies)
    told = {body["messages"][0]["content"] for body in bodies}
    assert all(any(turn.strategy.value in text for text in told) for turn in turns)


@pytest.mark.parametrize(
    ("task", "said", "strategy", "response"),
    [
        ("sp", "Question", "Question", None),
        ("rg", "And you?", None, "And you?"),
        ("vanilla", "[Question] And you?", "Question", "And you?"),
    ],
)
def test_an_answer_is_taken_apart_without_what_was_thought(
    draw, bench, server, task, said, strategy, response
):
    server.answer = lambda request: f"<think>\n[Others]?\n</think>\n\n{said}"
    server.script = [TRUNCATED]
    out = draw(task, "--limit", "1", "--decode", "free")[1]
    assert "1 cut at the length limit" in out
    assert f"{int(task != 'rg')} without a strategy that parses" in out
    cut, *rows = sorted(samples(bench, task), key=lambda row: not row["truncated"])
    assert cut["truncated"] and cut["strategy"] in (None, cut["gold_strategy"])
    for row in rows:
        assert (row["text"], row["response"]) == (said, response)
        assert row["strategy"] == (strategy or row["gold_strategy"])


def test_what_failed_is_counted_and_alone_asked_again(draw, bench, server):
    turn = bench.turns(2)[0]
    server.always = {turn.seeker: SERVER_ERROR}
    code, out, _ = draw("rg", "--limit", "2")
    failed = [row for row in samples(bench) if row["status"] == "failed"]
    assert code == 1 and turn.id in {row["id"] for row in failed} and "asks again" in out
    assert not (bench.mining("rg").folder / "run.json").exists()
    server.always, before = {}, len(server.chats())
    assert draw("rg", "--limit", "2")[0] == 0
    assert len(server.chats()) == before + len(failed)


def test_a_turn_that_is_too_long_for_good_does_not_block_the_others(draw, bench, server):
    server.answer = lambda request: TOO_LONG
    done = bench.mining("rg").folder / "run.json"
    assert draw("rg", "--limit", "2")[0] == 1 and not done.exists()
    server.answer, server.always = lambda request: "And you?", {bench.turns(2)[0].seeker: TOO_LONG}
    assert draw("rg", "--limit", "2")[0] == 0 and files.read_json(done)["failed"]


def test_the_same_command_does_nothing_and_other_options_take_force(draw, server, error_line):
    draw("rg", "--limit", "1")
    before = len(server.log)
    assert "nothing to do" in draw("rg", "--limit", "1")[1] and len(server.log) == before
    assert "LIMIT 1 -> 2" in error_line(draw("rg", "--limit", "2")[2])
    seeds, asked = {r.body["seed"] for r in server.chats()}, len(server.chats())
    assert draw("rg", "--limit", "2", "--force")[0] == 0
    assert not seeds & {request.body["seed"] for request in server.chats()[asked:]}


def test_killed_while_sampling_it_goes_on_to_the_same_bytes(draw, bench, server, killed):
    folder = bench.mining("rg").folder
    argv = ["--work", str(bench.work), "--task", "rg", "--limit", "4", "--base-url", server.url]
    stored = {row["seed"] for row in killed(server, folder, "sample", *argv)}
    before = len(server.chats())
    assert draw("rg", "--limit", "4")[0] == 0
    assert stored and not stored & {request.body["seed"] for request in server.chats()[before:]}
    whole = (folder / "samples.jsonl").read_bytes()
    shutil.rmtree(folder)
    assert draw("rg", "--limit", "4")[0] == 0
    assert (folder / "samples.jsonl").read_bytes() == whole


def test_a_second_round_samples_the_models_of_the_first_into_a_folder_of_its_own(
    draw, bench, server, hashes
):
    draw("rg", "--limit", "1")
    before = hashes(bench.mining("rg").folder)
    code, _, _ = draw("rg", "--limit", "1", "--variant", "ipo", "--round", "2")
    assert code == 0 and {"rg-sft", "rg-dpo-ipo"} == {r.body["model"] for r in server.chats()}
    second = bench.work / paths.mining(EMBEDDED, Lineage("ipo", 2))
    assert second.name == "mining_ipo_r2" and (second / "rg" / "samples.jsonl").is_file()
    assert hashes(bench.mining("rg").folder) == before


def test_an_adapter_a_task_or_a_server_that_is_none_is_one_line(
    bench, draw, server, model, error_line
):
    def refused(*options):
        return error_line(bench.run(sample.main, "--limit", "1", "--task", *options)[2])

    assert "sp_sft holds no adapter; make sft-sp" in refused("sp")
    folder = bench.work / paths.adapter(EMBEDDED, "sp", "sft")
    folder.mkdir(parents=True)
    (folder / adapters.WEIGHTS).write_bytes(b"\x10\0\0\0\0\0\0\0{")
    assert "sp_sft holds no adapter; make sft-sp" in refused("sp")
    assert "TASK=sd is none of sp, rg, vanilla" in refused("sd")
    server.models = ("base",)
    assert "rg-sft" in refused("rg", "--base-url", server.url)
