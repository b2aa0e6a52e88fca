"""Another system's file: every record finds its turn, or is named; none is dropped in silence."""

import json
from dataclasses import replace

import pytest
from predicted import save

from esc import cli, files
from esc.dialogue import gold_turns
from eval import cases, metrics

ROLES = ("user", "assistant")


@pytest.fixture(scope="module")
def turns(sample_work):
    return gold_turns(sample_work, "test", None)


def foreign(turn, **more):
    return {
        "GT_strategy": turn.strategy.value,
        "predict_strategy": "Question",
        "GT_content": turn.response,
        "predict_content": f"a reply to {turn.id}",
    } | more


def utterances(turn):
    said = [one for pair in turn.history for one in pair] + [turn.seeker]
    return [one for one in said if one.strip()]


def roles(turn):
    said = [(role, text) for pair in turn.history for role, text in zip(ROLES, pair, strict=True)]
    said.append(("user", turn.seeker))
    return [{"role": role, "content": text} for role, text in said if text.strip()]


@pytest.fixture
def run_align(sample_work, tmp_path, capsys):
    """Exit code, the records written, and stdout or the one error line."""

    def call(given, *options, out="theirs/aligned.jsonl"):
        source = tmp_path / "given.jsonl"
        if isinstance(given, bytes):
            source.write_bytes(given)
        else:
            save(source, given)
        argv = ["--predictions", str(source), "--out", str(tmp_path / out)]
        code = cli.run(cases.main, [*argv, "--work", str(sample_work), *options])
        shown = capsys.readouterr()
        if code == 2:
            assert shown.err.count("\n") == 1
            return code, None, shown.err
        return code, list(files.read_jsonl(tmp_path / out)), shown.out

    return call


def said(records):
    return {record["id"]: record["predicted_response"] for record in records}


def test_blanks_and_line_breaks_inside_an_utterance_do_not_decide_an_alignment(turns):
    broken = [
        replace(turn, seeker=turn.seeker.replace(" ", " \n "), response=f"  {turn.response}\n")
        for turn in turns[:3]
    ]
    found = cases.Turns(broken)
    for turn, was in zip(broken, turns, strict=False):
        context = cases.plain_context(turn.history, was.seeker)
        assert found.of_context(context, foreign(was), ()) == [turn]


def test_records_with_ids_take_the_turns_gold_and_order(run_align, turns):
    given = [foreign(turn, id=turn.id) for turn in turns[::-1]]
    code, records, out = run_align(given)
    assert code == 0 and f"{len(turns)} records of {len(turns)} turns" in out
    assert [record["id"] for record in records] == [turn.id for turn in turns]
    assert said(records) == {turn.id: f"a reply to {turn.id}" for turn in turns}
    assert records[0]["gold_response"] == turns[0].response and records[0]["status"] == "ok"


@pytest.mark.parametrize(
    "conversation",
    [
        lambda turn: {"context": utterances(turn)},
        lambda turn: {"context": [text.upper() + "  \n" for text in utterances(turn)]},
        lambda turn: {"history": [list(pair) for pair in turn.history], "seeker": turn.seeker},
        lambda turn: {
            "context": "".join(f"seeker: {a}\nsupporter: {b}\n" for a, b in turn.history)
            + f"seeker: {turn.seeker}"
        },
        lambda turn: {
            "history": [[a, f"[Question] {b}"] for a, b in turn.history],
            "seeker": turn.seeker,
        },
        lambda turn: {"context": roles(turn)},
    ],
)
def test_records_without_ids_are_found_by_what_was_said_before(run_align, turns, conversation):
    given = [foreign(turn, **conversation(turn)) for turn in turns[::-1]]
    code, records, _ = run_align(given)
    assert code == 0
    assert said(records) == {turn.id: f"a reply to {turn.id}" for turn in turns}


def test_a_supporters_opening_needs_no_inserted_greeting(turns):
    turn = turns[0]
    opened = turn.__class__(
        "9-1", (("Hi", "welcome"),), (turn.strategy,), "thanks", turn.strategy, "how are you", 2
    )
    known = cases.Turns([opened])
    assert known.of_context("welcome thanks", {}, ()) == [opened]
    assert known.of_context("hi welcome thanks", {}, ()) == [opened]


def test_a_conversation_of_no_turn_is_named_and_the_rest_is_written(run_align, turns):
    given = [foreign(turn, context=utterances(turn)) for turn in turns[:4]]
    given[2]["context"] = ["words that nobody said"]
    code, records, out = run_align(given)
    assert code == 1 and len(records) == 3
    assert "row 2 (from 0): fits no turn of the test set" in out
    assert f"{len(turns) - 3} turns of the set have no record" in out


def test_a_conversation_of_two_turns_is_decided_by_its_gold_reply(turns):
    first, second = turns[0], turns[1]
    twin = second.__class__("9-9", first.history, first.history_strategies, first.seeker,
                            second.strategy, "another reply", 10)  # fmt: skip
    known = cases.Turns([first, twin])
    context = cases.plain_context(first.history, first.seeker)
    assert len(known.of_context(context, {}, ())) == 2
    assert known.of_context(context, {"GT_content": "Another  reply"}, ()) == [twin]


def test_of_turns_that_are_alike_each_record_takes_one(turns):
    first = turns[0]
    known = cases.Turns([first, replace(first, id="9-9")])
    context, row = cases.plain_context(first.history, first.seeker), foreign(first)
    assert [turn.id for turn in known.of_context(context, row, ())] == [first.id]
    assert [turn.id for turn in known.of_context(context, row, {first.id})] == ["9-9"]


def test_a_supporter_who_goes_on_speaking_is_found(sample_work, run_align):
    turns = gold_turns(sample_work, "train", None)
    given = [foreign(turn, context=roles(turn)) for turn in turns if not turn.seeker.strip()]
    code, records, _ = run_align(given, "--set", "train")
    assert given and code == 0 and len(records) == len(given)


def test_what_is_aligned_is_measured_like_our_own(run_align, turns, tmp_path, capsys):
    run_align([foreign(turn, id=turn.id) for turn in turns])
    argv = ["--predictions", str(tmp_path / "theirs" / "aligned.jsonl")]
    assert cli.run(metrics.main, [*argv, "--out", str(tmp_path / "theirs")]) == 0
    told = files.read_json(tmp_path / "theirs" / "metrics.json")
    assert told["n"] == len(turns) and told["resampled_by"] == "dialogue"


def test_turns_of_the_sample_corpus_stay_smoke(run_align, turns, tmp_path):
    run_align([foreign(turn, id=turn.id) for turn in turns])
    assert files.read_json(tmp_path / "theirs" / "options.json")["smoke"] is True


def test_a_folder_of_predictions_becomes_a_run_and_no_other_run_is_lost(run_align, turns, tmp_path):
    given = [foreign(turn, id=turn.id) for turn in turns]
    assert run_align(given, out="theirs/predictions.jsonl")[0] == 0
    assert files.read_json(tmp_path / "theirs" / "run.json")["records"] == len(turns)
    files.write_json(tmp_path / "ours" / "options.json", {"MODEL": "x", "smoke": True})
    code, _, err = run_align(given, out="ours/predictions.jsonl")
    assert code == 2 and "holds another run" in err
    assert not (tmp_path / "ours" / "predictions.jsonl").exists()


def test_unreadable_and_failed_records_keep_their_state(run_align, turns):
    ours = {"gold_strategy": turns[1].strategy.value, "gold_response": turns[1].response}
    given = [
        foreign(turns[0], id=turns[0].id, predict_strategy="Hope"),
        ours | {"id": turns[1].id, "status": "failed"},
    ]
    _, records, _ = run_align(given)
    assert [record["status"] for record in records] == ["invalid", "failed"]
    assert records[0]["raw_strategy"] == "Hope"


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"id": "99999-0"}, "id '99999-0' is no turn of the test set"),
        ({"GT_strategy": "Hope"}, "unknown gold strategy 'Hope'"),
        ({"GT_content": "what nobody said"}, "its gold reply is not that of turn"),
        ({"predict_content": 5}, "'predict_content' is no text"),
        ({"id": [1]}, "its id is neither text nor a whole number"),
    ],
)
def test_a_record_that_is_wrong_is_one_line_that_names_it(run_align, turns, changed, told):
    given = [foreign(turn, id=turn.id) for turn in turns[:4]]
    given[3] |= changed
    code, _, err = run_align(given)
    assert code == 2 and "row 3 (from 0)" in err and told in err


def test_the_same_turn_twice_is_one_line(run_align, turns):
    given = [foreign(turns[0], id=turns[0].id)] * 2
    code, _, err = run_align(given)
    assert code == 2 and "row 1 (from 0)" in err and "is there twice" in err
    given = [foreign(turns[0], context=utterances(turns[0]))] * 2
    code, _, err = run_align(given)
    assert code == 2 and f"row 1 (from 0): a second record of turn {turns[0].id}" in err


def test_predictions_of_another_split_are_one_line(run_align, sample_work):
    others = gold_turns(sample_work, "validation", None)
    code, _, err = run_align([foreign(turn, id=turn.id) for turn in others])
    assert code == 2 and "row 0 (from 0)" in err and "--set" in err
    assert run_align([foreign(turn, id=turn.id) for turn in others], "--set", "validation")[0] == 0


def test_a_file_of_which_nothing_fits_is_one_line(run_align, turns):
    code, _, err = run_align([foreign(turns[0], context=["words that nobody said"])])
    assert code == 2 and "no record can be aligned" in err and "row 0" in err


def test_a_record_with_nothing_to_align_by_is_one_line(run_align, turns):
    code, _, err = run_align([foreign(turns[0])])
    assert code == 2 and "neither an id nor a conversation" in err


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff\xfe", b'{"id": NaN}'])
def test_a_file_that_is_none_is_one_line(run_align, content):
    assert run_align(content)[0] == 2


def test_the_file_that_is_read_is_not_written(run_align, turns, tmp_path):
    given = [foreign(turns[0], id=turns[0].id)]
    code, _, err = run_align(given, out="given.jsonl")
    assert code == 2 and "is the file that is read" in err
    assert json.loads((tmp_path / "given.jsonl").read_text()) == given[0]


def test_a_file_of_somebody_else_is_not_written_over(run_align, turns, tmp_path):
    files.write_text(tmp_path / "notes.jsonl", "mine\n")
    code, _, err = run_align([foreign(turns[0], id=turns[0].id)], out="notes.jsonl")
    assert code == 2 and "was not written by this step" in err
    assert (tmp_path / "notes.jsonl").read_text() == "mine\n"


def test_an_aligned_file_is_written_again(run_align, turns):
    given = [foreign(turn, id=turn.id) for turn in turns]
    assert run_align(given, out="theirs/a.jsonl")[:2] == run_align(given, out="theirs/a.jsonl")[:2]
