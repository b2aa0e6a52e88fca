"""Verdicts by random draws, for smoke runs: JUDGE=random."""

import hashlib
import random

from esc.psych_errors import PsychError
from mining.routing import STAGE_OF
from mining.verdicts import FILTER_MENU, ErrorVerdict, FilterVerdict


def draw_filter(record: str) -> FilterVerdict:
    """A verdict on a pair, drawn by the record's id; about two in three keep it."""
    rng = _rng("filter", record)
    errors = [error for error in FILTER_MENU if STAGE_OF[error] == "rg"]
    drawn = "JUDGE=random: drawn, not judged"
    keep, chosen, rejected = rng.choice(
        [
            (True, PsychError.NONE, rng.choice(errors)),
            (True, PsychError.NONE, rng.choice(errors)),
            (False, rng.choice(errors), PsychError.NONE),
            (False, PsychError.NONE, PsychError.NONE),
        ]
    )
    return FilterVerdict(
        retain=keep,
        chosen_error=chosen,
        chosen_explanation=drawn,
        rejected_error=rejected,
        rejected_explanation=drawn,
    )


def draw_error(record: str) -> ErrorVerdict:
    """A verdict on a reply, drawn by the record's id."""
    error = _rng("error", record).choice(list(PsychError))
    return ErrorVerdict(
        contains_error=error is not PsychError.NONE,
        error=error,
        explanation="JUDGE=random: drawn, not judged",
        suggestion="",
    )


def _rng(what: str, record: str) -> random.Random:
    digest = hashlib.sha256(f"{what}\n{record}".encode()).digest()
    return random.Random(int.from_bytes(digest[:8]))
