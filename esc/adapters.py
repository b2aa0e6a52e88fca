"""The trained adapters of a model, under the names a server gives them."""

import json
import re
from pathlib import Path

from esc import commands, files, paths
from esc.exceptions import EscError
from esc.lineage import Lineage, of_suffix

BASE = "base"
"""The served name of the backbone itself."""
STAGES = (BASE, "sft", "dpo")
"""What a system can be tested at, in the order of training."""
WEIGHTS = "adapter_model.safetensors"
SERVED = "served"
"""Folder inside a DPO adapter that holds SFT and DPO in one adapter."""

_FOLDER = re.compile(r"(sp|rg|vanilla)_(sft|dpo)(_[A-Za-z0-9_.-]+)?")


def served_name(task: str, stage: str, lineage: Lineage = paths.PAPER) -> str:
    """The served name of the policy of a task: ``base``, ``sp-sft``, ``rg-dpo-ipo-r2`` …"""
    if stage == BASE:
        return BASE
    suffix = lineage.suffix if stage == "dpo" else ""
    return f"{task}-{stage}{suffix}".replace("_", "-")


def start(task: str, lineage: Lineage) -> str:
    """The served name of the policy that a preference training starts from, and is mined from."""
    if not lineage.before:
        return served_name(task, "sft")
    return served_name(task, "dpo", lineage.before[-1])


def folder(work: Path, model: str, name: str) -> Path:
    """The folder to serve under ``name``; EscError where it is not trained, or a bare delta."""
    task, _, rest = name.partition("-")
    trained = work / paths.adapters(model) / f"{task}_{rest.replace('-', '_')}"
    check(trained, work, model)
    return _to_serve(trained, work, model)


def chain(work: Path, model: str, task: str, stage: str, lineage: Lineage) -> list[Path]:
    """The folders of a policy's adapters, SFT's first: each was trained on those before it.

    Raises EscError where one is not trained, or the last one not on the others as they are.
    """
    parts = [work / paths.adapter(model, task, "sft")]
    if stage == "dpo":
        rounds = (*lineage.before, lineage)
        parts += [work / paths.adapter(model, task, "dpo", one) for one in rounds]
    for part in parts:
        check(part, work, model)
    last = parts[-1]
    options = last / "options.json"
    trained_on = files.read_json(options) if options.is_file() else {}
    for part in parts[:-1]:
        # Trained by llamafactory-cli itself, it has no options to hold against.
        if trained_on and trained_on.get(f"adapter {part.name}") != fingerprint(part):
            raise EscError(
                f"{last} was trained on another adapter than {part} holds now; train it again, "
                "with FORCE=1"
            )
    return parts


def check(trained: Path, work: Path, model: str) -> None:
    """Raise EscError where a training's folder holds no adapter, or an empty or torn one."""
    task, stage, lineage = _parts(trained.name)
    step = commands.make(f"{stage}-{task}", work=work, model=model, **lineage.variables)
    weights = trained / WEIGHTS
    if not weights.is_file():
        raise EscError(f"{trained} holds no adapter; {step} trains it")
    if not _is_whole(weights):
        raise EscError(
            f"{weights} holds no weights (empty, or cut off); delete {trained}, {step} trains it"
        )


def _is_whole(weights: Path) -> bool:
    """Whether the file has a safetensors header that names tensors, and all their bytes."""
    with weights.open("rb") as stream:
        size = int.from_bytes(stream.read(8), "little")
        begin = stream.read(size) if size < weights.stat().st_size else b""
    try:
        tensors = {k: v for k, v in json.loads(begin).items() if k != "__metadata__"}
        ends = [int(tensor["data_offsets"][1]) for tensor in tensors.values()]
    except (ValueError, AttributeError, KeyError, TypeError, IndexError):
        return False
    return bool(ends) and weights.stat().st_size == 8 + size + max(ends)


def _parts(folder_name: str) -> tuple[str, str, Lineage]:
    """(task, stage, lineage) of a training's folder."""
    task, stage, *rest = folder_name.split("_")
    lineage = of_suffix("".join(f"_{part}" for part in rest))
    return task, stage, lineage or Lineage()


def found(work: Path, model: str) -> dict[str, Path]:
    """Served name to folder of every adapter that exists.

    Raises EscError where a DPO adapter was not composed with its SFT adapter.
    """
    return {
        trained.name.replace("_", "-"): _to_serve(trained, work, model)
        for trained in sorted((work / paths.adapters(model)).glob("*"))
        if (match := _FOLDER.fullmatch(trained.name))
        and of_suffix(match[3] or "") is not None
        and (trained / WEIGHTS).is_file()
    }


def fingerprint(path: Path) -> str:
    """The SHA-256 of an adapter's weights."""
    return files.sha256(path / WEIGHTS)


def _to_serve(trained: Path, work: Path, model: str) -> Path:
    task, stage, lineage = _parts(trained.name)
    if stage != "dpo":
        return trained
    composed = trained / SERVED
    if not (composed / WEIGHTS).is_file():
        of = "".join(f" --{k.lower()} {v}" for k, v in lineage.variables.items() if v is not None)
        raise EscError(
            f"{trained} is a difference to base + SFT, though its configuration may name the base: "
            "served alone it would silently be wrong. '.venv/bin/python -m serving compose "
            f"--model {model} --task {task}{of} --work {work}' makes what can be served"
        )
    return composed
