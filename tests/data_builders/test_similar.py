import random
from itertools import combinations

import pytest

from data_builders.split import THRESHOLD, alike, words_of


@pytest.fixture(scope="module")
def texts():
    chooser = random.Random(7)
    words = [f"w{n}" for n in range(12)]
    return [" ".join(chooser.sample(words, chooser.randint(0, 9))) for _ in range(150)]


def test_pairs_are_those_of_comparing_all_with_all(texts):
    sets = [words_of(text) for text in texts]
    expected = {
        (i, j)
        for i, j in combinations(range(len(texts)), 2)
        if sets[i] | sets[j] and len(sets[i] & sets[j]) / len(sets[i] | sets[j]) >= THRESHOLD
    }
    assert expected
    assert {(i, j) for i, j, _ in alike(sets)} == expected


def test_texts_without_a_word_match_nothing():
    assert not list(alike([words_of(text) for text in ("", "!", "?", "a")]))
