import json

import pytest
import yaml

from data_builders import registry
from esc import files, paths
from esc.exceptions import EscError
from esc.paths import Lineage
from esc.prompts import TASKS

OURS = {"esc_a": {"file_name": "/kit/data/a.jsonl"}, "esc_b": {"file_name": "/kit/data/b.jsonl"}}


def test_the_committed_registry_is_what_the_kit_writes():
    assert (paths.ROOT / paths.REGISTRY).read_text() == registry.render()


def test_every_recipe_finds_its_data_set_in_the_registry():
    names = set(registry.entries())
    recipes = [path for path in paths.RECIPES.glob("*/*.yaml") if path.parent.name != "engines"]
    assert len(recipes) == 125
    for recipe in recipes:
        settings = yaml.safe_load(recipe.read_text())
        assert settings["dataset"] in names
        assert settings.get("eval_dataset", settings["dataset"]) in names


def test_llamafactory_reads_every_column_and_tag_of_every_entry():
    from llamafactory.data.parser import get_dataset_list

    names = list(registry.entries())
    for name, read in zip(names, get_dataset_list(names, str(paths.ROOT)), strict=True):
        assert read.system == "system"
        if "_sp_sft" in name or "_rg_sft" in name:
            assert (read.prompt, read.query, read.response) == ("instruction", "input", "output")
            assert read.history == ("history" if "_rg_" in name else None)
        else:
            assert (read.messages, read.role_tag, read.content_tag) == (
                "conversations",
                "from",
                "value",
            )
            assert (read.user_tag, read.assistant_tag, read.system_tag) == (
                "human",
                "gpt",
                "system",
            )
        is_dpo = "_dpo_" in name
        assert (read.ranking, read.chosen, read.rejected) == (
            (True, "chosen", "rejected") if is_dpo else (False, None, None)
        )


def test_another_registry_keeps_its_entries_their_order_and_its_indentation(tmp_path):
    path = tmp_path / paths.REGISTRY
    theirs = {"z": {"hf_hub_url": "o/\u00e9"}, "a": {"file_name": "a.json"}}
    path.write_text(json.dumps(theirs, indent="\t"))
    registry.write_for(tmp_path)
    held = theirs | registry.entries()
    assert path.read_text() == json.dumps(held, ensure_ascii=False, indent="\t") + "\n"
    before = path.stat().st_mtime_ns
    registry.write_for(tmp_path)
    assert path.stat().st_mtime_ns == before


def test_merging_updates_an_entry_of_ours_in_place():
    moved = {name: {"file_name": e["file_name"].replace("kit", "new")} for name, e in OURS.items()}
    assert list(registry.merge(OURS | {"x": {}}, moved).items()) == [*moved.items(), ("x", {})]


@pytest.mark.parametrize("entry", [{"file_name": "other.json"}, {"hf_hub_url": "a/b"}, "text"])
def test_an_entry_of_our_name_for_another_source_is_refused(entry):
    theirs = {"esc_b": entry}
    with pytest.raises(EscError, match="already has 'esc_b' for another source"):
        registry.merge(theirs, OURS)


@pytest.mark.parametrize(
    ("content", "message"), [("[]", "not a JSON object"), ("{", "is not JSON")]
)
def test_a_file_that_is_no_registry_is_refused_and_kept(run, tmp_path, content, message):
    path = tmp_path / "dataset_info.json"
    path.write_text(content)
    shown = run("-m", "data_builders", "registry", "--into", str(path))
    assert shown.returncode == 2 and message in shown.stderr
    assert path.read_text() == content


def test_llama_board_lists_the_sets_for_their_stages():
    from llamafactory.webui.control import list_datasets

    def names(stage):
        choices = list_datasets(str(paths.ROOT), stage).choices
        return {choice[0] if isinstance(choice, tuple) else choice for choice in choices}

    # To LLaMA Board whatever ranks nothing is for SFT: so a set for KTO is too.
    for_sft = {name for name in names("Supervised Fine-Tuning") if "_kto_" not in name}
    assert {paths.sft_dataset(t, s) for t in TASKS for s in paths.SPLITS} == for_sft
    assert paths.preference_dataset("sp", "qwen2.5-7b") in names("DPO")


def into(run, tmp_path):
    theirs = tmp_path / "theirs" / "dataset_info.json"
    files.write_text(theirs, "{}")
    shown = run(
        "-m", "data_builders", "registry", "--into", str(theirs), "--work", str(tmp_path / "work")
    )
    assert shown.returncode == 0, shown.stderr
    return files.read_json(theirs), shown.stdout


def test_sets_of_later_rounds_go_into_another_registry_and_a_users_own_do_not(run, tmp_path):
    work = tmp_path / "work"
    name, entry = registry.preference_entry("vanilla", "smollm2-135m", Lineage("nsnr", 2))
    own = {"file_name": "data/mine.jsonl"}
    registry.register(work, {name: entry, "mine": own, "esc_sp_dpo_mine": own})
    held, _ = into(run, tmp_path)
    assert held.keys() == registry.entries().keys() | {name}
    file = str((work / entry["file_name"]).resolve())
    assert held[name] == entry | {"file_name": file}


def test_it_is_said_which_sets_are_there(run, tmp_path):
    name = paths.sft_dataset("rg")
    files.write_text(tmp_path / "work" / paths.sft_file("rg", "train"), "{}\n")
    held, shown = into(run, tmp_path)
    assert f"made        1: {name}\n" in shown and f"not made    {len(held) - 1}," in shown


def test_a_read_only_registry_is_left_as_it_is(run, tmp_path):
    path = tmp_path / "dataset_info.json"
    path.write_text("{}")
    path.chmod(0o444)
    shown = run("-m", "data_builders", "registry", "--into", str(path))
    assert shown.returncode == 2 and "is read-only" in shown.stderr
    assert shown.stderr.count("\n") == 1 and path.read_text() == "{}"
