"""What LLaMA-Factory, the tokenizer and the hub say of one backbone, before a training is begun.

    python -m training backbone --model qwen3-8b

`make doctor MODEL=…` shows the same lines.
"""

from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from esc import backbones, cli
from esc.backbones import Backbone
from esc.paths import EMBEDDED

Finding = tuple[str, str, str]
"""(``ok`` or ``missing``, what was looked at, what it is)."""
TIMEOUT = 10.0
"""Seconds for the hub."""


def findings(backbone: Backbone) -> Iterator[Finding]:
    """Template, weights and tokenizer, in the order in which a training needs them."""
    from llamafactory.data.template import TEMPLATES

    known = backbone.template in TEMPLATES
    near = ", ".join(get_close_matches(backbone.template, TEMPLATES))
    told = "LLaMA-Factory has it" if known else f"LLaMA-Factory has none of the name; near: {near}"
    yield "ok" if known else "missing", "template", f"{backbone.template}: {told}"
    state, told = _weights(backbone)
    yield state, "weights", told
    if known and state == "ok":
        yield _tokenizer(backbone)


def _weights(backbone: Backbone) -> tuple[str, str]:
    import requests
    from huggingface_hub import constants, get_token, try_to_load_from_cache

    if backbone.is_local:
        there = (Path(backbone.location) / "config.json").is_file()
        told = "a folder of this machine" if there else "no config.json in it; make model fills it"
        return "ok" if there else "missing", f"{backbone.path}: {told}"
    if isinstance(try_to_load_from_cache(backbone.path, "config.json"), str):
        return "ok", f"{backbone.path}: in the cache of this machine"
    address = f"{constants.ENDPOINT}/{backbone.path}/resolve/main/config.json"
    token = get_token()
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        answer = requests.head(address, headers=headers, timeout=TIMEOUT, allow_redirects=True)
    except requests.RequestException as error:
        return "missing", f"{backbone.path}: the hub cannot be reached ({type(error).__name__})"
    if answer.ok:
        return "ok", f"{backbone.path}: the hub gives it"
    why = {
        401: "set HF_TOKEN",
        403: "accept its licence on the hub and set HF_TOKEN",
        404: "the hub has no model of the name",
    }.get(answer.status_code, "try again later")
    return "missing", f"{backbone.path}: HTTP {answer.status_code}; {why}"


def _tokenizer(backbone: Backbone) -> Finding:
    from llamafactory.data.template import get_template_and_fix_tokenizer
    from transformers import AutoTokenizer

    settings: Any = SimpleNamespace(
        template=backbone.template, train_on_prompt=False, tool_format=None, default_system=None,
        enable_thinking=False, preserve_thinking=False,
    )  # fmt: skip
    try:
        tokenizer = AutoTokenizer.from_pretrained(backbone.location)
        template = get_template_and_fix_tokenizer(tokenizer, settings)
        said = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "I am."}]
        prompt, answer = template.encode_oneturn(tokenizer, said)
    except (OSError, ValueError) as error:
        return "missing", "tokenizer", " ".join(str(error).split())[:200]
    told = f"{len(tokenizer):,} tokens; a first exchange is {len(prompt)} and {len(answer)}"
    thinks = "<think>" in tokenizer.decode(answer).replace("<think>\n\n</think>", "")
    return "missing" if thinks else "ok", "tokenizer", told + ", thinking" * thinks


@cli.command(examples="  python -m training backbone --model qwen3-8b")
def main(model: cli.Model = EMBEDDED) -> int:
    """Whether a backbone's template, weights and tokenizer are there; exit code 1 where not."""
    found = list(findings(backbones.get(model)))
    for state, what, told in found:
        print(f"{state:<8} {what:<10} {told}")
    return int(any(state == "missing" for state, *_ in found))
