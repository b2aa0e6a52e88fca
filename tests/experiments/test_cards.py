"""Cards of sets and adapters, read by the Hugging Face library and loaded by ``datasets``."""

import json
import shutil
from dataclasses import replace

import datasets
import numpy
import pytest
import yaml
from huggingface_hub import DatasetCard, ModelCard
from reported import change, metrics, sha, write
from safetensors.numpy import save_file

from data_builders import build
from esc import adapters, backbones, cli, files, paths, step
from esc.files import EscError
from esc.paths import Lineage
from eval import paper
from experiments import cards
from experiments.cards import README, licence_of

EMBEDDED, QWEN, LLAMA = "smollm2-135m", "qwen2.5-7b", "llama3.1-8b"
HOSTILE = "x`|\n---\n# pwned <script> [a](http://b)"


@pytest.fixture
def work(tmp_path, sample_work):
    shutil.copytree(sample_work, tmp_path / "work")
    return tmp_path / "work"


def written(work, model=EMBEDDED, *, force=False):
    return "\n".join(cards.card(work, model, force=force))


def adapter(folder, weight=1):
    """A folder with a whole adapter of one tensor; its fingerprint."""
    write(folder / adapters.CONFIG, {"r": 16})
    save_file({"w": numpy.array([weight])}, folder / adapters.WEIGHTS)
    return adapters.fingerprint(folder)


def trained(work, name="sp_sft", model=EMBEDDED, *, data=None, **settings):
    """The folder of a finished training, as the training step leaves it."""
    folder = work / paths.adapters(model) / name
    task, stage = name.split("_")[:2]
    adapter(folder)
    digest = files.sha256(data or work / paths.sft_file(task, "train"))
    options = {"training set": digest, "batch": 32, "recipe": {}}
    if stage == "dpo":
        options[f"adapter {task}_sft"] = "c" * 64
        adapter(folder / adapters.SERVED, weight=2)
    write(folder / "options.json", options)
    facts = {"seconds": 61.5, "smoke": model == EMBEDDED, "steps": 24}
    write(folder / "run.json", facts | {"first_loss": 3.75, "last_loss": 2.0})
    recipe = {"model_name_or_path": "/home/me/m", "stage": stage, "learning_rate": 1e-5}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe | settings))
    return folder


def mined(work, task="sp", *, judge=None, **said):
    """A mined set and its manifest, as the preference step leaves them."""
    name, answer = paths.preference_dataset(task, EMBEDDED), {"from": "gpt", "value": "Question"}
    row = {"id": "0-0", "system": "s", "conversations": [{"from": "human", "value": "hi"}]}
    row |= {"chosen": answer, "rejected": answer | {"value": "Others"}, "explanation": None}
    row |= {"error": "Strategy Mismatch", "provenance": {"model": EMBEDDED}} | said
    path = work / paths.preference_file(name)
    path.write_text(json.dumps(row) + "\n")
    provenance = {"model": EMBEDDED, "sampler": f"{task}-sft", "weights": "d" * 64, "judge": judge}
    provenance["data"] = step.train_set(step.manifest(work))
    sets = {name: {"rows": 1, "bytes": 1, "sha256": files.sha256(path)}}
    manifest = {"provenance": provenance, "smoke": True, "sets": sets, "fates": {"pair": 1}}
    manifest |= {"errors": {row["error"]: 1}, "licence": "its own", "corpus": "sample"}
    return write(work / paths.preference_manifest(task, EMBEDDED, Lineage()), manifest)


def system(work, name, weights):
    """The metrics of one system that asked ``weights``."""
    folder = work / "runs" / EMBEDDED / name
    write(folder / "predictions.jsonl", {})
    write(folder / "options.json", {"SET": "test", "weights": {"sp-sft": weights}, "smoke": True})
    found = metrics(20.0, sha(folder / "predictions.jsonl"), smoke=True)
    return write(folder / "metrics.json", found)


def of_esconv(work):
    """The same sets, as if they were built from the real corpus."""
    path = work / paths.MANIFEST
    corpus = files.read_json(path)["corpus"] | {"kind": "esconv"}
    change(path, corpus=corpus, smoke=False, licence=build.LICENCES["esconv"])


def dataset_card(work):
    return DatasetCard.load(work / "data" / README, ignore_metadata_errors=False)


def model_card(work, name="sp_sft", model=EMBEDDED):
    place = work / paths.adapters(model) / name / README
    return ModelCard.load(place, ignore_metadata_errors=False)


def test_datasets_loads_every_set_and_the_card_counts_it_and_names_its_files(work, tmp_path):
    mined(work)
    written(work)
    folder, card = work / "data", dataset_card(work)
    names = datasets.get_dataset_config_names(str(folder))
    both = ("esc_sp_sft", "esc_sp_sft_dialogue", "esc_rg_sft", "esc_rg_sft_dialogue")
    assert names == [*both, "esc_vanilla_sft", f"esc_sp_dpo_{EMBEDDED}"]
    counts = []
    for name in names[2:]:
        loaded = datasets.load_dataset(str(folder), name, cache_dir=str(tmp_path / "cache"))
        counts.append({split: rows.num_rows for split, rows in loaded.items()})
    sizes = {"train": 253, "validation": 30, "test": 31}
    dialogues = {"train": 42, "validation": 5, "test": 5}
    assert counts == [sizes, dialogues, dialogues, {"train": 1}]
    for told in (
        "| `esc_rg_sft` | response generator, SFT SMOKE | 253 | 30 | 31 |",
        "| Question | 51 (20.2%) | 5 (16.7%) | 6 (19.4%) |",
        *("1 Strategy Mismatch", "`sp-sft of smollm2-135m`", paper.BIBTEX),
        *map(files.sha256, folder.glob("*.jsonl")),
    ):
        assert told in card.text


def test_the_licence_is_the_corpus_own_unless_the_bases_binds_too(work):
    known = {"esconv": "cc-by-nc-4.0", "failed-esconv": "cc-by-nc-4.0", "sample": "apache-2.0"}
    for kind in build.LICENCES:
        assert licence_of(kind) == known.get(kind, "other")
    of_esconv(work)
    for model in backbones.table():
        trained(work, model=model)
        written(work, model)
        assert "read it before you publish" not in model_card(work, model=model).text
    card = dataset_card(work)
    assert (card.data.license, card.data.language) == ("cc-by-nc-4.0", ["en"])
    assert "CC BY-NC 4.0, academic use" in card.text and "crowd workers" in card.text
    card = model_card(work, model=LLAMA)
    assert card.data.license == "other" and "Built with Llama" in card.text
    assert "CC BY-NC 4.0" in card.text and paper.BIBTEX in card.text


def test_a_random_judge_marks_the_card_of_real_sets_and_sets_of_other_turns_are_left_out(work):
    of_esconv(work)
    path = mined(work, "rg", judge="random")
    written(work)
    text = dataset_card(work).content
    assert "> **SMOKE**" in text and "smoke-test" in text
    assert "pairs (DPO) SMOKE" in text and "SFT SMOKE" not in text
    provenance = files.read_json(path)["provenance"]
    provenance["data"]["SPLIT"] = "seed:1"
    change(path, provenance=provenance)
    assert f"left out    the sets of {path.name}" in written(work)
    assert not any(told in dataset_card(work).content for told in ("esc_rg_dpo", "SMOKE"))


def test_a_card_tells_no_secret_and_no_folder_of_the_base(work, monkeypatch):
    own = replace(backbones.get(QWEN), hub=None, path="/srv/models/own")
    monkeypatch.setattr(backbones, "table", lambda: {QWEN: own})
    trained(work, model=QWEN, hf_hub_token="s3cr3t")
    written(work, QWEN)
    text = model_card(work, model=QWEN).content
    assert not any(told in text for told in ("s3cr3t", "/srv", "/home/me", "base_model"))
    assert f"A LoRA adapter of `{QWEN}`" in text


def test_text_of_a_corpus_forges_neither_metadata_nor_markdown(work):
    path = work / paths.MANIFEST
    corpus = files.read_json(path)["corpus"] | {"origin": HOSTILE, "files": {HOSTILE: "e" * 64}}
    change(path, corpus=corpus, licence=HOSTILE)
    mined(work, "rg", judge=HOSTILE, error=HOSTILE)
    trained(work, learning_rate=HOSTILE)
    written(work)
    for card in (dataset_card(work), model_card(work)):
        assert "pwned" not in card.data.to_yaml()
        for line in card.text.splitlines():
            assert not line.startswith(("---", "# pwned"))
            outside_code = "".join(line.split("``")[::2])
            assert "<script>" not in outside_code.replace("\\<script\\>", "")


def test_twice_gives_the_same_bytes_and_what_a_person_wrote_is_kept_without_force(work):
    trained(work)
    written(work)
    path, before = work / "data" / README, dataset_card(work).content
    assert written(work).count("is up to date") == 2 and path.read_text() == before
    path.write_text("my own words\n")
    of_esconv(work)
    with pytest.raises(EscError, match=r"README.md was written by hand; FORCE=1"):
        written(work)
    assert path.read_text() == "my own words\n"
    assert model_card(work).data.datasets == ["thu-coai/esconv"]
    written(work, force=True)
    assert dataset_card(work).data.license == "cc-by-nc-4.0"


@pytest.mark.slow
def test_the_card_that_peft_leaves_is_replaced(work):
    from peft import LoraConfig, PeftModel
    from torch import nn

    model = PeftModel(nn.Sequential(nn.Linear(2, 2)), LoraConfig(target_modules=["0"]))
    model.create_or_update_model_card(str(trained(work)))
    written(work)
    assert model_card(work).data.base_model == "HuggingFaceTB/SmolLM2-135M-Instruct"


def test_the_model_card_has_the_runs_own_recipe_facts_drift_and_metrics(work):
    folder = trained(work, learning_rate=3e-4)
    moved = {"kl": 0.00184, "changed": 0.0146, "tokens": 687}
    write(folder / "drift.json", moved | {"rounding": moved, "moved": False, "precision": "bf16"})
    digest = adapters.fingerprint(folder)
    system(work, "decoupled_sft", digest)
    system(work, "vanilla_sft", "f" * 64)
    stale = system(work, "decoupled-gold_sft", digest)
    (stale.parent / "predictions.jsonl").write_text("newer")
    written(work)
    text = model_card(work).text
    for told in (
        "| `learning_rate` | `0.0003` |",
        "24 steps of 32 rows in 62 s; loss 3.7500 at first, 2.0000 at last",
        *("KL 1.84e-03", "no further than rounding does", "> **SMOKE**", "counsel"),
        r"| `decoupled_sft` SMOKE | test | 40 | 0.20 \[0.10, 0.30\] | 21.00 \[20.90, 21.10\] |",
    ):
        assert told in text
    assert "vanilla_sft" not in text and "decoupled-gold" not in text


def test_a_preference_training_is_published_composed_and_says_so_in_both_places(work):
    mined(work)
    data = work / paths.preference_file(paths.preference_dataset("sp", EMBEDDED))
    trained(work, "sp_dpo_practical_r2", data=data)
    written(work)
    delta = model_card(work, "sp_dpo_practical_r2").text
    assert "Not to be loaded alone" in delta and "its configuration may name the base" in delta
    served = model_card(work, "sp_dpo_practical_r2/served").text
    assert "Preference training, variant `practical`, round 2" in served
    assert "to load or serve as it is" in served and "c" * 64 in served
    assert files.sha256(data) in served and "in the folder above this one" in served


def test_what_is_no_training_of_these_sets_has_no_card_and_the_others_are_written(work):
    own = trained(work)
    shutil.copytree(own, own.with_name("sp_sft_backup"))
    assert "sp_sft_backup: no name of a training of this kit" in written(work)
    assert not (own.with_name("sp_sft_backup") / README).exists()
    other = work / "other.jsonl"
    other.write_text("{}")
    trained(work, "rg_sft", data=other)
    with pytest.raises(EscError, match="rg_sft was trained on other sets than are in"):
        written(work)
    assert model_card(work).text


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (
            lambda work: (trained(work) / "recipe.yaml").write_text("stage: ["),
            "recipe.yaml is no YAML",
        ),
        (
            lambda work: (work / "data/sp_sft_test.jsonl").write_text("{}\n"),
            "sp_sft_test.jsonl is not the file that its manifest describes",
        ),
        (lambda work: shutil.rmtree(work / "data"), "manifest.json does not exist; make data"),
        (
            lambda work: write(
                system(work, "decoupled_sft", adapters.fingerprint(trained(work))), {"n": 3}
            ),
            "metrics.json: no 'strategy' in it; make eval",
        ),
    ],
)
def test_what_cannot_be_described_is_one_clear_line(work, capsys, fault, told):
    fault(work)
    assert cli.run(cards.main, ["--work", str(work)]) == cli.USER_ERROR
    (line,) = capsys.readouterr().err.splitlines()
    assert told in line
