"""LoRA on vLLM's CPU worker: each token gets its own adapter, and one of the base gets none."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from esc import paths
from esc.serving_environment import PYTHON
from serving.server import IN_VLLM

pytestmark = pytest.mark.slow

PROGRAM = Path(__file__).with_name("adapters_of_a_step.py")


@pytest.fixture(scope="module")
def away():
    """Distances from the formula, by who computes and what is in the step."""
    command = [str(paths.ROOT / PYTHON), str(PROGRAM)]
    found_in = os.environ | {"PYTHONPATH": str(IN_VLLM)}
    shown = subprocess.run(command, env=found_in, capture_output=True, text=True, check=False)
    assert shown.returncode == 0, shown.stderr[-2000:]
    return json.loads(shown.stdout.splitlines()[-1])


@pytest.mark.parametrize("step", ["mixed", "one", "base"])
def test_every_token_gets_what_its_own_adapter_adds(away, step):
    assert max(away["here"][step]) < 1e-5


def test_a_token_of_the_base_is_left_as_it_was(away):
    assert away["here"]["mixed"][0] == away["here"]["base"][0] == 0


def test_vllm_itself_still_gives_the_base_another_ones_adapter(away):
    """Where this fails, the mend is no longer needed."""
    assert away["vllm"]["mixed"][0] > 1
