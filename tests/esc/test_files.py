import codecs
import errno
import subprocess

import pytest

from esc import files
from esc.files import EscError


def test_a_writer_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("old")
    with pytest.raises(OSError, match="full"), files.atomic_writer(path) as stream:
        stream.write(b"new")
        raise OSError(errno.ENOSPC, "full")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_facts_of_a_written_file_are_those_of_its_bytes_and_its_rows_come_back(tmp_path):
    path, rows = tmp_path / "a.jsonl", [{"a": "é"}, {"a": 2}]
    with files.atomic_writer(path) as stream:
        writer = files.JsonlWriter(stream)
        for row in rows:
            writer.write(row)
    size = path.stat().st_size
    facts = files.Written(rows=2, bytes=size, sha256=files.sha256(path))
    assert writer.facts() == facts and list(files.read_jsonl(path)) == rows
    path.write_bytes(codecs.BOM_UTF8 + path.read_bytes())
    assert list(files.read_jsonl(path)) == rows


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": "\\ud83d"}', "surrogates not allowed"),
        (b'{"a": ' + b"9" * 5000 + b"}", "Exceeds the limit"),
        (b'{"a": ' + b"[" * 100_000, "recursion"),
        (b"[1]", "holds a list, not a JSON object"),
        (b'{"a"', "is not JSON: .* line 1"),
        (b'"\xff"', "is not JSON: 'utf-8' codec can't decode"),
    ],
)
def test_a_json_file_that_is_no_object_of_ours_is_one_line(tmp_path, content, message):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(EscError, match=f"a.json .*{message}"):
        files.read_json(path)
    path.write_bytes(b"{}\n\n" + content)
    with pytest.raises(EscError, match=r"a\.json, line 3: not"):
        list(files.read_jsonl(path))


def test_differences_name_each_option_with_both_values():
    old = {"LIMIT": 2, "SPLIT": "paper", "recipe": {"lr": 1, "same": 0}}
    new = {"LIMIT": None, "SPLIT": "paper", "recipe": {"lr": 2, "same": 0}, "added": "a" * 64}
    assert files.differences(old, new) == [
        "LIMIT 2 -> unset",
        "recipe.lr 1 -> 2",
        "added unset -> aaaaaaaaaaaa…",
    ]


def test_what_a_killed_writer_left_is_removed_and_another_at_work_is_left_alone(tmp_path):
    below, without = tmp_path / "below", tmp_path / "without"
    without.mkdir()
    left = without / ".sets.jsonl.abc.tmp"
    left.write_text("half")
    with files.exclusive(below), files.atomic_writer(below / "rows.jsonl") as stream:
        with files.exclusive(tmp_path):
            assert not left.exists()
        stream.write(b"whole")
    assert (below / "rows.jsonl").read_bytes() == b"whole"


def test_a_child_that_inherits_the_lock_holds_it_beyond_its_parents_death(tmp_path):
    with files.exclusive(tmp_path) as lock:
        child = subprocess.Popen(["sleep", "60"], pass_fds=[lock])
    with pytest.raises(EscError, match="another process"), files.exclusive(tmp_path, patience=0):
        pass
    child.kill()
    with files.exclusive(tmp_path, patience=60):
        pass
    child.wait()
