"""How requests are sent, from the options and variables of a step."""

import pytest

from esc import cli, judging
from esc.files import EscError
from esc.judging import JudgeSending, Sending
from esc.llm import Price


@pytest.fixture(autouse=True)
def _unset(monkeypatch):
    for name in ("BATCH", "IN_FLIGHT", "MODEL", "SHARD", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(f"JUDGE_{name}", raising=False)
    for name in ("JUDGE", "JUDGE_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


def given(kind, *words):
    """The options of a step that are of ``kind``."""
    taken = []

    def step(sending: kind) -> None:
        taken.append(sending)

    cli.command(examples="", name="x")(step)(list(words))
    return taken[0]


def test_a_number_in_flight_is_the_judges_own_or_by_where_the_model_runs(monkeypatch):
    for model, where in (("qwen2.5-7b", "gpu"), ("smollm2-135m", "cpu")):
        assert given(Sending, "--model", model).connections == judging.IN_FLIGHT[where]
    monkeypatch.setenv("IN_FLIGHT", "5")
    assert given(Sending).connections == 5
    assert given(JudgeSending).connections == judging.JUDGE_IN_FLIGHT
    monkeypatch.setenv("JUDGE_IN_FLIGHT", "7")
    assert given(JudgeSending).connections == 7
    assert given(JudgeSending, "--in-flight", "9").connections == 9


@pytest.mark.parametrize(
    ("both", "judges", "engine"),
    [
        ("vllm", "openai", "openai"),
        ("write", "", "write"),
        ("", "openai", "openai"),
        ("read", "live", ""),
        ("", "", ""),
    ],
)
def test_a_judges_batches_are_its_own_before_those_of_all(both, judges, engine, monkeypatch):
    for name, value in {"BATCH": both, "JUDGE_BATCH": judges, "SHARD": "7"}.items():
        monkeypatch.setenv(name, value)
    judged = given(JudgeSending)
    assert (judged.engine, judged.shard, given(Sending).engine) == (engine, 7, both)


def test_money_is_limited_where_its_price_is_known():
    meter = given(Sending, "--price", "0.40/1.60", "--max-cost", "2").meter
    assert (meter.price, meter.limit) == (Price(0.4, 1.6), 2)
    assert meter.price.of(1_000_000, 500_000) == pytest.approx(1.2)
    with pytest.raises(EscError, match="MAX_COST needs PRICE"):
        given(Sending, "--max-cost", "2")
    for text in ("0.4", "0.4/1.6/2", "a/b"):
        with pytest.raises(EscError, match="PROMPT/COMPLETION"):
            given(Sending, "--price", text)


def test_the_hosted_judge_takes_a_key_where_it_is_asked():
    named = ("--judge", "gpt-x")
    with pytest.raises(EscError, match=r"OPENAI_API_KEY is not set.*JUDGE=random"):
        given(JudgeSending, *named).who()
    for without in (["--dry-run"], ["--batch", "write"]):
        assert given(JudgeSending, *named, *without).who().urls == judging.HOSTED
    elsewhere = given(JudgeSending, *named, "--judge-base-url", "http://a, http://b")
    assert elsewhere.who().urls == "http://a, http://b"
    with pytest.raises(EscError, match="JUDGE=random asks nobody"):
        given(JudgeSending, "--judge", "random", "--judge-base-url", "http://a").who()
