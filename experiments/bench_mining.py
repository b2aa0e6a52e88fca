"""Speed of mining's own part: routing and writing the sets of 100,000 stored candidates.

The candidates are sampled from a stub server that answers at once, on a made-up corpus, and judged
by random draws: what is measured are the files, as a user's are.
"""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from esc import files, paths
from esc.paths import EMBEDDED
from esc.strategies import Strategy
from experiments.step import measured, python

DIALOGUES, TURNS, SAMPLES = 3000, 14, 3
"""Of the corpus, four fifths of whose dialogues are train: 100,800 candidates."""


def measure(work: Path, stub: Callable[[], AbstractContextManager[str]]) -> dict[str, Any]:
    """Seconds and peak MiB of routing, and of writing the sets (targets: 10 s and 1 GiB in all)."""
    corpus = work / "made_up.json"
    files.write_json(corpus, [_dialogue(number) for number in range(DIALOGUES)])
    where = ("--work", str(work))
    python("-m", "data_builders", "build", *where, "--esconv", str(corpus))
    begin = time.perf_counter()
    with stub() as url:
        python("-m", "mining", "sample", *where, "--task", "rg", "--base-url", url)
    sampled = time.perf_counter() - begin
    python("-m", "mining", "judge", *where, "--task", "rg", "--judge", "random")
    seconds, memory = {}, {}
    for name, step in {
        "route": ("mining", "route", *where, "--task", "rg", "--judge", "random"),
        "sets": ("data_builders", "preference", *where, "--task", "rg"),
    }.items():
        took, mib = measured("-m", *step)
        seconds[name], memory[name] = round(took, 2), round(mib)
    routed = files.read_json(work / paths.mining(EMBEDDED) / "rg" / "routed" / "route.json")
    return {
        "candidates": routed["samples"],
        "pairs": routed["fates"]["pair"],
        "sampled_per_second": round(routed["samples"] / sampled),
        "seconds": seconds | {"together": round(sum(seconds.values()), 2)},
        "peak_memory_mib": memory,
    }


def _dialogue(number: int) -> dict[str, Any]:
    """A dialogue in the release's layout; no two are alike."""
    names = list(Strategy)
    said = []
    for turn in range(TURNS):
        words = " ".join(f"word{(number * 31 + turn * 7 + place) % 997}" for place in range(16))
        said.append({"speaker": "seeker", "annotation": {}, "content": f"{words} {number} {turn}"})
        strategy = {"strategy": names[(number + turn) % len(names)].value}
        said.append({"speaker": "supporter", "annotation": strategy, "content": f"reply {words}"})
    situation = " ".join(f"matter{(number * 17 + place * place) % 9973}" for place in range(12))
    return {
        "experience_type": "made up",
        "emotion_type": "made up",
        "problem_type": "made up",
        "situation": situation,
        "survey_score": {},
        "dialog": said,
    }
