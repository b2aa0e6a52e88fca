import json

import pytest
import yaml

from data_builders import registry
from esc import files, paths
from esc.files import EscError
from esc.paths import Lineage


def test_the_committed_registry_is_what_the_kit_writes(tmp_path):
    registry.write_for(tmp_path)
    assert (paths.ROOT / paths.REGISTRY).read_text() == (tmp_path / paths.REGISTRY).read_text()


def test_every_recipe_finds_its_data_set_in_the_registry():
    names = set(registry.entries())
    recipes = [path for path in paths.RECIPES.glob("*/*.yaml") if path.parent.name != "engines"]
    assert len(recipes) == 210
    for recipe in recipes:
        settings = yaml.safe_load(recipe.read_text())
        assert settings["dataset"] in names
        assert settings.get("eval_dataset", settings["dataset"]) in names


def test_llamafactory_reads_every_column_and_tag_of_every_entry():
    from llamafactory.data.parser import get_dataset_list

    alpaca = {"prompt": "instruction", "query": "input", "response": "output"}
    tags = {"role_tag": "from", "content_tag": "value", "user_tag": "human", "assistant_tag": "gpt"}
    names = list(registry.entries())
    for name, read in zip(names, get_dataset_list(names, str(paths.ROOT)), strict=True):
        expected = tags | {"messages": "conversations"}
        if ("_sp_sft" in name or "_rg_sft" in name) and "_dialogue" not in name:
            expected = alpaca | {"history": "history" if "_rg_" in name else None}
        for key, kind in {"chosen": "_dpo_", "rejected": "_dpo_", "kto_tag": "_kto_"}.items():
            expected[key] = (key if key != "kto_tag" else "label") if kind in name else None
        expected |= {"ranking": "_dpo_" in name, "system": "system"}
        assert {key: getattr(read, key) for key in expected} == expected


def test_another_registry_keeps_its_entries_their_order_and_its_indentation(tmp_path):
    path = tmp_path / paths.REGISTRY
    moved = {"file_name": "there/data/sp_sft_train.jsonl"}
    theirs = {"z": {"hf_hub_url": "o/\u00e9"}, "esc_sp_sft": moved, "a": {"file_name": "a.json"}}
    path.write_text(json.dumps(theirs, indent="\t"))
    registry.write_for(tmp_path)
    held = theirs | registry.entries()
    assert path.read_text() == json.dumps(held, ensure_ascii=False, indent="\t") + "\n"
    before = path.stat().st_mtime_ns
    registry.write_for(tmp_path)
    assert path.stat().st_mtime_ns == before


@pytest.mark.parametrize("entry", [{"file_name": "other.json"}, {"hf_hub_url": "a/b"}, "text"])
def test_an_entry_of_our_name_for_another_source_is_refused(tmp_path, entry):
    path = tmp_path / paths.REGISTRY
    files.write_json(path, {"esc_sp_sft": entry})
    before = path.read_bytes()
    with pytest.raises(EscError, match="already has 'esc_sp_sft' for another source"):
        registry.write_for(tmp_path)
    assert path.read_bytes() == before


def into(path, work, capsys):
    registry.main(["--into", str(path), "--work", str(work)])
    return files.read_json(path), capsys.readouterr().out


def test_sets_of_later_rounds_go_into_another_registry_and_a_users_own_do_not(tmp_path, capsys):
    work, theirs = tmp_path / "work", tmp_path / "dataset_info.json"
    theirs.write_text("{}")
    name, entry = registry.preference_entry("vanilla", "smollm2-135m", Lineage("nsnr", 2))
    own = {"file_name": "data/mine.jsonl"}
    registry.write_for(work, {name: entry, "mine": own, "esc_sp_dpo_mine": own})
    files.write_text(work / paths.sft_file("rg", "train"), "{}\n")
    held, shown = into(theirs, work, capsys)
    assert held.keys() == registry.entries().keys() | {name}
    assert held[name] == entry | {"file_name": str((work / entry["file_name"]).resolve())}
    assert "made        1: esc_rg_sft;" in shown


@pytest.mark.parametrize(
    ("content", "mode", "message"),
    [("{", 0o644, "is not JSON"), ("{}", 0o444, "is read-only")],
)
def test_a_registry_that_cannot_be_added_to_is_kept(tmp_path, capsys, content, mode, message):
    path = tmp_path / "dataset_info.json"
    path.write_text(content)
    path.chmod(mode)
    with pytest.raises(EscError, match=message):
        into(path, tmp_path, capsys)
    assert path.read_text() == content
