import random
from itertools import combinations

import pytest

from data_builders.split import THRESHOLD, WordSets


@pytest.fixture(scope="module")
def texts():
    chooser = random.Random(7)
    words = [f"w{n}" for n in range(12)]
    return [" ".join(chooser.sample(words, chooser.randint(0, 9))) for _ in range(150)]


def alike(texts):
    """(index, larger index) of every pair, found by comparing all with all."""
    sets = [frozenset(text.split()) for text in texts]
    return {
        (i, j)
        for i, j in combinations(range(len(texts)), 2)
        if sets[i] | sets[j] and len(sets[i] & sets[j]) / len(sets[i] | sets[j]) >= THRESHOLD
    }


def test_pairs_are_those_of_comparing_all_with_all(texts):
    expected = alike(texts)
    assert expected
    assert {(i, j) for i, j, _ in WordSets(texts).pairs()} == expected


def test_pairs_among_some_are_those_of_all_with_both_in_it(texts):
    some = range(0, 150, 2)
    expected = {(i, j) for i, j in alike(texts) if i in some and j in some}
    assert expected
    assert {(i, j) for i, j, _ in WordSets(texts).pairs(some)} == expected


def connected(size, pairs):
    groups = [{index} for index in range(size)]
    for one, other in pairs:
        groups[one] |= groups[other]
        for index in groups[one]:
            groups[index] = groups[one]
    return groups


def test_links_connect_what_pairs_connect(texts):
    links = list(WordSets(texts).links())
    pairs = alike(texts)
    assert connected(150, links) == connected(150, pairs)
    assert len(links) < len(pairs)


def test_equal_texts_are_linked_one_to_the_next():
    links = list(WordSets(["nothing told", "Told: nothing!"] * 1000).links())
    assert sorted(links) == [(n, n + 1) for n in range(1999)]


def test_texts_without_a_word_match_nothing():
    found = WordSets(["", "!", "?", "a"])
    assert not list(found.pairs()) and not list(found.links())
