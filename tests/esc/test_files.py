import errno

import pytest

from esc import files
from esc.exceptions import EscError


def test_a_writer_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("old")
    with pytest.raises(OSError, match="full"), files.atomic_writer(path) as stream:
        stream.write(b"new")
        raise OSError(errno.ENOSPC, "full")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_facts_of_a_written_file_are_those_of_its_bytes(tmp_path):
    path = tmp_path / "a.jsonl"
    with files.atomic_writer(path) as stream:
        writer = files.JsonlWriter(stream)
        writer.write({"a": "é"})
        writer.write({"a": 2})
    facts = writer.facts()
    assert (facts.rows, facts.bytes, facts.sha256) == (2, path.stat().st_size, files.sha256(path))
    assert list(files.read_jsonl(path)) == [{"a": "é"}, {"a": 2}]


@pytest.mark.parametrize(
    ("content", "message"),
    [(b'{"a": 1}\n{"a"', "line 2: not JSON"), (b"[1]\n", "line 1: not a JSON object")],
)
def test_a_broken_row_is_named_by_file_and_line(tmp_path, content, message):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    with pytest.raises(EscError, match=f"rows.jsonl, {message}"):
        list(files.read_jsonl(path))


def test_differences_name_each_option_with_both_values():
    old = {"LIMIT": 2, "SPLIT": "paper", "gone": 1}
    new = {"LIMIT": None, "SPLIT": "paper", "added": "x"}
    assert files.differences(old, new) == [
        "LIMIT 2 -> unset",
        "gone 1 -> unset",
        "added unset -> x",
    ]


def test_a_second_writer_of_a_folder_is_refused(tmp_path):
    with (
        files.exclusive(tmp_path),
        pytest.raises(EscError, match="another process"),
        files.exclusive(tmp_path),
    ):
        pass


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("x")
    with (
        pytest.raises(EscError, match=r"cannot be made .* choose another WORK"),
        files.exclusive(tmp_path / "file" / "data"),
    ):
        pass


def test_what_a_killed_writer_left_is_removed(tmp_path):
    (tmp_path / ".sets.jsonl.abc.tmp").write_text("half")
    with files.exclusive(tmp_path):
        assert not list(tmp_path.glob("*.tmp")) and not list(tmp_path.glob(".*.tmp"))
