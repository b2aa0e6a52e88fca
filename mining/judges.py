"""Who judges: a model behind an OpenAI-compatible endpoint, or random draws for a smoke run."""

import hashlib
import os
import random
import re
from dataclasses import dataclass

from esc import backbones, policy_server
from esc.exceptions import EscError
from esc.psych_errors import PsychError
from mining.routing import STAGE_OF
from mining.verdicts import FILTER_MENU, ErrorVerdict, FilterVerdict

RANDOM = "random"
HOSTED = "https://api.openai.com/v1"


@dataclass(frozen=True, slots=True)
class Judge:
    """Who answers the judge's questions."""

    name: str
    """The model's name at its endpoint, or ``random``."""
    urls: tuple[str, ...]
    """Empty for ``random``."""

    @property
    def is_random(self) -> bool:
        """Whether verdicts are drawn, not judged."""
        return self.name == RANDOM

    @property
    def slug(self) -> str:
        """Its name as that of a folder."""
        return re.sub(r"[^A-Za-z0-9.-]+", "-", self.name).strip(".-") or "judge"


def judge_for(model: str, name: str | None, urls: str | None, *, keyless: bool = False) -> Judge:
    """The judge a user asks for, or the one the table of backbones names.

    Raises EscError where the hosted one is meant and there is no key; ``keyless`` says that it is
    not going to be asked.
    """
    name = name or backbones.get(model).judge
    if name == RANDOM:
        if urls:
            raise EscError("JUDGE=random asks nobody; drop JUDGE_BASE_URL, or name the model there")
        return Judge(RANDOM, ())
    if urls:
        return Judge(name, tuple(policy_server.split_urls(urls)))
    if not keyless and not os.environ.get("OPENAI_API_KEY", "").strip():
        raise EscError(
            f"JUDGE={name} is asked at {HOSTED}, and OPENAI_API_KEY is not set; set it, give "
            "JUDGE_BASE_URL=http://host:port/v1 for another endpoint, or take JUDGE=random, which "
            "is a smoke run"
        )
    return Judge(name, (HOSTED,))


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
