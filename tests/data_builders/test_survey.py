"""What is known of a corpus before it is split."""

from dataclasses import replace

from corpora import dialogue

from data_builders.split import Survey


def corpus(size):
    return [
        replace(
            dialogue(("seeker", f"hello {n}"), ("supporter", "Others", f"hi {n}"), position=n),
            situation=f"case {n % 40} and {n % 7} or {n % 11} of {n % 13}",
        )
        for n in range(size)
    ]


def test_a_survey_counts_every_dialogue_and_utterance():
    survey = Survey(corpus(5))
    assert (len(survey), survey.utterances) == (5, 10)
    assert not survey.is_release


def test_the_corpus_hash_is_over_all_that_is_taken():
    (first, *rest), same = corpus(5), Survey(corpus(5)).corpus
    assert Survey([first, *rest]).corpus == same
    assert Survey([replace(first, emotion_type="joy"), *rest]).corpus != same
    assert Survey([*rest, first]).corpus != same


def test_families_are_joined_over_a_third_dialogue():
    one, two, three, four = corpus(4)
    two = replace(two, utterances=one.utterances)
    three = replace(three, situation=two.situation)
    assert list(Survey([one, two, three, four]).families) == [0, 0, 0, 3]
