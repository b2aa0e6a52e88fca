import json
import random
from collections import Counter
from dataclasses import replace
from itertools import combinations

import pytest
from corpora import dialogue

from data_builders import corpus as loader
from data_builders import split
from data_builders.split import THRESHOLD, Survey, alike, words_of
from esc.files import EscError
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


def leaks(dialogues, sides, chosen=None):
    found = split.leaks(Survey(dialogues), sides, chosen or range(len(dialogues)))
    return [(leak["what"], leak["ids"]) for leak in found]


def test_near_same_texts_are_those_of_comparing_all_with_all():
    chooser = random.Random(7)
    words = [f"w{n}" for n in range(12)]
    sets = [words_of(" ".join(chooser.sample(words, chooser.randint(0, 9)))) for _ in range(150)]
    expected = {
        (i, j)
        for (i, one), (j, other) in combinations(enumerate(sets), 2)
        if one | other and len(one & other) / len(one | other) >= THRESHOLD
    }
    assert expected
    assert {(i, j) for i, j, _ in alike(sets)} == expected


def test_a_seeded_split_has_shares_of_8_1_1_and_follows_its_seed():
    dialogues = corpus(200)
    sides = assigned(dialogues, "seed:1")
    assert Counter(sides) == {"train": 160, "validation": 20, "test": 20}
    assert assigned(dialogues, "seed:1") == sides != assigned(dialogues, "seed:2")


def test_a_seeded_split_keeps_near_identical_situations_and_the_same_dialogues_on_one_side():
    near = corpus(60, situation=lambda n: " ".join(f"w{n // 3}{letter}" for letter in "abcde"))
    sides = assigned(near)
    assert [sides[n] for n in range(0, 60, 3)] == [sides[n] for n in range(2, 60, 3)]
    assert not leaks(near, sides) and set(sides) == set(SPLITS)
    pairs = zip(corpus(60), corpus(30) * 2, strict=True)
    same = [replace(one, utterances=twin.utterances) for one, twin in pairs]
    sides = assigned(same)
    assert sides[:30] == sides[30:] and not leaks(same, sides)


def test_families_are_joined_over_a_third_dialogue():
    one, two, three, four = corpus(4)
    two = replace(two, utterances=one.utterances)
    three = replace(three, situation=two.situation)
    assert Survey([one, two, three, four]).families == [0, 0, 0, 3]


def test_the_leak_check_finds_a_dialogue_and_a_situation_on_two_sides():
    one, other, third = corpus(3)
    twin = replace(other, utterances=one.utterances)
    near = replace(third, situation=one.situation.upper() + "!")
    dialogues, sides = [one, twin, near], ["train", "test", "validation"]
    assert leaks(dialogues, sides) == [("dialogue", ["0", "1"]), ("situation", ["0", "2"])]
    # Of the chosen ones alone.
    assert leaks(dialogues, sides, [0, 1]) == [("dialogue", ["0", "1"])]


def test_a_subset_is_contained_in_every_larger_one_and_taken_from_each_split():
    sides = assigned(corpus(100))
    two, five = (split.subset(sides, limit) for limit in (2, 5))
    assert set(two) < set(five) and list(five) == sorted(five)
    assert Counter(sides[place] for place in two) == dict.fromkeys(SPLITS, 2)


@pytest.mark.parametrize("spec", ["Paper", "seed:", "seed:-1", "seed:1;ls", "42"])
def test_another_form_of_split_is_refused_and_the_papers_of_another_corpus(spec):
    with pytest.raises(EscError, match="not a split"):
        split.resolve(spec, Survey(corpus(3)))
    with pytest.raises(EscError, match="needs the ESConv release"):
        split.resolve("paper", Survey(corpus(3)))


def own(*sides):
    return Survey([replace(one, split=side) for one, side in zip(corpus(9), sides, strict=False)])


def test_a_corpus_that_says_its_sides_keeps_them_unless_told_otherwise():
    survey = own("train", "train", "test", "validation")
    assert split.resolve(None, survey) == split.resolve("files", survey) == "files"
    assert split.assign(survey, "files") == ["train", "train", "test", "validation"]
    assert split.resolve(None, own("train", None, "test", "validation")) == "seed:42"


def test_a_split_of_its_own_that_lacks_a_side_or_holds_a_dialogue_twice_is_refused():
    with pytest.raises(EscError, match="no dialogue is on the side 'validation'"):
        split.resolve("files", own("train", "test"))
    with pytest.raises(EscError, match="but 1 dialogues are on none"):
        split.resolve("files", own("train", "test", "validation", None))
    sides = ("train", "train", "test", "validation", "train")
    for again, told in ((2, "0 of train and 2 of test"), (1, "0 of train and 1 of train")):
        dialogues = list(own(*sides).dialogues)
        dialogues[again] = replace(dialogues[again], utterances=dialogues[0].utterances)
        with pytest.raises(EscError, match=f"1 dialogues are there twice, .* dialogue {told}"):
            split.resolve("files", Survey(dialogues))


def test_the_hubs_test_set_is_mostly_in_the_papers_train():
    counts = Counter((one["paper"], one["hf"]) for one in loader.release().values())
    of_hub_test = {side: counts[side, "test"] for side in SPLITS}
    assert of_hub_test == {"train": 151, "validation": 25, "test": 19}


def test_every_layout_and_order_of_the_release_is_recognised_with_the_same_ids(esconv, hf_folder):
    official = list(loader.read([esconv])[1])
    hf = list(loader.read([hf_folder / f"{name}.txt" for name in ("train", "valid", "test")])[1])
    random.Random(0).shuffle(hf)
    of_official, of_hf = Survey(official), Survey(hf)
    assert of_official.dialogues == official and of_hf.is_release
    assert [one.position for one in of_hf.dialogues] == list(range(1300))
    assert of_official.fingerprints == of_hf.fingerprints


def test_a_part_of_the_release_is_not_the_release(esconv):
    dialogues = list(loader.read([esconv])[1])
    for others in (dialogues[:-1], [*dialogues[:-1], dialogues[0]], [*dialogues, dialogues[0]]):
        survey = Survey(others)
        assert not survey.is_release and survey.dialogues == others


def test_the_corpus_hash_is_over_all_that_is_taken():
    first, *rest = corpus(5)
    same = Survey([first, *rest]).corpus
    assert Survey([replace(first, emotion_type="joy"), *rest]).corpus != same
    assert Survey([*rest, first]).corpus != same


def test_the_papers_split_is_that_of_its_indices(esconv_folder):
    given = json.loads((esconv_folder / "paper_split.json").read_text())
    sides = [one["paper"] for one in loader.release().values()]
    assert Counter(sides) == {"train": 1040, "validation": 130, "test": 130}
    for name in ("validation", "test"):
        assert {n for n, side in enumerate(sides) if side == name} == set(given[name])
