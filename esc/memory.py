"""The memory a LoRA training takes on each GPU, estimated from the backbone's sizes.

    gigabytes(backbones.get("qwen2.5-72b"), engine="zero3", processes=8, length=4096, stage="dpo")

One row of ``length`` tokens at a time (DPO has two, chosen and rejected; KTO four), LoRA of rank 16
on all linear layers, attention that keeps no matrix of tokens by tokens. Counted, in bytes:

- weights: 2 each (bfloat16); under QLoRA 0.52 in the linear layers (4 bits and their scales), and 4
  in the others of a float32 start of DPO; under ZeRO-3 and FSDP a GPU's share, and two whole layers
  that are gathered to be computed. FSDP keeps embedding and output layer whole between forward and
  backward, as all that its outermost unit holds. DTYPE=float32 has it hold 4 in its share;
- LoRA: 16 each (float32 weight, gradient, and Adam's two moments); ZeRO-2 shares out 12 of these,
  ZeRO-3 and FSDP all 16;
- activations: 2 for each token, layer and hidden unit (gradient checkpointing keeps a layer's
  input), and all of the one layer that is recomputed; without checkpointing all of every layer;
- logits, for each token and word of the vocabulary: 12 in SFT (bfloat16 and float32, with
  gradients), 20 in DPO: float32 logits and their log-softmax, of the policy and beside them of the
  reference, and the copy that CUDA makes of logits without their last token; 24 in KTO: the
  policy's logits, their log-softmax and copies by label, and beside them those of another forward;
- 1.5 GB for the CUDA context, buffers and what the allocator cannot use; 1 GB on a CPU.

Not counted: validation, and what another program holds. An estimate: at the one point that was
measured, the embedded model without checkpointing, it says 9.3 GB where 10.7 were used.
"""

from esc import engines
from esc.backbones import Backbone, Shape
from esc.engines import Engine

RANK = 16
_HALF, _FULL = 2, 4
_QUANTIZED = 0.52
KTO_ROWS = 4
"""Rows of a process at a time: TRL estimates KTO's divergence from them, and refuses one alone."""
_LOGITS = {"sft": 2 * _HALF + 2 * _FULL, "dpo": 5 * _FULL, "kto": 6 * _FULL}
_ADAM = 3 * _FULL
_ON_GPU, _ON_CPU = 1.5e9, 1.0e9
_ROWS = {"sft": 1, "dpo": 2, "kto": KTO_ROWS}


def gigabytes(
    backbone: Backbone, *, engine: str | None, processes: int, length: int, stage: str
) -> float:
    """Gigabytes (1e9 bytes) on each GPU; ``processes`` on all nodes together.

    Raises EscError for an unknown engine.
    """
    return sum(parts(backbone, engine, processes, length, stage).values()) / 1e9


def parts(
    backbone: Backbone, engine: str | None, processes: int, length: int, stage: str
) -> dict[str, float]:
    """Bytes on each GPU by what holds them."""
    shape = backbone.shape
    chosen = engines.get(engine) if engine else None
    shares = processes if chosen and chosen.shards_weights else 1
    tokens = length * _ROWS[stage]
    on_gpu = backbone.settings["gpus"] > 0
    checkpointed = on_gpu or stage == "kto"
    whole_layers = 1 if checkpointed else shape.layers
    checkpoints = shape.layers * shape.hidden * _HALF if checkpointed else 0
    return {
        "weights": _weights(backbone, chosen, stage) / shares
        + (_gathered(shape, engine) if shares > 1 else 0),
        "LoRA and Adam": lora(shape) * _trained(engine, processes, shares),
        "activations": tokens * (checkpoints + whole_layers * _layer(shape)),
        "logits": tokens * shape.vocabulary * _LOGITS[stage],
        "context": _ON_GPU if on_gpu else _ON_CPU,
    }


def lora(shape: Shape, rank: int = RANK) -> int:
    """Parameters of a LoRA on all linear layers but the output's."""
    sides = (
        (shape.hidden + shape.query) * 2
        + (shape.hidden + shape.key_value) * 2
        + (shape.hidden + shape.intermediate) * 3
    )
    return rank * shape.layers * sides


def _linear(shape: Shape) -> int:
    """Parameters of the layers' linear maps: all but embedding, output and norms."""
    one = (
        2 * shape.hidden * shape.query
        + 2 * shape.hidden * shape.key_value
        + 3 * shape.hidden * shape.intermediate
    )
    return shape.layers * one


def _weights(backbone: Backbone, engine: Engine | None, stage: str) -> float:
    """Bytes of the weights that an engine begins with, on all GPUs that share them."""
    everything = backbone.parameters * 1e9
    in_full = stage != "sft" and engine is not None and engine.merged_start == "float32"
    width = _FULL if in_full else _HALF
    if engine is None or engine.name != "qlora":
        return everything * width
    linear = _linear(backbone.shape)
    return linear * _QUANTIZED + (everything - linear) * width


def _gathered(shape: Shape, engine: str | None) -> float:
    """Bytes of the shared weights that a GPU has whole at a time."""
    layers = 2 * _linear(shape) / shape.layers * _HALF
    embeddings = (1 if shape.tied else 2) * shape.vocabulary * shape.hidden * _HALF
    return layers + (embeddings if engine == "fsdp" else 0)


def _trained(engine: str | None, processes: int, shares: int) -> float:
    """Bytes for each parameter of the LoRA."""
    if engine == "zero2":
        return _FULL + _ADAM / processes
    return (_FULL + _ADAM) / shares


def _layer(shape: Shape) -> int:
    """Bytes that one layer keeps of a token for its gradient."""
    norms = 6 * shape.hidden * _FULL
    attention = 4 * shape.query + 4 * shape.key_value
    rest = 2 * shape.hidden + attention + 4 * shape.intermediate
    # A LoRA takes a float32 copy of its input, with a mask of what dropout left.
    copies = 5 * shape.hidden + shape.query + shape.intermediate
    return norms + rest * _HALF + copies * (_FULL + 1)
