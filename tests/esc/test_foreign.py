"""Predictions as people have them: read where nothing is lost, else one line that says why."""

import csv
import io
import json

import pytest

from esc.exceptions import EscError
from esc.predictions import read_predictions

ROWS = [
    {
        "id": f"12-{turn}",
        "GT_strategy": "Question",
        "predict_strategy": strategy,
        "GT_content": f'Gold words, number {turn}: "so", and more.',
        "predict_content": reply,
    }
    for turn, (strategy, reply) in enumerate([(None, "A reply."), ("Others", None)])
]


def as_csv(delimiter=","):
    stream = io.StringIO()
    writer = csv.DictWriter(stream, ["", *ROWS[0]], delimiter=delimiter)
    writer.writeheader()
    writer.writerows({"": number} | row for number, row in enumerate(ROWS))
    return stream.getvalue()


def as_lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def nan(value):
    return float("nan") if value is None else value


COLUMNS = {name: {str(k): row[name] for k, row in enumerate(ROWS)} for name in ROWS[0]}
FORMS = {
    "comma.csv": as_csv(),
    "semicolon.csv": as_csv(";"),
    "tab.tsv": as_csv("\t"),
    "mark.csv": "\ufeff" + as_csv(),
    "mark.jsonl": "\ufeff" + as_lines(ROWS),
    "nan.jsonl": as_lines({name: nan(value) for name, value in row.items()} for row in ROWS),
    "nan.json": json.dumps([{name: nan(value) for name, value in row.items()} for row in ROWS]),
    "text_nan.jsonl": as_lines(
        {name: "NaN" if value is None else value for name, value in row.items()} for row in ROWS
    ),
    "columns.json": json.dumps(COLUMNS),
    "indented.json": json.dumps(COLUMNS, indent=2),
}


@pytest.fixture
def read(tmp_path):
    def call(name, text):
        (tmp_path / name).write_text(text)
        return read_predictions(tmp_path / name)

    return call


@pytest.mark.parametrize("name", list(FORMS))
def test_every_form_of_a_file_is_read_alike(read, name, capsys):
    expected = read("plain.jsonl", as_lines(ROWS))
    assert read(name, FORMS[name]) == expected
    (first, second), numbered = expected
    assert numbered == 0 and (first.reply, second.reply) == ("A reply.", None)
    assert (first.strategy, first.gold) == ("(not given)", ROWS[0]["GT_content"])
    assert "reply 'predict_content'" in capsys.readouterr().out


def test_whole_numbers_that_a_table_made_fractions_are_ids(read):
    found, numbered = read(
        "a.jsonl", as_lines(row | {"id": float(k)} for k, row in enumerate(ROWS))
    )
    assert ([one.id for one in found], numbered) == (["0", "1"], 0)


@pytest.mark.parametrize("given", [47.1, 1e20, 10**30, True])
def test_an_id_that_lost_something_is_one_line(read, given):
    with pytest.raises(
        EscError, match=r"row 0 \(from 0\): its id is neither .*; write ids as text"
    ):
        read("a.jsonl", as_lines([ROWS[0] | {"id": given}]))


def test_what_llamafactory_generated_is_read_under_the_names_it_has(read, capsys):
    rows = [{"prompt": "user\nI am low.", "predict": "I hear you.", "label": "Why?", "n": 1}]
    (found,), numbered = read("generated_predictions.jsonl", as_lines(rows))
    assert (found.reply, found.gold, found.seeker) == ("I hear you.", "Why?", "user\nI am low.")
    assert numbered == 1
    told = capsys.readouterr().out
    assert "conversation 'prompt'; gold reply 'label'; reply 'predict'; not read: 'n'" in told


def test_tags_of_what_llamafactory_generated_are_its_strategies(read):
    rows = [
        {"prompt": "low", "predict": "[Others] I hear you.", "label": "[Question] Why?"},
        {"prompt": "low", "predict": "I hear you.", "label": "[Question] Why?"},
    ]
    found, _ = read("generated_predictions.jsonl", as_lines(rows))
    assert [(one.strategy, one.reply, one.gold) for one in found] == [
        ("Others", "I hear you.", "Why?"),
        ("(not given)", "I hear you.", "Why?"),
    ]


def test_prompt_and_response_are_a_conversation_and_a_reply(read, capsys):
    (found,), _ = read("a.jsonl", as_lines([{"prompt": "I am low.", "response": "I hear you."}]))
    assert (found.reply, found.gold, found.seeker) == ("I hear you.", None, "I am low.")
    assert "conversation 'prompt'; reply 'response'" in capsys.readouterr().out


def test_a_record_of_this_kit_is_read_as_it_stands(read, capsys):
    ours = {"id": "1-0", "context": {"history": [], "seeker": "hi"}, "status": "ok"}
    ours |= {"predicted_strategy": "Others", "predicted_response": "none", "response": "another"}
    (found,), _ = read("a.jsonl", as_lines([ours]))
    assert found.reply == "none" and capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("a.csv", "id,id,predict_content\n1,2,x\n", "two columns are named 'id'"),
        ("a.csv", "id,predict_content\n1,I hear, you\n", "row 2 of the sheet: 3 cells under 2"),
        ("a.csv", "id,words\n1,x\n", "its columns are id, words: rename"),
        ("a.csv", "", "is empty"),
        (
            "a.json",
            json.dumps(COLUMNS | {"id": {"0": "1-0"}}),
            "column 'id' has other rows|to_json",
        ),
        ("a.jsonl", '{"id": ' + "[" * 100_000, "line 1: not JSON"),
        ("a.json", '[{"id": ' + "[" * 100_000, "no JSON array, row 0"),
        ("a.json", '[{"id": "1"}, {"id": %s}]' % ("9" * 5000), "no JSON array, row 1"),
        ("a.jsonl", '{"id": "\\ud83d", "x": NaN}', "line 1: not JSON"),
    ],
)
def test_what_would_lose_something_is_one_line(read, name, text, told):
    with pytest.raises(EscError, match=told) as error:
        read(name, text)
    assert "\n" not in str(error.value)
