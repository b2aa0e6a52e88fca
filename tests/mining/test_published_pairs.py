"""Pair files of others: their rows find their train turns, and become a registered set."""

import json
import re

import pytest
from corpora import wrong

from esc import files, paths
from esc.adapters import ELSEWHERE
from esc.dialogue import gold_turns
from esc.paths import EMBEDDED
from esc.psych_errors import PsychError
from esc.strategies import tag
from training.train import provenance

SETS = {task: f"esc_{task}_dpo_{EMBEDDED}" for task in ("sp", "rg", "vanilla")}
BAD = "cheer up, it is nothing"


def messages(task, turn):
    """A turn's conversation as others write it: with a prompt of their own, blanks and all."""
    said = [{"role": "system", "content": "a prompt of theirs"}]
    if task == "sp":
        lines = [f"seeker: {seeker}\nsupporter: {reply}\n" for seeker, reply in turn.history]
        text = "".join(lines) + f"seeker: {turn.seeker}"
        return [*said, {"role": "user", "content": text}]
    for (seeker, reply), strategy in zip(turn.history, turn.history_strategies, strict=True):
        answer = tag(strategy, reply) if task == "vanilla" else reply
        said.append({"role": "user", "content": f"{seeker} "})
        said.append({"role": "assistant", "content": answer.replace(" ", "  ")})
    return [*said, {"role": "user", "content": turn.seeker}]


def given(task, turn, rejected=BAD, **more):
    """A turn as a ranking row."""
    sides = {"sp": (turn.strategy.value, wrong(turn.strategy).value)}.get(
        task, (turn.response, rejected)
    )
    if task == "vanilla":
        sides = tag(turn.strategy, sides[0]), tag(wrong(turn.strategy), sides[1])
    chosen, wrong_one = ({"role": "assistant", "content": text} for text in sides)
    return {"messages": messages(task, turn), "chosen": chosen, "rejected": wrong_one} | more


@pytest.fixture
def take(bench, tmp_path):
    """Exit code, stdout and stderr of reading a file of these rows."""

    def call(task, rows, *options, lines=True):
        path = tmp_path / "theirs.json"
        text = "\n".join(map(json.dumps, rows)) if lines else json.dumps(rows, indent=1)
        path.write_text(text)
        return bench.preference(task, "--from", path, *options)

    return call


def test_pairs_of_the_other_layout_are_refused(bench, take):
    row = given("rg", bench.turns()[0]) | {"provenance": {"layout": "turn"}}
    code, _, err = take("rg", [row], "--layout", "dialogue")
    assert code == 2 and "holds pairs of LAYOUT=turn" in err
    assert take("rg", [row | {"provenance": "ours"}])[0] == 0


@pytest.mark.parametrize(("with_ids", "lines"), [(True, True), (False, False)])
@pytest.mark.parametrize("task", SETS)
def test_every_train_turn_is_found_again(bench, take, task, with_ids, lines):
    turns = bench.turns()
    own = {"error_type": "lacks empathy", "explanation": "cold"}
    named = [own | ({"id": turn.id} if with_ids else {}) for turn in turns[::-1]]
    rows = [given(task, turn, **one) for turn, one in zip(turns[::-1], named, strict=True)]
    assert take(task, rows, lines=lines)[0] == 0
    built = bench.set_rows(SETS[task])
    assert [row["id"] for row in built] == [turn.id for turn in turns]
    error = PsychError.STRATEGY_MISMATCH if task == "sp" else PsychError.LACK_OF_EMPATHY
    assert {(row["error"], row["explanation"]) for row in built} == {(error, "cold")}
    for row, own in zip(built, rows[::-1], strict=True):
        for side in ("chosen", "rejected"):
            assert row[side]["value"] == own[side]["content"]


def test_the_set_is_registered_has_the_train_rows_prompts_and_is_trained_on(bench, take):
    take("rg", [given("rg", turn) for turn in bench.turns()])
    train = files.read_jsonl(bench.work / paths.sft_file("rg", "train"))
    for row, own in zip(bench.set_rows(SETS["rg"]), train, strict=True):
        assert row["system"] == own["system"]
        assert row["conversations"][-1] == {"from": "human", "value": own["instruction"]}
    assert "pairs of the file theirs.json" in bench.stats()[1]
    entry = files.read_json(bench.work / paths.REGISTRY)[SETS["rg"]]
    mined = provenance(None, bench.work / entry["file_name"])
    assert entry["ranking"] is True and mined["smoke"] is True
    assert (mined["model"], mined["weights"]) == (EMBEDDED, ELSEWHERE)


def test_rows_that_fit_no_train_turn_are_counted_and_said(bench, take):
    first, second, third, fourth, *_ = bench.turns()
    stranger = given("rg", first) | {"messages": [{"role": "user", "content": "who are you?"}]}
    rewritten = given("rg", second) | {"chosen": "another answer"}
    same = given("rg", third, rejected=f" {third.response.upper()}")
    twice = [given("rg", fourth), given("rg", fourth, rejected="another")]
    code, out, _ = take("rg", [stranger, rewritten, same, *twice])
    assert code == 0 and "5 samples = 1 pairs + 4 dropped" in out
    for told in ("fits no train turn", "is not the gold one", "equals rejected", "has a pair"):
        assert re.search(rf" 1  .*{told}", out)
    assert [row["id"] for row in bench.set_rows(SETS["rg"])] == [fourth.id]


def test_a_row_of_a_validation_turn_makes_no_pair(bench, take):
    held_out = gold_turns(bench.work, "validation", None)
    code, _, err = take("rg", [given("rg", turn) for turn in held_out])
    assert code == 2 and "no pair of a train turn" in err
    assert not (bench.work / "data" / f"{SETS['rg']}.jsonl").exists()


def test_an_entangled_pair_without_a_quadrant_is_in_no_mix(bench, take):
    first, second, *_ = bench.turns()
    rows = [given("vanilla", first), given("vanilla", second, quadrant="NsNr")]
    assert take("vanilla", rows)[0] == 0
    assert [row["id"] for row in bench.set_rows(SETS["vanilla"])] == [first.id, second.id]
    assert [row["id"] for row in bench.set_rows(SETS["vanilla"] + "_nsnr")] == [second.id]


def test_other_pairs_are_replaced_by_force_alone(bench, take):
    first, second, *_ = bench.turns()
    for turn, options, code, now in (
        *[(first, (), 0, first)] * 2,
        (second, (), 2, first),
        (second, ("--force",), 0, second),
    ):
        assert take("rg", [given("rg", turn)], *options)[0] == code
        assert [row["id"] for row in bench.set_rows(SETS["rg"])] == [now.id]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"chosen": {"role": "assistant", "content": None}}, "chosen"),
        ({"messages": [{"role": "user"}]}, "messages.0.content: field required"),
    ],
)
def test_a_row_that_is_no_pair_is_one_line_that_names_it(bench, take, change, told):
    turns = bench.turns()
    code, _, err = take("rg", [given("rg", turns[0]), given("rg", turns[1]) | change])
    assert code == 2 and err.count("\n") == 1
    assert "row 1 (from 0)" in err and told in err
