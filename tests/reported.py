"""A work folder with hand-made measurements, as the other steps would leave them."""

import hashlib
import json
from pathlib import Path
from typing import Any

from predicted import rows, save

from esc.dialogue import interval_names
from esc.psych_errors import PsychError
from esc.strategies import Strategy
from eval.metrics import NAMES
from eval.paper import DIMENSIONS, TABLE_1_ESCONV, TABLE_1_PAIRS

SYSTEMS = ("vanilla_base", "vanilla_sft", "vanilla_dpo", "decoupled_sft", "decoupled_dpo")


def write(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    return path


def sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def number(value: float | None, half: float = 0.1, n: int = 40) -> dict[str, Any]:
    """A number of ``metrics.json``."""
    if value is None:
        gap = {"value": None, "low": None, "high": None}
        return gap | {"n": 0, "signature": "s", "reason": "no record has a distribution"}
    return {
        "value": value,
        "low": value - half,
        "high": value + half,
        "n": n,
        "signature": f"signature|{value}",
    }


def metrics(base: float, digest: str, *, smoke: bool, ece: float | None = 0.11) -> dict[str, Any]:
    """A whole ``metrics.json`` around one number."""
    shares = {one.value: number(12.5) for one in Strategy}
    head = {
        "bias": number(base / 100),
        "bias_converged": number(None),
        "weighted_f1": number(base + 1),
        "macro_f1": number(base + 2),
        "js_distance": number(0.25),
    }
    strategy = head | {
        "n": 37,
        "invalid": 3,
        "invalid_rate": number(7.5),
        "preference": {one.value: number(1.0) for one in Strategy},
        "distribution": {"predicted": shares, "gold": shares},
        "all_turns": head | {"n": 40},
        "calibration": {"ece": number(ece)},
    }
    paper = {
        "distinct1": number(base + 60),
        "bleu1": number(base + 3),
        "f1": number(base + 4),
        "rouge_l": number(base + 5),
    }
    corpus = {
        name: number(base + place)
        for place, name in enumerate(("bleu", "distinct1", "distinct2", "ead", "rouge_l"), 6)
    }
    measured = {"strategy": strategy, "text": {"paper": paper, "corpus": corpus}}
    return measured | {
        "baselines": dict.fromkeys(NAMES, measured),
        "n": 40,
        "dialogues": 10,
        "turns": "some turns",
        "empty": 1,
        "failed": 0,
        "resampled_by": "dialogue",
        "made_with": {"predictions": [digest]},
        "smoke": smoke,
    }


def judged(base: float, digest: str, *, smoke: bool) -> dict[str, Any]:
    none = {"total": 0}
    return {
        "source": {"predictions": digest},
        "judge": "some-judge",
        "signature": "judge:some-judge",
        "interval": "95 %",
        "dimensions": {
            name: number(base + place / 10, n=20) | {"unscored": {"total": 1}, "failed": none}
            for place, name in enumerate(DIMENSIONS)
        },
        "smoke": smoke,
    }


def share(count: int, n: int) -> dict[str, Any]:
    middle = count / n
    return {"count": count, "share": middle, "low": middle / 2, "high": (1 + middle) / 2}


def proportions(*, smoke: bool) -> dict[str, Any]:
    counts = (6, 5, 4, 3, 2, 1, 19)
    return {
        "n": 40,
        "errors": {
            one.value: share(count, 40) for one, count in zip(PsychError, counts, strict=True)
        },
        "interval": "95 %, by dialogue",
        "unscored": {"total": 2},
        "failed": {"total": 0},
        "judge": "some-judge",
        "smoke": smoke,
    }


def system(
    work: Path, model: str, name: str, base: float, *, smoke: bool = False, reply: str = "reply"
) -> Path:
    """One run with everything measured."""
    folder = work / "runs" / model / name
    replies = [one | {"predicted_response": f"{reply} {name} {one['id']}"} for one in rows()]
    digest = sha(save(folder / "predictions.jsonl", replies))
    kind, _, stage = name.partition("_")
    write(folder / "options.json", {"SYSTEM": kind, "STAGE": stage, "ROUND": 1, "smoke": smoke})
    write(folder / "metrics.json", metrics(base, digest, smoke=smoke))
    write(folder / "judge" / "judge.json", judged(base / 10, digest, smoke=smoke))
    write(folder / "errors" / "options.json", {"predictions": digest})
    write(folder / "errors" / "proportions.json", proportions(smoke=smoke))
    return folder


def data(work: Path, *, smoke: bool = False) -> None:
    """The train set's statistics."""
    spread = {one.value: 0.125 for one in Strategy}
    options = {"SPLIT": "paper", "LIMIT": None, "CONSECUTIVE": "separate"}
    write(work / "data" / "manifest.json", {"smoke": smoke, "options": options})
    write(
        work / "data" / "stats" / "stats.json",
        {
            "notes": ["SMOKE: the numbers here are of the sample corpus"] if smoke else [],
            "options": options,
            "here": {
                "table_1": dict.fromkeys(TABLE_1_ESCONV, 7.25),
                "table_6": {one.value: place for place, one in enumerate(Strategy, 11)},
                "figure_8": [spread for _ in interval_names()],
            },
        },
    )


def mining(work: Path, model: str, *, smoke: bool = False) -> None:
    sides = {one.value: {"chosen": 3, "rejected": place} for place, one in enumerate(Strategy)}
    task = {"pairs": 24, "judge": None, "strategies": sides}
    errors = {"Lack of Empathy": 5, "Early Emotion Shift": 6, "Template Response": 8}
    write(
        work / "runs" / model / "mining" / "stats" / "stats.json",
        {
            "notes": ["rg: judged by some-judge"],
            "smoke": smoke,
            "table_1": {"here": dict.fromkeys(TABLE_1_PAIRS, 123.5)},
            "tasks": {
                "sp": task | {"errors": {"Strategy Mismatch": 24}},
                "rg": task | {"errors": errors},
            },
        },
    )


def pairs_judged(work: Path, model: str, *, smoke: bool = False) -> None:
    apart = number(0.75) | {"percent": 31.25, "inside_the_noise": False}
    one = {"chosen": number(3.25), "rejected": number(2.5), "difference": apart}
    write(
        work / "runs" / model / "pairs_judge" / "judge.json",
        {
            "source": {},
            "judge": "some-judge",
            "dimensions": dict.fromkeys(DIMENSIONS, one),
            "smoke": smoke,
        },
    )


def human(work: Path, model: str, *, smoke: bool = False) -> None:
    votes = {"win": share(10, 20), "tie": share(4, 20), "lose": share(6, 20), "n": 20}
    write(
        work / "runs" / model / "human" / "human.json",
        {
            "a": {"name": "decoupled_dpo"},
            "b": {"name": "vanilla_dpo"},
            "annotators": {"anna": {}, "ben": {}},
            "dimensions": {
                name: votes | {"sign_test": {"p": 0.45, "said": "inside the noise (p >= 0.05)"}}
                for name in DIMENSIONS
            },
            "smoke": smoke,
        },
    )


def drift(work: Path, model: str, name: str = "sp_dpo", *, smoke: bool = False) -> None:
    moved = {"turns": 9, "tokens": 687, "kl": 0.00184, "changed": 0.0145}
    write(
        work / "saves" / model / name / "drift.json",
        moved | {"rounding": moved | {"kl": 0.00185}, "moved": False, "smoke": smoke},
    )


def compared(work: Path, model: str, *, smoke: bool = False) -> None:
    points = {"difference": 7.5, "low": 2.0, "high": 13.0, "verdict": "higher, outside the noise"}
    errors = {"n": 38, "shares": {one.value: points for one in PsychError}, "interval": "95 %"}
    pair = {"a": "decoupled_sft", "b": "decoupled_dpo"}
    runs = work / "runs" / model
    predictions = {run: sha(runs / run / "predictions.jsonl") for run in pair.values()}
    write(
        runs / "comparisons.json",
        {
            "comparisons": [pair | {"n": 40, "numbers": {}, "errors": errors | {"reason": None}}],
            "left_out": [],
            "smoke": smoke,
            "made_with": {"predictions": predictions},
        },
    )


def whole(work: Path, model: str, *, smoke: bool = False, base: float = 20.0) -> Path:
    """Everything that a backbone can have, but for what is left to be not run."""
    data(work, smoke=smoke)
    mining(work, model, smoke=smoke)
    pairs_judged(work, model, smoke=smoke)
    human(work, model, smoke=smoke)
    drift(work, model, smoke=smoke)
    write(work / "runs/failed_esconv/errors/proportions.json", proportions(smoke=smoke))
    names = (
        *SYSTEMS,
        *("decoupled-gold_sft", "decoupled-gold_dpo"),
        *("vanilla_dpo_nsnr", "vanilla_dpo_psnr", "decoupled_dpo_practical"),
    )
    for place, name in enumerate(names):
        system(work, model, name, base + 1.37 * place, smoke=smoke)
    compared(work, model, smoke=smoke)
    return work
