"""What vLLM's CPU worker is given by ``--worker-extension-cls``; importing the others counts."""

import lora_by_adapter  # noqa: F401
import seeded  # noqa: F401


class Extension:
    """vLLM asks for a class."""
