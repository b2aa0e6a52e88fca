"""The kit as a plugin: installed, and used from a folder that is not its repository."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from esc import paths
from esc.files import read_json

PARTS = (
    *("esc", "data_builders", "training", "serving", "mining", "eval", "experiments"),
    *("llamafactory_configs", "pyproject.toml", "README.md", "LICENSE"),
)


@pytest.fixture(scope="module")
def site(tmp_path_factory, run):
    """A folder with the kit installed from its own files, as pip does it."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("site")
    for name in PARTS:
        copy = shutil.copytree if (paths.ROOT / name).is_dir() else shutil.copy
        copy(paths.ROOT / name, source / name)
    install = ("-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation")
    installed = run(*install, "--target", str(target), str(source))
    assert installed.returncode == 0, installed.stderr
    return target


@pytest.fixture
def elsewhere(site, run, tmp_path, small_corpus):
    """A function that runs a command with the installed kit, in a folder with built sets."""

    def call(*command):
        shown = run(*command, cwd=tmp_path, PYTHONPATH=str(site))
        assert shown.returncode == 0, shown.stderr[-2000:]
        return shown.stdout

    call("-m", "data_builders", "build", "--esconv", str(small_corpus))
    return call


def test_it_brings_its_files_and_registers_sets_in_another_checkout(elsewhere, site, tmp_path):
    for name in (
        "llamafactory_configs/backbones.yaml",
        "llamafactory_configs/qwen2.5-7b/sp_sft.yaml",
        "llamafactory_configs/templates/recipe.yaml.j2",
        "esc/templates/rg_system.j2",
        "data_builders/esconv_release.json",
        "data_builders/sample/sample_corpus.json",
        "serving/in_vllm/on_cpu.py",
        "training/in_llamafactory/sitecustomize.py",
    ):
        assert (site / name).is_file(), name
    target = tmp_path / "LLaMA-Factory" / "data" / "dataset_info.json"
    target.parent.mkdir(parents=True)
    target.write_text('{\n  "own": {"file_name": "own.json"}\n}\n')
    elsewhere("-m", "data_builders", "registry", "--into", str(target))
    entries = json.loads(target.read_text())
    assert entries["own"] == {"file_name": "own.json"}
    assert (target.parent / entries["esc_sp_sft"]["file_name"]).is_file()


LIST_DATASETS = """
import data_builders, sys
from llamafactory.webui.control import list_datasets
print(data_builders.__file__)
print(list_datasets(sys.argv[1], "Supervised Fine-Tuning").choices)
"""


@pytest.mark.slow
def test_llama_board_sees_the_sets_and_a_recipe_trains_from_another_folder(
    elsewhere, site, model, tmp_path
):
    shown = elsewhere(sys.executable, "-c", LIST_DATASETS, str(tmp_path))
    assert str(site) in shown and "esc_vanilla_sft_validation" in shown
    cli = str(Path(sys.executable).with_name("llamafactory-cli"))
    recipe = site / "llamafactory_configs" / "smollm2-135m" / "vanilla_sft.yaml"
    given = ("dataset_dir=.", f"model_name_or_path={model}", "output_dir=out")
    elsewhere(cli, "train", str(recipe), *given, "max_steps=1", "gradient_accumulation_steps=1")
    assert read_json(tmp_path / "out" / "trainer_state.json")["global_step"] == 1
