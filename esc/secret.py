"""Secrets that a user puts among TRAIN_ARGS: found by their names, and kept out of every file."""

import re

from esc.exceptions import EscError

_NAMED = re.compile(r"([\w.-]*(?:token|secret|password|passwd|api_key|webhook_url))\b\s*[=:]", re.I)
_VARIABLES = {
    "hf_hub_token": "HF_TOKEN", "hub_token": "HF_TOKEN", "push_to_hub_token": "HF_TOKEN",
    "ms_hub_token": "MODELSCOPE_API_TOKEN", "swanlab_api_key": "SWANLAB_API_KEY",
    "wandb_api_key": "WANDB_API_KEY",
}  # fmt: skip
"""Where the libraries look for a secret themselves."""


def is_secret(name: str) -> bool:
    """Whether a setting of this name holds a secret: ``hf_hub_token``, not ``max_new_tokens``."""
    return _NAMED.fullmatch(f"{name}=") is not None


def refuse(train_args: str) -> None:
    """Raise EscError, without the secret, where TRAIN_ARGS (or a part of it) holds one."""
    for found in _NAMED.findall(train_args):
        name = found.rpartition(".")[2]
        variable = name if name.isupper() else _VARIABLES.get(name.lower())
        way = f"set {variable} in the environment" if variable else "leave it out"
        raise EscError(
            f"TRAIN_ARGS cannot hold {name}, which every user here could read, and files of the "
            f"training would keep; {way}"
        )
