"""The memory a training takes on each GPU, estimated, for every engine side by side.

    python -m training memory --model qwen2.5-72b --processes 8
    python -m training memory --model qwen2.5-72b --engine zero3 --processes 8 --length 2048

The assumptions are in ``esc/memory.py``. Nothing is loaded, nothing is written.
"""

from collections.abc import Iterator, Sequence

from esc import backbones, cli
from esc.backbones import CUTOFF, ENGINES, STAGES, Backbone, Engine, Shape
from esc.paths import EMBEDDED

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
    chosen = backbones.engine(engine) if engine else None
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


_PARTS = "weights", "LoRA and Adam", "activations", "logits", "context"


def table(model: str, engines: Sequence[str | None], processes: int, length: int) -> Iterator[str]:
    """One line for each engine and stage, gigabytes a GPU."""
    backbone = backbones.get(model)
    yield (
        f"{model}: {backbone.parameters:g} billion parameters on {processes} processes, one row of "
        f"{length:,} tokens (DPO: two, KTO: {KTO_ROWS})"
    )
    heads = "".join(f"{name:>15}" for name in _PARTS)
    yield f"  {'engine':<9}{'stage':<6}{heads}{'GB a GPU':>10}"
    for engine in engines:
        for stage in (*STAGES, "kto"):
            found = parts(backbone, engine, processes, length, stage)
            cells = "".join(f"{found[name] / 1e9:>15.1f}" for name in _PARTS)
            total = sum(found.values()) / 1e9
            yield f"  {engine or 'torchrun':<9}{stage:<6}{cells}{total:>10.1f}"
    yield "estimated, not measured: the assumptions are in esc/memory.py"


def main(argv: list[str]) -> None:
    """Command line of the step."""
    parser = cli.parser(
        prog="python -m training memory",
        description=__doc__,
        examples="  python -m training memory --model qwen2.5-72b --engine zero3 --processes 8",
    )
    parser.add_argument("--model", default=EMBEDDED, help="folder of llamafactory_configs")
    parser.add_argument(
        "--engine", type=cli.optional, choices=(*ENGINES, None), help="default: all"
    )
    parser.add_argument(
        "--processes", type=cli.optional_count, help="on all nodes (default: the recipe's)"
    )
    parser.add_argument("--length", type=cli.optional_count, help=f"tokens (default: {CUTOFF})")
    given = parser.parse_args(argv)
    processes = given.processes or max(backbones.get(given.model).settings["gpus"], 1)
    # Ray starts the processes in another way; on a GPU they are as torchrun's.
    engines = [given.engine] if given.engine else [None, "zero2", "zero3", "fsdp", "qlora"]
    print("\n".join(table(given.model, engines, processes, given.length or CUTOFF)))
