import json
import random
from collections import Counter
from dataclasses import replace

import pytest
from corpora import dialogue

from data_builders import corpus as esconv_loader
from data_builders import split
from data_builders.corpus import RELEASE, fingerprint
from data_builders.split import Survey
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


def assigned(dialogues, spec="seed:42"):
    return split.assign(Survey(dialogues), spec)


def leaks(dialogues, sides):
    return list(split.leaks(Survey(dialogues), sides, range(len(dialogues))))


def test_a_seeded_split_has_shares_of_8_1_1():
    assert Counter(assigned(corpus(200))) == {"train": 160, "validation": 20, "test": 20}


def test_a_seeded_split_follows_its_seed():
    dialogues = corpus(50)
    assert assigned(dialogues, "seed:1") == assigned(dialogues, "seed:1")
    assert assigned(dialogues, "seed:1") != assigned(dialogues, "seed:2")


def test_a_seeded_split_keeps_near_identical_situations_on_one_side():
    dialogues = corpus(60, situation=lambda n: " ".join(f"w{n // 3}{letter}" for letter in "abcde"))
    sides = assigned(dialogues)
    assert [sides[n] for n in range(0, 60, 3)] == [sides[n] for n in range(2, 60, 3)]
    assert not leaks(dialogues, sides)
    assert set(sides) == set(SPLITS)


def test_a_seeded_split_keeps_identical_dialogues_on_one_side():
    pairs = zip(corpus(60), corpus(30) * 2, strict=True)
    dialogues = [replace(one, utterances=twin.utterances) for one, twin in pairs]
    sides = assigned(dialogues)
    assert sides[:30] == sides[30:]
    assert not leaks(dialogues, sides)


def test_the_leak_check_finds_a_dialogue_and_a_situation_on_two_sides():
    one, other, third = corpus(3)
    twin = replace(other, utterances=one.utterances)
    near = replace(third, situation=one.situation.upper() + "!")
    found = leaks([one, twin, near], ["train", "test", "validation"])
    assert [(leak.what, leak.ids) for leak in found] == [
        ("dialogue", ("0", "1")),
        ("situation", ("0", "2")),
    ]


def test_the_leak_check_looks_at_the_chosen_dialogues_alone():
    one, other, third = corpus(3)
    survey = Survey([one, replace(other, situation=one.situation), third])
    sides = ["train", "test", "validation"]
    assert [leak.ids for leak in split.leaks(survey, sides, [0, 1])] == [("0", "1")]
    assert not list(split.leaks(survey, sides, [1, 2]))


def test_a_subset_is_contained_in_every_larger_one_and_taken_from_each_split():
    sides = assigned(corpus(100))
    two, five = (split.subset(sides, limit) for limit in (2, 5))
    assert set(two) < set(five) and list(five) == sorted(five)
    assert Counter(sides[place] for place in two) == dict.fromkeys(SPLITS, 2)


@pytest.mark.parametrize("spec", ["Paper", "seed:", "seed:-1", "seed:1;ls", "42"])
def test_another_form_of_split_is_refused(spec):
    with pytest.raises(EscError, match="not a split"):
        split.resolve(spec, is_release=True)


def test_the_papers_split_needs_the_release():
    with pytest.raises(EscError, match="needs the ESConv release"):
        split.resolve("paper", is_release=False)


def test_the_release_manifest_has_the_papers_sizes_and_1300_distinct_hashes():
    rows = json.loads(RELEASE.read_text())["dialogues"]
    assert Counter(name for _, name in rows) == {"train": 1040, "validation": 130, "test": 130}
    assert len({sha1 for sha1, _ in rows}) == 1300


def test_every_layout_and_order_of_the_release_is_recognised_with_the_same_ids(esconv_folder):
    official = list(esconv_loader.read([esconv_folder / "ESConv.json"])[1])
    parts = [esconv_folder / f"hf_{name}.txt" for name in ("train", "valid", "test")]
    hf = list(esconv_loader.read(parts)[1])
    random.Random(0).shuffle(hf)
    of_official, of_hf = Survey(official), Survey(hf)
    assert of_official.dialogues == official and of_hf.is_release
    assert [one.position for one in of_hf.dialogues] == list(range(1300))
    assert list(map(fingerprint, of_hf.dialogues)) == list(map(fingerprint, official))
    assert of_official.families == of_hf.families


def test_a_part_of_the_release_is_not_the_release(esconv):
    dialogues = list(esconv_loader.read([esconv])[1])
    for others in (dialogues[:-1], [*dialogues[:-1], dialogues[0]], [*dialogues, dialogues[0]]):
        survey = Survey(others)
        assert not survey.is_release and len(survey) == len(others)


def test_the_papers_indices_are_those_of_the_manifest(esconv_folder):
    given = json.loads((esconv_folder / "paper_split.json").read_text())
    rows = json.loads(RELEASE.read_text())["dialogues"]
    for name in ("validation", "test"):
        assert {n for n, row in enumerate(rows) if row[1] == name} == set(given[name])
