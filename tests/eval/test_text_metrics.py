"""Text metrics: equal to NLTK's and sacrebleu's own results, and defined where texts are odd."""

import math
import random

import numpy as np
import pytest
import sacrebleu
from nltk.tokenize import word_tokenize
from nltk.translate.bleu_score import SmoothingFunction, corpus_bleu

from eval import diversity, text_metrics, text_statistics
from eval.text_statistics import lcs, words

PAIRS = [
    ("the cat sat on the mat", "the cat sat on the mat"),
    ("the cat sat on a mat", "the cat sat on the mat"),
    ("", "the cat sat on the mat"),
    ("   ", "the cat sat on the mat"),
    ("cat", "the cat sat on the mat"),
    ("dog", "the cat sat on the mat"),
    ("cat", "cat"),
    ("cat", "dog"),
    ("", ""),
    ("a word", ""),
    ("the the the the the the", "the cat"),
    ("!!! ... ???", "... !!!"),
    ("Don't you think it's hard, isn't it?", "I don't think so. It's fine."),
    ("Ünïcode – naïve café ☕ 你好", "naïve café ☕ 你好 friend"),
    ('He said "hi" &amp; left; <b>bye</b>', 'She said "hi" & left'),
    ("one two three", "one two three four five six"),
    ("a b c d e f g h i j", "j i h g f e d c b a"),
    ("It costs $3.50, or 1,000 in all.\nNext line", "It costs 3.50 or 1000 in all. Next line"),
]
VOCABULARY = ["i", "you", "feel", "sad", "it", "is", "hard", ".", "?", "well", "never", "maybe"]


def drawn(count):
    rng = random.Random(3)
    for _ in range(count):
        yield tuple(" ".join(rng.choices(VOCABULARY, k=rng.randint(0, 30))) for _ in "ab")


TABLE = [*PAIRS, *drawn(150)]


def scores(pairs):
    """Numbers of all pairs together."""
    columns = text_metrics.columns(text_statistics.statistics(pairs))
    found = text_metrics.numbers(columns.sum(axis=0, keepdims=True))
    return {family: {k: float(v[0]) for k, v in told.items()} for family, told in found.items()}


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_sentence_bleu_is_nltks(order):
    columns = text_metrics.columns(text_statistics.statistics(TABLE))
    ours = text_metrics.numbers(columns)["paper"][f"bleu{order}"]
    theirs = [
        100
        * corpus_bleu(
            [[word_tokenize(gold.lower(), preserve_line=True)]],
            [word_tokenize(text.lower(), preserve_line=True)],
            weights=(1 / order,) * order,
            smoothing_function=SmoothingFunction().method3,
        )
        for text, gold in TABLE
    ]
    np.testing.assert_allclose(ours, theirs, atol=1e-9)


def test_the_papers_family_is_the_mean_of_its_responses():
    one_by_one = [scores([pair])["paper"]["bleu2"] for pair in PAIRS]
    assert scores(PAIRS)["paper"]["bleu2"] == pytest.approx(sum(one_by_one) / len(PAIRS))


@pytest.mark.parametrize("pairs", [TABLE, *([pair] for pair in PAIRS)])
def test_corpus_bleu_is_sacrebleus(pairs):
    texts, golds = zip(*pairs, strict=True)
    found = scores(pairs)["corpus"]
    assert found["bleu"] == pytest.approx(sacrebleu.corpus_bleu(texts, [golds]).score)
    first = sacrebleu.BLEU(max_ngram_order=1).corpus_score(texts, [golds])
    assert found["bleu1"] == pytest.approx(first.score)


def test_the_signature_holds_sacrebleus_own():
    metric = sacrebleu.BLEU()
    metric.corpus_score(["a"], [["a"]])
    assert str(metric.get_signature()) in text_metrics.signatures()["corpus"]["bleu"]


def test_every_number_has_a_signature():
    told = text_metrics.signatures()
    assert {family: set(found) for family, found in scores(PAIRS).items()} == {
        family: set(found) for family, found in told.items()
    }


def test_f1_counts_words_as_often_as_they_are_shared():
    # Two shared words ("the", "cat") of three and of four.
    found = scores([("the cat cat", "the cat sat down")])
    assert found["paper"]["f1"] == pytest.approx(100 * 2 * 2 / 7)
    assert found["corpus"]["f1"] == pytest.approx(100 * 2 * 2 / 7)


@pytest.mark.parametrize(("family", "beta"), [("paper", 1.2), ("corpus", 1.0)])
def test_rouge_l_weighs_recall_by_its_beta(family, beta):
    # The longest common subsequence is "a c e": 3 of 4 said, 3 of 5 wanted.
    precision, recall = 3 / 4, 3 / 5
    wanted = (1 + beta**2) * precision * recall / (recall + beta**2 * precision)
    found = scores([("a c x e", "a b c d e")])[family]["rouge_l"]
    assert found == pytest.approx(100 * wanted)


def test_the_common_subsequence_is_that_of_the_plain_table():
    def plain(one, other):
        table = [[0] * (len(other) + 1) for _ in range(len(one) + 1)]
        for i, a in enumerate(one):
            for j, b in enumerate(other):
                table[i + 1][j + 1] = (
                    table[i][j] + 1 if a == b else max(table[i][j + 1], table[i + 1][j])
                )
        return table[-1][-1]

    for one, other in TABLE:
        assert lcs(words(one), words(other)) == plain(words(one), words(other))


def test_distinct_within_a_response_leaves_out_what_is_too_short():
    found = scores([("a a b", "x"), ("a", "x"), ("", "x")])["paper"]
    assert found["distinct1"] == pytest.approx(100 * (2 / 3 + 1) / 2)
    assert found["distinct2"] == pytest.approx(100)
    columns = text_metrics.columns(text_statistics.statistics([("a a b", "x"), ("a", "x")]))
    assert text_metrics.counts(columns.sum(axis=0))["distinct2"] == 1


def test_a_reply_without_words_is_0_in_overlap_and_undefined_in_distinct():
    found = scores([("", "a gold reply")])
    assert [found["paper"][name] for name in ("bleu1", "bleu4", "f1", "rouge_l")] == [0] * 4
    assert [found["corpus"][name] for name in ("bleu", "f1", "rouge_l")] == [0] * 3
    assert all(math.isnan(found["paper"][f"distinct{order}"]) for order in (1, 2, 3))


def test_no_response_at_all_is_undefined_throughout():
    found = scores([])
    assert all(math.isnan(value) for told in found.values() for value in told.values())


def test_a_faultless_reply_scores_100():
    text = "this is a reply of seven words"
    found = scores([(text, text)])
    assert set(found["paper"].values()) == {100.0}
    assert [found["corpus"][name] for name in ("bleu1", "f1", "rouge_l")] == [100] * 3
    assert found["corpus"]["bleu"] == pytest.approx(100)


def diverse(texts, units=None):
    units = np.arange(len(texts)) if units is None else np.array(units)
    return diversity.diversity([tuple(text.split()) for text in texts], units)


def test_distinct_of_the_corpus_counts_over_all_responses():
    found = diverse(["a b", "a b c"])
    assert found["distinct1"].value == pytest.approx(100 * 3 / 5)
    assert found["distinct2"].value == pytest.approx(100 * 2 / 3)


def test_ead_sets_different_words_against_what_chance_would_give():
    v = diversity.VOCABULARY
    wanted = 3 / (v * (1 - ((v - 1) / v) ** 5))
    assert diverse(["a b", "a b c"])["ead"].value == pytest.approx(100 * wanted)


def test_what_is_left_without_a_unit_is_the_value_of_the_others():
    texts, units = ["a b b", "c a", "d d", "e f a"], [0, 0, 1, 2]
    whole = diverse(texts, units)
    for name, found in whole.items():
        for unit in range(3):
            kept = [text for text, one in zip(texts, units, strict=True) if one != unit]
            assert found.left_out[unit] == pytest.approx(diverse(kept)[name].value)


@pytest.mark.parametrize("texts", [[], [""], ["", ""]])
def test_diversity_of_nothing_is_undefined(texts):
    found = diverse(texts)
    assert all(math.isnan(one.value) and math.isnan(one.half_width) for one in found.values())


def test_one_unit_has_a_diversity_but_no_interval():
    found = diverse(["a b a"])
    assert found["distinct1"].value == pytest.approx(100 * 2 / 3)
    assert math.isnan(found["distinct1"].half_width)
