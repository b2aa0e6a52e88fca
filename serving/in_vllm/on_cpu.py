"""What vLLM's CPU worker is given by ``--worker-extension-cls``: importing it mends the worker."""

import lora_by_adapter
import seeded

lora_by_adapter.mend()
seeded.mend()


class Extension:
    """vLLM asks for a class."""
