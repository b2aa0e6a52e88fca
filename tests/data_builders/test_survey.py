"""What the first reading of a corpus keeps, and for how long it holds a dialogue."""

import tracemalloc
from dataclasses import replace

from corpora import dialogue

from data_builders.corpus import recognise
from data_builders.split import Survey


def corpus(size, words=1):
    for n in range(size):
        said = f"hello {n} " * words
        yield replace(
            dialogue(("seeker", said), ("supporter", "Others", f"hi {n}"), position=n),
            situation=f"case {n % 40} and {n % 7} or {n % 11} of {n % 13}",
        )


def test_another_corpus_is_known_by_its_first_dialogue():
    rest = corpus(5)
    taken, is_release = recognise(rest)
    assert [one.position for one in taken] == [0] and not is_release
    assert [one.position for one in rest] == [1, 2, 3, 4]


def test_a_survey_counts_every_dialogue_and_utterance():
    survey = Survey(corpus(5))
    assert (len(survey), survey.utterances) == (5, 10)
    assert survey.released is None


def test_the_corpus_hash_is_over_all_that_is_taken():
    (first, *rest), same = list(corpus(5)), Survey(corpus(5)).corpus
    assert Survey([first, *rest]).corpus == same
    assert Survey([replace(first, emotion_type="joy"), *rest]).corpus != same
    assert Survey([*rest, first]).corpus != same


def test_families_are_joined_over_a_third_dialogue():
    one, two, three, four = corpus(4)
    two = replace(two, utterances=one.utterances)
    three = replace(three, situation=two.situation)
    assert list(Survey([one, two, three, four]).families) == [0, 0, 0, 3]


def test_a_survey_keeps_no_text_of_a_dialogue():
    def kept(words):
        tracemalloc.start()
        survey = Survey(corpus(1000, words))
        size = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        assert len(survey) == 1000
        return size

    # The first one also pays for what is read once.
    kept(1)
    # Of nine million characters.
    assert kept(1000) < 200_000
