"""Text metrics: equal to NLTK's and sacrebleu's own results, and defined where texts are odd."""

import math
import random

import numpy as np
import punkt
import pytest
import sacrebleu
from nltk.tokenize import word_tokenize
from nltk.translate.bleu_score import SmoothingFunction, corpus_bleu

from eval import text_metrics
from eval.text_metrics import lcs, words

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
    ("I see. that is a lot. Dr. Who? e.g. now. No.", "That's a lot. i see Dr. Who. Now."),
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
    columns = text_metrics.columns(text_metrics.statistics(pairs))
    found = text_metrics.numbers(columns.sum(axis=0, keepdims=True))
    return {family: {k: float(v[0]) for k, v in told.items()} for family, told in found.items()}


def nltk_words(text):
    """As NLTK's word_tokenize has them, whose own parameters would have to be downloaded."""
    sentences = punkt.sent_tokenize(text.lower())
    return [word for one in sentences for word in word_tokenize(one, preserve_line=True)]


def test_words_are_nltks_with_every_sentences_full_stop_apart():
    for text in {text for pair in TABLE for text in pair}:
        assert list(words(text)) == nltk_words(text)
    assert words("Well. So be it. Dr. Ng said so.").count(".") == 3


@pytest.mark.parametrize(
    ("rows", "wanted"),
    [
        (
            [
                (
                    "We feel bad. This looks rough. Can they eat?",
                    "This looks rough. We feel bad. Can they eat now?",
                )
            ],
            {"distinct1": 91.6667, "bleu1": 92.0044, "f1": 96.0, "rouge_l": 63.5417},
        ),
        (
            [("Rest well. Dear ciao.", "Rest well. Ciao.")],
            {"distinct1": 83.3333, "bleu1": 83.3333, "f1": 90.9091, "rouge_l": 92.4242},
        ),
        ([("Rest well.", "Rest well."), ("", "Ciao.")], {"distinct1": 50.0}),
    ],
)
def test_the_papers_family_is_the_authors_numbers_to_four_digits(rows, wanted):
    found = scores(rows)["paper"]
    assert {name: round(found[name], 4) for name in wanted} == wanted


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_sentence_bleu_is_nltks(order):
    columns = text_metrics.columns(text_metrics.statistics(TABLE))
    ours = text_metrics.numbers(columns)["paper"][f"bleu{order}"]
    theirs = [
        100
        * corpus_bleu(
            [[nltk_words(gold)]],
            [nltk_words(text)],
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


def test_distinct_within_a_response_is_0_of_one_that_is_too_short():
    found = scores([("a a b", "x"), ("a", "x"), ("", "x")])["paper"]
    assert found["distinct1"] == pytest.approx(100 * (2 / 3 + 1) / 3)
    assert found["distinct2"] == pytest.approx(100 / 3)


def test_a_reply_without_words_is_0_throughout():
    found = scores([("", "a gold reply")])
    assert set(found["paper"].values()) == {0}
    assert [found["corpus"][name] for name in ("bleu", "f1", "rouge_l")] == [0] * 3


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
    return text_metrics.diversity([tuple(text.split()) for text in texts], units)


def test_distinct_of_the_corpus_counts_over_all_responses():
    found = diverse(["a b", "a b c"])
    assert found["distinct1"].value == pytest.approx(100 * 3 / 5)
    assert found["distinct2"].value == pytest.approx(100 * 2 / 3)


def test_ead_sets_different_words_against_what_chance_would_give():
    v = text_metrics.VOCABULARY
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
