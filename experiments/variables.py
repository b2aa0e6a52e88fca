"""Make's variables as a plan sees them: those it takes, and those it sets itself for each step."""

import argparse
from collections.abc import Callable, Mapping
from typing import TypeVar

from esc import cli
from esc.exceptions import EscError
from esc.judging import form_of
from esc.llm import Budget, Price
from esc.paths import EMBEDDED
from training import recipes

Number = TypeVar("Number", int | None, float | None)

DECISIVE = (
    "ESCONV", "SPLIT", "LIMIT", "CONSECUTIVE", "TRAIN_ARGS", "ENGINE", "SAMPLES", "DECODE",
    "TEMPERATURE", "JUDGE", "JUDGE_BASE_URL", "JUDGE_N", "JUDGE_FORM", "FAILED_ESCONV",
)  # fmt: skip
"""Those that decide what comes out."""
SPEED = ("NPROC", "BASE_URL", "IN_FLIGHT", "JUDGE_IN_FLIGHT", "PRICE", "MAX_COST")
"""Those that decide how fast, and at what cost."""
PER_STEP = (
    "SET", "STAGE", "SYSTEM", "VARIANT", "ROUND", "TASK", "DTYPE", "BLIND", "JUDGE2",
    "JUDGE2_BASE_URL", "MODELS",
)  # fmt: skip
"""Those that would make other rows than the paper's: a plan sets them by itself."""
BATCHES = ("BATCH", "JUDGE_BATCH", "SHARD")
"""Not a plan's: its steps ask side by side, and no machine holds an engine for each."""
OWNED = frozenset((*DECISIVE, *SPEED, *PER_STEP, *BATCHES, "DRY_RUN"))
"""All that reaches a step from its plan alone, never from the environment round it."""
SMOKE_ROWS = 4
"""That the embedded model learns from, of each task and dialogue."""
COUNTS = ("LIMIT", "SAMPLES", "JUDGE_N", "NPROC", "IN_FLIGHT", "JUDGE_IN_FLIGHT")


def parsed(given: list[str]) -> dict[str, str]:
    """Name to value of the ``NAME=value`` that are set.

    Raises EscError for another form, an unknown name or a value that no step would take.
    """
    found = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or name not in (*DECISIVE, *SPEED):
            raise EscError(f"--set {text!r} is not NAME=value of {', '.join((*DECISIVE, *SPEED))}")
        if value:
            found[name] = value
    recipes.refuse(found.get("TRAIN_ARGS", ""))
    for name in COUNTS:
        count(found, name)
    temperature(found)
    judge_form(found)
    budget(found)
    epochs(found)
    rows(found)
    return found


def smoke_training(limit: int) -> str:
    """TRAIN_ARGS for the embedded model on so many dialogues: a few rows that move it.

    A row takes seconds to learn from on two slow cores. The batch is small enough for the loss to
    make a curve, and the rate such that so few steps move the model: Table 7's do not.
    """
    return (
        "num_train_epochs=1.0 gradient_accumulation_steps=2 learning_rate=5.0e-4 "
        f"max_samples={SMOKE_ROWS * limit}"
    )


def with_smoke_training(model: str, given: Mapping[str, str]) -> dict[str, str]:
    """What is given, and the smoke run's TRAIN_ARGS where LIMIT cuts the embedded model's sets."""
    limit = count(given, "LIMIT")
    if model != EMBEDDED or limit is None:
        return dict(given)
    return {"TRAIN_ARGS": smoke_training(limit)} | dict(given)


def refuse_others(environment: Mapping[str, str]) -> None:
    """Raise EscError where a variable is set, for make or round it, that a plan does not take."""
    for name in (*PER_STEP, *BATCHES):
        if not environment.get(name):
            continue
        told = f"{name}={environment[name]}: 'make reproduce' takes no {name}"
        if name in BATCHES:
            raise EscError(
                f"{told}, its steps ask a server; unset it, or run a step alone, such as "
                "'make predict BATCH=vllm': the plan goes on with what it made"
            )
        raise EscError(
            f"{told}, which it sets for each step by itself; unset it, or call that step's own "
            "make target"
        )


def count(given: Mapping[str, str], name: str) -> int | None:
    """A variable that is a whole number, None where it is not set; EscError for another value."""
    try:
        return cli.optional_count(given.get(name, ""))
    except argparse.ArgumentTypeError as error:
        raise EscError(f"{name}={error}") from None


def temperature(given: Mapping[str, str]) -> float | None:
    """With which predictions are sampled, None where it is not set; EscError for another value."""
    try:
        return cli.optional_temperature(given.get("TEMPERATURE", ""))
    except argparse.ArgumentTypeError as error:
        raise EscError(f"TEMPERATURE={error}") from None


def judge_form(given: Mapping[str, str]) -> str:
    """What a judge is asked a score as; EscError for an unknown form."""
    try:
        return form_of(given.get("JUDGE_FORM", ""))
    except argparse.ArgumentTypeError as error:
        raise EscError(f"JUDGE_FORM={error}") from None


def budget(given: Mapping[str, str]) -> Budget:
    """The price and the limit that PRICE and MAX_COST name; EscError for another form."""
    try:
        limit = cli.optional_amount(given.get("MAX_COST", ""))
    except argparse.ArgumentTypeError as error:
        raise EscError(f"MAX_COST={error}") from None
    price = given.get("PRICE")
    return Budget(Price.parse(price) if price else None, limit)


def epochs(given: Mapping[str, str]) -> float | None:
    """The epochs that TRAIN_ARGS names, None where it names none; EscError for no number."""
    return _of_training(given, "num_train_epochs", cli.optional_amount)


def rows(given: Mapping[str, str]) -> int | None:
    """The most rows of a training that TRAIN_ARGS names, None for all; EscError for no count."""
    return _of_training(given, "max_samples", cli.optional_count)


def _of_training(given: Mapping[str, str], name: str, parse: Callable[[str], Number]) -> Number:
    settings = dict(word.partition("=")[::2] for word in given.get("TRAIN_ARGS", "").split())
    try:
        return parse(settings.get(name, ""))
    except argparse.ArgumentTypeError as error:
        raise EscError(f"TRAIN_ARGS: {name}={error}") from None
