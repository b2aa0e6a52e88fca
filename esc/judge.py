"""Who judges: a model behind an OpenAI-compatible endpoint, or random draws for a smoke run."""

import argparse
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass

from esc import backbones, cli, policy_server
from esc.chat.failures import Failure, FailureKind
from esc.exceptions import EscError

RANDOM = "random"
_NO_JUDGES = (RANDOM, backbones.EMBEDDED)
HOSTED = "https://api.openai.com/v1"
NUMBER, REASON = "number", "reason"
FORMS = (NUMBER, REASON)
"""What is asked for a score: the number alone (Figures 17 to 20), or a reason and the number."""


def is_smoke(name: str) -> bool:
    """Whether what a judge of that name says is no judgement: random draws, the embedded model."""
    return name in _NO_JUDGES


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
    def is_smoke(self) -> bool:
        """Whether what it says is no judgement."""
        return is_smoke(self.name)

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


def keyless(given: argparse.Namespace) -> bool:
    """Whether a run with these parsed arguments of `Sending` asks no hosted judge."""
    return bool(given.dry_run or given.batch not in (None, "openai"))


def check_not_all_refused(who: str, results: Iterable[object]) -> None:
    """Raise EscError where it is the request that is refused, not what a question quotes.

    ``results`` holds a final `Failure`, or whatever else became of it, for every question.
    """
    kept = list(results)
    refusals = [
        one.message for one in kept if isinstance(one, Failure) and one.kind is FailureKind.REFUSED
    ]
    if refusals and len(refusals) == len(kept):
        raise EscError(
            f"{who} refuses every question ({refusals[0]}); nothing is written: take another judge "
            "(JUDGE, JUDGE_BASE_URL)"
        )


def add_judge_name(parser: argparse.ArgumentParser) -> None:
    """Add the option that names a judge; its default is the environment's JUDGE."""
    parser.add_argument(
        "--judge",
        type=cli.optional,
        default=os.environ.get("JUDGE") or None,
        help="model at the endpoint, or 'random' (default: $JUDGE, or as the table says)",
    )


def form_of(text: str) -> str:
    """The form of scores that JUDGE_FORM names, the paper's where it is not set.

    Raises argparse.ArgumentTypeError for another word.
    """
    if text and text not in FORMS:
        raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(FORMS)}")
    return text or NUMBER


def add_judge_form(parser: argparse.ArgumentParser) -> None:
    """Add the option that says what a score is asked as; its default is the environment's."""
    parser.add_argument(
        "--form",
        type=form_of,
        default=os.environ.get("JUDGE_FORM", ""),
        help="the number alone, or after a reason (default: $JUDGE_FORM, or number)",
    )


def add_judge_url(parser: argparse.ArgumentParser) -> None:
    """Add the option that says where the judge is; its default is the environment's."""
    parser.add_argument(
        "--judge-base-url",
        type=cli.optional,
        default=os.environ.get("JUDGE_BASE_URL") or None,
        help="one or several, separated by commas (default: $JUDGE_BASE_URL, or the hosted one)",
    )
