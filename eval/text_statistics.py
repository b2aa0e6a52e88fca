"""What a pair of texts adds to every text metric: counts, from which all of them are arithmetic."""

from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache, lru_cache
from itertools import pairwise
from typing import Any

import numpy as np

from esc.bootstrap import Floats

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
