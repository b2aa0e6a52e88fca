"""The turns that models are asked: in the words they were trained on, and no more than LIMIT's."""

import pytest

from esc import files, paths, prompts
from esc.dialogue import gold_turns
from esc.files import EscError
from esc.plan_and_speak import chat_and_gold


def test_every_model_is_asked_in_the_words_it_was_trained_on(sample_work):
    rows = {
        task: {r["id"]: r for r in files.read_jsonl(sample_work / paths.sft_file(task, "test"))}
        for task in prompts.TASKS
    }
    for turn in gold_turns(sample_work, "test", None):
        asked = {task: [m.content for m in chat_and_gold(task, turn)[0]] for task in prompts.TASKS}
        trained = rows["sp"][turn.id]
        assert asked["sp"] == [trained["system"], trained["instruction"]]
        trained = rows["rg"][turn.id]
        said = [text for exchange in trained["history"] for text in exchange]
        assert asked["rg"] == [trained["system"], *said, trained["instruction"]]
        dialogue, _, number = turn.id.rpartition("-")
        trained = rows["vanilla"][dialogue]
        before = trained["conversations"][: 2 * int(number) + 1]
        assert asked["vanilla"] == [trained["system"], *(one["value"] for one in before)]


def test_every_turn_of_the_real_test_split_is_met(esconv_work):
    assert len(gold_turns(esconv_work, "test", None)) == 1792


def test_a_smaller_limit_is_contained_in_a_larger_one(sample_work):
    few, more = (gold_turns(sample_work, "test", limit) for limit in (2, 4))
    assert {turn.id for turn in few} < {turn.id for turn in more}
    assert len({turn.id.partition("-")[0] for turn in few}) == 2


def test_a_limit_beyond_the_split_and_sets_that_are_not_built_are_one_line(sample_work, tmp_path):
    told = r"LIMIT=9999, but the test set .* has \d+ dialogues.*first make data WORK=.* LIMIT=9999"
    with pytest.raises(EscError, match=told):
        gold_turns(sample_work, "test", 9999)
    with pytest.raises(EscError, match=r"make data WORK=.* builds it"):
        gold_turns(tmp_path, "test", None)
