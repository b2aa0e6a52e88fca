"""Prediction through batch files: the records are those of a live run."""

import shutil

from batches import play
from faulty_server import NO_ROUTE, TOKENIZE, FaultyServer

from esc import cli, paths
from eval import predict


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
