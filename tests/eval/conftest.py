"""No judge, key or wording of the machine that runs the tests is in them."""

import pytest


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    asked = ("JUDGE", "JUDGE_BASE_URL", "JUDGE_N", "JUDGE_FORM", "PROMPTS_DIR")
    for name in (*asked, "OPENAI_API_KEY", "VLLM_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("esc.llm.USUAL", 0.01)
