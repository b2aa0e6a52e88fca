"""Runs in the serving environment: how far LoRA on a CPU is from the formula; prints it as JSON.

The step has tokens of two adapters and of none, in turns; all places for adapters are taken.
"""

import json

import torch
from vllm.lora.layers import LoRAMapping
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

RANK, WIDTHS = 4, (6, 3)
STEPS = {"mixed": [0, 2, 1, 1, 0, 2], "one": [2, 2, 2], "base": [0, 0]}
"""The adapter of each token; 0 is the base."""


def random(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def away(ids):
    """Largest difference for a token of the base, and of an adapter: outputs, then logits."""
    wrapper = PunicaWrapperCPU(64, 64, "cpu")
    mapping = LoRAMapping(tuple(ids), tuple(ids), is_prefill=True)
    wrapper.update_metadata(mapping, [1, 2], 2, 100)
    x = random(len(ids), 8)
    a = [random(2, 1, RANK, 8) for _ in WIDTHS]
    b = [random(2, 1, width, RANK) for width in WIDTHS]
    y, expected = torch.zeros(2, len(ids), sum(WIDTHS))
    logits = torch.zeros(len(ids), WIDTHS[0])
    for row, one in enumerate(ids):
        if one:
            of_one = [(low[one - 1, 0], high[one - 1, 0]) for low, high in zip(a, b, strict=True)]
            expected[row] = torch.cat([x[row] @ low.T @ high.T for low, high in of_one])
    wrapper.add_lora_linear(y, x, tuple(a), tuple(b), 1.0, WIDTHS)
    wrapper.add_lora_logits(logits, x, a[0], b[0], 1.0)
    base = torch.tensor([one == 0 for one in ids])
    return [
        float((found - right)[rows].abs().max()) if rows.any() else 0.0
        for found, right in ((y, expected), (logits, expected[:, : WIDTHS[0]]))
        for rows in (base, ~base)
    ]


before = {name: away(ids) for name, ids in STEPS.items()}
import on_cpu  # noqa: E402, F401

print(json.dumps({"vllm": before, "here": {name: away(ids) for name, ids in STEPS.items()}}))
