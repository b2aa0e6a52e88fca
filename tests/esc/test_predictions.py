"""Predictions as people have them: read where nothing is lost, else one line that says why."""

import csv
import io
import json

import pytest

from esc.files import EscError
from esc.predictions import complete_runs, read_predictions

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


def as_lines(rows, missing=None):
    made = ({k: missing if one is None else one for k, one in row.items()} for row in rows)
    return "".join(json.dumps(row) + "\n" for row in made)


COLUMNS = {name: {str(k): row[name] for k, row in enumerate(ROWS)} for name in ROWS[0]}
FORMS = {
    "comma.csv": as_csv(),
    "tab.tsv": as_csv("\t"),
    "mark.csv": "\ufeff" + as_csv(";"),
    "mark.jsonl": "\ufeff" + as_lines(ROWS),
    "nan.jsonl": as_lines(ROWS, float("nan")),
    "array.json": json.dumps(ROWS, indent=2),
    "text_nan.jsonl": as_lines(ROWS, "NaN"),
    "columns.json": json.dumps(COLUMNS),
}


@pytest.fixture
def read(tmp_path):
    def call(name, text):
        (tmp_path / name).write_text(text)
        return read_predictions(tmp_path / name)

    return call


@pytest.mark.parametrize("name", list(FORMS))
def test_every_form_of_a_file_is_read_alike(read, name, capsys):
    (first, second), numbered = read(name, FORMS[name])
    assert numbered == 0 and (first.id, first.reply, second.reply) == ("12-0", "A reply.", None)
    assert (first.strategy, first.gold) == ("(not given)", ROWS[0]["GT_content"])
    assert "predicted_response 'predict_content'" in capsys.readouterr().out


def test_what_llamafactory_generated_is_read_under_the_names_it_has(read, capsys):
    rows = [
        {"prompt": "user\nI am low.", "predict": "I hear you.", "label": "Why?", "n": 1},
        {"prompt": "low", "predict": "[Others] I hear you.", "label": "[Question] Why?"},
        {"prompt": "low", "response": "I hear you.", "label": "[Question] Why?"},
    ]
    found, numbered = read("generated_predictions.jsonl", as_lines(rows))
    assert [one.strategy for one in found] == ["(not given)", "Others", "(not given)"]
    assert {(one.reply, one.gold) for one in found} == {("I hear you.", "Why?")}
    assert found[0].seeker == "user\nI am low." and numbered == 3
    told = capsys.readouterr().out
    read = "context 'prompt'; gold_response 'label'; predicted_response 'predict'; not read: 'n'"
    assert read in told


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
        ("a.json", json.dumps(COLUMNS | {"id": {"0": "1-0"}}), "its id is neither"),
        ("a.jsonl", as_lines([ROWS[0] | {"id": 47.1}]), "its id is neither .*; write ids as text"),
        ("a.jsonl", as_lines([ROWS[0]] * 2), r"row 1 \(from 0\): id '12-0' is there twice"),
        ("a.jsonl", '{"id": 1}\n{"x": ' + "[" * 100_000, "line 2: not JSON"),
        ("a.json", '[{"id": "1"}, {"id": %s}]' % ("9" * 5000), "not JSON"),
        ("a.jsonl", '{"id": "\\ud83d", "x": NaN}', "not JSON"),
        ("a.jsonl", '{"id": "1", "x": Infinity}', "not JSON"),
        ("a.json", "{}", "neither a prediction"),
        ("a.jsonl", "", "is empty"),
    ],
)
def test_what_would_lose_something_is_one_line(read, name, text, told):
    with pytest.raises(EscError, match=told) as error:
        read(name, text)
    assert "\n" not in str(error.value)


def test_complete_runs_are_those_with_their_facts_and_the_others_are_told(tmp_path, capsys):
    with pytest.raises(EscError, match="make predict"):
        complete_runs(tmp_path, "qwen2.5-7b")
    for name in ("b_sft", "a_sft", "half"):
        folder = tmp_path / "runs" / "qwen2.5-7b" / name
        folder.mkdir(parents=True)
        (folder / "predictions.jsonl").touch()
        if name != "half":
            (folder / "run.json").touch()
    assert [folder.name for folder in complete_runs(tmp_path, "qwen2.5-7b")] == ["a_sft", "b_sft"]
    assert "half/predictions.jsonl is not complete and left out" in capsys.readouterr().out
