"""No judge, key or wording of the machine that runs the tests is in them."""

import pytest
from faulty_server import FaultyServer

from esc import cli


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    asked = ("JUDGE", "JUDGE_BASE_URL", "JUDGE_N", "JUDGE_FORM", "PROMPTS_DIR")
    for name in (*asked, "OPENAI_API_KEY", "VLLM_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("esc.llm.USUAL", 0.01)


@pytest.fixture
def server():
    with FaultyServer() as server:
        yield server


@pytest.fixture
def step(capsys):
    """Exit code, stdout and stderr of a step."""

    def call(main, *argv):
        capsys.readouterr()
        code = cli.run(main, [*map(str, argv)])
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return call
