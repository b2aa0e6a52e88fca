"""Speed of the automatic metrics: nine systems on as many turns as the paper's test split has.

The turns are made up, with words drawn as a language has them, few often and many seldom. Measured
is the step a user runs, from the file of predictions to ``metrics.json``, baselines and 1,000
resamples included; and whether its cost grows with the turns alone.
"""

import random
from pathlib import Path
from typing import Any

from esc import files
from esc.strategies import Strategy
from experiments.step import python

SYSTEMS, DIALOGUES, TURNS = 9, 128, 14
"""1,792 turns each (the paper's test split)."""
LARGER = 10
WORDS, LENGTH = 3000, 22
_MEASURED = """
import contextlib, io, resource, sys, time
from pathlib import Path
from eval.metrics import metrics
begin = time.perf_counter()
with contextlib.redirect_stdout(io.StringIO()):
    for path in map(Path, sys.argv[1:]):
        metrics([path], path.with_suffix(""), force=True)
seconds = time.perf_counter() - begin
print(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def measure(work: Path) -> dict[str, Any]:
    """Seconds and peak MiB (targets: 20 s and 1 GiB for nine systems), and 10 times the turns."""
    work.mkdir(parents=True, exist_ok=True)
    systems = [_predictions(work / f"system{seed}.jsonl", seed) for seed in range(SYSTEMS)]
    larger = _predictions(work / "larger.jsonl", SYSTEMS, LARGER)
    seconds, memory = _run(systems)
    one, _ = _run(systems[:1])
    ten, most = _run([larger])
    return {
        "systems": SYSTEMS,
        "turns": DIALOGUES * TURNS,
        "seconds": round(seconds, 2),
        "peak_memory_mib": round(memory),
        "one_system_seconds": round(one, 2),
        "ten_times_the_turns": {
            "seconds": round(ten, 2),
            "ratio": round(ten / one, 2),
            "peak_memory_mib": round(most),
        },
    }


def _run(predictions: list[Path]) -> tuple[float, float]:
    """(seconds, peak MiB) of the step on each file, in one process of its own."""
    seconds, memory = python("-c", _MEASURED, *map(str, predictions)).split()
    return float(seconds), float(memory)


def _predictions(path: Path, seed: int, times: int = 1) -> Path:
    """A system's predictions; the gold side is the same for every seed."""
    gold, rng = random.Random(0), random.Random(seed + 1)
    names = [strategy.value for strategy in Strategy]
    with files.atomic_writer(path) as stream:
        writer = files.JsonlWriter(stream)
        for number in range(DIALOGUES * times * TURNS):
            strategy, chosen = gold.choice(names), rng.choice(names)
            shares = [rng.random() for _ in names]
            writer.write(
                {
                    "id": f"{number // TURNS}-{number % TURNS}",
                    "status": "ok",
                    "gold_strategy": strategy,
                    "gold_response": _sentence(gold),
                    "predicted_strategy": strategy if rng.random() < 0.3 else chosen,
                    "predicted_response": _sentence(rng),
                    "distribution": dict(
                        zip(names, (share / sum(shares) for share in shares), strict=True)
                    ),
                }
            )
    return path


def _sentence(rng: random.Random) -> str:
    words = (f"w{int(WORDS ** rng.random())}" for _ in range(rng.randint(2, 2 * LENGTH)))
    return f"I think, {' '.join(words)}."
