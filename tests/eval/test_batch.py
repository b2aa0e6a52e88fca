"""Prediction and comparison through batch files: the records are those of a live run."""

import shutil

from batches import play, requests
from faulty_server import NO_ROUTE, TOKENIZE, FaultyServer
from predicted import rows, save

from esc import cli, files, paths
from eval import pairwise, predict


def answer(body):
    """A reply that the chat decides."""
    return f"reply {sum(len(message['content']) for message in body['messages'])}"


def test_a_system_of_several_steps_takes_as_many_rounds(sample_work, tmp_path, capsys, model):
    shutil.copytree(sample_work / "data", tmp_path / "data")
    folder = tmp_path / paths.run("smollm2-135m", "self-refine", "base")
    argv = ["--work", str(tmp_path), "--stage", "base", "--system", "self-refine", "--limit", "1"]
    with FaultyServer(models=("base",)) as server:
        server.answer = lambda request: answer(request.body)
        # As an endpoint that is no vLLM: there, a planner's distribution is null.
        server.routes = {TOKENIZE: NO_ROUTE}
        argv += ["--decode", "free", "--base-url", server.url]
        assert cli.run(predict.main, argv) == 0
        live = (folder / "predictions.jsonl").read_bytes()
        shutil.rmtree(folder)
        for _ in range(3):
            assert cli.run(predict.main, [*argv, "--batch", "write"]) == cli.WAITING
            assert not (folder / "predictions.jsonl").exists()
            assert play(folder / "batch", answer) == 1
            code = cli.run(predict.main, [*argv, "--batch", "read"])
    assert code == 0 and (folder / "predictions.jsonl").read_bytes() == live


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
