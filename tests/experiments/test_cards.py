"""Cards of sets and adapters, read by the Hugging Face library and loaded by ``datasets``."""

import json
import shutil
from dataclasses import replace

import datasets
import pytest
import yaml
from huggingface_hub import DatasetCard, ModelCard
from reported import metrics, sha, write

from data_builders import build
from esc import adapters, backbones, citation, cli, files, paths
from esc import step as built
from esc.exceptions import EscError
from esc.paths import Lineage
from experiments import cards as step
from experiments.cards import README, check, of_base, of_corpus

EMBEDDED, QWEN, LLAMA = "smollm2-135m", "qwen2.5-7b", "llama3.1-8b"
HOSTILE = "x`|\n---\n# pwned <script> [a](http://b)"


@pytest.fixture
def work(tmp_path, sample_work):
    shutil.copytree(sample_work, tmp_path / "work")
    return tmp_path / "work"


def cards(work, model=EMBEDDED, *, force=False):
    return "\n".join(step.card(work, model, force=force))


def adapter(folder, weight=1):
    """A folder with a whole adapter of one tensor."""
    header = json.dumps({"w": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}).encode()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / adapters.WEIGHTS).write_bytes(
        len(header).to_bytes(8, "little") + header + bytes([weight])
    )
    write(folder / adapters.CONFIG, {"r": 16})
    return adapters.fingerprint(folder)


def trained(work, task="sp", stage="sft", model=EMBEDDED, *, data=None, **settings):
    """A finished training, as the training step leaves it; the hash of what is served."""
    folder = work / paths.adapter(model, task, stage)
    digest = adapter(folder)
    data = data or work / paths.sft_file(task, "train")
    options = {"training set": files.sha256(data), "batch": 32, "recipe": {}}
    if stage == "dpo":
        options[f"adapter {task}_sft"] = "c" * 64
        digest = adapter(folder / adapters.SERVED, weight=2)
    write(folder / "options.json", options)
    facts = {"seconds": 61.5, "smoke": model == EMBEDDED, "steps": 24}
    write(folder / "run.json", facts | {"first_loss": 3.75, "last_loss": 2.0})
    recipe = {"model_name_or_path": "/home/me/m", "stage": stage, "learning_rate": 1e-5}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe | settings))
    return digest


def mined(work, task="sp", model=EMBEDDED, *, judge=None, smoke=True, **said):
    """A mined set and its manifest, as the preference step leaves them."""
    name = paths.preference_dataset(task, model)
    answer = {"from": "gpt", "value": "Question"}
    row = {
        "id": "0-0",
        "system": "s",
        "conversations": [{"from": "human", "value": "hi"}],
        "chosen": answer,
        "rejected": answer | {"value": "Others"},
        "error": "Strategy Mismatch",
        "explanation": None,
        "provenance": {"model": model},
    } | said
    path = work / paths.preference_file(name)
    path.write_text(json.dumps(row) + "\n")
    provenance = {
        "model": model,
        "sampler": f"{task}-sft",
        "weights": "d" * 64,
        "judge": judge,
        "data": built.train_set(built.manifest(work)),
    }
    manifest = {
        "provenance": provenance,
        "smoke": smoke,
        "sets": {name: {"rows": 1, "bytes": 1, "sha256": files.sha256(path)}},
    }
    write(work / paths.preference_manifest(task, model, Lineage()), manifest)
    return path


def system(work, name, weights, model=EMBEDDED, *, smoke=True):
    """The metrics of one system that asked ``weights``."""
    folder = work / "runs" / model / name
    write(folder / "predictions.jsonl", {})
    write(folder / "options.json", {"SET": "test", "weights": {"sp-sft": weights}, "smoke": smoke})
    found = metrics(20.0, sha(folder / "predictions.jsonl"), smoke=smoke)
    return write(folder / "metrics.json", found)


def of_esconv(work):
    """The same sets, as if they were built from the real corpus."""
    path = paths.data_manifest(work)
    manifest = files.read_json(path)
    manifest["corpus"]["kind"], manifest["smoke"] = "esconv", False
    manifest["licence"] = build.LICENCES["esconv"]
    write(path, manifest)


def dataset_card(work):
    return DatasetCard.load(work / "data" / "README.md", ignore_metadata_errors=False)


def model_card(work, name="sp_sft", model=EMBEDDED):
    return ModelCard.load(
        work / paths.adapters(model) / name / "README.md", ignore_metadata_errors=False
    )


def test_datasets_loads_every_set_of_the_folder_with_its_splits(work, tmp_path):
    mined(work)
    cards(work)
    folder = str(work / "data")
    names = datasets.get_dataset_config_names(folder)
    assert names == ["esc_sp_sft", "esc_rg_sft", "esc_vanilla_sft", f"esc_sp_dpo_{EMBEDDED}"]
    rows = {
        name: {
            split: rows.num_rows
            for split, rows in datasets.load_dataset(
                folder, name, cache_dir=str(tmp_path / "cache")
            ).items()
        }
        for name in names
    }
    assert rows["esc_rg_sft"] == {"train": 253, "validation": 30, "test": 31}
    assert rows["esc_vanilla_sft"] == {"train": 42, "validation": 5, "test": 5}
    assert rows[names[3]] == {"train": 1}


def test_the_dataset_card_counts_rows_and_strategies_and_names_every_file_by_its_hash(work):
    mined(work)
    cards(work)
    card = dataset_card(work)
    assert "| `esc_rg_sft` | response generator, SFT SMOKE | 253 | 30 | 31 |" in card.text
    question = sum(
        r["strategy"] == "Question" for r in files.read_jsonl(work / "data/rg_sft_test.jsonl")
    )
    assert f"{question:,} ({question / 31:.1%}) |\n" in card.text.partition("| Question |")[2]
    for path in sorted((work / "data").glob("*.jsonl")):
        assert f"`{path.name}`" in card.text and files.sha256(path) in card.text
    assert "1 Strategy Mismatch" in card.text and "`sp-sft of smollm2-135m`" in card.text


@pytest.mark.parametrize("kind", sorted(build.LICENCES))
def test_every_kind_of_corpus_has_a_licence_the_hub_knows(kind):
    known = {"esconv": "cc-by-nc-4.0", "failed-esconv": "cc-by-nc-4.0", "sample": "apache-2.0"}
    assert of_corpus(kind) == known.get(kind, "other")


def test_sets_of_the_real_corpus_carry_its_licence_and_no_smoke(work):
    of_esconv(work)
    cards(work)
    card = dataset_card(work)
    assert card.data.license == "cc-by-nc-4.0" and card.data.language == ["en"]
    assert "CC BY-NC 4.0, academic use" in card.text and "SMOKE" not in card.content
    assert card.data.size_categories == ["n<1K"] and "crowd workers" in card.text


def test_a_random_judge_marks_the_card_of_real_sets(work):
    of_esconv(work)
    mined(work, "rg", QWEN, judge="random", smoke=True)
    cards(work, QWEN)
    card = dataset_card(work)
    assert "> **SMOKE**" in card.text and "smoke-test" in card.data.tags
    assert "pairs (DPO) SMOKE" in card.text and "SFT SMOKE" not in card.text


def test_sets_mined_from_other_train_turns_are_left_out_and_named(work):
    mined(work)
    path = work / paths.preference_manifest("sp", EMBEDDED, Lineage())
    manifest = files.read_json(path)
    manifest["provenance"]["data"]["SPLIT"] = "seed:1"
    write(path, manifest)
    assert f"left out    the sets of {path.name}" in cards(work)
    assert "esc_sp_dpo" not in dataset_card(work).content


def test_both_cards_cite_the_paper(work):
    trained(work)
    cards(work)
    assert all(citation.BIBTEX in card.text for card in (dataset_card(work), model_card(work)))


def test_a_card_tells_no_secret_and_no_folder_of_the_base(work, monkeypatch):
    own = replace(backbones.get(QWEN), hub=None, path="/srv/models/own")
    monkeypatch.setattr(backbones, "table", lambda: {QWEN: own})
    trained(work, model=QWEN, hf_hub_token="s3cr3t")
    cards(work, QWEN)
    text = (work / paths.adapter(QWEN, "sp", "sft") / README).read_text()
    assert "s3cr3t" not in text and "/srv" not in text and "base_model" not in text
    assert f"A LoRA adapter of `{QWEN}`" in text


def test_text_of_a_corpus_forges_neither_metadata_nor_markdown(work):
    path = paths.data_manifest(work)
    manifest = files.read_json(path)
    corpus = manifest["corpus"]
    corpus["origin"], corpus["files"] = HOSTILE, {HOSTILE: "e" * 64}
    manifest["licence"] = HOSTILE
    write(path, manifest)
    mined(work, "rg", judge=HOSTILE, error=HOSTILE)
    trained(work, learning_rate=HOSTILE)
    cards(work)
    for card in (dataset_card(work), model_card(work)):
        assert "pwned" not in card.data.to_yaml()
        for line in card.text.splitlines():
            assert not line.startswith(("---", "# pwned"))
            outside_code = "".join(line.split("``")[::2])
            assert "<script>" not in outside_code.replace("\\<script\\>", "")


def test_twice_gives_the_same_bytes_and_says_so(work):
    trained(work)
    cards(work)
    places = [work / "data/README.md", work / paths.adapter(EMBEDDED, "sp", "sft") / "README.md"]
    before = [path.read_bytes() for path in places]
    assert cards(work).count("is up to date") == 2
    assert [path.read_bytes() for path in places] == before


def test_a_card_of_other_sets_is_written_anew(work):
    cards(work)
    of_esconv(work)
    cards(work)
    assert dataset_card(work).data.license == "cc-by-nc-4.0"


@pytest.mark.parametrize("by_hand", ["my own words\n", None])
def test_what_a_person_wrote_or_changed_is_kept_without_force(work, by_hand):
    cards(work)
    path = work / "data" / "README.md"
    text = by_hand or path.read_text().replace("Manifest", "Our manifest")
    path.write_text(text)
    with pytest.raises(EscError, match=r"README.md was written or changed by hand; FORCE=1"):
        cards(work)
    assert path.read_text() == text
    cards(work, force=True)
    assert "written by make card" in path.read_text()


def test_the_rest_is_written_where_one_card_is_a_persons(work):
    trained(work)
    (work / "data" / "README.md").write_text("mine")
    with pytest.raises(EscError, match="by hand"):
        cards(work)
    assert model_card(work).data.library_name == "peft"


def test_the_card_that_peft_leaves_is_replaced(work):
    from peft import LoraConfig, PeftModel
    from torch import nn

    trained(work)
    folder = work / paths.adapter(EMBEDDED, "sp", "sft")
    model = PeftModel(nn.Sequential(nn.Linear(2, 2)), LoraConfig(target_modules=["0"]))
    model.create_or_update_model_card(str(folder))
    assert "written by make card" not in (folder / "README.md").read_text()
    cards(work)
    assert model_card(work).data.base_model == "HuggingFaceTB/SmolLM2-135M-Instruct"


def test_the_model_card_has_the_runs_own_recipe_facts_and_drift(work):
    trained(work, learning_rate=3e-4)
    moved = {"kl": 0.00184, "changed": 0.0146, "tokens": 687}
    folder = work / paths.adapter(EMBEDDED, "sp", "sft")
    write(folder / "drift.json", moved | {"rounding": moved, "moved": False, "precision": "bf16"})
    cards(work)
    card = model_card(work)
    assert "| `learning_rate` | `0.0003` |" in card.text
    assert "24 steps of 32 rows in 62 s; loss 3.7500 at first, 2.0000 at last" in card.text
    assert "KL 1.84e-03" in card.text and "no further than rounding does" in card.text
    assert "/home/me" not in card.content
    assert "> **SMOKE**" in card.text and "counsel" in card.text


def test_a_preference_training_is_published_composed_and_says_so_in_both_places(work):
    data = mined(work)
    trained(work, stage="dpo", data=data)
    cards(work)
    assert "Not to be loaded alone" in model_card(work, "sp_dpo").text
    served = model_card(work, "sp_dpo/served")
    assert "to load or serve as it is" in served.text and "c" * 64 in served.text
    assert files.sha256(data) in served.text


def test_the_card_of_a_composed_adapter_names_the_chat_template_where_it_lies(work):
    trained(work, stage="dpo", data=mined(work))
    cards(work)
    assert "in the folder above this one" in model_card(work, "sp_dpo/served").text
    (work / paths.adapter(EMBEDDED, "sp", "dpo") / adapters.SERVED / adapters.FILE).touch()
    cards(work)
    assert "`chat_template.jinja` beside this card" in model_card(work, "sp_dpo/served").text


def test_the_card_of_a_difference_does_not_say_which_base_its_configuration_names(work):
    trained(work, stage="dpo", data=mined(work))
    cards(work)
    assert "its configuration may name the base" in model_card(work, "sp_dpo").text


def test_metrics_of_this_very_adapter_are_shown_and_of_another_are_not(work):
    system(work, "decoupled_sft", trained(work))
    system(work, "vanilla_sft", "f" * 64)
    stale = system(
        work,
        "decoupled-gold_sft",
        adapters.fingerprint(work / paths.adapter(EMBEDDED, "sp", "sft")),
    )
    (stale.parent / "predictions.jsonl").write_text("newer")
    cards(work)
    text = model_card(work).text
    assert (
        "| `decoupled_sft` SMOKE | test | 40 | 0.20 [0.10, 0.30] | 21.00 [20.90, 21.10] |" in text
    )
    assert "vanilla_sft" not in text and "decoupled-gold" not in text


def test_numbers_become_results_of_the_hub_only_where_nothing_is_smoke(work):
    system(work, "decoupled_sft", trained(work))
    cards(work)
    assert model_card(work).data.eval_results is None
    of_esconv(work)
    system(work, "decoupled_sft", trained(work, model=QWEN), QWEN, smoke=False)
    cards(work, QWEN)
    card = model_card(work, model=QWEN)
    assert card.data.datasets == ["thu-coai/esconv"] and "SMOKE" not in card.content
    assert {r.metric_name: r.metric_value for r in card.data.eval_results}["weighted F1"] == 21.0
    assert card.data.eval_results[0].dataset_split == "test"


def test_metrics_of_another_form_are_one_clear_line(work, capsys):
    write(system(work, "decoupled_sft", trained(work)), {"n": 3})
    assert cli.run(step.main, ["--work", str(work)]) == cli.USER_ERROR
    assert "metrics.json: smoke: Field required; make eval" in capsys.readouterr().err


@pytest.mark.parametrize("name", list(backbones.table()))
def test_every_backbone_has_a_licence_with_a_note(name):
    backbone = backbones.get(name)
    assert "read it before" not in of_base(backbone)
    assert backbone.hub.count("/") == 1


def test_an_adapter_on_a_base_with_terms_of_its_own_is_under_no_single_licence(work):
    of_esconv(work)
    trained(work, model=LLAMA)
    cards(work, LLAMA)
    card = model_card(work, model=LLAMA)
    assert card.data.license == "other" and "Built with Llama" in card.text
    assert "CC BY-NC 4.0" in card.text


@pytest.mark.parametrize("name", ["sp_sft_backup", "sp_sft_ipo", "notes", "sp_base"])
def test_a_folder_with_another_name_is_left_out_and_named(work, name):
    trained(work)
    shutil.copytree(work / paths.adapter(EMBEDDED, "sp", "sft"), work / "saves" / EMBEDDED / name)
    assert f"{name}: no name of a training of this kit" in cards(work)
    assert not (work / "saves" / EMBEDDED / name / "README.md").exists()


def test_the_card_of_a_later_round_names_variant_and_round(work):
    data = mined(work)
    trained(work, stage="dpo", data=data)
    first = work / paths.adapter(EMBEDDED, "sp", "dpo")
    first.rename(first.with_name("sp_dpo_practical_r2"))
    cards(work)
    text = model_card(work, "sp_dpo_practical_r2/served").text
    assert "Preference training, variant `practical`, round 2" in text


def test_an_adapter_of_other_sets_is_refused_and_the_others_are_written(work):
    trained(work)
    other = work / "other.jsonl"
    other.write_text("{}")
    trained(work, "rg", data=other)
    with pytest.raises(EscError, match="rg_sft was trained on other sets than are in"):
        cards(work)
    assert model_card(work).text


@pytest.mark.parametrize("broken", ["stage: [", "- a", "", "a: b"])
def test_a_recipe_that_was_broken_by_hand_is_one_clear_line(work, capsys, broken):
    trained(work)
    (work / paths.adapter(EMBEDDED, "sp", "sft") / "recipe.yaml").write_text(broken)
    assert cli.run(step.main, ["--work", str(work)]) == cli.USER_ERROR
    (line,) = capsys.readouterr().err.splitlines()
    assert "recipe.yaml is no" in line


def test_a_set_that_was_changed_by_hand_is_described_by_no_card(work):
    with (work / "data/sp_sft_test.jsonl").open("a") as stream:
        stream.write("{}\n")
    with pytest.raises(EscError, match=r"sp_sft_test.jsonl is not the file that its manifest"):
        cards(work)


def test_where_nothing_is_built_one_line_says_what_to_do(tmp_path, capsys):
    assert cli.run(step.main, ["--work", str(tmp_path)]) == cli.USER_ERROR
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"error: {tmp_path / 'data/manifest.json'} does not exist; make data makes it"


def test_where_nothing_is_trained_the_sets_have_their_card(work):
    assert "no finished adapter in" in cards(work)
    assert dataset_card(work).text


def test_metadata_that_the_hub_would_not_read_are_refused(tmp_path):
    with pytest.raises(EscError, match="the Hugging Face library"):
        check("---\nlicense: [\n---\nbody\n", tmp_path)
    with pytest.raises(EscError, match="the Hugging Face library"):
        check("no metadata\n", tmp_path)
