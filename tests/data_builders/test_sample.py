"""The sample corpus is this project's own, and has the quirks that the real one has."""

from collections import Counter
from itertools import groupby, pairwise

import pytest

from data_builders import corpus as loader
from data_builders.split import alike, words_of
from esc import paths
from esc.dialogue import Role, turns
from esc.strategies import Strategy


@pytest.fixture(scope="module")
def sample():
    return list(loader.read([paths.SAMPLE])[1])


def test_it_has_the_kinds_and_quirks_of_the_real_corpus(sample):
    assert len(sample) >= 48 and len({d.experience_type for d in sample}) == 2
    assert min(len({d.emotion_type for d in sample}), len({d.problem_type for d in sample})) >= 6
    assert not list(alike([words_of(dialogue.situation) for dialogue in sample]))
    runs = [
        [(role, len(list(g))) for role, g in groupby(d.utterances, lambda u: u.role)]
        for d in sample
    ]
    assert sum(run[0][0] is Role.SUPPORTER for run in runs) >= 5
    assert sum(run[-1][0] is Role.SEEKER for run in runs) >= 5
    for role in Role:
        assert sum((role, n) in run for run in runs for n in (2, 3)) >= 5
    same = [a.strategy is b.strategy for d in sample for a, b in pairwise(d.utterances)
            if a.role is b.role is Role.SUPPORTER]  # fmt: skip
    assert any(same) and not all(same)
    counts = Counter(turn.strategy for dialogue in sample for turn in turns(dialogue))
    assert set(counts) == set(Strategy) and min(counts.values()) >= 12


def test_no_sentence_of_it_is_from_the_real_corpus(sample, esconv):
    real = {u.text.casefold() for d in loader.read([esconv])[1] for u in d.utterances}
    longer = [u.text for d in sample for u in d.utterances if len(u.text.split()) > 6]
    assert longer and not [text for text in longer if text.casefold() in real]
