"""How requests are sent, from the options of a step."""

import pytest

from esc import cli, judging
from esc.judging import Sending


def sending(*words, judge):
    parser = cli.parser(prog="x", description=None, examples="")
    parser.add_argument("--model", default="qwen2.5-7b")
    judging.add_arguments(parser, judge=judge)
    return Sending.of(parser.parse_args(words))


@pytest.fixture(autouse=True)
def unset(monkeypatch):
    for name in ("JUDGE_IN_FLIGHT", "BATCH", "JUDGE_BATCH"):
        monkeypatch.delenv(name, raising=False)


def test_a_judge_has_a_number_in_flight_of_its_own(monkeypatch):
    assert sending(judge=True).policy.in_flight == judging.JUDGE_IN_FLIGHT
    monkeypatch.setenv("JUDGE_IN_FLIGHT", "7")
    assert sending(judge=True).policy.in_flight == 7
    assert sending("--in-flight", "9", judge=True).policy.in_flight == 9
    assert sending(judge=False).policy.in_flight == judging.IN_FLIGHT["gpu"]


def test_the_makefile_gives_the_servers_number_to_the_server_alone(run):
    told = run("make", "--dry-run", "mine-rg", "IN_FLIGHT=7").stdout
    sample, judge = told.partition("mining judge")[::2]
    assert '--in-flight "7"' in sample and "--in-flight" not in judge
