"""How requests are sent, from the options and variables of a step."""

import pytest

from esc import cli, judging
from esc.files import EscError
from esc.judging import JudgeSending, Sending
from esc.llm import Price

VARIABLES = (
    *("BATCH", "IN_FLIGHT", "JUDGE", "JUDGE_BASE_URL", "JUDGE_BATCH", "JUDGE_IN_FLIGHT"),
    *("MODEL", "SHARD"),
)


@pytest.fixture(autouse=True)
def _unset(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def given(kind, *words):
    """The options of a step that are of ``kind``."""
    taken = []

    def step(sending: kind) -> None:
        taken.append(sending)

    cli.command(examples="", name="x")(step)(list(words))
    return taken[0]


def test_a_judge_has_a_number_in_flight_of_its_own(monkeypatch):
    monkeypatch.setenv("IN_FLIGHT", "5")
    assert given(JudgeSending).connections == judging.JUDGE_IN_FLIGHT
    assert given(Sending).connections == 5
    monkeypatch.setenv("JUDGE_IN_FLIGHT", "7")
    assert given(JudgeSending).connections == 7
    assert given(JudgeSending, "--in-flight", "9").connections == 9


@pytest.mark.parametrize(("model", "where"), [("qwen2.5-7b", "gpu"), ("smollm2-135m", "cpu")])
def test_a_servers_number_in_flight_is_by_where_it_runs(model, where):
    assert given(Sending, "--model", model).connections == judging.IN_FLIGHT[where]


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
    monkeypatch.setenv("BATCH", both)
    monkeypatch.setenv("JUDGE_BATCH", judges)
    monkeypatch.setenv("SHARD", "7")
    judged = given(JudgeSending)
    assert (judged.engine, judged.shard, given(Sending).engine) == (engine, 7, both)


@pytest.mark.parametrize(
    ("option", "text"),
    [("--max-cost", "0"), ("--price", "1"), ("--batch", "x")],
)
def test_what_is_no_option_is_one_line(option, text):
    with pytest.raises(EscError, match=text):
        given(Sending, option, text)


def test_a_price_is_of_both_directions():
    sending = given(Sending, "--price", "0.40/1.60", "--max-cost", "2")
    assert (sending.meter.price, sending.meter.limit) == (Price(0.4, 1.6), 2)


def test_the_hosted_judge_takes_a_key_where_it_is_asked(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    named = ("--judge", "gpt-x")
    with pytest.raises(EscError, match=r"OPENAI_API_KEY is not set.*JUDGE=random"):
        given(JudgeSending, *named).who()
    for without in (["--dry-run"], ["--batch", "write"]):
        assert given(JudgeSending, *named, *without).who().urls == judging.HOSTED
    elsewhere = given(JudgeSending, *named, "--judge-base-url", "http://a, http://b")
    assert elsewhere.who().urls == "http://a, http://b"
    with pytest.raises(EscError, match="JUDGE=random asks nobody"):
        given(JudgeSending, "--judge", "random", "--judge-base-url", "http://a").who()
