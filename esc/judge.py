"""Who judges: a model behind an OpenAI-compatible endpoint, or random draws for a smoke run."""

import os
import re
from dataclasses import dataclass

from esc import backbones, policy_server
from esc.exceptions import EscError

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
