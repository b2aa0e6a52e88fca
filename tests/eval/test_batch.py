"""Prediction and comparison through batch files: the records are those of a live run."""

import shutil

import pytest
from batches import play, requests
from faulty_server import FaultyServer
from predicted import rows, save

from esc import cli, files, paths
from eval import pairwise, predict

MODEL = "smollm2-135m"


def answer(body):
    """A strategy to a planner, else a reply that the chat decides."""
    if body["max_tokens"] < 100:
        return "Question"
    return f"reply {sum(len(message['content']) for message in body['messages'])}"


@pytest.fixture
def server():
    with FaultyServer(models=("base",)) as server:
        server.answer = lambda request: answer(request.body)
        # As an endpoint that is no vLLM: there, a planner's distribution is null.
        server.tokenizes = False
        yield server


@pytest.fixture
def run_predict(sample_work, tmp_path, server, capsys, model):
    shutil.copytree(sample_work / "data", tmp_path / "data")

    def call(*options, system="decoupled"):
        argv = ["--work", str(tmp_path), "--stage", "base", "--system", system, "--limit", "1"]
        argv += ["--decode", "free", "--base-url", server.url]
        code = cli.run(predict.main, [*argv, *options])
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return call


@pytest.mark.parametrize(("system", "rounds"), [("decoupled", 2), ("self-refine", 3)])
def test_a_system_of_several_steps_takes_as_many_rounds(
    run_predict, tmp_path, system, rounds, monkeypatch
):
    monkeypatch.setattr("esc.llm_batch.Written._script", lambda *_: None)
    folder = tmp_path / paths.run(MODEL, system, "base")
    assert run_predict(system=system)[0] == 0
    live = (folder / "predictions.jsonl").read_bytes()
    shutil.rmtree(folder)
    for _ in range(rounds):
        code, _, err = run_predict("--batch", "write", system=system)
        assert code == cli.WAITING, err
        assert not (folder / "predictions.jsonl").exists()
        assert play(folder / "batch", answer) == 1
    assert run_predict("--batch", "read", system=system)[0] == 0
    assert (folder / "predictions.jsonl").read_bytes() == live


def test_a_batch_differs_from_a_server_of_this_kit_in_the_distribution_alone(
    run_predict, tmp_path, server, monkeypatch
):
    monkeypatch.setattr("esc.llm_batch.Written._script", lambda *_: None)
    folder = tmp_path / paths.run(MODEL, "decoupled", "base")
    server.tokenizes = True
    assert run_predict()[0] == 0
    live = list(files.read_jsonl(folder / "predictions.jsonl"))
    shutil.rmtree(folder)
    for _ in range(2):
        run_predict("--batch", "write")
        play(folder / "batch", answer)
    assert run_predict("--batch", "read")[0] == 0
    batch = list(files.read_jsonl(folder / "predictions.jsonl"))
    assert all(row.pop("distribution") for row in live)
    assert {row.pop("distribution") for row in batch} == {None} and batch == live


def test_the_script_has_the_servers_flags_and_reading_between_steps_says_what_is_next(
    run_predict, tmp_path
):
    run_predict("--batch", "write")
    folder = tmp_path / paths.run(MODEL, "decoupled", "base") / "batch"
    script = (folder / "run.sh").read_text()
    assert "--served-model-name base" in script and "--chat-template chat_template.jinja " in script
    # For machines with a GPU: what is for the CPU alone is left out.
    assert (folder / "chat_template.jinja").is_file() and "on_cpu" not in script
    play(folder, answer)
    code, _, err = run_predict("--batch", "read")
    assert code == cli.WAITING and "are in no open shard: BATCH=write writes them" in err


def test_both_orders_of_a_pair_are_asked(tmp_path, capsys):
    a = save(tmp_path / "a" / "predictions.jsonl", rows()[:3])
    b = save(tmp_path / "b" / "predictions.jsonl", rows(predicted_response="another")[:3])
    out = tmp_path / "out"
    argv = ["--a", str(a), "--b", str(b), "--out", str(out), "--judge", "m"]
    verdict = '{"Better reply": "tie", "Reason": "alike"}'
    for shards in (1, 2):
        assert cli.run(pairwise.main, [*argv, "--batch", "write"]) == cli.WAITING
        asked = [requests(path) for path in (out / "batch").glob("*.requests.jsonl")]
        assert [len(one) for one in asked] == [3] * shards
        play(out / "batch", lambda body: verdict)
    assert cli.run(pairwise.main, [*argv, "--batch", "read"]) == 0
    assert len(list(files.read_jsonl(out / "comparisons.jsonl"))) == 3
    capsys.readouterr()
