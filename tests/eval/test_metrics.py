"""The step's contract: what is written, what changes nothing, and one line for bad input."""

import json
import random
import re

import pytest
from predicted import rows, save

from esc import files
from esc.dialogue import gold_turns
from esc.strategies import Strategy
from eval import metrics
from eval.cases import Case, Cases

ALL = [strategy.value for strategy in Strategy]
SHARES = dict.fromkeys(ALL, 0.125)


def records(**changed):
    """Records whose strategies and replies differ, some of them right."""
    rng = random.Random(4)
    return [
        one
        | {
            "gold_strategy": rng.choice(ALL),
            "predicted_strategy": rng.choice(ALL),
            "predicted_response": f"{one['gold_response']} {rng.choice('abcde')}",
            "distribution": SHARES,
        }
        | changed
        for one in rows()
    ]


FOREIGN = {
    "GT_strategy": "gold_strategy",
    "predict_strategy": "predicted_strategy",
    "GT_content": "gold_response",
    "predict_content": "predicted_response",
}


@pytest.fixture
def measure(tmp_path, step):
    """Exit code, what was written, and stdout or the one error line."""

    def call(given, *options, out="out"):
        path = tmp_path / "given.jsonl"
        path.write_text(given) if isinstance(given, str) else save(path, given)
        argv = ["--predictions", path, "--out", tmp_path / out, *options]
        code, printed, err = step(metrics.main, *argv)
        if code:
            assert err.count("\n") == 1
            return code, None, err
        return code, files.read_json(tmp_path / out / "metrics.json"), printed

    return call


def numbers(told, *names):
    """All that is said of the turns, but for these names."""
    return {k: one for k, one in told.items() if k not in ("made_with", "numbered", *names)}


def every(part):
    """All numbers with a signature, of any depth."""
    if isinstance(part, dict) and "signature" in part:
        yield part
    elif isinstance(part, dict):
        for one in part.values():
            yield from every(one)


def test_the_contract(measure):
    measured = measure(records())[1]
    assert (measured["n"], measured["empty"], measured["failed"]) == (40, 0, 0)
    assert measured["resampled_by"] == "dialogue" and measured["smoke"] is False
    strategy, text = measured["strategy"], measured["text"]
    assert (strategy["n"], strategy["invalid"]) == (40, 0) and list(strategy["preference"]) == ALL
    paper = "bleu1 bleu2 bleu3 bleu4 distinct1 distinct2 distinct3 f1 rouge_l"
    assert [*text["paper"]] == paper.split()
    assert [*text["corpus"]] == ["bleu1", "bleu", "f1", "rouge_l", "distinct2", "distinct1", "ead"]
    for number in every(measured):
        held = number["value"] is None or number["low"] is None
        assert held or 0 <= number["low"] <= number["value"] <= number["high"]
        assert number["signature"] and (number["value"] is not None or number["reason"])
    assert "|strategies:Qu,RP,RF,Sd,AR,PS,In,Ot#" in strategy["bias"]["signature"]
    for one in (strategy["bias"], strategy["js_distance"], strategy["calibration"]["ece"]):
        assert "reverse percentile" in one["signature"]
    assert "reverse" not in strategy["accuracy"]["signature"]


def test_baselines_are_of_the_gold_turns_alone(measure):
    found = measure(records())[1]["baselines"]
    _, other, _ = measure(records(predicted_strategy="Others", predicted_response="other"))
    assert other["baselines"] == found
    gold, majority = found["gold"], found["majority"]["strategy"]
    assert gold["strategy"]["bias"]["value"] == 0 and gold["text"]["paper"]["bleu1"]["value"] == 100
    shares = gold["strategy"]["distribution"]["gold"].values()
    assert majority["accuracy"]["value"] == max(number["value"] for number in shares)
    assert "says nothing" in found["uniform"]["text"]["paper"]["bleu1"]["reason"]
    chance = found["uniform"]["strategy"]["accuracy"]
    assert chance["value"] == pytest.approx(12.5, abs=0.6)
    assert chance["low"] < 12.5 < chance["high"]


def test_the_test_set_gives_the_baselines_it_is_known_for(esconv_work):
    turns = gold_turns(esconv_work, "test", None)
    cases = [Case(t.id, t.strategy, t.response, t.strategy, t.response) for t in turns]
    found = metrics.baselines(Cases(cases, "dialogue"))
    # Table 3: the best system's bias is 0.15.
    told = found["gold-marginal-random"]["strategy"]["bias"]
    assert told["value"] == pytest.approx(0.068, abs=0.005) and told["high"] < 0.15
    paper, corpus = (found["gold"]["text"][family] for family in ("paper", "corpus"))
    assert paper["distinct1"]["value"] == pytest.approx(91.62, abs=0.005)
    assert corpus["distinct1"]["value"] == pytest.approx(8.0, abs=0.05)
    assert corpus["distinct1"]["low"] < 8.0 < corpus["distinct1"]["high"]
    assert paper["bleu1"]["n"] == 1792


def test_order_and_names_of_the_dialogues_change_nothing_and_foreign_names_resample_rows(measure):
    measured, renamed = measure(records(), out="measured")[1], records()
    assert numbers(measure(random.Random(1).sample(records(), 40))[1]) == numbers(measured)
    for one in renamed:
        dialogue, turn = one["id"].split("-")
        one["id"] = f"talk {97 - int(dialogue)}-{turn}"
    other = measure(renamed, out="other")[1]
    # What names the turns is not theirs.
    assert numbers(other, "turns") == numbers(measured, "turns")
    assert other["turns"] != measured["turns"]
    lines = [{theirs: one[ours] for theirs, ours in FOREIGN.items()} for one in records()]
    _, told, out = measure(lines)
    assert told["numbered"] == 40 and "resampled by row" in out
    for one, other in zip(every(told["text"]), every(measured["text"]), strict=True):
        assert one["value"] == pytest.approx(other["value"])
    assert told["strategy"]["bias"]["value"] == measured["strategy"]["bias"]["value"]
    for one in (told["strategy"]["bias"], told["text"]["corpus"]["ead"]):
        assert one["low"] <= one["high"] and "the true interval is wider" in one["signature"]


def test_every_undefined_number_says_why(measure):
    given = records(distribution=None, predicted_response="<think>\nDraft: ")
    _, told, _ = measure(given)
    assert told["strategy"]["calibration"]["ece"]["value"] is None and told["empty"] == 40
    assert told["text"]["corpus"]["ead"]["value"] is None
    assert all(number["value"] is not None or number["reason"] for number in every(told))
    assert not {"NaN", "Infinity"} & {*re.findall(r"\w+", json.dumps(told))}


def test_the_same_again_does_nothing_and_is_forced_to_the_same_bytes(measure, tmp_path):
    files.write_json(tmp_path / "options.json", {"smoke": True})
    _, told, out = measure(records())
    assert told["smoke"] is True and "SMOKE" in out
    written = tmp_path / "out" / "metrics.json"
    before, when = written.read_bytes(), written.stat().st_mtime_ns
    assert "nothing to do" in measure(records())[2] and written.stat().st_mtime_ns == when
    assert "nothing to do" not in measure(records(), "--force")[2]
    assert written.read_bytes() == before
    files.write_json(written, told | {"made_with": told["made_with"] | {"strategies": ALL[:5]}})
    assert "nothing to do" not in measure(records())[2] and written.read_bytes() == before
    files.write_text(written, '{"accuracy": 1}\n')
    code, _, err = measure(records(), "--force")
    assert code == 2 and "is not of this step" in err
    assert written.read_text() == '{"accuracy": 1}\n'


def test_failed_records_are_left_out_and_unreadable_strategies_of_the_headline(measure):
    given = records()
    given[2] |= {"status": "failed"}
    given[0] |= {"status": "invalid", "predicted_strategy": "Hope", "predicted_response": None}
    _, told, out = measure(given)
    assert (told["n"], told["failed"]) == (39, 1) and "1 failed records are left out" in out
    strategy, all_turns = told["strategy"], told["strategy"]["all_turns"]
    assert strategy["invalid"] == told["empty"] == 1 and "1 (2.6 %) with no readable" in out
    assert strategy["n"] == strategy["bias"]["n"] == 38
    assert all_turns["n"] == all_turns["bias"]["n"] == strategy["invalid_rate"]["n"] == 39
    _, readable, _ = measure([given[1], *given[3:]], out="other")
    for name in ("bias", "weighted_f1", "macro_f1", "accuracy"):
        assert strategy[name]["value"] == readable["strategy"][name]["value"]


def test_without_a_file_every_complete_run_is_measured_and_one_that_fails_is_none_of_the_others(
    tmp_path, step
):
    runs = tmp_path / "runs" / "qwen2.5-7b"
    for name, given in (("a_sft", [{"id": "1-1"}]), ("b_sft", records()), ("c_sft", records())):
        save(runs / name / "predictions.jsonl", given)
        if name != "c_sft":
            (runs / name / "run.json").write_text("{}")
    code, out, err = step(metrics.main, "--work", tmp_path, "--model", "qwen2.5-7b")
    assert code == 2 and "a_sft/predictions.jsonl, row 0" in err
    assert "c_sft/predictions.jsonl is not complete" in out
    assert [path.parent.name for path in runs.glob("*/metrics.json")] == ["b_sft"]


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"gold_strategy": "Empathy"}, "unknown gold strategy 'Empathy'"),
        ({"gold_strategy": None}, "'gold_strategy' is no text, but null or NaN"),
        ({"predicted_response": 7}, "'predicted_response' is no text"),
        ({"predicted_response": ...}, "no 'predicted_response'"),
        ({"status": "lost"}, "its status 'lost' is none of"),
        ({"dialogue_turns": 0}, "dialogue_turns 0 is no number that has 3"),
        ({"distribution": SHARES | {"Question": "much"}}, "is not one probability for each of"),
        ({"distribution": SHARES | {"Question": 0.5}}, "that sum to 1"),
    ],
)
def test_a_record_that_is_wrong_is_one_line_that_names_it(measure, changed, told):
    given = records()
    given[3] = {name: one for name, one in (given[3] | changed).items() if one is not ...}
    code, _, err = measure(given)
    assert code == 2 and "row 3 (from 0)" in err and told in err
