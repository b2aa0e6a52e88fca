"""The step's contract: what is written, what changes nothing, and one line for bad input."""

import json
import random

import pytest
from predicted import row, rows, save

from esc import cli, files
from esc.strategies import Strategy
from eval import metrics

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


def foreign(one):
    return {
        "GT_strategy": one["gold_strategy"],
        "predict_strategy": one["predicted_strategy"],
        "GT_content": one["gold_response"],
        "predict_content": one["predicted_response"],
    }


@pytest.fixture
def run_metrics(tmp_path, capsys):
    """Exit code, what was written, and stdout or the one error line."""

    def call(*sources, out="out", options=()):
        paths = []
        for number, source in enumerate(sources):
            path = tmp_path / f"given{number}.jsonl"
            if isinstance(source, bytes):
                path.write_bytes(source)
            else:
                save(path, source)
            paths.append(str(path))
        argv = ["--predictions", *paths, "--out", str(tmp_path / out), *options]
        code = cli.run(metrics.main, argv)
        shown = capsys.readouterr()
        written = tmp_path / out / "metrics.json"
        told = files.read_json(written) if code == 0 else None
        assert code == 0 or shown.err.count("\n") == 1
        return code, told, shown.out if code == 0 else shown.err

    return call


def numbers(told):
    """All that is said of the turns."""
    return {key: value for key, value in told.items() if key not in ("made_with", "numbered")}


def thinking(one, begin="<think>\nPerhaps they ask?\n</think>\n\n"):
    names = ("predicted_strategy", "predicted_response", "predict_strategy", "predict_content")
    return {name: begin + text if name in names else text for name, text in one.items()}


@pytest.mark.parametrize("form", [dict, foreign])
@pytest.mark.parametrize("begin", ["<think>\n\n</think>\n\n", "They ask.\n</think>\n"])
def test_what_a_stored_prediction_thought_changes_no_number(run_metrics, form, begin):
    given = [form(one) for one in records()]
    _, told, _ = run_metrics(given)
    _, again, _ = run_metrics([thinking(one, begin) for one in given], out="again")
    assert numbers(again) == numbers(told)


def test_a_stored_prediction_that_was_cut_while_thinking_is_an_empty_one(run_metrics):
    first, *others = records()
    _, told, _ = run_metrics([thinking(first, "<think>\nDraft: "), *others])
    assert (told["n"], told["empty"]) == (40, 1)


def test_the_contract(run_metrics):
    code, told, out = run_metrics(records())
    assert code == 0 and "bias" in out
    assert (told["n"], told["empty"], told["failed"]) == (40, 0, 0)
    assert told["resampled_by"] == "dialogue" and told["smoke"] is False
    strategy, text = told["strategy"], told["text"]
    assert (strategy["n"], strategy["invalid"]) == (40, 0)
    assert list(strategy["preference"]) == ALL
    paper = ["bleu1", "bleu2", "bleu3", "bleu4", "distinct1", "distinct2", "distinct3", "f1"]
    assert [*text["paper"]] == [*paper, "rouge_l"]
    assert {"bleu", "bleu1", "distinct1", "distinct2", "ead", "f1", "rouge_l"} == set(
        text["corpus"]
    )
    assert {"value", "low", "high", "signature"} <= strategy["bias_converged"].keys()
    singles = [strategy[name] for name in ("bias", "weighted_f1", "macro_f1")]
    for number in [*singles, *strategy["preference"].values(), *text["paper"].values()]:
        assert {"value", "low", "high", "signature"} <= number.keys()
        assert number["low"] <= number["value"] <= number["high"]
    assert set(told["baselines"]) == {"gold", "majority", "uniform", "gold-marginal-random"}


def test_every_undefined_number_says_why(run_metrics):
    _, told, _ = run_metrics(records(distribution=None, predicted_response=""))

    def undefined(part):
        if isinstance(part, dict) and "signature" in part:
            yield part
        elif isinstance(part, dict):
            for one in part.values():
                yield from undefined(one)

    found = [number for number in undefined(told) if number["value"] is None]
    assert told["strategy"]["calibration"]["ece"] in found
    assert told["text"]["corpus"]["ead"] in found and told["empty"] == 40
    assert all(number["reason"] for number in found)
    text = json.dumps(told)
    assert "NaN" not in text and "Infinity" not in text


def test_the_order_of_the_rows_changes_nothing(run_metrics):
    _, told, _ = run_metrics(records())
    shuffled = random.Random(1).sample(records(), 40)
    assert numbers(run_metrics(shuffled, out="other")[1]) == numbers(told)


def test_other_names_of_the_dialogues_change_nothing(run_metrics):
    _, told, _ = run_metrics(records())
    renamed = [
        one | {"id": f"talk {97 - int(one['id'].split('-')[0])}-{one['id'].split('-')[1]}"}
        for one in records()
    ]
    other = run_metrics(renamed, out="other")[1]
    # What names the turns is not theirs.
    assert numbers(other) | {"turns": None} == numbers(told) | {"turns": None}
    assert other["turns"] != told["turns"]


def test_a_file_in_parts_is_the_whole_file(run_metrics):
    _, told, _ = run_metrics(records())
    given = records()
    _, parts, _ = run_metrics(given[23:], given[:23], out="other")
    assert numbers(parts) == numbers(told)


def test_foreign_names_and_an_array_are_read_alike(run_metrics):
    lines = [foreign(one) for one in records()]
    _, told, out = run_metrics(lines)
    assert told["resampled_by"] == "row" and told["numbered"] == 40
    assert "resampled by row" in out
    array = json.dumps(lines, indent=2).encode()
    assert numbers(run_metrics(array, out="other")[1]) == numbers(told)


def test_ids_change_intervals_alone(run_metrics):
    _, ours, _ = run_metrics(records())
    _, theirs, _ = run_metrics([foreign(one) for one in records()], out="other")
    for name in ("bias", "weighted_f1", "macro_f1", "bias_converged"):
        assert ours["strategy"][name]["value"] == theirs["strategy"][name]["value"]
    for name, number in ours["text"]["paper"].items():
        assert number["value"] == pytest.approx(theirs["text"]["paper"][name]["value"])


def test_ids_of_one_dialogue_resample_rows(run_metrics):
    given = [one | {"id": f"test-{number}"} for number, one in enumerate(records())]
    assert run_metrics(given)[1]["resampled_by"] == "row"


def test_two_prefixes_name_no_dialogues_and_the_signature_says_what_that_means(run_metrics):
    given = [one | {"id": f"{'ab'[k % 2]}-{k // 2}"} for k, one in enumerate(records())]
    _, told, _ = run_metrics(given)
    assert told["resampled_by"] == "row"
    for one in (told["strategy"]["bias"], told["text"]["corpus"]["ead"]):
        assert one["low"] <= one["high"] and "the true interval is wider" in one["signature"]


def test_nine_dialogues_have_numbers_and_the_reason_for_no_interval(run_metrics):
    nine = [one for one in records() if int(one["id"].split("-")[0]) < 9]
    _, told, _ = run_metrics(nine)
    found = [told["strategy"]["bias"], *told["text"]["paper"].values()]
    for one in [*found, *told["text"]["corpus"].values()]:
        assert one["value"] is not None and (one["low"], one["high"]) == (None, None)
        assert "9 dialogues, and an interval takes 10" in one["reason"]


def test_intervals_of_what_noise_raises_are_reverse_and_say_so(run_metrics):
    _, told, _ = run_metrics(records())
    strategy = told["strategy"]
    for one in (strategy["bias"], strategy["js_distance"], strategy["calibration"]["ece"]):
        assert "reverse percentile" in one["signature"] and one["low"] >= 0
    assert "reverse" not in strategy["accuracy"]["signature"]


def test_stages_are_of_the_dialogues_own_length_whatever_the_file_holds(run_metrics):
    begun = [one | {"dialogue_turns": 14} for one in records()]
    _, told, _ = run_metrics([one for one in begun if one["id"].endswith(("-0", "-1"))])
    stages = told["strategy"]["by_stage"]
    assert stages[0]["n"] == told["n"] and sum(one["n"] for one in stages) == told["n"]
    _, told, _ = run_metrics(records(), out="unknown")
    assert told["strategy"]["by_stage"] is None


def test_the_same_command_again_does_nothing(run_metrics, tmp_path):
    run_metrics(records())
    before = (tmp_path / "out" / "metrics.json").stat().st_mtime_ns
    code, _, out = run_metrics(records())
    assert code == 0 and "nothing to do" in out
    assert (tmp_path / "out" / "metrics.json").stat().st_mtime_ns == before


def test_other_predictions_are_measured_anew(run_metrics):
    _, told, _ = run_metrics(records())
    _, other, _ = run_metrics(records(predicted_strategy="Question"))
    assert other["strategy"]["bias"] != told["strategy"]["bias"]


def test_forced_numbers_are_the_same_bytes(run_metrics, tmp_path):
    run_metrics(records())
    before = (tmp_path / "out" / "metrics.json").read_bytes()
    _, _, out = run_metrics(records(), options=["--force"])
    assert "nothing to do" not in out
    assert (tmp_path / "out" / "metrics.json").read_bytes() == before


def test_failed_records_are_counted_and_left_out_and_said(run_metrics):
    given = records()
    _, whole, _ = run_metrics([one for one in given if one["id"] != "0-2"])
    lost = row(0, 2) | {"status": "failed"}
    del lost["predicted_strategy"], lost["predicted_response"]
    _, told, out = run_metrics([lost if one["id"] == "0-2" else one for one in given], out="other")
    assert (told["n"], told["failed"]) == (39, 1) and "1 failed records are left out" in out
    assert told["text"] == whole["text"]


def test_unreadable_strategies_are_left_out_of_the_headline_and_all_turns_count_them(run_metrics):
    given = records()
    given[0] |= {"status": "invalid", "predicted_strategy": None, "predicted_response": None}
    _, told, out = run_metrics(given)
    strategy, every = told["strategy"], told["strategy"]["all_turns"]
    assert strategy["invalid"] == told["empty"] == 1 and "1 (2.5 %) with no readable" in out
    assert (strategy["invalid_rate"]["value"], strategy["invalid_rate"]["n"]) == (2.5, 40)
    assert (strategy["n"], strategy["bias"]["n"]) == (39, 39)
    assert (every["n"], every["bias"]["n"]) == (40, 40)
    _, readable, _ = run_metrics(given[1:], out="other")
    for name in ("bias", "weighted_f1", "macro_f1", "accuracy"):
        assert strategy[name]["value"] == readable["strategy"][name]["value"]
    assert set(told["baselines"]["uniform"]["strategy"]["all_turns"]) == set(every)


def test_numbers_of_another_list_of_strategies_are_made_anew_and_the_signature_names_it(
    run_metrics, tmp_path
):
    _, told, _ = run_metrics(records())
    assert told["made_with"]["strategies"] == ALL
    assert "|strategies:Qu,RP,RF,Sd,AR,PS,In,Ot|" in told["strategy"]["bias"]["signature"]
    written = tmp_path / "out" / "metrics.json"
    other = told | {"made_with": told["made_with"] | {"strategies": ALL[:5]}}
    files.write_json(written, other)
    _, told, out = run_metrics(records())
    assert "nothing to do" not in out and told["made_with"]["strategies"] == ALL


def test_a_foreign_strategy_that_is_none_is_unreadable(run_metrics):
    lines = [foreign(one) | {"predict_strategy": "Empathise!"} for one in records()]
    assert run_metrics(lines)[1]["strategy"]["invalid"] == 40


@pytest.mark.parametrize("one", [row(1, 1), row(1, 1, ""), row(1, 1, predicted_strategy="Others")])
def test_one_record_is_measured(run_metrics, one):
    code, told, _ = run_metrics([one])
    assert code == 0 and told["n"] == 1
    assert told["strategy"]["bias"]["low"] is None
    assert "1 dialogue, and an interval takes 10" in told["strategy"]["bias"]["reason"]


def test_smoke_beside_the_predictions_marks_the_numbers(run_metrics, tmp_path):
    files.write_json(tmp_path / "options.json", {"smoke": True})
    _, told, out = run_metrics(records())
    assert told["smoke"] is True and "SMOKE" in out


@pytest.mark.parametrize("field", list(foreign(row(0, 0))))
def test_a_missing_field_is_one_line(run_metrics, field):
    lines = [foreign(one) for one in records()]
    del lines[7][field]
    code, _, err = run_metrics(lines)
    assert code == 2 and f"row 7 (from 0): no '{field}'" in err


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"gold_strategy": "Empathy"}, "unknown gold_strategy 'Empathy'"),
        ({"gold_strategy": None}, "'gold_strategy' is no text"),
        ({"predicted_response": 7}, "'predicted_response' is no text"),
        ({"status": "lost"}, "its status 'lost' is none of"),
        ({"id": "0-0"}, "id '0-0' is there twice"),
        ({"dialogue_turns": 0}, "dialogue_turns 0 is no number of turns that has '0-3'"),
        ({"distribution": [0.5, 0.5]}, "no object of eight probabilities"),
        ({"distribution": SHARES | {"Question": 1.5}}, "gives Question 1.5, no probability"),
        ({"distribution": SHARES | {"Question": None}}, "gives Question None, no probability"),
        ({"distribution": SHARES | {"Question": 0.5}}, "sum to 1.375"),
        ({"distribution": {"Question": 1.0}}, "has 1 strategies"),
        ({"distribution": {"Hope": 1.0}}, "unknown or double strategy 'Hope'"),
    ],
)
def test_a_record_that_is_wrong_is_one_line_that_names_it(run_metrics, changed, told):
    given = records()
    given[3] |= changed
    code, _, err = run_metrics(given)
    assert code == 2 and "row 3 (from 0)" in err and told in err


@pytest.mark.parametrize("missing", [float("nan"), "nan", None])
def test_a_reply_that_is_nan_is_none(run_metrics, missing):
    lines = [foreign(one) for one in records()]
    lines[5]["predict_content"] = missing
    code, told, _ = run_metrics(lines)
    assert (code, told["empty"]) == (0, 1)
    code, told, _ = run_metrics(json.dumps(lines).encode())
    assert (code, told["empty"]) == (0, 1)


@pytest.mark.parametrize("missing", [float("nan"), "nan", None])
@pytest.mark.parametrize("field", ["GT_strategy", "GT_content"])
def test_gold_that_is_nan_is_one_line_that_names_row_and_column(run_metrics, field, missing):
    lines = [foreign(one) for one in records()]
    lines[5][field] = missing
    code, _, err = run_metrics(lines)
    assert code == 2 and f"row 5 (from 0): {field!r} is no text, but null or NaN" in err


def test_infinity_is_one_line_that_names_its_row(run_metrics):
    lines = [foreign(one) for one in records()]
    lines[5]["predict_content"] = float("inf")
    code, _, err = run_metrics(lines)
    assert code == 2 and "line 6: not JSON" in err
    code, _, err = run_metrics(json.dumps(lines).encode())
    assert code == 2 and "no JSON array, row 5 (from 0)" in err


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "is empty"),
        (b"[]", "is empty"),
        (b"\n\n", "is empty"),
        ('{"id": "ü"}\n'.encode("latin-1"), "is not UTF-8 text"),
        (b'"text"\n', "row 0 (from 0): not a JSON object"),
        (b'[{"id": "1-0"}', "is no JSON array"),
    ],
)
def test_a_file_that_is_none_is_one_line(run_metrics, content, told):
    code, _, err = run_metrics(content)
    assert code == 2 and told in err


def test_a_file_that_is_not_there_is_one_line(capsys, tmp_path):
    argv = ["--predictions", str(tmp_path / "no.jsonl"), "--out", str(tmp_path)]
    assert cli.run(metrics.main, argv) == 2
    assert "no.jsonl: no such file" in capsys.readouterr().err


def test_nothing_but_failures_is_one_line(run_metrics):
    code, _, err = run_metrics(records(status="failed"))
    assert code == 2 and "all 40 records failed" in err


def test_a_second_part_with_the_same_id_is_one_line(run_metrics):
    code, _, err = run_metrics(records(), records()[:1])
    assert code == 2 and "id '0-0' is there twice" in err


@pytest.mark.parametrize("options", [(), ("--force",)])
def test_a_users_own_metrics_json_is_never_replaced(run_metrics, tmp_path, options):
    files.write_text(tmp_path / "out" / "metrics.json", '{"accuracy": 1}\n')
    code, _, err = run_metrics(records(), options=options)
    assert code == 2 and "is not of this step" in err
    assert (tmp_path / "out" / "metrics.json").read_text() == '{"accuracy": 1}\n'
