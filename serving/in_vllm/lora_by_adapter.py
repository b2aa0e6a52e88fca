"""Applies LoRA adapter by adapter on vLLM's CPU worker; runs inside vLLM, imports nothing of ours.

vLLM 0.32.0 copies an adapter's weights there once for every token of a step. A token without an
adapter has the index -1, by which Python finds the last one: a request to the base that is answered
beside others gets that adapter, where every place for one is taken. Here each adapter of a step is
multiplied once with all of its tokens, and no other token is touched.
"""

from typing import Any

import torch
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

_Rows = list[tuple[int, torch.Tensor | None]]
"""The adapters of a step and the rows of each; None for all rows."""

_update_metadata = PunicaWrapperCPU.update_metadata


def _by_adapter(indices: torch.Tensor) -> _Rows:
    found = indices.unique().tolist()
    if len(found) == 1:
        return [(found[0], None)] if found[0] >= 0 else []
    return [(one, (indices == one).nonzero().squeeze(1)) for one in found if one >= 0]


def _update(self: Any, *given: Any, **named: Any) -> None:
    _update_metadata(self, *given, **named)
    self.rows_of_tokens = _by_adapter(self.token_lora_indices)
    self.rows_of_answers = _by_adapter(self.sampler_indices)


def _add(
    y: torch.Tensor,
    x: torch.Tensor,
    rows: torch.Tensor | None,
    a: torch.Tensor,
    b: torch.Tensor,
    scale: float,
) -> None:
    """Add ``x A^T B^T scale`` to the rows of ``y``; by way of float32, as vLLM does."""
    part = x if rows is None else x[rows]
    low = scale * (part.float() @ a.float().T)
    high = low.to(y.dtype) @ b.to(y.dtype).T
    width = min(y.shape[1], high.shape[1])
    if rows is None:
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


def mend() -> None:
    """Have vLLM's CPU worker use what is above."""
    PunicaWrapperCPU.update_metadata = _update
    PunicaWrapperCPU.add_lora_linear = _linear
    PunicaWrapperCPU.add_lora_logits = _logits
