"""A corpus's own replies as predictions: what they are of is told beside them."""

import shutil

import pytest

from data_builders import build
from esc import cli, files, paths, step


@pytest.fixture
def written(tmp_path):
    """From a corpus to the file of its replies."""

    def call(corpus):
        out = tmp_path / "said" / "replies.jsonl"
        build.replies_main(["--esconv", str(corpus), "--out", str(out)])
        return out

    return call


def test_replies_of_the_sample_corpus_alone_carry_the_mark_under_any_name(
    written, small_corpus, tmp_path
):
    assert step.made_beside(written(shutil.copy(paths.SAMPLE, tmp_path / "FailedESConv.json")))
    out = written(small_corpus)
    assert not step.made_beside(out)
    rows = list(files.read_jsonl(out))
    assert rows and all(row["gold_response"] == row["predicted_response"] for row in rows)


def test_the_release_has_its_positions_as_ids_in_any_layout_and_part(written, esconv, hf_folder):
    found = [
        {row["id"] for row in files.read_jsonl(written(corpus))}
        for corpus in (esconv, hf_folder, hf_folder / "test.txt")
    ]
    assert found[0] == found[1] > found[2] and len(found[0]) == 18376
    assert len({name.partition("-")[0] for name in found[2]}) == 195


@pytest.mark.parametrize("name", ["predictions.jsonl", "other.jsonl", "options.json", "own.json"])
def test_what_is_not_its_own_is_not_written_over(small_corpus, written, tmp_path, name):
    files.write_json(tmp_path / "run" / "options.json", {"MODEL": "x"})
    files.write_text(tmp_path / "run" / "predictions.jsonl", "{}\n")
    out = tmp_path / "run" / name
    if name == "own.json":
        # A corpus beside replies.
        out = shutil.copy(small_corpus, written(small_corpus).parent / name)
    before = {path: path.read_bytes() for path in out.parent.iterdir()}
    argv = ["--esconv", str(small_corpus), "--out", str(out)]
    assert cli.run(build.replies_main, argv) == 2
    assert {path: path.read_bytes() for path in out.parent.iterdir()} == before


def test_its_own_replies_are_written_again(written, small_corpus):
    first = written(small_corpus).read_bytes()
    assert written(small_corpus).read_bytes() == first
