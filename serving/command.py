"""The command line and the environment of the one vLLM server."""

import json
import os
import shlex
from collections.abc import Mapping
from pathlib import Path

from esc import cpu
from esc.adapters import BASE
from esc.exceptions import EscError
from esc.policy_server import PROGRAM
from esc.serving_environment import PYTHON

MAX_MODEL_LEN = 8192
"""Tokens: the longest dialogue of ESConv, a draft and its critique, and the reply fit."""

_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
_SET_BY_MAKE = {
    "--model", "--served-model-name", "--host", "--port", "--chat-template", "--enable-lora",
    "--lora-modules",
}  # fmt: skip
# vLLM reads LoRA weights anew for every token on a CPU: short steps keep that in its caches. Small
# blocks let more of a prompt be found in the prefix cache.
_CPU_FLAGS = (
    "--max-num-batched-tokens", "256", "--max-num-seqs", "64", "--block-size", "32",
    "--worker-extension-cls", "on_cpu.Extension",
)  # fmt: skip
IN_VLLM = Path(__file__).parent / "in_vllm"
"""Folder of the modules that run inside vLLM on a CPU."""


def build(
    *,
    root: Path,
    model_path: str,
    adapters: Mapping[str, Path],
    template: Path,
    host: str,
    port: int,
    kind: str,
    gpus: int,
    extra: str,
) -> list[str]:
    """The command that serves a base model with its adapters; raises as `flags` does."""
    asked = flags(
        model_path=model_path,
        adapters=adapters,
        template=template,
        kind=kind,
        gpus=gpus,
        extra=extra,
    )
    return [str(root / PYTHON), "-m", PROGRAM, "--host", host, "--port", str(port), *asked]


def flags(
    *,
    model_path: str,
    adapters: Mapping[str, Path],
    template: Path,
    kind: str,
    gpus: int,
    extra: str,
    seen_from: Path | None = None,
) -> list[str]:
    """What vLLM is told of the base model and its adapters, by a server and by a batch alike.

    ``gpus`` share the weights out; ``extra`` is the user's own flags for vLLM, such as
    ``--tensor-parallel-size 4``; ``seen_from``, the folder it runs in, makes the paths of adapters
    and template relative. Raises as `given` does.
    """

    def place(path: Path) -> str:
        return str(path) if seen_from is None else os.path.relpath(path, seen_from)

    more = given(extra)
    command = [
        "--model", model_path, "--served-model-name", BASE,
        "--chat-template", place(template),
        "--max-model-len", str(MAX_MODEL_LEN),
        # Sampling is what a request says: no defaults of the model's authors, who differ.
        "--generation-config", "vllm",
    ]  # fmt: skip
    if adapters:
        command += [
            "--enable-lora", "--max-lora-rank", str(rank(adapters)),
            "--max-loras", str(min(len(adapters), 8)),
            "--lora-modules", *(f"{name}={place(folder)}" for name, folder in adapters.items()),
        ]  # fmt: skip
    if kind == "cpu":
        # By itself it takes bfloat16, even of weights in float32.
        command += [*_CPU_FLAGS, "--dtype", cpu.precision()]
    elif gpus > 1:
        command += ["--tensor-parallel-size", str(gpus)]
    # vLLM takes the last of a flag given twice.
    return command + more


def given(extra: str) -> list[str]:
    """The user's own flags; EscError for one that this kit sets, or a key on the command line."""
    try:
        words = shlex.split(extra)
    except ValueError as error:
        raise EscError(f"SERVE_ARGS: {str(error).lower()}") from error
    # vLLM takes either spelling.
    named = {flag.partition("=")[0].replace("_", "-") for flag in words if flag.startswith("--")}
    if "--api-key" in named:
        raise EscError("SERVE_ARGS cannot hold --api-key, which every user here could read; set "
                       "VLLM_API_KEY in the environment")  # fmt: skip
    if fixed := named & _SET_BY_MAKE:
        raise EscError(
            f"SERVE_ARGS cannot set {', '.join(sorted(fixed))}: MODEL, HOST, PORT and WORK do"
        )
    return words


def rank(adapters: Mapping[str, Path]) -> int:
    """The smallest rank vLLM knows that holds every adapter."""
    largest = max(
        int(json.loads((folder / "adapter_config.json").read_text())["r"])
        for folder in adapters.values()
    )
    return next(rank for rank in _RANKS if rank >= largest)


def environment(kind: str) -> dict[str, str]:
    """The environment of the server; what the user has set stays."""
    defaults = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    if kind == "cpu":
        # GiB of memory for what has been read; and every core works (vLLM would keep one idle).
        defaults |= {"VLLM_CPU_KVCACHE_SPACE": "2", "VLLM_CPU_NUM_OF_RESERVED_CPU": "0"}
    given = defaults | os.environ
    if kind == "cpu":
        # Where the workers find what _CPU_FLAGS names.
        paths = [str(IN_VLLM), *filter(None, [given.get("PYTHONPATH")])]
        given |= {"PYTHONPATH": os.pathsep.join(paths)}
    return given
