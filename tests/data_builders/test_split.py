import json
import random
from collections import Counter
from dataclasses import replace
from itertools import combinations

import pytest
from corpora import dialogue

from data_builders import esconv as esconv_loader
from data_builders import similar, split
from esc.exceptions import EscError
from esc.paths import SPLITS


def corpus(size, situation=lambda number: f"case {number} and {number * 31} or {number * 77}"):
    return [
        replace(
            dialogue(("seeker", f"hello {n}"), ("supporter", "Others", f"hi {n}"), position=n),
            situation=situation(n),
        )
        for n in range(size)
    ]


def test_a_seeded_split_has_shares_of_8_1_1():
    splits = split.assign(corpus(200), "seed:42")
    assert Counter(splits.values()) == {"train": 160, "validation": 20, "test": 20}


def test_a_seeded_split_follows_its_seed():
    dialogues = corpus(50)
    assert split.assign(dialogues, "seed:1") == split.assign(dialogues, "seed:1")
    assert split.assign(dialogues, "seed:1") != split.assign(dialogues, "seed:2")


def test_a_seeded_split_keeps_near_identical_situations_on_one_side():
    dialogues = corpus(60, situation=lambda n: " ".join(f"w{n // 3}{letter}" for letter in "abcde"))
    splits = split.assign(dialogues, "seed:42")
    assert not list(split.leaks(dialogues, splits))
    assert set(splits.values()) == set(SPLITS)


def test_a_seeded_split_keeps_identical_dialogues_on_one_side():
    pairs = zip(corpus(60), corpus(30) * 2, strict=True)
    dialogues = [replace(one, utterances=twin.utterances) for one, twin in pairs]
    assert not list(split.leaks(dialogues, split.assign(dialogues, "seed:42")))


def test_the_leak_check_finds_a_dialogue_and_a_situation_on_two_sides():
    one, other, third = corpus(3)
    twin = replace(other, utterances=one.utterances)
    near = replace(third, situation=one.situation.upper() + "!")
    splits = {"0": "train", "1": "test", "2": "validation"}
    found = [(leak.what, leak.ids) for leak in split.leaks([one, twin, near], splits)]
    assert found == [("dialogue", ("0", "1")), ("situation", ("0", "2"))]


def test_a_subset_is_contained_in_every_larger_one_and_taken_from_each_split():
    dialogues = corpus(100)
    splits = split.assign(dialogues, "seed:42")
    two = {d.id for d in split.subset(dialogues, splits, 2)}
    five = {d.id for d in split.subset(dialogues, splits, 5)}
    assert two < five
    assert Counter(splits[i] for i in two) == dict.fromkeys(SPLITS, 2)


@pytest.mark.parametrize("spec", ["Paper", "seed:", "seed:-1", "seed:1;ls", "42"])
def test_another_form_of_split_is_refused(spec):
    with pytest.raises(EscError, match="not a split"):
        split.resolve(spec, is_release=True)


def test_the_papers_split_needs_the_release():
    with pytest.raises(EscError, match="needs the ESConv release"):
        split.resolve("paper", is_release=False)


def test_the_release_manifest_has_the_papers_sizes_and_1300_distinct_hashes():
    rows = json.loads(split.RELEASE.read_text())["dialogues"]
    assert Counter(name for _, name in rows) == {"train": 1040, "validation": 130, "test": 130}
    assert len({sha1 for sha1, _ in rows}) == 1300


def test_every_layout_and_order_of_the_release_is_recognised_with_the_same_ids(esconv_folder):
    official = esconv_loader.load([esconv_folder / "ESConv.json"])[1]
    hf = esconv_loader.load(
        [esconv_folder / f"hf_{name}.txt" for name in ("train", "valid", "test")]
    )[1]
    random.Random(0).shuffle(hf)
    assert split.recognise(official) == official
    assert split.recognise(hf) == official


def test_a_part_of_the_release_is_not_the_release(esconv):
    assert split.recognise(esconv_loader.load([esconv])[1][:-1]) is None


def test_the_papers_indices_are_those_of_the_manifest(esconv_folder):
    given = json.loads((esconv_folder / "paper_split.json").read_text())
    rows = json.loads(split.RELEASE.read_text())["dialogues"]
    for name in ("validation", "test"):
        assert {n for n, row in enumerate(rows) if row[1] == name} == set(given[name])


def test_similar_pairs_are_those_of_comparing_all_with_all():
    chooser = random.Random(7)
    words = [f"w{n}" for n in range(12)]
    texts = [" ".join(chooser.sample(words, chooser.randint(0, 9))) for _ in range(150)]
    sets = [frozenset(text.split()) for text in texts]
    expected = {
        (i, j)
        for i, j in combinations(range(len(texts)), 2)
        if sets[i] | sets[j]
        and len(sets[i] & sets[j]) / len(sets[i] | sets[j]) >= similar.THRESHOLD
    }
    assert expected
    assert {(i, j) for i, j, _ in similar.pairs(texts)} == expected
