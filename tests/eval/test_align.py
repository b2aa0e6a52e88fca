"""Another system's file: every record finds its turn, or is named; none is dropped in silence."""

from dataclasses import replace

import pytest
from predicted import save

from esc import cli, files
from esc.dialogue import gold_turns
from eval import cases, metrics


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


def roles(turn):
    pairs = [zip(("user", "assistant"), pair, strict=True) for pair in turn.history]
    said = [*(one for pair in pairs for one in pair), ("user", turn.seeker)]
    return [{"role": role, "content": text} for role, text in said if text.strip()]


def utterances(turn):
    return [one["content"] for one in roles(turn)]


@pytest.fixture
def run_align(sample_work, tmp_path, capsys):
    """Exit code, the records written, and stdout or the one error line."""

    def call(given, *options, out="theirs/aligned.jsonl"):
        source = save(tmp_path / "given.jsonl", given)
        argv = ["--predictions", str(source), "--out", str(tmp_path / out)]
        code = cli.run(cases.align, [*argv, "--work", str(sample_work), *options])
        shown = capsys.readouterr()
        if code == 2:
            assert shown.err.count("\n") == 1
            return code, None, shown.err
        return code, list(files.read_jsonl(tmp_path / out)), shown.out

    return call


@pytest.mark.parametrize(
    "how",
    [
        lambda turn: {"id": turn.id},
        lambda turn: {"context": [text.upper() + "  \n" for text in utterances(turn)]},
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
    ids=["id", "utterances", "transcript", "tagged pairs", "roles"],
)
def test_records_take_the_turns_gold_and_order(run_align, turns, how):
    code, records, out = run_align([foreign(turn, **how(turn)) for turn in turns[::-1]])
    assert code == 0 and f"{len(turns)} records of {len(turns)} turns" in out
    said = {record["id"]: record["predicted_response"] for record in records}
    assert list(said.items()) == [(turn.id, f"a reply to {turn.id}") for turn in turns]
    assert records[0]["gold_response"] == turns[0].response and records[0]["status"] == "ok"


def test_what_layouts_differ_in_decides_no_alignment(run_align, turns, monkeypatch):
    first, second = turns[0], turns[1]
    opened = replace(first, id="9-1", history=(("Hi", "welcome"),), seeker="thank\n you")
    twin = replace(second, id="9-9", history=first.history, seeker=first.seeker, response="other")
    again = replace(first, id="9-8")
    monkeypatch.setattr(cases, "gold_turns", lambda *_: [opened, first, twin, again])
    given = [
        foreign(opened, context=["welcome", "thank you"]),
        *(foreign(turn, context=utterances(turn)) for turn in (twin, first, again)),
    ]
    code, records, _ = run_align(given)
    assert code == 0 and [record["id"] for record in records] == ["9-1", first.id, "9-9", "9-8"]
    # Without its gold, it may be of several.
    del given[1]["GT_content"], given[1]["GT_strategy"]
    code, records, out = run_align(given)
    assert code == 1 and len(records) == 3 and "row 1 (from 0): fits 3 turns" in out


def test_a_record_of_no_turn_is_named_and_the_rest_is_written(run_align, turns):
    given = [
        foreign(turns[0], context=["words that nobody said"]),
        foreign(turns[0], id="99999-0"),
        foreign(turns[0], id=turns[0].id, GT_content="what nobody said"),
        foreign(turns[3], id=turns[3].id, GT_strategy="Hope"),
        foreign(turns[1], context=utterances(turns[1]), GT_content="what nobody said"),
        foreign(turns[2], context=utterances(turns[2])),
        # A second record of the turn.
        foreign(turns[2], id=turns[2].id),
    ]
    code, records, out = run_align(given)
    assert code == 1 and [record["id"] for record in records] == [turns[2].id]
    for row in (0, 1, 2, 3, 4, 6):
        assert f"row {row} (from 0): fits no turns of the test set" in out
    assert f"{len(turns) - 1} turns of the set have no record" in out
    code, _, err = run_align(given[:2])
    assert code == 2 and "no record can be aligned" in err


def test_a_supporter_who_goes_on_speaking_is_found(sample_work, run_align):
    turns = gold_turns(sample_work, "train", None)
    given = [foreign(turn, context=roles(turn)) for turn in turns if not turn.seeker.strip()]
    code, records, _ = run_align(given, "--set", "train")
    assert given and code == 0 and len(records) == len(given)


def test_what_is_aligned_becomes_a_run_that_is_measured_and_smoke(run_align, turns, tmp_path):
    given, out = [foreign(turn, id=turn.id) for turn in turns], tmp_path / "theirs"
    for _ in range(2):
        assert run_align(given, out="theirs/predictions.jsonl")[0] == 0
    assert files.read_json(out / "run.json")["records"] == len(turns)
    argv = ["--predictions", str(out / "predictions.jsonl"), "--out", str(out)]
    assert cli.run(metrics.main, argv) == 0
    told = files.read_json(out / "metrics.json")
    assert (told["n"], told["resampled_by"], told["smoke"]) == (len(turns), "dialogue", True)


@pytest.mark.parametrize(
    ("changed", "told"),
    [({"predict_content": 5}, "is no text"), ({"id": None}, "neither an id nor a conversation")],
)
def test_a_record_that_is_wrong_is_one_line_that_names_it(run_align, turns, changed, told):
    given = [foreign(turn, id=turn.id) for turn in turns[:4]]
    given[3] |= changed
    code, _, err = run_align(given)
    assert code == 2 and "row 3 (from 0)" in err and told in err


@pytest.mark.parametrize("out", ["given.jsonl", "notes.jsonl", "ours/predictions.jsonl"])
def test_no_file_of_somebody_else_is_written_over(run_align, turns, tmp_path, out):
    files.write_text(tmp_path / "notes.jsonl", "mine\n")
    files.write_json(tmp_path / "ours" / "options.json", {"MODEL": "x", "smoke": True})
    assert run_align([foreign(turns[0], id=turns[0].id)], out=out)[0] == 2
    assert (tmp_path / "notes.jsonl").read_text() == "mine\n"
    assert not (tmp_path / "ours" / "predictions.jsonl").exists()
