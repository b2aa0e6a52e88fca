"""The memory bench's made-up files are in the forms that the real steps read."""

import pytest

from esc import paths
from experiments import bench_memory


@pytest.mark.slow
def test_every_step_is_measured_at_every_size(tmp_path, monkeypatch):
    monkeypatch.chdir(paths.ROOT)
    monkeypatch.setattr(bench_memory, "TIMES", (1, 2))
    found = bench_memory.measure(tmp_path / "memory", 20)
    assert found["dialogues"] == {"1x": 20, "2x": 40}
    for step in ("build", "route", "preference"):
        assert set(found["peak_memory_mib"][step]) == {"1x", "2x"}
        assert min(found["peak_memory_mib"][step].values()) > 10
        assert 0.8 < found["times_that_of_1x"][step]["2x"] < 1.2
    assert not list((tmp_path / "memory").iterdir())
