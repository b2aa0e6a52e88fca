"""The memory a training takes on each GPU, estimated, for every engine side by side.

    python -m training memory --model qwen2.5-72b --processes 8
    python -m training memory --model qwen2.5-72b --engine zero3 --processes 8 --length 2048

The assumptions are in ``esc/memory.py``. Nothing is loaded, nothing is written.
"""

from collections.abc import Iterator, Sequence

from esc import backbones, cli, memory
from esc.engines import ENGINES
from training.render import CUTOFF, STAGES

_PARTS = "weights", "LoRA and Adam", "activations", "logits", "context"


def table(model: str, engines: Sequence[str | None], processes: int, length: int) -> Iterator[str]:
    """One line for each engine and stage, gigabytes a GPU."""
    backbone = backbones.get(model)
    yield (
        f"{model}: {backbone.parameters:g} billion parameters on {processes} processes, one row of "
        f"{length:,} tokens (DPO: two, KTO: {memory.KTO_ROWS})"
    )
    heads = "".join(f"{name:>15}" for name in _PARTS)
    yield f"  {'engine':<9}{'stage':<6}{heads}{'GB a GPU':>10}"
    for engine in engines:
        for stage in (*STAGES, "kto"):
            found = memory.parts(backbone, engine, processes, length, stage)
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
    parser.add_argument(
        "--model", default=backbones.EMBEDDED, help="folder of llamafactory_configs"
    )
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
