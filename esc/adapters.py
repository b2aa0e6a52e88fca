"""The trained adapters of a model, under the names a server gives them."""

import re
from pathlib import Path

from esc import commands, files, paths
from esc.exceptions import EscError

BASE = "base"
"""The served name of the backbone itself."""
STAGES = (BASE, "sft", "dpo")
"""What a system can be tested at, in the order of training."""
WEIGHTS = "adapter_model.safetensors"
SERVED = "served"
"""Folder inside a DPO adapter that holds SFT and DPO in one adapter."""

_FOLDER = re.compile(r"(sp|rg|vanilla)_(sft|dpo)(_[A-Za-z0-9_.-]+)?")


def served_name(task: str, stage: str) -> str:
    """The served name of the policy of a task: ``base``, ``sp-sft``, ``rg-dpo`` …"""
    return BASE if stage == BASE else f"{task}-{stage}"


def folder(work: Path, model: str, name: str) -> Path:
    """The folder to serve under ``name``; EscError where it is not trained, or a bare delta."""
    task, _, rest = name.partition("-")
    trained = work / paths.adapters(model) / f"{task}_{rest.replace('-', '_')}"
    if not (trained / WEIGHTS).is_file():
        step = commands.make(f"{rest.partition('-')[0]}-{task}", work=work, model=model)
        raise EscError(f"{trained} holds no adapter; {step} trains it")
    return _to_serve(trained, work, model)


def found(work: Path, model: str) -> dict[str, Path]:
    """Served name to folder of every adapter that exists.

    Raises EscError where a DPO adapter was not composed with its SFT adapter.
    """
    return {
        trained.name.replace("_", "-"): _to_serve(trained, work, model)
        for trained in sorted((work / paths.adapters(model)).glob("*"))
        if _FOLDER.fullmatch(trained.name) and (trained / WEIGHTS).is_file()
    }


def fingerprint(path: Path) -> str:
    """The SHA-256 of an adapter's weights."""
    return files.sha256(path / WEIGHTS)


def _to_serve(trained: Path, work: Path, model: str) -> Path:
    task, stage = trained.name.split("_")[:2]
    if stage != "dpo":
        return trained
    composed = trained / SERVED
    if not (composed / WEIGHTS).is_file():
        raise EscError(
            f"{trained} is a difference to base + SFT, though its configuration names the base: "
            "served alone it would silently be wrong. '.venv/bin/python -m serving compose "
            f"--model {model} --task {task} --work {work}' makes what can be served"
        )
    return composed
