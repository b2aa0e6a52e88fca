"""A corpus's own replies as predictions: what they are of is told beside them."""

import shutil

import pytest

from data_builders import replies
from esc import files, paths, smoke


@pytest.fixture
def written(tmp_path):
    """From a corpus to the file of its replies."""

    def call(corpus):
        out = tmp_path / "said" / "replies.jsonl"
        replies.main(["--esconv", str(corpus), "--out", str(out)])
        return out

    return call


def test_replies_of_the_sample_corpus_carry_the_mark_under_any_name(written, tmp_path):
    assert smoke.made_beside(written(shutil.copy(paths.SAMPLE, tmp_path / "FailedESConv.json")))


def test_replies_of_another_corpus_do_not(written, small_corpus):
    assert not smoke.made_beside(written(small_corpus))


def test_every_reply_is_gold_and_predicted(written, small_corpus):
    rows = list(files.read_jsonl(written(small_corpus)))
    assert rows and all(row["gold_response"] == row["predicted_response"] for row in rows)
