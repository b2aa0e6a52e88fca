"""Where a backbone's weights are: on the hub, or in a folder of this machine."""

from dataclasses import replace
from pathlib import Path

import pytest

from esc import adapters, backbones
from esc.files import EscError
from training import backbone, embedded_model, recipes

EMBEDDED = backbones.get("smollm2-135m")


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


def table_of(tmp_path, monkeypatch, text):
    (tmp_path / "own.yaml").write_text(text)
    monkeypatch.setenv("BACKBONES", str(tmp_path / "own.yaml"))
    caches = backbones.table, backbones.own
    for cached in caches:
        cached.cache_clear()
    try:
        return backbones.table()
    finally:
        for cached in caches:
            cached.cache_clear()


def test_a_table_of_ones_own_adds_backbones_and_changes_the_kits(tmp_path, monkeypatch):
    text = "mine: {path: org/mine, template: llama3}\nqwen2.5-7b: {decode: choice}\n"
    table = table_of(tmp_path, monkeypatch, text)
    mine, changed = table["mine"], table["qwen2.5-7b"]
    assert (mine.path, mine.template, mine.decode) == ("org/mine", "llama3", "free")
    assert (changed.decode, changed.path) == ("choice", "Qwen/Qwen2.5-7B-Instruct")
    assert mine.settings["dpo"] == changed.settings["dpo"] and mine.shape.layers == 28
    assert (mine.licence, changed.licence) == ("other", "apache-2.0")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("mine: {path: org/mine}", "mine is new, and needs its path and its template"),
        ("mine: {path: a/b, template: c, rank: 3}", r"mine.rank: extra inputs"),
        ("mine: {path: a/b, template: c, decode: chioce}", "mine.decode: input should be 'free'"),
        ("mine: {path: a/b, template: c, shape: big}", "mine.shape: input should be a valid dict"),
        ("my_own: {path: a/b, template: c}", "my_own.*string should match"),
        ("{", "cannot be read"),
    ],
)
def test_a_table_that_is_none_is_one_line(tmp_path, monkeypatch, text, message):
    with pytest.raises(EscError, match=message) as error:
        table_of(tmp_path, monkeypatch, text)
    assert "\n" not in str(error.value)


def test_the_embedded_backbones_template_weights_and_tokenizer_are_found(model, monkeypatch):
    found = {what: (state, told) for state, what, told in backbone.findings(EMBEDDED)}
    assert {state for state, _ in found.values()} == {"ok"} and len(found) == 3
    wrong = replace(EMBEDDED, template="smollm9")
    (state, _, told), *_ = backbone.findings(wrong)
    assert state == "missing" and "near: smollm" in told


def test_a_hub_that_cannot_be_reached_is_said_within_seconds(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    *_, (state, what, told) = backbone.findings(backbones.get("qwen3-8b"))
    assert (state, what) == ("missing", "weights") and "cannot be reached (ConnectionError)" in told
