"""Preference trainings: what they start from, what they may be trained on, and their reference."""

import json
import shutil

import pytest
import torch
import yaml
from corpora import release_row
from safetensors.torch import save_file

from data_builders import build
from esc import adapters, backbones, files, paths
from esc.exceptions import EscError, OptionsDiffer
from esc.paths import Lineage
from esc.step import manifest, train_set
from serving.compose import compose
from training import recipes, reference
from training import train as stamp
from training import train as step

MODEL = "smollm2-135m"


def training(work, *overrides, task="sp", lineage=paths.PAPER, engine=None):
    return recipes.Training(MODEL, task, "dpo", work, 1, overrides, lineage, engine)


def adapter(folder):
    folder.mkdir(parents=True)
    save_file({"weight": torch.zeros(1)}, folder / adapters.WEIGHTS)
    files.write_json(folder / adapters.CONFIG, {"r": 16})
    return folder


def pairs(work, task="sp", lineage=paths.PAPER, **changed):
    """A mined set of two pairs, made from the adapter that is there."""
    train = list(files.read_jsonl(work / paths.sft_file("sp", "train")))[:2]
    start = adapters.folder(work, MODEL, adapters.start(task, lineage))
    provenance = {
        "model": MODEL,
        "weights": adapters.fingerprint(start),
        "data": train_set(manifest(work)),
        "smoke": True,
    } | changed
    path = work / paths.preference_file(paths.preference_dataset(task, MODEL, lineage))
    rows = [
        {
            "id": row["id"],
            "system": row["system"],
            "conversations": [{"from": "human", "value": row["instruction"]}],
            "chosen": {"from": "gpt", "value": row["output"]},
            "rejected": {"from": "gpt", "value": "Information"},
            "provenance": provenance,
        }
        for row in train
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def work(small_corpus, tmp_path):
    """Built sets and an SFT adapter of the planner, which holds nothing a model could load."""
    build.build(str(small_corpus), tmp_path, build.BuildOptions())
    adapter(tmp_path / paths.adapter(MODEL, "sp", "sft"))
    return tmp_path


def stamped(asked):
    return stamp.stamp(asked, recipes.recipe_for(asked))


def test_the_stamp_holds_the_adapter_it_starts_from(work):
    pairs(work)
    sft = adapters.fingerprint(work / paths.adapter(MODEL, "sp", "sft"))
    assert stamped(training(work))["adapter sp_sft"] == sft


def test_the_stamp_of_a_merged_start_holds_its_adapters_and_the_base_not_its_folder(work):
    pairs(work)
    found = stamped(training(work, engine="qlora"))
    assert found["adapter sp_sft"] == stamped(training(work))["adapter sp_sft"]
    assert found["recipe"]["model_name_or_path"] == "models/smollm2-135m"
    assert (found["engine"], found["start merged in"]) == ("qlora", "float32")


def test_a_training_does_not_go_on_under_another_engine(work):
    pairs(work)
    asked = training(work)
    stamp.guard_options(asked.output, stamped(asked))
    (asked.output / "checkpoint-1").mkdir()
    with pytest.raises(OptionsDiffer, match="engine unset -> zero2"):
        stamp.guard_options(asked.output, stamped(training(work, engine="zero2")))


def test_a_quantized_base_by_hand_is_sent_to_the_engine(work):
    with pytest.raises(EscError, match="into a quantized base; ENGINE=qlora starts from"):
        recipes.recipe_for(training(work, "quantization_bit=4"))


def test_a_second_round_is_merged_after_sft_and_the_first_and_has_its_own_set(work):
    made = recipes.recipe_for(training(work, lineage=Lineage("ipo", 2)))
    saves = work / paths.adapters(MODEL)
    assert made["adapter_name_or_path"] == f"{saves}/sp_sft,{saves}/sp_dpo_ipo"
    assert made["dataset"] == f"esc_sp_dpo_{MODEL}_ipo_r2"
    assert made["output_dir"] == f"{saves}/sp_dpo_ipo_r2"


def test_a_comma_in_work_is_refused(tmp_path):
    with pytest.raises(EscError, match="holds a comma"):
        recipes.recipe_for(training(tmp_path / "a,b"))


def test_a_variant_that_the_task_does_not_have_lists_those_it_has(work):
    with pytest.raises(EscError, match="VARIANT=psnr is none of sp's: practical, ipo"):
        recipes.recipe_for(training(work, lineage=Lineage("psnr")))


@pytest.mark.parametrize("given", ["pref_loss=hinge", "pref_ftx=1.0", "logging_steps=10"])
def test_what_would_change_the_first_loss_or_hide_it_is_the_variants(work, given):
    with pytest.raises(EscError, match=r"^TRAIN_ARGS cannot set [a-z_]+: the loss is the VARIANT"):
        recipes.recipe_for(training(work, given))


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("per_device_train_batch_size=2", "at least 4"),
        ("preprocessing_num_workers=8", "replies of a row's own turn"),
        ("preprocessing_batch_size=1000", "replies of a row's own turn"),
    ],
)
def test_what_would_take_kto_its_mismatched_replies_is_refused(work, given, told):
    recipes.recipe_for(training(work, given))
    with pytest.raises(EscError, match=told):
        recipes.recipe_for(training(work, given, lineage=Lineage("kto")))


def test_a_missing_sft_adapter_names_the_target_that_trains_it(work):
    pairs(work)
    shutil.rmtree(work / paths.adapter(MODEL, "sp", "sft"))
    with pytest.raises(EscError, match=r"sp_sft holds no adapter; make sft-sp WORK=.* trains it"):
        stamped(training(work))


def header(text):
    return len(text).to_bytes(8, "little") + text


@pytest.mark.parametrize("loss", ["orpo", "simpo"])
@pytest.mark.parametrize("given", ["create_new_adapter=false", "use_unsloth=true"])
def test_without_a_reference_to_show_it_an_unmerged_start_is_refused_before_it_begins(
    work, loss, given
):
    with pytest.raises(EscError, match="the SFT adapter apart"):
        recipes.recipe_for(training(work, given, lineage=Lineage(loss)))


def test_a_second_round_that_is_not_mined_names_the_target_that_mines_it(work):
    adapter(work / paths.adapter(MODEL, "sp", "dpo"))
    with pytest.raises(EscError, match=r"make mine-sp WORK=\S+ ROUND=2 makes it"):
        stamped(training(work, lineage=Lineage(None, 2)))


@pytest.mark.parametrize("lineage", [paths.PAPER, Lineage("practical")])
def test_a_set_from_before_a_mining_without_pairs_is_not_trained_on(work, lineage):
    pairs(work, lineage=lineage)
    files.write_json(work / paths.no_pairs(MODEL, "sp", lineage), {"told": "0 pairs of 24 samples"})
    with pytest.raises(EscError, match=r"no_pairs\.json: 0 pairs of 24 samples$"):
        stamped(training(work, lineage=lineage))


@pytest.mark.parametrize("row", [1, 2])
def test_every_row_must_be_of_the_same_mining(work, row):
    path = pairs(work)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[row - 1]["provenance"]["model"] = "qwen2.5-7b"
    path.write_text("".join(json.dumps(one) + "\n" for one in lines))
    with pytest.raises(EscError, match=r"line 2: of another mining than the rows before"):
        stamped(training(work))


def test_a_pair_whose_sides_are_equal_is_refused(work):
    path = pairs(work)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[1]["rejected"] = rows[1]["chosen"]
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    with pytest.raises(EscError, match=r"line 2: chosen equals rejected"):
        stamped(training(work))


@pytest.mark.parametrize(
    "left", [b"", b"torn", header(b"[]"), header(b'{"a": {"b": 1}}'), header(b'{"a": 1}')]
)
def test_an_empty_or_torn_sft_adapter_is_one_line(work, left):
    pairs(work)
    (work / paths.adapter(MODEL, "sp", "sft") / adapters.WEIGHTS).write_bytes(left)
    with pytest.raises(EscError, match=r"holds no weights \(empty, or cut off\); delete"):
        stamped(training(work))


def test_a_set_that_is_not_mined_names_the_target_that_mines_it(work):
    with pytest.raises(EscError, match=r"esc_sp_dpo_.* is not there; make mine-sp WORK=.* makes"):
        stamped(training(work))


def test_an_empty_set_is_refused(work):
    pairs(work).write_text("")
    with pytest.raises(EscError, match=r"is empty; make mine-sp"):
        stamped(training(work))


def test_a_set_without_provenance_is_refused(work):
    pairs(work).write_text('{"id": "0-0"}\n')
    with pytest.raises(EscError, match=r"no provenance"):
        stamped(training(work))


def test_a_set_mined_from_another_model_is_refused(work):
    pairs(work, model="qwen2.5-7b")
    with pytest.raises(EscError, match=r"mined from MODEL=qwen2\.5-7b, not smollm2-135m; make"):
        stamped(training(work))


def test_a_set_mined_from_another_adapter_is_refused(work):
    pairs(work, weights="0" * 64)
    with pytest.raises(EscError, match=r"mined from another sp-sft than is there now; .* FORCE=1"):
        stamped(training(work))


def test_a_set_of_other_train_turns_is_refused(work):
    pairs(work)
    build.build(None, work, build.BuildOptions(limit=2))
    with pytest.raises(EscError, match=r"of other train turns than are built now \(.*\); build"):
        stamped(training(work))


def logged(folder, *rows):
    folder.mkdir(exist_ok=True)
    (folder / reference.LOG).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


SETTINGS = {"pref_beta": 0.5, "adapter_name_or_path": "sft", "create_new_adapter": True}


@pytest.mark.parametrize(
    ("variant", "start"),
    [(None, 0.6931), ("practical", 0.6931), ("ipo", 1.0), ("kto", 0.5), ("psnr", 0.6931)],
)
def test_the_expected_first_loss(tmp_path, variant, start):
    loss = recipes.of(Lineage(variant))
    assert reference.check_loss(logged(tmp_path, {"loss": start}), loss, SETTINGS)
    with pytest.raises(EscError, match="the reference is not the model it starts from"):
        reference.check_loss(logged(tmp_path, {"loss": start + 0.002}), loss, SETTINGS)


@pytest.mark.parametrize("variant", ["orpo", "simpo"])
def test_a_loss_without_a_reference_may_start_anywhere(tmp_path, variant):
    loss = recipes.of(Lineage(variant))
    assert reference.check_loss(logged(tmp_path, {"loss": 17.0}), loss, SETTINGS)


@pytest.mark.parametrize("variant", [None, "ipo", "kto", "orpo", "simpo"])
@pytest.mark.parametrize("first", [0.0, float("nan")])
def test_a_first_loss_of_zero_or_no_number_is_wrong(tmp_path, variant, first):
    loss = recipes.of(Lineage(variant))
    with pytest.raises(EscError, match=r"loss in .* is (0\.0|nan)"):
        reference.check_loss(logged(tmp_path, {"loss": first}), loss, SETTINGS)


def test_only_the_first_step_is_held_to_it_and_half_a_line_is_none(tmp_path):
    folder = logged(tmp_path, {"loss": 0.6931}, {"loss": 0.5})
    assert reference.check_loss(folder, recipes.SIGMOID, SETTINGS)
    (folder / reference.LOG).write_text('{"loss": 0.1')
    assert not reference.check_loss(folder, recipes.SIGMOID, SETTINGS)


def test_without_create_new_adapter_the_message_says_so(tmp_path):
    folder = logged(tmp_path, {"loss": 0.6})
    with pytest.raises(EscError, match="create_new_adapter is not true"):
        reference.check_loss(folder, recipes.SIGMOID, SETTINGS | {"create_new_adapter": False})


def state(folder, **rewards):
    first = {f"rewards/{side}": value for side, value in rewards.items()}
    files.write_json(folder / reference.STATE, {"log_history": [{"loss": 0.69} | first]})


@pytest.mark.parametrize("rewards", [{"chosen": 0.01, "rejected": 0.01}, {}])
def test_first_rewards_other_than_zero_are_refused(tmp_path, rewards):
    state(tmp_path, **rewards)
    with pytest.raises(EscError, match="first rewards in"):
        reference.check_rewards(tmp_path, recipes.SIGMOID, SETTINGS)


def test_first_rewards_of_zero_pass(tmp_path):
    state(tmp_path, chosen=0.0, rejected=-0.0)
    reference.check_rewards(tmp_path, recipes.SIGMOID, SETTINGS)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, run, model):
    """A WORK folder whose planner has learned enough for its loss to tell it from the base."""
    work = tmp_path_factory.mktemp("preference")
    corpus = work / "small.json"
    corpus.write_text(json.dumps([release_row(number) for number in range(20)]))
    build.build(str(corpus), work, build.BuildOptions())
    quick = ("max_steps=2", "gradient_accumulation_steps=1")
    moved = ("learning_rate=1.0e-3", "warmup_steps=0")
    shown = run(
        *("-m", "training", "train", "--task", "sp", "--work", str(work), "--processes", "1"),
        *("--set", *quick, *moved),
    )
    assert shown.returncode == 0, shown.stderr[-2000:]
    rows = list(files.read_jsonl(pairs(work)))
    singles = work / paths.preference_file(paths.preference_dataset("sp", MODEL, Lineage("kto")))
    singles.write_text(
        "".join(
            json.dumps(row | {"conversations": [*row["conversations"], row[side]], "label": wanted})
            + "\n"
            for row in rows
            for side, wanted in (("chosen", True), ("rejected", False))
        )
    )
    return work


def prefer(run, work, *overrides, variant=None):
    """What a training of two steps prints."""
    named = ("--variant", variant) if variant else ()
    return run(
        *("-m", "training", "train", "--task", "sp", "--stage", "dpo", "--work", str(work)),
        *("--processes", "1", *named, "--set", "max_steps=2", "gradient_accumulation_steps=1"),
        *overrides,
    )


@pytest.mark.slow
def test_without_create_new_adapter_it_is_stopped_and_the_corrected_command_just_works(
    run, trained
):
    output = training(trained).output
    stopped = prefer(run, trained, "create_new_adapter=false")
    assert stopped.returncode == 2
    # Behind the trainer's own progress bar.
    last = stopped.stderr.strip().splitlines()[-1].partition("error: ")[2]
    assert last.startswith("the first sigmoid loss in ") and "not 0.6931" in last
    assert "create_new_adapter is not true" in last
    assert not output.exists()
    right = prefer(run, trained)
    assert right.returncode == 0, right.stderr[-2000:]
    assert files.read_json(output / "run.json")["first_loss"] == pytest.approx(0.6931, abs=1e-3)
    first = files.read_json(output / "trainer_state.json")["log_history"][0]
    assert (first["rewards/chosen"], first["rewards/rejected"]) == (0, 0)


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["practical", "ipo", "simpo", "orpo", "kto"])
def test_every_loss_trains_and_starts_as_the_table_says(run, trained, variant):
    shown = prefer(run, trained, variant=variant)
    assert shown.returncode == 0, shown.stderr[-2000:]
    output = training(trained, lineage=Lineage(variant)).output
    facts, loss = files.read_json(output / "run.json"), recipes.of(Lineage(variant))
    assert facts["smoke"] is True and "SMOKE" in shown.stdout
    if loss.start:
        expected = loss.start(loss.beta or 0.5)
        assert facts["first_loss"] == pytest.approx(expected, abs=1e-3)
    else:
        assert facts["first_loss"] != pytest.approx(0.6931, abs=1e-3)


@pytest.mark.slow
def test_a_merged_sft_model_is_exported_trained_from_and_composed_with_its_adapter(
    trained, tmp_path, monkeypatch
):
    # Four bits take minutes a step on a CPU: all of the engine but them.
    (tmp_path / "qlora.yaml").write_text("report_to: none\n")
    monkeypatch.setattr(backbones, "FOLDER", tmp_path)
    quick = ("max_steps=1", "gradient_accumulation_steps=1")
    asked = training(trained, *quick, lineage=Lineage("practical"), engine="qlora")
    # Another test trains the same variant without an engine.
    facts = step.train(asked, force=True)
    sft = trained / paths.adapter(MODEL, "sp", "sft")
    ran = yaml.safe_load((asked.output / stamp.RECIPE).read_text())
    assert ran["model_name_or_path"] == str(sft / "merged") and "adapter_name_or_path" not in ran
    assert facts["first_loss"] == pytest.approx(0.6931, abs=1e-3)
    made_from = files.read_json(sft / "merged" / "merged.json")["made_from"]
    assert made_from == {"sp_sft": adapters.fingerprint(sft)}
    composed, _ = compose(trained, MODEL, "sp", Lineage("practical"))
    served = files.read_json(composed / "composed.json")
    assert list(served["made_from"]) == ["sp_sft", "sp_dpo_practical"]
    base = files.read_json(composed / "adapter_config.json")["base_model_name_or_path"]
    assert base == backbones.get(MODEL).location
