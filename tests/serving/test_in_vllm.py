"""LoRA on vLLM's CPU worker: each token gets its own adapter, and one of the base gets none."""

import json
from pathlib import Path

import pytest

from esc import paths
from esc.serving_environment import PYTHON
from serving.server import IN_VLLM

PROGRAM = Path(__file__).with_name("adapters_of_a_step.py")


@pytest.mark.slow
def test_every_token_gets_what_its_own_adapter_adds_and_one_of_the_base_is_left_as_it_was(run):
    shown = run(str(paths.ROOT / PYTHON), str(PROGRAM), PYTHONPATH=str(IN_VLLM))
    assert shown.returncode == 0, shown.stderr[-2000:]
    away = json.loads(shown.stdout.splitlines()[-1])
    assert max(max(step) for step in away["here"].values()) < 1e-5
    assert away["here"]["mixed"][0] == away["here"]["base"][0] == 0
    # vLLM itself still gives the base another one's: else the mend is no longer needed.
    assert away["vllm"]["mixed"][0] > 1
