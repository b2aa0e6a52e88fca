"""What vLLM's CPU worker is given by ``--worker-extension-cls``: importing it mends the worker.

It runs inside vLLM, and imports nothing of this kit. `lora_by_adapter` is one mend. The other: a
prompt that is read in several parts draws a token at the end of each, and all but the last are
thrown away. vLLM 0.32.0 then winds the request's generator back by an offset that only a GPU's has:
on a CPU that ends the whole engine ("CPU Generator does not use offset"). Nothing was drawn before
a prompt was read, so winding back is seeding anew. (A request that the engine sets aside and reads
again draws its numbers anew from the start: its answer is another one, and none of the worse.)
"""

from typing import Any

import lora_by_adapter
import numpy as np
from vllm.v1.worker.gpu_model_runner import GPUModelRunner

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
lora_by_adapter.mend()


class Extension:
    """vLLM asks for a class."""
