"""The trained adapters of a model, under the names a server gives them."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from esc import backbones, files, paths, prompts
from esc.files import EscError
from esc.paths import EMBEDDED, PAPER, Lineage, of_suffix

BASE = "base"
"""The served name of the backbone itself."""
STAGES = (BASE, "sft", "dpo")
"""What a system can be tested at, in the order of training."""
WEIGHTS, CONFIG, FILE = "adapter_model.safetensors", "adapter_config.json", "chat_template.jinja"
"""Of an adapter's folder, where PEFT and Hugging Face's tokenizers look for them."""
SERVED = "served"
"""Folder inside a DPO adapter that holds SFT and DPO in one adapter."""
LARGEST_RANK = 512
"""That vLLM serves."""
ELSEWHERE = "unknown: served elsewhere"

_NOT_PLAIN = (
    "use_rslora", "use_qalora", "rank_pattern", "alpha_pattern", "fan_in_fan_out",
    "layer_replication", "alora_invocation_tokens",
)  # fmt: skip
"""In PEFT's configuration of what is no plain LoRA, where no tensor shows it."""
_FOLDER = re.compile(r"(sp|rg|vanilla)_(sft|dpo)((?:_.+)?)")


def served_name(task: str, stage: str, lineage: Lineage = PAPER) -> str:
    """The served name of the policy of a task: ``base``, ``sp-sft``, ``rg-dpo-ipo-r2`` …"""
    suffix = (lineage if stage == "dpo" else lineage.sft).suffix
    return BASE if stage == BASE else f"{task}-{stage}{suffix}".replace("_", "-")


def start(task: str, lineage: Lineage) -> str:
    """The served name of the policy that a preference training starts from, and is mined from."""
    before = lineage.before
    return served_name(task, "dpo", before[-1]) if before else served_name(task, "sft", lineage)


def parts(folder_name: str) -> tuple[str, str, Lineage] | None:
    """(task, stage, lineage) of a training's folder, or None of another one."""
    match = _FOLDER.fullmatch(folder_name)
    lineage = of_suffix(match[3]) if match else None
    return (match[1], match[2], lineage) if match and lineage else None


def folders_of(
    work: Path, model: str, task: str, stage: str, lineage: Lineage = PAPER
) -> list[Path]:
    """The folders of a policy's adapters, SFT's first: each is trained on those before it."""
    rounds = (*lineage.before, lineage) if stage == "dpo" else ()
    named = [paths.adapter(model, task, "dpo", one) for one in rounds]
    return [work / one for one in (paths.adapter(model, task, "sft", lineage.sft), *named)]


def chain(work: Path, model: str, task: str, stage: str, lineage: Lineage) -> list[Path]:
    """The same folders; EscError where one is no plain LoRA, or the last not on the others."""
    folders = folders_of(work, model, task, stage, lineage)
    for one in folders:
        check(one, work, model)
    *before, last = folders
    # Trained by llamafactory-cli itself, it has no options to hold against.
    options = files.read_json(last / "options.json", default={})
    for one in before if options else ():
        if options.get(f"adapter {one.name}") != fingerprint(one):
            raise EscError(
                f"{last} was trained on another adapter than {one} holds now; train it again, "
                "with FORCE=1"
            )
    return folders


def check(trained: Path, work: Path, model: str) -> None:
    """Raise EscError where a training's folder holds no adapter, a torn one, or no plain LoRA."""
    task, stage, lineage = parts(trained.name) or ("sp", "sft", PAPER)
    train = paths.make(f"{stage}-{task}", work=work, model=model, **lineage.variables)
    names = tensors(trained)
    if not names:
        raise EscError(
            f"{trained} holds no adapter; {train} trains it, with FORCE=1 where its file is torn"
        )
    config = files.read_json(trained / CONFIG)
    odd = [key for key in _NOT_PLAIN if config.get(key)]
    if config.get("init_lora_weights") not in (True, False, "gaussian", None):
        # It changes the base itself, and the adapter is a difference to that.
        odd.append("init_lora_weights")
    plain = (".lora_A.weight", ".lora_B.weight")
    odd += [name for name in names if name.startswith("base_model") and not name.endswith(plain)]
    if odd:
        raise EscError(
            f"{trained} is no plain LoRA ({min(odd)}): composed, merged or served it would be "
            f"another model than was trained; {train} FORCE=1, without it in TRAIN_ARGS, trains one"
        )


def tensors(adapter: Path) -> set[str]:
    """The names of an adapter's tensors; none where its file is missing, empty, or cut off."""
    try:
        with safe_open(adapter / WEIGHTS, "np") as stream:
            return set(stream.keys())
    except (FileNotFoundError, SafetensorError):
        return set()


def fingerprint(path: Path) -> str:
    """The SHA-256 of an adapter's weights."""
    return files.sha256(path / WEIGHTS)


def folder(work: Path, model: str, name: str) -> Path:
    """The folder to serve under ``name``; EscError where it is not trained, or a bare delta."""
    trained = work / paths.adapters(model) / name.replace("-", "_")
    check(trained, work, model)
    task, _, lineage = parts(trained.name) or ("", "", PAPER)
    # Trained by llamafactory-cli itself, it has no options to hold against.
    first = work / paths.adapter(model, task, "sft", lineage.sft) / "options.json"
    key, now = prompts.KEYS[lineage.layout], prompts.wording(lineage.layout)
    if files.read_json(first, default={}).get(key, now) != now:
        raise EscError(
            f"{first.parent} was trained with other system prompts or strategies; set PROMPTS_DIR "
            "and STRATEGIES as they were then"
        )
    return _served(trained, work, model)


def found(work: Path, model: str) -> dict[str, Path]:
    """Served name to folder of every adapter; EscError where one of DPO is not composed."""
    return {
        trained.name.replace("_", "-"): _served(trained, work, model)
        for trained in sorted((work / paths.adapters(model)).glob("*"))
        if parts(trained.name) and (trained / WEIGHTS).is_file()
    }


def _served(trained: Path, work: Path, model: str) -> Path:
    task, stage, lineage = parts(trained.name) or ("", "", PAPER)
    if stage != "dpo":
        return trained
    if not (trained / SERVED / WEIGHTS).is_file():
        of = {name.lower(): value for name, value in lineage.variables.items()}
        compose = paths.step("serving", "compose", work=work, model=model, task=task, **of)
        raise EscError(
            f"{trained} is a difference to base + SFT, though its configuration may name the base: "
            f"served alone it would silently be wrong; {compose} makes what can be served"
        )
    return trained / SERVED


def load(model: str, template: str) -> tuple[Any, Any]:
    """(tokenizer, LLaMA-Factory's template) of a hub id or folder, as its training has them."""
    # Its log tells of tokens it adds, at a level it reads when it is imported.
    os.environ.setdefault("LLAMAFACTORY_VERBOSITY", "WARN")
    # Heavy, and needed by few steps.
    from llamafactory.data.template import get_template_and_fix_tokenizer
    from llamafactory.hparams import DataArguments
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(model)
    except OSError as error:
        raise EscError(
            f"the tokenizer of {model} cannot be loaded ({str(error).splitlines()[0]}); 'make "
            "model' prepares the embedded one, any other needs the hub, or a copy in its cache"
        ) from error
    return tokenizer, get_template_and_fix_tokenizer(tokenizer, DataArguments(template=template))


def of(model: str, template: str) -> str:
    """The Jinja text for ``model`` (a hub id or a folder) under LLaMA-Factory's ``template``."""
    tokenizer, chat = load(model, template)
    return str(chat._get_jinja_template(tokenizer))


def weights_of(
    work: Path, model: str, names: Sequence[str], *, elsewhere: bool = False
) -> dict[str, str]:
    """Served name to a hash of what answers under it; EscError where an adapter is not trained.

    With ``elsewhere`` another machine's server may have it, and it is known by its name alone.
    """
    hashes, backbone = {}, backbones.get(model)
    for name in names:
        try:
            if name != BASE:
                hashes[name] = fingerprint(folder(work, model, name))
            elif model == EMBEDDED:
                manifest = Path(backbone.location) / "manifest.json"
                hashes[name] = files.read_json(manifest, made_by="make model")["gguf_sha256"]
            else:
                hashes[name] = backbone.path
        except EscError:
            if name == BASE or not elsewhere:
                raise
            hashes[name] = ELSEWHERE
    return hashes
