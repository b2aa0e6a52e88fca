"""Where a backbone's weights are: on the hub, or in a folder of this machine."""

from dataclasses import replace
from pathlib import Path

import pytest

from esc import adapters, backbones
from esc.files import EscError
from training import embedded_model, recipes


@pytest.fixture
def local(model, monkeypatch):
    """The table with one backbone of a GPU whose path is a folder, from the root."""
    named = backbones.table()
    path = str(Path("models") / model.name)
    row = replace(named["qwen2.5-7b"], name="own", path=path, hub=None, template="smollm2")
    table = named | {"own": row, "qwen2.5-7b": replace(row, name="qwen2.5-7b")}
    monkeypatch.setattr(backbones, "table", lambda: table)
    return row


def test_a_folder_is_found_from_wherever_a_step_runs(local, model, tmp_path, capsys):
    assert local.location == str(model.resolve())
    assert adapters.weights_of(Path(), "own", ["base"]) == {"base": local.path}
    assert "own" in recipes.render(recipes.Training(model="own", task="sp"))
    embedded_model.main(["--model", "own"])
    assert "is a folder of this machine" in capsys.readouterr().out
    # Ray's processes begin in folders of their own.
    for engine, expected in ((None, local.path), ("ray", str(model.resolve()))):
        asked = recipes.Training(
            model="qwen2.5-7b", task="sp", stage="dpo", work=tmp_path, processes=1, engine=engine
        )
        assert recipes.recipe_for(asked)["model_name_or_path"] == expected


@pytest.mark.parametrize("path", ["/no/such/folder", "./models/none", "~/none", "models/a/none"])
def test_a_folder_that_is_not_there_is_one_line(local, path):
    with pytest.raises(EscError, match=r"the path of MODEL=own in .*, is no folder[^\n]*$"):
        assert replace(local, path=path).location
