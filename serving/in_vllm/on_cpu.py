"""Mends vLLM 0.32.0's CPU worker; runs inside vLLM, imports nothing of this kit.

The worker imports it for the class that ``--worker-extension-cls`` names.
"""

from typing import Any

import numpy as np
import torch
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU
from vllm.v1.worker.gpu_model_runner import GPUModelRunner

# LoRA adapter by adapter. vLLM copies an adapter's weights once for every token of a step, and a
# token without an adapter has the index -1, by which Python finds the last one: a request to the
# base that is answered beside others gets that adapter, where every place for one is taken. Here
# each adapter of a step is multiplied once with all of its tokens, and no other token is touched.

_update_metadata = PunicaWrapperCPU.update_metadata


def _by_adapter(indices: torch.Tensor) -> list[tuple[int, torch.Tensor]]:
    """The adapters of a step and the rows of each."""
    found = indices.unique().tolist()
    return [(one, (indices == one).nonzero().squeeze(1)) for one in found if one >= 0]


def _update(self: Any, *given: Any, **named: Any) -> None:
    _update_metadata(self, *given, **named)
    self.rows_of_tokens = _by_adapter(self.token_lora_indices)
    self.rows_of_answers = _by_adapter(self.sampler_indices)


def _add(
    y: torch.Tensor, x: torch.Tensor, rows: torch.Tensor, a: torch.Tensor, b: torch.Tensor,
    scale: float,
) -> None:  # fmt: skip
    """Add ``x A^T B^T scale`` to the rows of ``y``; by way of float32, as vLLM does."""
    every = len(rows) == len(x)
    low = scale * ((x if every else x[rows]).float() @ a.float().T)
    high = low.to(y.dtype) @ b.to(y.dtype).T
    width = min(y.shape[1], high.shape[1])
    if every:
        y[:, :width] += high[:, :width]
    else:
        y[:, :width].index_add_(0, rows, high[:, :width])


def _linear(
    self: Any, y: torch.Tensor, x: torch.Tensor, a_stacked: Any, b_stacked: Any,
    scale: float, output_slices: tuple[int, ...], **_: Any,
) -> None:  # fmt: skip
    y, x = y.view(-1, y.shape[-1]), x.view(-1, x.shape[-1])
    for adapter, rows in self.rows_of_tokens:
        begin = 0
        for a, b, width in zip(a_stacked, b_stacked, output_slices, strict=True):
            _add(y[:, begin : begin + width], x, rows, a[adapter, 0], b[adapter, 0], scale)
            begin += width


def _logits(
    self: Any, y: torch.Tensor, x: torch.Tensor, a_stacked: torch.Tensor, b_stacked: torch.Tensor,
    scale: float, **_: Any,
) -> None:  # fmt: skip
    y, x = y.view(-1, y.shape[-1]), x.view(-1, x.shape[-1])
    for adapter, rows in self.rows_of_answers:
        _add(y, x, rows, a_stacked[adapter, 0], b_stacked[adapter, 0], scale)


# Seeded sampling of long prompts. A prompt that is read in several parts draws a token at the end
# of each, and all but the last are thrown away. vLLM then winds the request's generator back by an
# offset that only a GPU's has: on a CPU that ends the whole engine ("CPU Generator does not use
# offset"). Nothing was drawn before a prompt was read, so winding back is seeding anew. (A request
# that the engine sets aside and reads again draws its numbers anew from the start: its answer is
# another one, and none of the worse.)

_bookkeeping_sync = GPUModelRunner._bookkeeping_sync


def _wound_back(self: GPUModelRunner, *given: Any, **named: Any) -> Any:
    batch = self.input_batch
    generators = batch.generators
    for index in np.nonzero(self.discard_request_mask.np[: batch.num_reqs])[0]:
        if (generator := generators.get(int(index))) is not None:
            generator.manual_seed(generator.initial_seed())
    # vLLM finds none to wind back itself.
    batch.generators = {}
    try:
        return _bookkeeping_sync(self, *given, **named)
    finally:
        batch.generators = generators


GPUModelRunner._bookkeeping_sync = _wound_back
PunicaWrapperCPU.update_metadata = _update
PunicaWrapperCPU.add_lora_linear = _linear
PunicaWrapperCPU.add_lora_logits = _logits


class Extension:
    """vLLM asks for a class."""
