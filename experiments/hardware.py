"""What a plan's tokens take on which hardware: a throughput model with its assumptions.

No promise: rates of a GPU are computed from its data sheet and shares of it that such work usually
reaches; those of two CPU cores are measured with the embedded model. ``Rates.told`` says both.
"""

from dataclasses import dataclass

from esc.backbones import Backbone

PEAK_FLOPS = 312e12
"""Of an A100 with 80 GB in bfloat16, dense, by its data sheet."""
TRAINING_SHARE, READING_SHARE = 0.35, 0.5
"""Of the peak that training and the reading of prompts reach."""
TRAINING_FLOPS = 6
"""For a parameter and token with a LoRA: forward 2, again for gradient checkpointing 2, backward
through the frozen weights 2."""
READING_FLOPS = 2
WRITING = 23e12
"""Parameters times answer tokens a second, with 256 requests in flight: 3,000 tokens of a 7.6B."""
SCALING = 0.9
"""Of a further training process, or GPU of a server."""
START_GPU, START_CPU = 180.0, 30.0
"""Seconds of a step before its first token: loading weights, starting a server."""
# Two cores without bfloat16 of their own (AVX2), the embedded model, in float32; most of what is
# read has been read before, by the same adapter.
CPU_TRAINING, CPU_READING, CPU_WRITING = 100.0, 900.0, 55.0


@dataclass(frozen=True, slots=True)
class Rates:
    """Tokens a second."""

    training: float
    """Of all processes together; each token with its forward and backward pass."""
    reading: float
    """Of prompts, by one server."""
    writing: float
    """Of answers, by one server with enough requests in flight."""
    start: float
    """Seconds of each step besides."""
    told: str
    """Where they come from."""

    def trained(self, tokens: float) -> float:
        """Seconds of a training on so many tokens, all epochs together."""
        return self.start + tokens / self.training

    def asked(self, prompt_tokens: float, answer_tokens: float) -> float:
        """Seconds of requests with so many tokens, nothing of them cached."""
        return self.start + prompt_tokens / self.reading + answer_tokens / self.writing


def rates(backbone: Backbone, processes: int) -> Rates:
    """The rates of a backbone on its own hardware: GPUs, or two CPU cores."""
    if not backbone.settings["gpus"]:
        told = "two CPU cores, measured with the embedded model in float32"
        return Rates(CPU_TRAINING, CPU_READING, CPU_WRITING, START_CPU, told)
    size = backbone.parameters * 1e9
    one = PEAK_FLOPS * TRAINING_SHARE / (TRAINING_FLOPS * size)
    served = 1 + SCALING * (backbone.serving_gpus - 1)
    writing = WRITING * served / size
    server = "one server"
    if backbone.serving_gpus > 1:
        server += f" of {backbone.serving_gpus} GPUs"
    told = (
        f"A100 80 GB: {PEAK_FLOPS / 1e12:.0f} TFLOP/s, of which training reaches "
        f"{TRAINING_SHARE:.0%} on {processes} processes and reading prompts {READING_SHARE:.0%} on "
        f"{server}; answers {writing:,.0f} tokens a second"
    )
    return Rates(
        one * (1 + SCALING * (processes - 1)),
        PEAK_FLOPS * READING_SHARE * served / (READING_FLOPS * size),
        writing,
        START_GPU,
        told,
    )
