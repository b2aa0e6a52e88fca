"""The command that a message tells a user to run, with the variables that make it theirs."""

import shlex
from pathlib import Path

from esc.backbones import EMBEDDED


def make(*targets: str, work: Path, model: str = EMBEDDED, **variables: object) -> str:
    """``make TARGETS MODEL=… WORK=… …``, without what is the default."""
    given = {
        "MODEL": None if model == EMBEDDED else model,
        "WORK": None if work == Path() else work,
    } | variables
    set_here = [
        shlex.quote(f"{name}={value}") for name, value in given.items() if value is not None
    ]
    return " ".join(["make", *targets, *set_here])


def step(*words: str, work: Path, model: str = EMBEDDED, **options: object) -> str:
    """``python -m WORDS --model … --work … …``, without what is the default."""
    given = options | {
        "model": None if model == EMBEDDED else model,
        "work": None if work == Path() else work,
    }
    told = [
        f"--{name} {shlex.quote(str(value))}" for name, value in given.items() if value is not None
    ]
    return " ".join(["python -m", *words, *told])
