"""Prediction and comparison through batch files: the records are those of a live run."""

import shutil

import pytest
from batches import play, requests
from faulty_server import NO_ROUTE, TOKENIZE, FaultyServer
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
        server.routes = {TOKENIZE: NO_ROUTE}
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
    run_predict, tmp_path, server, system, rounds
):
    folder = tmp_path / paths.run(MODEL, system, "base")
    assert run_predict(system=system)[0] == 0
    live = (folder / "predictions.jsonl").read_bytes()
    shutil.rmtree(folder)
    for _ in range(rounds):
        code, _, err = run_predict("--batch", "write", system=system)
        assert code == cli.WAITING, err
        assert not (folder / "predictions.jsonl").exists()
        assert play(folder / "batch", answer) == 1
        code, _, err = run_predict("--batch", "read", system=system)
    assert code == 0
    assert (folder / "predictions.jsonl").read_bytes() == live


def test_both_orders_of_a_pair_are_asked(tmp_path):
    a = save(tmp_path / "a" / "predictions.jsonl", rows()[:3])
    b = save(tmp_path / "b" / "predictions.jsonl", rows(predicted_response="another")[:3])
    out = tmp_path / "out"
    argv = ["--a", str(a), "--b", str(b), "--out", str(out), "--judge", "m"]
    for shards in (1, 2):
        assert cli.run(pairwise.main, [*argv, "--batch", "write"]) == cli.WAITING
        asked = [requests(path) for path in (out / "batch").glob("*.requests.jsonl")]
        assert [len(one) for one in asked] == [3] * shards
        play(out / "batch", lambda body: '{"Better reply": "tie", "Reason": "alike"}')
    assert cli.run(pairwise.main, [*argv, "--batch", "read"]) == 0
    assert len(list(files.read_jsonl(out / "comparisons.jsonl"))) == 3
