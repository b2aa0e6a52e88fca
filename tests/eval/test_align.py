"""Another system's file: every record finds its turn, or is named; none is dropped in silence."""

from dataclasses import replace

import pytest
from predicted import error, save

from data_builders import corpus
from esc import files
from esc.dialogue import gold_turns
from eval import cases, metrics


@pytest.fixture(scope="module")
def turns(sample_work):
    return gold_turns(sample_work, "test", None)


def foreign(turn, **more):
    said = {"GT_strategy": turn.strategy.value, "predict_strategy": "Question"}
    said |= {"GT_content": turn.response, "predict_content": f"a reply to {turn.id}"}
    return said | more


def utterances(turn):
    said = [*(text for pair in turn.history for text in pair), turn.seeker]
    return [text for text in said if text.strip()]


def roles(turn):
    said = [("user", a, "assistant", b) for a, b in turn.history] + [("user", turn.seeker)]
    flat = [pair for one in said for pair in zip(one[::2], one[1::2], strict=True)]
    return [{"role": role, "content": text} for role, text in flat if text.strip()]


@pytest.fixture
def align(sample_work, tmp_path, step):
    """Exit code, the records written, and stdout or the one error line."""

    def call(given, *options, out="theirs/aligned.jsonl"):
        argv = ["--predictions", save(tmp_path / "given.jsonl", given), "--out", tmp_path / out]
        code, printed, err = step(cases.align, *argv, "--work", sample_work, *options)
        if code == 2:
            return code, None, error(err)
        return code, list(files.read_jsonl(tmp_path / out)), printed

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
def test_records_take_the_turns_gold_and_order(align, turns, how):
    code, records, out = align([foreign(turn, **how(turn)) for turn in turns[::-1]])
    assert code == 0 and f"{len(turns)} records of {len(turns)} turns" in out
    said = {record["id"]: record["predicted_response"] for record in records}
    assert list(said.items()) == [(turn.id, f"a reply to {turn.id}") for turn in turns]
    assert records[0]["gold_response"] == turns[0].response and records[0]["status"] == "ok"


def test_what_layouts_differ_in_decides_no_alignment(align, turns, monkeypatch):
    first, second = turns[0], turns[1]
    opened = replace(first, id="9-1", history=(("Hi", "welcome"),), seeker="thank\n you")
    twin = replace(second, id="9-9", history=first.history, seeker=first.seeker, response="other")
    again = replace(first, id="9-8")
    monkeypatch.setattr(cases, "gold_turns", lambda *_: [opened, first, twin, again])
    given = [foreign(opened, context=["welcome", "thank you"])]
    given += [foreign(turn, context=utterances(turn)) for turn in (twin, first, again)]
    code, records, _ = align(given)
    assert code == 0 and [record["id"] for record in records] == ["9-1", first.id, "9-9", "9-8"]
    # Without its gold, it may be of several.
    del given[1]["GT_content"], given[1]["GT_strategy"]
    code, records, out = align(given)
    assert code == 1 and len(records) == 3 and "row 1 (from 0): fits 3 turns" in out


def test_a_record_of_no_turn_is_named_and_the_rest_is_written(align, turns):
    given = [
        foreign(turns[0], context=["words that nobody said"]),
        foreign(turns[0], id="99999-0"),
        foreign(turns[3], id=turns[3].id, GT_strategy="Hope"),
        foreign(turns[1], context=utterances(turns[1]), GT_content="what nobody said"),
        foreign(turns[2], context=utterances(turns[2])),
        foreign(turns[2], id=turns[2].id),  # a second record of the turn
    ]
    code, records, out = align(given)
    assert code == 1 and [record["id"] for record in records] == [turns[2].id]
    assert all(f"row {k} (from 0): fits no turns of the test set" in out for k in (0, 1, 2, 3, 5))
    assert f"{len(turns) - 1} turns of the set have no record" in out
    assert "no record can be aligned" in align(given[:2])[2]
    assert "row 0 (from 0): neither an id nor a conv" in align([foreign(turns[0])])[2]


def test_what_is_aligned_becomes_a_run_that_is_measured_and_smoke(align, turns, tmp_path, step):
    given, out = [foreign(turn, id=turn.id) for turn in turns], tmp_path / "theirs"
    for _ in range(2):
        assert align(given, out="theirs/predictions.jsonl")[0] == 0
    assert step(metrics.main, "--predictions", out / "predictions.jsonl", "--out", out)[0] == 0
    told = files.read_json(out / "metrics.json")
    assert (told["n"], told["resampled_by"], told["smoke"]) == (len(turns), "dialogue", True)


@pytest.mark.parametrize("out", ["given.jsonl", "notes.jsonl", "ours/predictions.jsonl"])
def test_no_file_of_somebody_else_is_written_over(align, turns, tmp_path, out):
    files.write_text(tmp_path / "notes.jsonl", "mine\n")
    files.write_json(tmp_path / "ours" / "options.json", {"MODEL": "x", "smoke": True})
    assert align([foreign(turns[0], id=turns[0].id)], out=out)[0] == 2
    assert (tmp_path / "notes.jsonl").read_text() == "mine\n"
    assert not (tmp_path / "ours" / "predictions.jsonl").exists()


def test_the_sides_of_the_release_that_records_are_of_are_named(align, turns, monkeypatch):
    hub_test = [sha1.hex() for sha1, sides in corpus.release().items() if sides["hf"] == "test"]
    monkeypatch.setattr(cases.leaks, "of_ids", lambda *_: dict.fromkeys(hub_test, ""))
    _, _, out = align([foreign(turn, id=turn.id) for turn in turns])
    assert "dialogues   the paper's split: 151 in its train, 25 in its validation, 19" in out
    assert "dialogues   the Hugging Face split: 195 in its test" in out
