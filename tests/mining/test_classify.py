"""Classifying predictions over HTTP: every record has a row, and every mistake is one line."""

import json

import pytest
from faulty_server import SERVER_ERROR, TOO_LONG, FaultyServer, refusal

from esc import cli, files
from esc.psych_errors import PsychError
from esc.stats import wilson
from mining import classify

OURS = {
    "context": {"history": [["hello", "hi there"]], "seeker": "I lost my job"},
    "gold_strategy": "Question",
    "gold_response": "How are you?",
    "status": "ok",
    "predicted_strategy": "Question",
}
FAILED = {
    **{key: OURS[key] for key in ("context", "gold_strategy", "gold_response")},
    "status": "failed",
    "failure": {"kind": "timeout"},
}


def prediction(name, reply, **more):
    return {"id": name, **OURS, "predicted_response": reply, **more}


def said(error, contains=None, explanation="because"):
    return json.dumps(
        {
            "Contains Empathy Error": contains or ("No" if error == "None" else "Yes"),
            "Error Type": error,
            "Brief Explanation": explanation,
            "Improvement Suggestion": "say more",
        }
    )


@pytest.fixture
def server(quoted_in):
    """A judge that says of a reply what ``server.says`` has for it, else that it is fine."""
    with FaultyServer() as server:
        server.says = {}
        server.answer = lambda request: server.says.get(quoted_in(request)["reply"], said("None"))
        yield server


@pytest.fixture
def run(tmp_path, server, capsys):
    """Exit code, stdout, stderr and the folder of a run over rows, or over a file's bytes."""

    def call(rows, *options, judge=("m", "--judge-base-url", "")):
        path = tmp_path / "predictions.jsonl"
        if not isinstance(rows, bytes):
            rows = "\n".join(json.dumps(row) for row in rows).encode()
        path.write_bytes(rows)
        name, *where = judge
        where = [one or server.url for one in where]
        out = tmp_path / "out"
        argv = ["--predictions", str(path), "--out", str(out), "--judge", name, *where, *options]
        code = cli.run(classify.main, argv)
        shown = capsys.readouterr()
        return code, shown.out, shown.err, out

    return call


RANDOM = ("random",)


def errors(out):
    return list(files.read_jsonl(out / "errors.jsonl"))


def shares(out):
    return files.read_json(out / "proportions.json")


def counts(out):
    return {name: one["count"] for name, one in shares(out)["errors"].items() if one["count"]}


def test_every_record_has_a_row_with_the_judges_error_and_words(run, server):
    server.says = {"buck up": said("Premature Early Emotion Shift")}
    code, out, _, folder = run([prediction("7-0", "buck up"), prediction("7-1", "I see")])
    assert code == 0 and "SMOKE" not in out
    assert errors(folder)[0] == {
        "id": "7-0",
        "error": "Early Emotion Shift",
        "status": "scored",
        "reason": None,
        "detail": None,
        "explanation": "because",
        "suggestion": "say more",
        "judge": "m",
    }
    assert [row["error"] for row in errors(folder)] == ["Early Emotion Shift", "None"]


def test_proportions_are_of_the_scored_records_by_wilson_where_dialogues_are_unknown(run, server):
    server.says = {f"reply {k}": said("Lack of Empathy") for k in range(15)}
    server.says["odd"] = "no verdict"
    rows = [prediction(str(k), f"reply {k}") for k in range(148)]
    _, _, _, out = run([*rows, prediction("148", "odd"), prediction("149", "")])
    found = shares(out)["errors"]["Lack of Empathy"]
    assert found["count"] == 15 and found["share"] == pytest.approx(15 / 148)
    # Newcombe (1998), Table I, method 3.
    assert (found["low"], found["high"]) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert (
        "over turns, since the ids name no dialogues (turns of one dialogue resemble"
        in shares(out)["interval"]
    )
    assert sum(one["share"] for one in shares(out)["errors"].values()) == pytest.approx(1)


def test_proportions_of_known_dialogues_have_intervals_by_dialogue(run, server):
    server.says = {f"reply {d}": said("Lack of Empathy") for d in range(5)}
    _, shown, _, out = run(
        [prediction(f"{d}-{t}", f"reply {d}") for d in range(10) for t in range(14)]
    )
    found = shares(out)["errors"]["Lack of Empathy"]
    low, high = wilson(70, 140)
    assert found["low"] < low - 0.1 and high + 0.1 < found["high"]
    assert "resamples of dialogues" in shares(out)["interval"]
    assert f"interval    {shares(out)['interval']}" in shown


def test_all_seven_types_are_in_the_proportions_even_where_nothing_is_scored(run):
    _, _, _, out = run([{"id": "1", **FAILED}])
    assert list(shares(out)["errors"]) == [error.value for error in PsychError]
    assert {one["share"] for one in shares(out)["errors"].values()} == {None}


def test_an_answer_that_is_no_verdict_is_unscored_and_outside_the_shares(run, server):
    server.says = {
        "a": "I would rather not say",
        "b": said("Rudeness"),
        "c": said("None", contains="Yes"),
    }
    code, _, _, out = run([prediction(name, name) for name in "abcd"])
    assert code == 0 and shares(out)["n"] == 1
    assert shares(out)["unscored"] == {
        "total": 3,
        "no verdict in the answer": 1,
        "label not offered": 1,
        "verdict contradicts itself": 1,
    }
    assert [row["error"] for row in errors(out)] == [None, None, None, "None"]


def test_a_record_without_a_reply_is_not_judged_and_nobody_is_asked(run, server):
    rows = [
        {"id": "1", **FAILED},
        prediction("2", None, status="invalid", predicted_strategy=None),
        prediction("3", "  "),
    ]
    code, _, _, out = run(rows)
    assert code == 0 and server.chats() == []
    assert shares(out)["not_judged"] == {
        "total": 3,
        "prediction failed": 1,
        "prediction invalid": 1,
        "empty reply": 1,
    }
    assert [row["status"] for row in errors(out)] == ["not judged"] * 3


def test_a_transient_failure_is_incomplete_and_the_same_command_makes_up_for_it(run, server):
    rows = [prediction("1", "fine"), prediction("2", "broken")]
    answer = server.answer
    server.answer = lambda r: SERVER_ERROR if "broken" in r.asked else answer(r)
    code, out, _, folder = run(rows)
    assert code == 1 and "1 server error" in out and not (folder / "run.json").exists()
    assert [row["status"] for row in errors(folder)] == ["scored", "failed"]
    assert shares(folder)["failed"] == {"total": 1, "server error": 1}
    server.answer, before = answer, len(server.chats())
    code, _, _, folder = run(rows)
    assert code == 0 and len(server.chats()) == before + 1
    assert (folder / "run.json").exists() and shares(folder)["n"] == 2


def test_a_failure_for_good_is_unscored(run, server):
    server.answer = lambda request: TOO_LONG
    code, _, _, out = run([prediction("1", "fine")])
    assert code == 0 and shares(out)["unscored"] == {"total": 1, "request refused": 1}


def test_the_same_command_again_asks_nothing_and_changes_nothing(run, server, hashes):
    _, _, _, out = run([prediction("1", "fine")])
    before, asked = hashes(out), len(server.chats())
    code, shown, _, _ = run([prediction("1", "fine")])
    assert code == 0 and "nothing to do" in shown
    assert hashes(out) == before and len(server.chats()) == asked


def test_other_predictions_in_the_same_folder_stop_until_forced(run, error_line):
    run([prediction("1", "fine")])
    code, _, err, _ = run([prediction("1", "better")])
    told = error_line(err)
    assert code == 2 and "use another --out, or --force" in told and "WORK" not in told
    code, _, _, out = run([prediction("1", "better"), prediction("2", "fine")], "--force")
    assert code == 0 and shares(out)["records"] == 2


def test_another_prompt_is_another_classification(run, tmp_path, monkeypatch, error_line):
    run([prediction("1", "fine")])
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / "classify_system.j2").write_text("Is it kind?")
    monkeypatch.setenv("PROMPTS_DIR", str(tmp_path / "prompts"))
    code, _, err, _ = run([prediction("1", "fine")])
    assert code == 2 and "prompts " in error_line(err)


def test_a_dry_run_sends_nothing_and_writes_nothing(run, server):
    code, shown, _, out = run([prediction("1", "fine")], "--dry-run", "--price", "1/2")
    assert code == 0 and "dry run: 1 requests to send" in shown
    assert server.chats() == [] and not (out / "errors.jsonl").exists()


def test_a_json_array_reads_like_lines(run):
    rows = [prediction("1", "fine"), prediction("2", "fine")]
    code, _, _, out = run(json.dumps(rows, indent=1).encode(), judge=RANDOM)
    assert code == 0 and [row["id"] for row in errors(out)] == ["1", "2"]


def test_foreign_field_names_are_read_and_rows_without_id_are_numbered(run, server, quoted_in):
    row = {
        "GT_strategy": "Question",
        "predict_strategy": "Questions",
        "GT_content": "why?",
        "predict_content": "oh well",
    }
    code, shown, _, out = run([row, row])
    assert code == 0 and "2 records have none" in shown
    assert [one["id"] for one in errors(out)] == ["0", "1"]
    (asked,) = {json.dumps(quoted_in(request)) for request in server.chats()}
    assert json.loads(asked) == {
        "conversation": "(nothing yet)",
        "message": "(not given)",
        "strategy": "Question",
        "reply": "oh well",
    }


@pytest.mark.parametrize(
    "context",
    [
        {"context": ["hello", "hi", "I am sad"]},
        {"history": [["hello", "hi"]], "seeker": "I am sad"},
        {
            "conversation": [
                {"role": "user", "content": "hello"},
                {"role": "assistant", "content": "hi"},
                {"role": "user", "content": "I am sad"},
            ]
        },
        {"dialog_history": ["hello", "hi"], "seeker": "I am sad"},
    ],
    ids=["utterances", "pairs", "messages", "history and message"],
)
def test_a_foreign_conversation_is_understood(run, server, quoted_in, context):
    run([{"predict_strategy": "Others", "predict_content": "oh", **context}])
    asked = quoted_in(server.chats()[0])
    assert asked["conversation"] == "seeker: hello\nsupporter: hi"
    assert asked["message"] == "I am sad"


def test_stored_verdicts_in_the_papers_form_ask_nobody(run, server):
    rows = [
        {"id": 1, **json.loads(said("Strategy Mismatch"))},
        {"id": 2, **json.loads(said("Mismatched Strategy"))},
        {"id": 3, **json.loads(said("", contains="No"))},
        {"id": 4, **json.loads(said("Coldness"))},
        {"id": 5, "Error Type": "Premature Early Emotion Shift"},
    ]
    code, _, _, out = run(rows)
    assert code == 0 and server.log == []
    assert counts(out) == {"Strategy Mismatch": 2, "Early Emotion Shift": 1, "None": 1}
    assert shares(out)["unscored"] == {"total": 1, "label not offered": 1}
    assert shares(out)["judge"] == "stored verdicts"


def test_its_own_errors_read_back_give_the_same_proportions(run, server):
    server.says = {"a": said("Other Error"), "b": "no"}
    rows = [prediction(name, name) for name in "abc"] + [{"id": "d", **FAILED}]
    _, _, _, out = run(rows)
    first, stored = shares(out), (out / "errors.jsonl").read_bytes()
    _, _, _, out = run(stored, "--force")
    assert shares(out) == first and (out / "errors.jsonl").read_bytes() == stored


def test_a_judge_that_refuses_every_request_leaves_no_errors(run, server, error_line):
    server.answer = lambda _: refusal(400, "response_format is not supported")
    rows = [prediction("1", "fine"), prediction("2", "good")]
    code, _, err, out = run(rows)
    assert code == 2 and "response_format is not supported" in error_line(err)
    assert not [
        name for name in ("errors.jsonl", "proportions.json", "run.json") if (out / name).exists()
    ]
    server.answer = lambda _: said("None")
    assert run(rows)[0] == 0 and shares(out)["n"] == 2


def test_force_asks_again_for_what_was_refused_and_for_nothing_else(run, server):
    rows = [prediction("1", "fine"), prediction("2", "broken")]
    answer = server.answer
    server.answer = lambda r: refusal(400, "filter") if "broken" in r.asked else answer(r)
    code, _, _, out = run(rows)
    assert code == 0 and shares(out)["unscored"]["total"] == 1
    server.answer, before = answer, len(server.chats())
    assert "nothing to do" in run(rows)[1] and len(server.chats()) == before
    code, _, _, _ = run(rows, "--force")
    assert code == 0 and shares(out)["n"] == 2 and len(server.chats()) == before + 1


@pytest.mark.parametrize("options", [(), ("--force",)])
def test_the_folder_of_another_step_is_never_taken(run, tmp_path, error_line, options):
    theirs = tmp_path / "out" / "options.json"
    theirs.parent.mkdir()
    files.write_json(theirs, {"format": 1, "MODEL": "smollm2-135m", "predictions": "x"})
    before = theirs.read_bytes()
    code, _, err, out = run([prediction("1", "fine")], *options)
    assert code == 2 and "folder of another step" in error_line(err) and "WORK" not in err
    assert theirs.read_bytes() == before and not (out / "errors.jsonl").exists()


@pytest.mark.parametrize("options", [(), ("--force",)])
def test_a_users_own_file_of_such_a_name_is_never_replaced(run, tmp_path, error_line, options):
    out = tmp_path / "out"
    files.write_text(out / "errors.jsonl", "mine\n")
    code, _, err, _ = run([prediction("1", "fine")], *options)
    assert code == 2 and "no options.json that says it is of this step" in error_line(err)
    assert (out / "errors.jsonl").read_text() == "mine\n"


PAIR = {"id": "1-1", "sample": 0, "rejected": "x", "error": "Lack of Empathy", "explanation": "y"}


@pytest.mark.parametrize(
    "row",
    [
        PAIR | {"provenance": {"judge": "m"}},
        {"id": "1-1", "sample": 0, "fate": "pair", "error": "Lack of Empathy", "retain": True},
        {"conversations": [], "chosen": {}, "rejected": {}, "error": "Lack of Empathy"},
        {"id": "1-1", "sample": 0, "text": "x", "wanted": False, "error": None},
    ],
    ids=["pair", "route", "preference set", "single"],
)
def test_the_kits_other_files_are_no_verdicts(run, error_line, row):
    code, _, err, out = run([row])
    told = error_line(err)
    assert code == 2 and "row 0 (from 0): neither a prediction" in told
    assert "nor a stored verdict" in told and not (out / "errors.jsonl").exists()


def test_verdicts_may_hold_the_answer_to_the_first_question_alone(run):
    _, _, _, out = run([{"Contains Empathy Error": "No"}, {"Contains Empathy Error": "Yes"}])
    assert counts(out) == {"None": 1} and shares(out)["unscored"]["total"] == 1


@pytest.mark.parametrize("mark", [{"smoke": True}, {"provenance": {"smoke": True}}])
def test_a_row_that_says_it_is_of_a_smoke_run_marks_the_result(run, mark):
    _, shown, _, out = run([{"Error Type": "None"}, {"Error Type": "None", **mark}])
    assert "SMOKE" in shown and shares(out)["smoke"] is True


def test_random_draws_are_by_the_record_and_marked(run, server):
    rows = [prediction(str(k), "fine") for k in range(40)]
    code, shown, _, out = run(rows, judge=RANDOM)
    drawn = {row["id"]: row["error"] for row in errors(out)}
    assert code == 0 and "SMOKE" in shown and shares(out)["smoke"] is True and server.log == []
    run(rows[::-1], "--force", judge=RANDOM)
    assert {row["id"]: row["error"] for row in errors(out)} == drawn and len({*drawn.values()}) > 3


def test_errors_that_the_embedded_model_finds_are_marked(run, server):
    judge = ("smollm2-135m", "--judge-base-url", server.url)
    _, shown, _, out = run([prediction("1", "fine")], judge=judge)
    assert "SMOKE" in shown and shares(out)["smoke"] is True


def test_predictions_of_a_smoke_run_carry_its_mark(run, tmp_path):
    files.write_json(tmp_path / "options.json", {"MODEL": "smollm2-135m", "smoke": True})
    _, shown, _, out = run([prediction("1", "fine")])
    assert "SMOKE" in shown and shares(out)["smoke"] is True


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "is empty"),
        (b"[]", "is empty"),
        (b'{"id": "1"', "line 1: not JSON"),
        (b'[{"id": "1"}', "is no JSON array"),
        (b'{"id": "\xff"}', "not UTF-8 text: byte 8"),
        (b'{"id": "\\ud800", "Error Type": "None"}', "line 1: not JSON"),
        (b"7", "row 0 (from 0): not a JSON object"),
        (b'{"id": "1", "text": "x"}', "row 0 (from 0): neither a prediction"),
        (b'{"id": true, "Error Type": "None"}', "row 0 (from 0): its id is neither"),
        (b'{"id": "1", "predict_content": "x"}', "row 0 (from 0): no 'predict_strategy'"),
        (
            b'{"predict_content": 3, "predict_strategy": "x"}',
            "row 0 (from 0): 'predict_content' is no text",
        ),
        (
            b'{"predict_content": "x", "predict_strategy": "x", "context": 7}',
            "row 0 (from 0): its conversation is neither",
        ),
        (
            b'{"Error Type": "None"}\n{"predict_content": "x"}',
            "row 1 (from 0): no verdict",
        ),
    ],
)
def test_a_bad_file_is_one_line_that_names_the_row(run, error_line, content, told):
    code, _, err, out = run(content)
    assert code == 2 and told in error_line(err) and not (out / "errors.jsonl").exists()


def test_an_id_given_twice_is_one_line(run, error_line):
    code, _, err, _ = run([prediction("9-1", "a"), prediction("9-1", "b")])
    assert code == 2 and "row 1 (from 0): id '9-1' is there twice" in error_line(err)


def test_a_field_of_ours_that_is_missing_is_named(run, error_line):
    row = prediction("1", "a")
    del row["context"]
    code, _, err, _ = run([row])
    assert code == 2 and "row 0 (from 0): no 'context'" in error_line(err)


def test_the_folder_of_the_predictions_is_not_written_over(run, tmp_path, error_line):
    code, _, err, _ = run([prediction("1", "a")], "--out", str(tmp_path))
    assert code == 2 and "a folder of its own" in error_line(err)
