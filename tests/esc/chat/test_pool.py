import asyncio
import socket

import faulty_server as fs
import pytest

from esc import llm
from esc.exceptions import EscError
from esc.llm import Pool


@pytest.fixture
def dead_url():
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # taken, and nobody listens
        yield f"http://127.0.0.1:{held.getsockname()[1]}/v1"


def connect(urls, models):
    async def call():
        pool = Pool(urls, timeout=0.5, connections=4)
        try:
            await pool.connect(models)
        finally:
            await pool.close()

    asyncio.run(call())


def test_a_missing_model_is_named_with_what_there_is(server):
    server.models = ("base", "sp-sft")
    connect([server.url], ["sp-sft"])
    with pytest.raises(EscError, match=r"does not serve rg-dpo; it has base, sp-sft"):
        connect([server.url], ["sp-sft", "rg-dpo"])


def test_no_server_at_all_names_make_serve(dead_url):
    with pytest.raises(EscError, match=r"no server answers \(.+\); 'make serve' starts one"):
        connect([dead_url], ["m"])


def test_what_is_no_url_is_said():
    with pytest.raises(EscError, match="BASE_URL='localhost:8000' is no URL"):
        connect(["localhost:8000"], ["m"])


def test_the_records_of_a_dead_server_go_to_the_living_one(server, ask_all, dead_url):
    records = [f"r{number}" for number in range(12)]
    outcome = ask_all([dead_url, server.url], records, connect=True)
    assert outcome.texts == [f"re: {record}" for record in records]
    # connect() has found it dead: no attempt is lost on it.
    assert (outcome.meter.failed, outcome.meter.retries) == (0, 0)


def test_without_connect_a_dead_server_costs_attempts_only(server, ask_all, dead_url):
    records = [f"r{number}" for number in range(12)]
    outcome = ask_all([dead_url, server.url], records, in_flight=4)
    assert outcome.texts == [f"re: {record}" for record in records]
    assert 1 <= outcome.meter.retries <= 4


def test_the_records_of_a_server_that_dies_go_to_the_other_one(server, second_server, ask_all):
    records = [f"r{number:02}" for number in range(20)]
    second_server.script = [fs.OK, fs.OK, fs.DIES]
    server.delay = second_server.delay = 0.02
    outcome = ask_all([server.url, second_server.url], records, connect=True, in_flight=4)
    assert outcome.texts == [f"re: {record}" for record in records]
    assert outcome.meter.failed == 0 and outcome.meter.retries >= 1
    assert len(second_server.chats()) >= 3


@pytest.mark.parametrize("fault", [fs.SERVER_ERROR, fs.refusal(502, "bad gateway"), fs.NO_JSON])
def test_an_endpoint_that_keeps_failing_at_once_is_left_out_while_another_answers(
    server, second_server, ask_all, fault
):
    server.delay = 0.05
    records = [f"r{number}" for number in range(100)]
    second_server.always = dict.fromkeys(records, fault)
    outcome = ask_all([second_server.url, server.url], records, in_flight=8, attempts=2)
    assert outcome.texts == [f"re: {record}" for record in records]
    # Those that were on their way before the third failed.
    assert len(second_server.chats()) <= 2 + 4


def test_an_endpoint_that_was_left_out_is_tried_again_and_answers(
    server, second_server, ask_all, monkeypatch
):
    monkeypatch.setattr(llm, "DOWN", 0.1)
    server.delay = second_server.delay = 0.02
    second_server.script = [fs.SERVER_ERROR] * 4
    records = [f"r{number}" for number in range(60)]
    outcome = ask_all([second_server.url, server.url], records, in_flight=4)
    assert outcome.texts == [f"re: {record}" for record in records]
    assert len(second_server.chats()) > 10


def test_where_all_endpoints_fail_they_are_asked_all_the_same(server, ask_all):
    server.script = [fs.SERVER_ERROR] * 5
    assert ask_all(server.url, ["a", "b"], in_flight=1, attempts=6).texts == ["re: a", "re: b"]


def test_two_servers_share_the_work(server, second_server, ask_all):
    server.delay = second_server.delay = 0.02
    urls = [server.url, second_server.url]
    ask_all(urls, [f"r{number}" for number in range(16)], in_flight=4)
    assert server.chats() and second_server.chats()
    assert len(server.chats()) + len(second_server.chats()) == 16


def test_no_more_requests_run_at_a_time_than_in_flight(server, ask_all):
    server.delay = 0.02
    ask_all(server.url, [f"r{number}" for number in range(16)], in_flight=3)
    assert server.most_running == 3


@pytest.fixture
def proxied(monkeypatch, dead_url):
    """A proxy in the environment where nobody listens, for everything."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, dead_url.removesuffix("/v1"))
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)


def test_a_server_on_loopback_is_asked_past_a_proxy(server, ask_all, proxied):
    urls = [server.url, server.url.replace("127.0.0.1", "localhost")]
    records = [f"r{number}" for number in range(8)]
    assert ask_all(urls, records, connect=True, attempts=1).meter.failed == 0


def test_a_server_elsewhere_is_asked_through_the_proxy(ask_all, proxied):
    (failed,) = ask_all("http://esc.invalid/v1", ["a"], attempts=1).results
    assert "refused" in failed.message or "connect" in failed.message.lower()
    assert "Name or service" not in failed.message


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://127.0.0.1:8000/v1", True),
        ("http://127.8.9.1/v1", True),
        ("http://localhost:8000/v1", True),
        ("http://[::1]:8000/v1", True),
        ("https://api.example.org/v1", False),
        ("http://192.168.0.1:8000/v1", False),
        ("http://localhost.example.org/v1", False),
    ],
)
def test_loopback_is_told_from_elsewhere(url, expected):
    assert llm.is_loopback(url) is expected
