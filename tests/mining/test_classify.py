"""Classifying predictions over HTTP: every record has a row, and every mistake is one line."""

import json

import pytest
from faulty_server import FaultyServer
from predicted import left_by_predict, quoted
from predicted import row as predicted

from esc import cli, files
from esc.psych_errors import PsychError
from mining import classify

FAILED = {**predicted(7, 6), "status": "failed", "failure": {"kind": "timeout"}}
FAILED = {name: one for name, one in FAILED.items() if not name.startswith("predicted")}


def prediction(name, reply, **more):
    return predicted(7, 0, id=name, predicted_response=reply, **more)


def said(error, contains=None):
    contains = contains or ("No" if error == "None" else "Yes")
    labels = {"Contains Empathy Error": contains, "Error Type": error}
    why = {"Brief Explanation": "because", "Improvement Suggestion": "say more"}
    return json.dumps(labels | why)


@pytest.fixture
def server():
    """A judge that says of a reply what ``server.says`` has for it, else that it is fine."""
    with FaultyServer() as server:
        server.says = {}
        server.answer = lambda request: server.says.get(quoted(request)["reply"], said("None"))
        yield server


@pytest.fixture
def run(tmp_path, server, capsys):
    """Exit code, stdout, stderr and the folder of a run over rows, or over a file's bytes."""

    def call(rows, *options, judge="m"):
        argv = ["--judge", judge]
        argv += [] if judge == "random" else ["--judge-base-url", server.url]
        out, path = tmp_path / "out", tmp_path / "predictions.jsonl"
        if rows is not None:
            content = "\n".join(map(json.dumps, rows)) if isinstance(rows, list) else rows
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
            argv += ["--predictions", str(path), "--out", str(out)]
        code = cli.run(classify.main, [*argv, *options])
        shown = capsys.readouterr()
        return code, shown.out, shown.err, out

    return call


def errors(out):
    return list(files.read_jsonl(out / "errors.jsonl"))


def shares(out):
    return files.read_json(out / "proportions.json")


def counts(out):
    return {name: one["count"] for name, one in shares(out)["errors"].items() if one["count"]}


def test_every_record_has_a_row_and_what_is_no_verdict_is_outside_the_shares(run, server):
    server.says = {
        "buck up": said("Premature Early Emotion Shift"),
        "a": "I would rather not say",
        "b": said("Rudeness"),
        "c": said("None", contains="Yes"),
    }
    rows = [prediction(f"7-{k}", text) for k, text in enumerate([*server.says, "I see", "  "])]
    rows += [FAILED, prediction("7-7", None, status="invalid")]
    code, out, _, folder = run(rows)
    assert code == 0 and "SMOKE" not in out and "unscored    1 label not offered" in out
    first = {"id": "7-0", "error": "Early Emotion Shift", "status": "scored", "judge": "m"}
    first |= {"reason": None, "detail": None, "explanation": "because", "suggestion": "say more"}
    assert errors(folder)[0] == first
    found = shares(folder)
    assert (found["records"], found["n"]) == (8, 2)
    assert list(found["errors"]) == [error.value for error in PsychError]
    assert counts(folder) == {"Early Emotion Shift": 1, "None": 1}
    lost = ("no verdict in the answer", "label not offered", "verdict contradicts itself")
    assert found["unscored"] == {"total": 3} | dict.fromkeys(lost, 1)
    lost = ("prediction failed", "prediction invalid", "empty reply")
    assert found["not_judged"] == {"total": 3} | dict.fromkeys(lost, 1)
    assert len(server.chats()) == 5


def test_stored_verdicts_in_the_papers_form_ask_nobody(run, server):
    rows = [
        {"id": 1, **json.loads(said("Strategy Mismatch"))},
        {"id": 2, **json.loads(said("Mismatched Strategy"))},
        {"id": 3, **json.loads(said("", contains="No"))},
        {"id": 4, **json.loads(said("Coldness"))},
        {"id": 5, "Error Type": "Premature Early Emotion Shift"},
        {"id": 6, "Contains Empathy Error": "Yes"},
    ]
    code, _, _, out = run(rows)
    assert code == 0 and server.log == []
    assert counts(out) == {"Strategy Mismatch": 2, "Early Emotion Shift": 1, "None": 1}
    assert shares(out)["unscored"]["total"] == 2 and shares(out)["judge"] == "stored verdicts"


def test_its_own_errors_read_back_give_the_same_proportions(run, server):
    server.says = {"a": said("Other Error"), "b": "no"}
    out = run([prediction(name, name) for name in "abc"] + [FAILED])[3]
    first, stored = shares(out), (out / "errors.jsonl").read_bytes()
    run(stored, "--force")
    assert shares(out) == first and (out / "errors.jsonl").read_bytes() == stored


def test_the_replies_of_failed_esconv_are_classified_beside_complete_runs(
    run, small_corpus, tmp_path
):
    predictions = tmp_path / "runs" / "qwen2.5-7b" / "b_sft" / "predictions.jsonl"
    files.write_text(predictions, json.dumps(prediction("1-0", "b_sft")))
    files.write_json(predictions.with_name("run.json"), {})
    every = ("--model", "qwen2.5-7b", "--work", str(tmp_path))
    assert run(None, *every, "--failed-esconv", str(small_corpus))[0] == 0
    assert counts(predictions.with_name("errors")) == {"None": 1}
    assert shares(tmp_path / "runs" / "failed_esconv" / "errors")["n"] > 20


def test_what_is_not_this_steps_own_is_never_replaced(run, tmp_path, error_line):
    theirs, row = left_by_predict(tmp_path / "out"), prediction("1", "fine")
    code, _, err, out = run([row], "--force")
    assert code == 2 and "folder of another step" in error_line(err)
    assert {name: (out / name).read_bytes() for name in theirs} == theirs
    assert "a folder of its own" in error_line(run([row], "--out", str(tmp_path))[2])


def test_random_draws_are_by_the_record_and_marked(run, server):
    rows = [prediction(str(k), "fine") for k in range(40)]
    code, shown, _, out = run(rows, judge="random")
    drawn = {row["id"]: row["error"] for row in errors(out)}
    assert code == 0 and "SMOKE" in shown and shares(out)["smoke"] is True and server.log == []
    run(rows[::-1], "--force", judge="random")
    assert {row["id"]: row["error"] for row in errors(out)} == drawn and len({*drawn.values()}) > 3


@pytest.mark.parametrize("where", ["judge", "row", "provenance", "beside"])
def test_what_a_smoke_run_is_in_is_marked(run, tmp_path, where):
    marks = {"row": {"smoke": True}, "provenance": {"provenance": {"smoke": True}}}
    rows = [{"Error Type": "None"}, {"Error Type": "None", **marks.get(where, {})}]
    if where == "beside":
        files.write_json(tmp_path / "options.json", {"smoke": True})
    judge = "smollm2-135m" if where == "judge" else "m"
    _, shown, _, out = run([prediction("1", "fine")] if where == "judge" else rows, judge=judge)
    assert "SMOKE" in shown and shares(out)["smoke"] is True


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "is empty"),
        ('{"id": "1", "text": "x"}', "row 0 (from 0): neither a prediction"),
        ('{"id": "1", "predict_content": "x"}', "row 0 (from 0): no 'predicted_strategy'"),
        ('{"Error Type": "None"}\n{"predict_content": "x"}', "row 1 (from 0): no verdict"),
        # The kit's other files name errors too, and are no verdicts on predictions.
        ('{"id": "1-1", "rejected": "x", "error": "Other"}', "neither a prediction"),
        ('{"id": "1-1", "fate": "pair", "error": "Other"}', "neither a prediction"),
    ],
)
def test_a_bad_file_is_one_line_that_names_the_row(run, error_line, content, told):
    code, _, err, out = run(content)
    assert code == 2 and told in error_line(err) and not (out / "errors.jsonl").exists()
