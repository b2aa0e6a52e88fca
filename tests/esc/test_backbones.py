"""Where a backbone's weights are: on the hub, or in a folder of this machine."""

from dataclasses import replace
from pathlib import Path

import pytest

from data_builders import check
from esc import adapters, backbones
from esc.exceptions import EscError
from training import embedded_model, export, recipes


@pytest.fixture
def local(model, monkeypatch):
    """The table with one backbone of a GPU whose path is a folder, from the root."""
    named = backbones.table()
    path = str(Path("models") / model.name)
    row = replace(named["qwen2.5-7b"], name="own", path=path, hub=None, template="smollm2")
    monkeypatch.setattr(backbones, "table", lambda: named | {"own": row})
    return row


def training(work, stage="sft", engine=None):
    return recipes.Training("qwen2.5-7b", "sp", stage, work, 1, (), engine=engine)


def test_a_hub_id_stays_what_it_is():
    assert backbones.get("qwen2.5-7b").location == "Qwen/Qwen2.5-7B-Instruct"
    assert not backbones.get("qwen2.5-7b").is_local


def test_a_folder_is_found_from_wherever_a_step_runs(local, model):
    assert local.location == str(model.resolve())
    assert export.base_files(local) == model.resolve()
    assert adapters.weights_of(Path(), "own", ["base"]) == {"base": local.path}
    assert "own" in recipes.render(local, "sp", "sft")


def test_the_tokenizer_is_read_from_the_folder(local):
    assert check._tokenizer(local.path).get_vocab()


@pytest.mark.parametrize("path", ["/no/such/folder", "./models/none", "~/none", "models/a/none"])
def test_a_folder_that_is_not_there_is_one_line(local, path):
    with pytest.raises(EscError, match=r"the path of MODEL=own in .*, is no folder[^\n]*$"):
        assert replace(local, path=path).location


def test_make_model_does_not_promise_a_folder_from_the_hub(local, capsys):
    embedded_model.main(["--model", "own"])
    assert "is a folder of this machine" in capsys.readouterr().out


@pytest.mark.parametrize("stage", ["sft", "dpo"])
def test_a_training_starts_from_the_tables_path(tmp_path, monkeypatch, local, model, stage):
    named = {"qwen2.5-7b": replace(local, name="qwen2.5-7b")}
    monkeypatch.setattr(backbones, "table", lambda: named)
    made = recipes.recipe_for(training(tmp_path, stage))
    assert made["model_name_or_path"] == local.path
    # Ray's processes begin in folders of their own.
    spread = recipes.recipe_for(training(tmp_path, stage, engine="ray"))
    assert spread["model_name_or_path"] == str(model.resolve())
