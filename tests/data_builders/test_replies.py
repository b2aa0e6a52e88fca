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


def ids(path):
    return {row["id"] for row in files.read_jsonl(path)}


def test_the_release_has_its_positions_as_ids_in_any_layout_and_part(
    written, esconv, esconv_folder, tmp_path
):
    hf = tmp_path / "hf"
    hf.mkdir()
    for name in ("train", "valid", "test"):
        (hf / f"{name}.txt").symlink_to(esconv_folder / f"hf_{name}.txt")
    of_release = ids(written(esconv))
    assert ids(written(hf)) == of_release and len(of_release) == 18376
    part = {row["id"]: row["gold_response"] for row in files.read_jsonl(written(hf / "test.txt"))}
    assert part.keys() < of_release and len({name.partition("-")[0] for name in part}) == 195


@pytest.fixture
def refused(small_corpus, capsys):
    """The one line that refuses an --out; what was there stays."""

    def call(out, corpus=small_corpus):
        folder = out.parent
        before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
        argv = ["--esconv", str(corpus), "--out", str(out)]
        assert cli.run(build.replies_main, argv) == 2
        assert {path: path.read_bytes() for path in before} == before
        return capsys.readouterr().err

    return call


def test_a_corpus_is_not_written_over(written, refused, small_corpus):
    assert "was not written by this step" in refused(small_corpus)
    inside = shutil.copy(small_corpus, written(small_corpus).parent / "own.json")
    assert "was not written by this step" in refused(inside, inside)


@pytest.mark.parametrize("name", ["predictions.jsonl", "other.jsonl", "options.json"])
def test_neither_records_nor_options_of_a_run_are_written_over(refused, tmp_path, name):
    files.write_json(tmp_path / "run" / "options.json", {"MODEL": "x"})
    files.write_text(tmp_path / "run" / "predictions.jsonl", "{}\n")
    refused(tmp_path / "run" / name)


def test_its_own_replies_are_written_again(written, small_corpus):
    first = written(small_corpus).read_bytes()
    assert written(small_corpus).read_bytes() == first
