"""What must hold of the repository as a whole."""

import subprocess

import pytest
import yaml

from data_builders import corpus as loader
from esc import paths
from eval import paper

TRACKED = subprocess.run(
    ["git", "ls-files"], cwd=paths.ROOT, capture_output=True, text=True, check=True
).stdout.split()


def test_the_strategy_list_stands_in_one_place():
    naming = [
        name
        for name in TRACKED
        if name.endswith((".py", ".j2", ".yaml", "Makefile"))
        and not name.startswith("tests/")
        and "Affirmation and Reassurance" in (paths.ROOT / name).read_text()
    ]
    assert naming == ["esc/strategies.yaml"]


def test_nothing_of_the_real_corpus_is_in_the_repository(esconv):
    sentences = {u.text for d in loader.read([esconv])[1] for u in d.utterances if len(u.text) > 60}
    for name in TRACKED:
        if name.endswith((".py", ".md", ".j2", ".json", ".yaml", ".txt")):
            text = (paths.ROOT / name).read_text()
            assert not [sentence for sentence in sentences if sentence in text], name


@pytest.mark.parametrize("word", ["/work/", "/root/", "/home/"])
def test_no_absolute_path_of_a_machine_is_in_the_repository(word):
    for name in TRACKED:
        if not name.startswith("tests/"):
            assert word not in (paths.ROOT / name).read_text(errors="ignore"), name


def test_readme_and_citation_file_cite_the_paper_as_cards_and_report_do():
    assert paper.BIBTEX in (paths.ROOT / "README.md").read_text()
    cited = yaml.safe_load((paths.ROOT / "CITATION.cff").read_text())["preferred-citation"]
    authors = tuple(f"{one['given-names']} {one['family-names']}" for one in cited["authors"])
    assert (cited["title"], authors) == (paper.TITLE, paper.AUTHORS)
