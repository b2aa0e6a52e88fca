"""What several tests of trainings need."""

import shutil

import pytest
from trained import MODEL, stub

from data_builders import build
from esc import paths


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """One machine."""
    for name in ("NNODES", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def one_process(monkeypatch):
    """As one of torchrun's processes: DeepSpeed and FSDP are refused to any other."""
    import torch

    one = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
    for name, value in (one | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}).items():
        monkeypatch.setenv(name, value)
    yield
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@pytest.fixture
def work(small_corpus, tmp_path):
    """Built sets and an SFT adapter of the planner, which holds nothing a model could load."""
    build.build(str(small_corpus), tmp_path, build.BuildOptions())
    stub(tmp_path / paths.adapter(MODEL, "sp", "sft"))
    return tmp_path


@pytest.fixture
def copied(chain, tmp_path):
    """A copy of the chain's sets and adapters, to change."""
    shutil.copytree(chain, tmp_path / "chain", ignore=shutil.ignore_patterns("checkpoint-*"))
    return tmp_path / "chain"
