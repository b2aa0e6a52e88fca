"""Text metrics: equal to the authors' and sacrebleu's results, and defined where texts are odd."""

import math
import random

import punkt
import pytest
import sacrebleu
from nltk.tokenize import word_tokenize
from nltk.translate.bleu_score import SmoothingFunction, corpus_bleu

from esc.languages import detect
from eval import text_metrics
from eval.text_metrics import lcs, words

PAIRS = [
    ("", "the cat sat on the mat"),
    ("dog", "the cat sat on the mat"),
    ("cat", "cat"),
    ("", ""),
    ("a word", ""),
    ("the the the the the the", "the cat"),
    ("!!! ... ???", "... !!!"),
    ("Don't you think it's hard, isn't it?", "I don't think so. It's fine."),
    ("Ünïcode – naïve café ☕ 你好", "naïve café ☕ 你好 friend"),
    ('He said "hi" &amp; left; <b>bye</b>', 'She said "hi" & left'),
    ("I see. that is a lot. Dr. Who? e.g. now. No.", "That's a lot. i see Dr. Who. Now."),
    ("It costs $3.50, or 1,000 in all.\nNext line", "It costs 3.50 or 1000 in all. Next line"),
]


def scores(pairs):
    """Numbers of all pairs together."""
    sums = text_metrics.columns(pairs).sum(axis=0, keepdims=True)
    told = {"paper": {}, "corpus": {}}
    for (_, family, name), (value,) in text_metrics.numbers(sums).items():
        told[family][name] = float(value)
    return told


def test_words_are_nltks_with_every_sentences_full_stop_apart():
    # NLTK's own word_tokenize would want its parameters of sentences downloaded.
    for text in {text for pair in PAIRS for text in pair}:
        sentences = punkt.sent_tokenize(text.lower())
        said = [word for one in sentences for word in word_tokenize(one, preserve_line=True)]
        assert list(words(text)) == said
    assert words("Well. So be it. Dr. Ng said so.").count(".") == 3


@pytest.mark.parametrize(
    ("said", "gold", "wanted"),
    [
        ("We feel bad. This looks rough. Can they eat?",
         "This looks rough. We feel bad. Can they eat now?",
         {"distinct1": 91.6667, "bleu1": 92.0044, "f1": 96.0, "rouge_l": 63.5417}),
        ("Rest well. Dear ciao.", "Rest well. Ciao.",
         {"distinct1": 83.3333, "bleu1": 83.3333, "f1": 90.9091, "rouge_l": 92.4242}),
    ],
)  # fmt: skip
def test_the_papers_family_is_the_authors_numbers_to_four_digits(said, gold, wanted):
    found = scores([(said, gold)])["paper"]
    assert {name: round(found[name], 4) for name in wanted} == wanted


@pytest.mark.parametrize("pairs", [PAIRS, *([pair] for pair in PAIRS)])
def test_corpus_bleu_is_sacrebleus_own_of_the_same_signature(pairs):
    texts, golds = zip(*pairs, strict=True)
    found, metric = scores(pairs)["corpus"], sacrebleu.BLEU()
    assert found["bleu"] == pytest.approx(metric.corpus_score(texts, [golds]).score)
    first = sacrebleu.BLEU(max_ngram_order=1).corpus_score(texts, [golds])
    assert found["bleu1"] == pytest.approx(first.score)
    assert str(metric.get_signature()) in text_metrics.about()["text", "corpus", "bleu"][0]


def test_f1_and_rouge_l_by_hand():
    # Two shared words ("the", "cat") of three and of four.
    found = scores([("the cat cat", "the cat sat down")])
    assert found["paper"]["f1"] == found["corpus"]["f1"] == pytest.approx(100 * 2 * 2 / 7)
    # The longest common subsequence is "a c e": 3 of 4 said, 3 of 5 wanted.
    found = scores([("a c x e", "a b c d e")])
    for family, beta in (("paper", 1.2), ("corpus", 1.0)):
        wanted = (1 + beta**2) * 3 / 4 * 3 / 5 / (3 / 5 + beta**2 * 3 / 4)
        assert found[family]["rouge_l"] == pytest.approx(100 * wanted)


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_the_common_subsequence_is_that_of_the_plain_table(one, other):
    one, other = words(one), words(other)
    table = [[0] * (len(other) + 1) for _ in range(len(one) + 1)]
    for i, a in enumerate(one):
        for j, b in enumerate(other):
            longest = max(table[i][j + 1], table[i + 1][j])
            table[i + 1][j + 1] = table[i][j] + 1 if a == b else longest
    assert lcs(one, other) == table[-1][-1]


def test_odd_replies_are_defined_and_no_reply_at_all_is_undefined():
    found = scores([("a a b", "x"), ("a", "x"), ("", "x")])["paper"]
    assert found["distinct1"] == pytest.approx(100 * (2 / 3 + 1) / 3)
    assert found["distinct2"] == pytest.approx(100 / 3)
    empty = scores([("", "a gold reply")])
    assert set(empty["paper"].values()) == set(empty["corpus"].values()) == {0}
    text = "this is a reply of seven words"
    for told in scores([(text, text)]).values():
        assert list(told.values()) == pytest.approx([100] * len(told))
    assert all(math.isnan(value) for told in scores([]).values() for value in told.values())


def diverse(texts, units=None):
    """Name to the value, and to what it is without each unit."""
    found = text_metrics.diversity(texts, units or [str(k) for k in range(len(texts))])
    return {path[-1]: values for path, values in found.items()}


def test_diversity_of_the_corpus_counts_over_all_responses():
    found, v = diverse(["a b", "a b c"]), text_metrics.VOCABULARY
    assert found["distinct1"][0] == pytest.approx(100 * 3 / 5)
    assert found["distinct2"][0] == pytest.approx(100 * 2 / 3)
    # Different words against what chance would give.
    assert found["ead"][0] == pytest.approx(100 * 3 / (v * (1 - ((v - 1) / v) ** 5)))
    assert all(math.isnan(one[0]) for one in diverse(["", ""]).values())


def test_what_is_left_without_a_unit_is_the_value_of_the_others():
    texts, units = ["a b b", "c a", "d d", "e f a"], ["8", "8", "1", "2"]
    for name, (_, *left_out) in diverse(texts, units).items():
        for found, unit in zip(left_out, ("1", "2", "8"), strict=True):
            kept = [text for text, one in zip(texts, units, strict=True) if one != unit]
            assert found == pytest.approx(diverse(kept)[name][0])


def esconv(pairs):
    sums = text_metrics.columns(pairs).sum(axis=0, keepdims=True)
    found = text_metrics.numbers(sums, "esconv")
    return {path[-1]: float(one[0]) for path, one in found.items() if path[1] == "esconv"}


def test_the_profile_of_esconvs_authors_is_nltks_corpus_bleu_of_all_replies():
    chance = random.Random(3)
    said = [" ".join(chance.choices("abcdef", k=chance.randint(1, 7))) for _ in range(40)]
    for size in (1, 2, 7):
        pairs = list(zip(said[:size], said[-size:], strict=True))
        tokens = [(words(text), [words(gold)]) for text, gold in pairs]
        for k in range(1, 5):
            wanted = corpus_bleu(
                [gold for _, gold in tokens], [one for one, _ in tokens],
                [1 / k] * k, SmoothingFunction().method3,
            )  # fmt: skip
            assert esconv(pairs)[f"bleu{k}"] == pytest.approx(100 * wanted)


def test_the_profile_of_esconvs_authors_leaves_out_each_replys_last_k_gram():
    # Of "a b a" the words a, b and of "a c" the word a: two of three; of pairs, "a b" alone.
    found = text_metrics.diversity(["a b a", "a c"], ["1", "2"], profile="esconv")
    told = {path[-1]: values[0] for path, values in found.items() if path[1] == "esconv"}
    assert told["distinct1"] == pytest.approx(100 * 2 / 3)
    assert told["distinct2"] == 100 and math.isnan(told["distinct3"])


def test_a_script_without_blanks_is_cut_for_its_language_and_the_signature_says_so():
    pair = "我能理解你的难过", "我能理解你的伤心"
    for language, f1 in (("en", 0), ("zh", 75), ("char", 75)):
        sums = text_metrics.columns([pair], language).sum(axis=0, keepdims=True)
        found = text_metrics.numbers(sums)["text", "paper", "f1"][0]
        assert found == pytest.approx(f1)
        signature = text_metrics.about(language)["text", "paper", "f1"][0]
        assert (f"tok:sacrebleu.{language}" in signature) == (language != "en")
    assert text_metrics.words("我能", "zh") == ("我", "能")


@pytest.mark.parametrize(
    ("texts", "language"),
    [
        (["I am sad.", "你好"], "en"),
        (["我很难过 OK", "你好"], "zh"),
        (["とても悲しい"], "char"),
        (["ฉันเศร้า"], "char"),
        (["", "!?"], "en"),
    ],
)
def test_the_language_is_found_by_most_letters(texts, language):
    assert detect(texts) == language
