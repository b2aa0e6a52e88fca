"""Several endpoints, and what each of them is sent."""

import asyncio
import socket
from contextlib import aclosing

import faulty_server as fs
import pytest

from esc import llm
from esc.files import EscError
from esc.llm import Chat, Generation
from esc.prompts import Message


@pytest.fixture
def dead_url():
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # taken, and nobody listens
        yield f"http://127.0.0.1:{held.getsockname()[1]}/v1"


def connect(urls, models):
    async def call():
        async with aclosing(Chat(urls, timeout=0.5, connections=4)) as chat:
            return await chat.connect(models)

    return asyncio.run(call())


def test_a_missing_model_is_named_with_what_there_is(server):
    server.models = ("base", "sp-sft")
    assert connect([server.url], ["sp-sft"]) == ["base", "sp-sft"]
    with pytest.raises(EscError, match=r"does not serve rg-dpo; it has base, sp-sft"):
        connect([server.url], ["sp-sft", "rg-dpo"])


@pytest.mark.parametrize("url", ["http://127.0.0.1:99999/v1", "localhost:8000", "http://me:word@h"])
def test_what_is_no_url_or_holds_a_password_is_said(url):
    with pytest.raises(EscError, match=r"is no URL without a password, .* VLLM_API_KEY") as told:
        connect([url], ["m"])
    assert "word@" not in str(told.value)


def test_no_server_at_all_names_make_serve(dead_url, server):
    server.routes = {"/v1/models": fs.refusal(404, "Not Found")}
    for url in (dead_url, server.url):
        with pytest.raises(EscError, match=r"no server answers \(.+\); 'make serve' starts one"):
            connect([url], ["m"])


@pytest.mark.parametrize("checked", [True, False])
def test_the_records_of_a_dead_server_go_to_the_living_one(server, ask_all, dead_url, checked):
    records = [f"r{number}" for number in range(12)]
    outcome = ask_all([dead_url, server.url], records, connect=checked, in_flight=4)
    assert outcome.texts == [f"re: {record}" for record in records]
    # Once it is found dead no attempt is lost on it.
    assert outcome.meter.retries == 0 if checked else 1 <= outcome.meter.retries <= 4


def test_the_records_of_a_server_that_dies_go_to_the_other_one(server, second_server, ask_all):
    records = [f"r{number:02}" for number in range(20)]
    second_server.script = [fs.OK, fs.OK, fs.DIES]
    server.delay = second_server.delay = 0.02
    outcome = ask_all([server.url, second_server.url], records, connect=True, in_flight=4)
    assert outcome.texts == [f"re: {record}" for record in records]
    assert server.chats() and len(second_server.chats()) >= 3


@pytest.mark.parametrize("fault", [fs.SERVER_ERROR, fs.NO_JSON])
def test_an_endpoint_that_keeps_failing_at_once_is_left_out_while_another_answers(
    server, second_server, ask_all, fault
):
    server.delay = 0.05
    records = [f"r{number}" for number in range(100)]
    second_server.always = dict.fromkeys(records, fault)
    outcome = ask_all([second_server.url, server.url], records, in_flight=8)
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
    assert server.most_running <= 4 and second_server.most_running <= 2


def test_a_proxy_is_for_servers_elsewhere_alone(server, ask_all, dead_url, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, dead_url.removesuffix("/v1"))
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(llm, "ATTEMPTS", 1)
    urls = [server.url, server.url.replace("127.0.0.1", "localhost")]
    assert ask_all(urls, [f"r{number}" for number in range(8)], connect=True).meter.failed == 0
    (failed,) = ask_all("http://esc.invalid/v1", ["a"]).results
    assert "connect" in failed.message.lower() and "Name or service" not in failed.message


def test_a_base_url_s_query_is_sent_with_every_request(server, ask_all):
    url = f"{server.url}/?api-version=2024-10-21&x=a%2Fb"
    scoring = Generation("a", "x", "m", (Message("user", "a"),), answers=("x", "y"))
    ask_all(url, ["a", scoring], connect=True)
    paths, queries = zip(*(one.path.split("?") for one in server.log), strict=True)
    assert {fs.CHAT, fs.TOKENIZE, "/v1/models"} <= set(paths)
    assert set(queries) == {"api-version=2024-10-21&x=a%2Fb"}
