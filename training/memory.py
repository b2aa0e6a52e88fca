"""The memory a training takes on each GPU, estimated, for every engine side by side.

    python -m training memory --model qwen2.5-72b --processes 8
    python -m training memory --model qwen2.5-72b --engine zero3 --processes 8 --length 2048

Weights in 16 bits; 4 with their constants are 0.52 bytes. LoRA, its gradient and Adam's moments in
float32. Of checkpointed layers the inputs are kept, and one layer whole. Of the logits a training
holds copies in 16 and 32 bits; DPO those of policy and reference. Nothing is loaded or written.
"""

from typing import Annotated, Any

import typer

from esc import backbones, cli
from esc.backbones import CUTOFF, STAGES, Backbone
from esc.paths import EMBEDDED

KTO_ROWS = 4
"""Rows of a process at a time: TRL estimates KTO's divergence from them, and refuses one alone."""
_RANK = 16
_HALF, _FULL, _FOUR_BITS = 2, 4, 0.52
_ROWS = {"sft": 1, "dpo": 2, "kto": KTO_ROWS}
_LOGITS = {"sft": 2 * _HALF + 2 * _FULL, "dpo": 5 * _FULL, "kto": 6 * _FULL}
"""Bytes of each logit."""


def gigabytes(
    backbone: Backbone, engine: str | None, processes: int, length: int, stage: str
) -> float:
    """Gigabytes (1e9 bytes) on each GPU; ``processes`` on all nodes together."""
    return sum(parts(backbone, engine, processes, length, stage).values()) / 1e9


def parts(
    backbone: Backbone, engine: str | None, processes: int, length: int, stage: str
) -> dict[str, float]:
    """Bytes on each GPU by what holds them; EscError for an unknown engine."""
    shape, on_gpu = backbone.shape, backbone.settings["gpus"] > 0
    chosen = backbones.engine(engine) if engine else None
    shares = processes if chosen and chosen.shards_weights else 1

    in_full = stage != "sft" and chosen is not None and chosen.merged_start == backbones.FP32
    linear, width = linear_weights(shape), _FULL if in_full else _HALF
    weights = linear * (_FOUR_BITS if engine == "qlora" else width)
    weights += (backbone.parameters * 1e9 - linear) * width
    if shares > 1:
        # Two layers are gathered at a time; by FSDP embedding and output too.
        gathered = 2 * linear / shape.layers
        if engine == "fsdp":
            gathered += (1 if shape.tied else 2) * shape.vocabulary * shape.hidden
        weights = weights / shares + gathered * _HALF

    # Parameter, gradient and two moments; ZeRO-2 shares out all but the parameter.
    of_lora = 4 * _FULL / shares if engine != "zero2" else _FULL + 3 * _FULL / processes
    checkpointed = on_gpu or stage == "kto"
    # One layer keeps of a token for its gradient. A LoRA takes a float32 copy of its input, with a
    # mask of what dropout left.
    norms = 6 * shape.hidden * _FULL
    rest = 2 * shape.hidden + 4 * (shape.query + shape.key_value + shape.intermediate)
    copies = 5 * shape.hidden + shape.query + shape.intermediate
    layer = norms + rest * _HALF + copies * (_FULL + 1)
    inputs = shape.layers * shape.hidden * _HALF if checkpointed else 0
    tokens = length * _ROWS[stage]
    return {
        "weights": weights,
        "LoRA and Adam": lora(shape) * of_lora,
        "activations": tokens * (inputs + (1 if checkpointed else shape.layers) * layer),
        "logits": tokens * shape.vocabulary * _LOGITS[stage],
        "context": 1.5e9 if on_gpu else 1.0e9,
    }


def _maps(shape: Any) -> list[tuple[int, int]]:
    """Inputs and outputs of a layer's linear maps."""
    attention = [(shape.hidden, shape.query), (shape.hidden, shape.key_value)]
    return attention * 2 + [(shape.hidden, shape.intermediate)] * 3


def lora(shape: Any) -> int:
    """Parameters of a LoRA on all linear layers but the output's."""
    return _RANK * int(shape.layers) * sum(map(sum, _maps(shape)))


def linear_weights(shape: Any) -> int:
    """Parameters of the layers' linear maps: all but embedding, output and norms."""
    return int(shape.layers) * sum(one * other for one, other in _maps(shape))


@cli.command(
    examples="  python -m training memory --model qwen2.5-72b --engine zero3 --processes 8"
)
def main(
    model: cli.Model = EMBEDDED,
    engine: Annotated[str | None, typer.Option(envvar="ENGINE", help="(default: all)")] = None,
    processes: Annotated[
        int | None, typer.Option(envvar="NPROC", min=1, help="on all nodes (default: the recipe's)")
    ] = None,
    length: Annotated[int, typer.Option(min=1, help="tokens of a row")] = CUTOFF,
) -> None:
    """The memory a training takes on each GPU, estimated, for every engine side by side."""
    import pandas as pd

    backbone = backbones.get(model)
    processes = processes or max(backbone.settings["gpus"], 1)
    # Ray starts the processes in another way; on a GPU they are as torchrun's.
    rows = {
        (one or "torchrun", stage): parts(backbone, one, processes, length, stage)
        for one in ([engine] if engine else [None, "zero2", "zero3", "fsdp", "qlora"])
        for stage in (*STAGES, "kto")
    }
    table = pd.DataFrame.from_dict(rows, orient="index") / 1e9
    table["GB a GPU"] = table.sum(axis=1)
    print(
        f"{model}: {backbone.parameters:g} billion parameters on {processes} processes, one row of "
        f"{length:,} tokens (DPO: two, KTO: {KTO_ROWS})\n{table.round(1).to_string()}\n"
        "estimated, not measured: the assumptions are in training/memory.py"
    )
