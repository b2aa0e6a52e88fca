"""Preference trainings: what they start from, what they may be trained on, and their reference."""

import json
import shutil

import pytest
import yaml
from trained import MODEL, TWO_ROWS, pairs, train_together, training

from data_builders import build
from esc import adapters, backbones, cli, files, paths
from esc.files import EscError
from esc.paths import Lineage
from serving.compose import compose
from training import recipes, train


def stamped(asked):
    return train.stamp(asked, recipes.recipe_for(asked))


def test_the_stamp_holds_the_adapter_it_starts_from_and_the_base_of_a_merged_start(work):
    pairs(work)
    sft = adapters.fingerprint(work / paths.adapter(MODEL, "sp", "sft"))
    assert stamped(training(work))["adapter sp_sft"] == sft
    merged = stamped(training(work, engine="qlora"))
    assert merged["adapter sp_sft"] == sft
    assert merged["recipe"]["model_name_or_path"] == "models/smollm2-135m"
    assert (merged["engine"], merged["start merged in"]) == ("qlora", "float32")


def test_a_second_round_has_its_own_set_and_names_the_target_that_mines_it(work):
    asked = training(work, variant="ipo", round=2)
    assert recipes.recipe_for(asked)["dataset"] == f"esc_sp_dpo_{MODEL}_ipo_r2"
    assert asked.output == work / paths.adapters(MODEL) / "sp_dpo_ipo_r2"
    with pytest.raises(EscError, match=r"make mine-sp WORK=\S+ VARIANT=ipo ROUND=2 makes it"):
        stamped(asked)


def header(text):
    return len(text).to_bytes(8, "little") + text


@pytest.mark.parametrize("left", [None, b"", b"torn", header(b"[]"), header(b'{"a": {"b": 1}}')])
def test_a_missing_empty_or_torn_sft_adapter_is_one_line_with_the_target_that_trains_it(work, left):
    pairs(work)
    weights = work / paths.adapter(MODEL, "sp", "sft") / adapters.WEIGHTS
    weights.unlink()
    if left is not None:
        weights.write_bytes(left)
    with pytest.raises(EscError, match=r"sp_sft holds no adapter; make sft-sp WORK=\S* "):
        stamped(training(work))


@pytest.mark.parametrize("variant", [None, "practical"])
def test_a_set_from_before_a_mining_without_pairs_is_not_trained_on(work, variant):
    pairs(work, lineage=Lineage(variant))
    told = {"told": "0 pairs of 24 samples"}
    files.write_json(work / paths.no_pairs(MODEL, "sp", Lineage(variant)), told)
    with pytest.raises(EscError, match=r"no_pairs\.json: 0 pairs of 24 samples$"):
        stamped(training(work, variant=variant))


@pytest.mark.parametrize(
    "change",
    [
        {"provenance": {"model": "m"}},
        {"provenance": {"model": "m", "weights": "w", "data": {}, "smoke": True}},
        {"chosen": "a", "rejected": "a"},
        None,
    ],
)
def test_every_row_must_be_a_pair_of_the_same_mining(work, change):
    path = pairs(work)
    first, second = files.read_jsonl(path)
    rows = [first, second | change] if change else []
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    with pytest.raises(EscError, match=r"(, line 2: .*|is empty); make mine-sp WORK="):
        stamped(training(work))


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"model": "qwen2.5-7b"}, "MODEL qwen2.5-7b -> smollm2-135m"),
        ({"weights": "0" * 64}, "sp-sft 0"),
        ({"data": {}}, "train set unset"),
    ],
)
def test_a_set_of_another_model_adapter_or_train_turns_is_refused(work, changed, told):
    pairs(work, **changed)
    with pytest.raises(EscError, match=rf"\(.*{told}.*; make mine-sp WORK=.* FORCE=1 mines this"):
        stamped(training(work))


def test_a_set_mined_by_an_adapter_on_another_machine_is_taken(work):
    pairs(work, weights=adapters.ELSEWHERE)
    assert stamped(training(work))
    build.build(None, work, build.BuildOptions(limit=2))
    with pytest.raises(EscError, match=r"\(train set .*\); make mine"):
        stamped(training(work))


SETTINGS = {"pref_beta": 0.5}


@pytest.mark.parametrize(
    ("variant", "start"),
    [(None, 0.6931), ("practical", 0.6931), ("ipo", 1.0), ("kto", 0.5), ("psnr", 0.6931)],
)
def test_a_first_loss_or_reward_of_another_reference_is_refused(tmp_path, variant, start):
    def check(**first):
        train.check_first(first, recipes.of(Lineage(variant)), SETTINGS, tmp_path)

    nan = float("nan")
    check(loss=start)
    check(**{"loss": start, "rewards/chosen": -0.0})
    for loss, reward in ((start + 0.002, 0), (0.0, 0), (nan, 0), (start, 0.01), (start, nan)):
        with pytest.raises(EscError, match="the reference is not the model it starts from"):
            check(**{"loss": loss, "rewards/rejected": reward})


@pytest.mark.parametrize("variant", ["orpo", "simpo"])
def test_a_loss_without_a_reference_may_start_anywhere_but_as_no_number(tmp_path, variant):
    loss = recipes.of(Lineage(variant))
    train.check_first({"loss": 17.0}, loss, SETTINGS, tmp_path)
    for wrong in (0.0, float("nan")):
        with pytest.raises(EscError, match=r"loss in .* is (0\.0|nan): it was no number"):
            train.check_first({"loss": wrong}, loss, SETTINGS, tmp_path)


@pytest.mark.slow
def test_the_chains_reference_is_its_sft_adapter(chain):
    output = training(chain).output
    assert files.read_json(output / train.DONE)["first_loss"] == pytest.approx(0.6931, abs=1e-3)
    first = files.read_json(output / train.STATE)["log_history"][0]
    assert (first["rewards/chosen"], first["rewards/rejected"]) == (0, 0)


@pytest.mark.slow
def test_without_create_new_adapter_it_is_stopped_at_its_first_step(copied, capfd):
    output = training(copied).output
    shutil.rmtree(output)
    given = ["--task", "sp", "--stage", "dpo", "--work", str(copied), "--processes", "1"]
    # Many more steps than the time of this test.
    endless = ("--set", "gradient_accumulation_steps=1", "num_train_epochs=1000")
    assert cli.run(train.main, [*given, *endless, "create_new_adapter=false"]) == cli.USER_ERROR
    last = capfd.readouterr().err.strip().splitlines()[-1].partition("error: ")[2]
    assert last.startswith("the first sigmoid loss in ") and "not 0.6931" in last
    assert "create_new_adapter is not true" in last
    # So the corrected command just works.
    assert not output.exists()


@pytest.mark.slow
def test_every_loss_trains_and_starts_as_the_table_says(copied):
    variants = ("ipo", "simpo", "orpo", "kto")
    for variant in variants:
        pairs(copied, lineage=Lineage(variant))
    asked = [training(copied, "max_steps=1", *TWO_ROWS, variant=one) for one in variants]
    for one, facts in zip(asked, train_together(*asked), strict=True):
        assert facts["smoke"] is True
        if one.loss.start:
            expected = pytest.approx(one.loss.start(one.loss.beta), abs=1e-3)
            assert facts["first_loss"] == expected
        else:
            assert facts["first_loss"] != pytest.approx(0.6931, abs=1e-3)


@pytest.mark.slow
def test_a_merged_sft_model_is_exported_trained_from_and_composed_with_its_adapter(
    copied, monkeypatch
):
    # Four bits take minutes a step on a CPU: all of the engine but them.
    (copied / "qlora.yaml").write_text("report_to: none\n")
    monkeypatch.setattr(backbones, "FOLDER", copied)
    asked = training(copied, "max_steps=1", *TWO_ROWS, variant="practical", engine="qlora")
    facts = train.train(asked, force=False)
    sft = copied / paths.adapter(MODEL, "sp", "sft")
    ran = yaml.safe_load((asked.output / train.RECIPE).read_text())
    assert ran["model_name_or_path"] == str(sft / "merged") and "adapter_name_or_path" not in ran
    assert facts["first_loss"] == pytest.approx(0.6931, abs=1e-3)
    made_from = files.read_json(sft / "merged" / "merged.json")["made_from"]
    assert made_from == {"sp_sft": adapters.fingerprint(sft)}
    composed, _ = compose(copied, MODEL, "sp", asked.lineage)
    served = files.read_json(composed / "composed.json")
    assert list(served["made_from"]) == ["sp_sft", "sp_dpo_practical"]
    base = files.read_json(composed / adapters.CONFIG)["base_model_name_or_path"]
    assert base == backbones.get(MODEL).location
