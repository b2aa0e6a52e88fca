"""A work folder with hand-made measurements, as the other steps would leave them."""

import hashlib
import json
from pathlib import Path
from typing import Any

from predicted import rows, save

from esc.dialogue import INTERVALS
from esc.psych_errors import PsychError
from esc.strategies import Strategy
from eval.paper import DIMENSIONS, TABLE_1_ESCONV, TABLE_1_PAIRS

BASELINES = ("gold", "majority", "uniform", "gold-marginal-random")
SYSTEMS = (
    *("vanilla_base", "vanilla_sft", "vanilla_dpo", "decoupled_sft", "decoupled_dpo"),
    *("decoupled-gold_sft", "decoupled-gold_dpo"),
    *("vanilla_dpo_nsnr", "vanilla_dpo_psnr", "decoupled_dpo_practical"),
)


def write(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    return path


def change(path: Path, **changed: Any) -> Path:
    return write(path, json.loads(path.read_text()) | changed)


def sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def number(value: float | None, n: int = 40) -> dict[str, Any]:
    """A number of ``metrics.json``."""
    if value is None:
        gap = {"value": None, "low": None, "high": None}
        return gap | {"n": 0, "signature": "s", "reason": "no record has a distribution"}
    ends = {"low": value - 0.1, "high": value + 0.1}
    return {"value": value, **ends, "n": n, "signature": f"signature|{value}"}


def share(count: int, n: int) -> dict[str, Any]:
    middle = count / n
    return {"count": count, "share": middle, "low": middle / 2, "high": (1 + middle) / 2}


def each(value: Any) -> dict[str, Any]:
    """The same of every strategy."""
    return {one.value: value for one in Strategy}


def metrics(base: float, digest: str, *, smoke: bool) -> dict[str, Any]:
    """A whole ``metrics.json`` around one number."""
    head = {"bias": number(base / 100), "bias_converged": number(None)}
    head |= {"weighted_f1": number(base + 1), "macro_f1": number(base + 2)}
    head |= {"js_distance": number(0.25)}
    shares = each(number(12.5))
    strategy = head | {"n": 37, "invalid": 3, "invalid_rate": number(7.5)}
    strategy |= {"preference": each(number(1.0)), "all_turns": head | {"n": 40}}
    strategy |= {"distribution": {"predicted": shares, "gold": shares}}
    strategy |= {"calibration": {"ece": number(0.11)}}
    names = (("distinct1", "bleu1", "f1", "rouge_l"), ("bleu", "distinct1", "distinct2", "ead"))
    paper, corpus = (
        {name: number(base + place) for place, name in enumerate(family, 3)} for family in names
    )
    text = {"paper": paper, "corpus": corpus | {"rouge_l": number(base)}}
    measured = {"strategy": strategy, "text": text}
    counted = {"n": 40, "dialogues": 10, "turns": "some turns", "empty": 1, "failed": 0}
    made = {"resampled_by": "dialogue", "made_with": {"predictions": [digest]}, "smoke": smoke}
    return measured | counted | made | {"baselines": dict.fromkeys(BASELINES, measured)}


def judged(base: float) -> dict[str, Any]:
    lost = {"unscored": {"total": 1}, "failed": {"total": 0}}
    scores = {one: number(base + p / 10, n=20) | lost for p, one in enumerate(DIMENSIONS)}
    by = {"judge": "some-judge", "signature": "judge:some-judge", "interval": "95 %", "source": {}}
    return by | {"dimensions": scores, "smoke": False}


def proportions() -> dict[str, Any]:
    counts = zip(PsychError, (6, 5, 4, 3, 2, 1, 19), strict=True)
    by = {"n": 40, "interval": "95 %, by dialogue", "judge": "some-judge", "smoke": False}
    lost = {"unscored": {"total": 2}, "failed": {"total": 0}}
    return by | lost | {"errors": {one.value: share(count, 40) for one, count in counts}}


def system(work: Path, model: str, name: str, base: float, reply: str = "reply") -> Path:
    """One run with everything measured."""
    folder = work / "runs" / model / name
    replies = [one | {"predicted_response": f"{reply} {name} {one['id']}"} for one in rows()]
    digest = sha(save(folder / "predictions.jsonl", replies))
    kind, _, stage = name.partition("_")
    write(folder / "options.json", {"SYSTEM": kind, "STAGE": stage, "ROUND": 1, "smoke": False})
    write(folder / "metrics.json", metrics(base, digest, smoke=False))
    write(folder / "judge" / "judge.json", judged(base / 10))
    write(folder / "errors" / "proportions.json", proportions())
    return folder


def compared(work: Path, model: str) -> None:
    """Decoupled SFT and DPO, turn by turn: one number and their errors."""
    points = {"difference": 7.5, "low": 2.0, "high": 13.0, "verdict": "higher, outside the noise"}
    f1 = points | {"difference": 0.15, "low": 0.05, "high": 0.25}
    shares = {one.value: points for one in PsychError}
    errors = {"n": 38, "shares": shares, "interval": "95 %", "reason": None}
    pair = {"a": "decoupled_sft", "b": "decoupled_dpo", "n": 40, "errors": errors}
    pair["numbers"] = {"text.paper.f1": f1}
    found = {"left_out": [], "smoke": False, "comparisons": [pair]}
    write(work / "runs" / model / "comparisons.json", found)


def data(work: Path, *, smoke: bool = False) -> None:
    """The train set's statistics."""
    counts = {one.value: place for place, one in enumerate(Strategy, 11)}
    here = {"table_1": dict.fromkeys(TABLE_1_ESCONV, 7.25), "table_6": counts}
    here["figure_8"] = [each(0.125) for _ in INTERVALS]
    notes = ["SMOKE: the numbers here are of the sample corpus"] if smoke else []
    options = {"SPLIT": "paper", "LIMIT": None, "CONSECUTIVE": "separate"}
    write(work / "data" / "manifest.json", {"smoke": smoke, "options": options})
    found = {"notes": notes, "options": options, "here": here}
    write(work / "data" / "stats" / "stats.json", found)


def whole(work: Path, model: str) -> Path:
    """Everything that a backbone can have, but for what is left to be not run."""
    runs = work / "runs" / model
    data(work)
    errors = {"Lack of Empathy": 5, "Early Emotion Shift": 6, "Template Response": 8}
    sides = {one.value: {"chosen": 3, "rejected": place} for place, one in enumerate(Strategy)}
    of = {"sp": {"Strategy Mismatch": 24}, "rg": errors}
    tasks = {task: {"strategies": sides, "errors": wrong} for task, wrong in of.items()}
    mined = {"notes": ["rg: judged by some-judge"], "tasks": tasks, "smoke": False}
    mined["table_1"] = {"here": dict.fromkeys(TABLE_1_PAIRS, 123.5)}
    write(runs / "mining" / "stats" / "stats.json", mined)
    one = {"chosen": number(3.25), "rejected": number(2.4)}
    one["difference"] = number(0.75) | {"percent": 31.25}
    scores = {"source": {}, "judge": "some-judge", "dimensions": dict.fromkeys(DIMENSIONS, one)}
    write(runs / "pairs_judge" / "judge.json", scores | {"smoke": False})
    votes = {"win": share(10, 20), "tie": share(4, 20), "lose": share(6, 20), "n": 20}
    votes["sign_test"] = {"p": 0.45, "said": "inside the noise (p >= 0.05)"}
    both = {"a": {"name": "decoupled_dpo"}, "b": {"name": "vanilla_dpo"}, "smoke": False}
    voted = both | {"annotators": {"anna": {}}, "dimensions": dict.fromkeys(DIMENSIONS, votes)}
    write(runs / "human" / "human.json", voted)
    moved = {"turns": 9, "tokens": 687, "kl": 0.00184, "changed": 0.0145}
    drift = moved | {"rounding": moved | {"kl": 0.00185}, "moved": False, "smoke": False}
    write(work / "saves" / model / "sp_dpo" / "drift.json", drift)
    write(work / "runs/failed_esconv/errors/proportions.json", proportions())
    for place, name in enumerate(SYSTEMS):
        system(work, model, name, 20.0 + 1.37 * place)
    compared(work, model)
    return work
