"""A corpus file is read value by value, and as the whole of it would be."""

import json

import pytest

from data_builders.corpus import values
from esc.exceptions import CorpusError

PARTS = [
    "1",
    "-2.5e3",
    "12",
    '"a\\u2028b [,] \\ud83d"',
    "{}",
    "[]",
    '{"a": [1, {"b": "}"}]}',
    "null",
]
SPACED = " \n[ " + " ,\r\n\t".join(PARTS) + " ]\n"


@pytest.mark.parametrize("text", [SPACED, f"[{','.join(PARTS)}]", "[]", "[ ]", "[[[]]]"])
def test_an_array_gives_what_it_gives_as_a_whole(tmp_path, text):
    path = tmp_path / "c.json"
    path.write_text(text, newline="")
    assert list(values(path)) == json.loads(text)


@pytest.mark.parametrize(
    "text",
    [
        "[",
        "[1",
        "[1,",
        "[1 2]",
        '[1,\n{"a" 1}]',
        "[1,]",
        '["a',
        '["a\n"]',
        "[1]\n 2",
        "[tru]",
        '["\\x"]',
    ],
)
def test_a_broken_array_is_told_at_the_place_where_it_breaks(tmp_path, text):
    path = tmp_path / "c.json"
    path.write_text(text)
    with pytest.raises(json.JSONDecodeError) as whole:
        json.loads(text)
    with pytest.raises(CorpusError) as told:
        list(values(path))
    assert f"(line {whole.value.lineno}, column {whole.value.colno}, after " in str(told.value)


def test_a_broken_line_is_told_with_its_number(tmp_path):
    path = tmp_path / "c.txt"
    path.write_text('{"a": 1}\n\n{"a": \n')
    with pytest.raises(CorpusError, match=r"\(line 3, column 7, after 1 dialogues: "):
        list(values(path))


@pytest.mark.parametrize("before", [b"", b'["' + "\u00e9".encode() * 5 + b'", "'])
@pytest.mark.parametrize("bad", [b"\xff", b"\xc3", b"\xe2\x80"])
def test_a_byte_that_is_no_text_is_told(tmp_path, before, bad):
    path = tmp_path / "c.json"
    path.write_bytes(before + bad)
    with pytest.raises(CorpusError, match=f"is not UTF-8 text: byte {len(before)}$"):
        list(values(path))


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("[{},\n %s]", "line 2, column 2"),
        ('{}\n{"a": %s}\n', "line 2, column 1"),
    ],
    ids=["array", "lines"],
)
def test_an_integer_of_too_many_digits_is_told_with_its_dialogue(tmp_path, text, place):
    path = tmp_path / "c.json"
    path.write_text(text % ("9" * 5000))
    told = rf"\({place}, after 1 dialogues: Exceeds the limit \(4300 digits\)\)$"
    with pytest.raises(CorpusError, match=told):
        list(values(path))


def test_a_fraction_of_as_many_digits_is_read(tmp_path):
    path = tmp_path / "c.json"
    path.write_text(f"[{'9' * 300}{'0' * 5000}.5e-5200]")
    assert list(values(path)) == json.loads(path.read_text())


@pytest.mark.parametrize("text", ["[1, 2]", "1\n2\n"])
def test_a_mark_of_the_byte_order_is_no_value(tmp_path, text):
    path = tmp_path / "c.json"
    path.write_text(text, encoding="utf-8-sig")
    assert list(values(path)) == [1, 2]
