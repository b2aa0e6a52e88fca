"""Peak memory of the builder and the router at 1, 10 and 50 times the size of ESConv.

The corpora are made up and written as they are drawn: ESConv's number of dialogues and of turns, no
two situations alike, of words as frequent and as rare as those of a language. Texts are short, to
spare time and disk (some 8 GB at 50 times): none is kept, so that their length does not count.
Samples and verdicts on every train turn are written straight into files, as ``mining sample`` and
``mining judge`` leave them. Measured are whole commands: ``data_builders build``, ``mining route``
and ``data_builders preference``, in MiB of resident memory, and what 10 and 50 times take as a
multiple of once.
"""

import json
import random
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from esc import files, paths
from esc import step as built
from esc.files import Row
from esc.judging import RANDOM
from esc.llm import derived_seed
from esc.paths import EMBEDDED
from esc.psych_errors import PsychError
from esc.step import DONE, RunFolder
from esc.strategies import Strategy
from experiments.step import measured

DIALOGUES, TURNS, SAMPLES = 1300, 14, 3
"""Of ESConv, turns on average; samples as the generator's default."""
TIMES = (1, 10, 50)
SITUATION, VOCABULARY = 20, 40_000
"""Words of a situation, and different ones there are."""
TASK = "rg"


def measure(work: Path, dialogues: int = DIALOGUES) -> dict[str, Any]:
    """Step to its peak MiB by size, and to its growth; ``work`` is emptied again."""
    # The largest takes as long as the others together.
    with ThreadPoolExecutor(max_workers=2) as pool:
        largest_first = sorted(TIMES, reverse=True)
        sizes = [dialogues * times for times in largest_first]
        peaks = pool.map(lambda size: _peaks(work / str(size), size), sizes)
        found = dict(zip(largest_first, peaks, strict=True))
    once = found[TIMES[0]]
    return {
        "dialogues": {f"{times}x": dialogues * times for times in TIMES},
        "peak_memory_mib": {
            step: {f"{times}x": round(found[times][step]) for times in TIMES} for step in once
        },
        "times_that_of_1x": {
            step: {f"{times}x": round(found[times][step] / once[step], 2) for times in TIMES[1:]}
            for step in once
        },
    }


def _peaks(work: Path, dialogues: int) -> dict[str, float]:
    """Step to its peak MiB on a corpus of that size."""
    corpus = work / "made_up.json"
    work.mkdir(parents=True)
    _write_corpus(corpus, dialogues)
    where = ("--work", str(work))
    try:
        peaks = {
            "build": measured("-m", "data_builders", "build", *where, "--esconv", str(corpus))[1]
        }
        _mine(work)
        mined = (*where, "--task", TASK)
        peaks["route"] = measured("-m", "mining", "route", *mined, "--judge", RANDOM)[1]
        peaks["preference"] = measured("-m", "data_builders", "preference", *mined)[1]
    finally:
        shutil.rmtree(work)
    return peaks


def _write_corpus(path: Path, dialogues: int) -> None:
    chooser = random.Random(dialogues)
    with files.atomic_writer(path) as stream:
        for number in range(dialogues):
            stream.write(b"[" if number == 0 else b",\n")
            stream.write(json.dumps(_dialogue(number, chooser)).encode())
        stream.write(b"]\n")


def _dialogue(number: int, chooser: random.Random) -> Row:
    """A dialogue in the release's layout."""
    names = list(Strategy)
    said: list[Row] = []
    for turn in range(TURNS):
        strategy = {"strategy": names[(number + turn) % len(names)].value}
        said += [
            {"speaker": "seeker", "annotation": {}, "content": f"turn {turn} of {number}"},
            {"speaker": "supporter", "annotation": strategy, "content": f"answer {turn}, {number}"},
        ]
    # The k-th most frequent word is drawn about 1/k as often as the first (Zipf).
    words = (f"word{int(VOCABULARY ** chooser.random())}" for _ in range(SITUATION))
    about = dict.fromkeys(("experience_type", "emotion_type", "problem_type"), "made up")
    return about | {"situation": " ".join(words), "survey_score": {}, "dialog": said}


def _mine(work: Path) -> None:
    """Samples of every train turn and a verdict on each, in their folders."""
    manifest = built.manifest(work)
    prompts = manifest["options"]["prompts"]
    sampled: Row = {
        "MODEL": EMBEDDED,
        "task": TASK,
        "VARIANT": None,
        "ROUND": 1,
        "LIMIT": None,
        "SAMPLES": SAMPLES,
        "DECODE": "choice",
        "temperature": 0.7,
        "top_p": 0.95,
        "sampler": f"{TASK}-sft",
        "weights": "made up",
        "prompts": prompts,
        "data": built.train_set(manifest),
        "smoke": True,
    }
    folder = work / paths.mining(EMBEDDED) / TASK
    _leave(RunFolder(folder, sampled, "samples.jsonl"), map(_sample, _draws(work)))
    digest = files.read_json(folder / DONE)["samples.jsonl"]["sha256"]
    judged = {"JUDGE": RANDOM, "BLIND": False, "samples": digest, "prompts": prompts, "smoke": True}
    verdicts = RunFolder(folder / "judges" / RANDOM, judged, "verdicts.jsonl")
    _leave(verdicts, map(_verdict, _draws(work)))


def _leave(folder: RunFolder, rows: Iterator[Row]) -> None:
    folder.claim(force=False)
    folder.write(rows, {}, complete=True)


def _draws(work: Path) -> Iterator[tuple[Row, int]]:
    """(row of the train set, index of the sample) for every sample."""
    for row in files.read_jsonl(work / paths.sft_file(TASK, "train")):
        for index in range(SAMPLES):
            yield row, index


def _sample(draw: tuple[Row, int]) -> Row:
    row, index = draw
    said = f"sample {index} of {row['id']}"
    return {
        "id": row["id"],
        "sample": index,
        "seed": derived_seed(row["id"], index),
        "gold_strategy": row["strategy"],
        "gold_response": row["output"],
        "status": "ok",
        "strategy": row["strategy"],
        "response": said,
        "text": said,
        "truncated": False,
    }


def _verdict(draw: tuple[Row, int]) -> Row:
    row, index = draw
    # Two of three hold an error: a turn has a pair, a reply too many and one without.
    error = PsychError.NONE if index == 0 else PsychError.TEMPLATE_RESPONSE
    return {
        "id": row["id"],
        "sample": index,
        "judge": RANDOM,
        "status": "scored",
        "retain": index > 0,
        "chosen_error": PsychError.NONE.value,
        "chosen_explanation": "made up",
        "rejected_error": error.value,
        "rejected_explanation": "made up",
    }
