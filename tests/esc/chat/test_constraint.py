import faulty_server as fs
import pytest

from esc.llm import Choice, JsonSchema, Regex, RunStopped

CHOICE = Choice(("Question", "Others"))
REGEX = Regex("ab")
SCHEMA = JsonSchema(
    "verdict", '{"type": "object", "properties": {"score": {"const": 3}}, "required": ["score"]}'
)
KINDS = [CHOICE, REGEX, SCHEMA]
FIELDS = ["choice'", "regex'", "json_schema'"]
CANARY = "Greet me in one word."


def canaries(server):
    return [request for request in server.chats() if request.asked == CANARY]


@pytest.mark.parametrize("constraint", KINDS, ids=lambda kind: type(kind).__name__)
def test_a_server_that_ignores_a_constraint_stops_the_run(server, ask_all, make_call, constraint):
    server.obeys = False
    calls = [make_call(record, constraint=constraint) for record in "abc"]
    with pytest.raises(RunStopped, match=r"ignores the constraint \(\w+\); use DECODE=free"):
        ask_all(server.url, calls, in_flight=1)
    assert [request.asked for request in server.chats()] == [CANARY]


@pytest.mark.parametrize(
    ("constraint", "text"),
    [(CHOICE, "Question"), (REGEX, "ab"), (SCHEMA, '{"score": 3}')],
    ids=["Choice", "Regex", "JsonSchema"],
)
def test_a_server_that_obeys_is_tried_once(server, ask_all, make_call, constraint, text):
    calls = [make_call(record, constraint=constraint) for record in "abcdef"]
    assert ask_all(server.url, calls).texts == [text] * 6
    assert len(canaries(server)) == 1 and len(server.chats()) == 7


def test_each_endpoint_and_each_kind_is_tried_once(server, second_server, ask_all, make_call):
    server.delay = second_server.delay = 0.02
    calls = [make_call(f"{n}", constraint=KINDS[n % 3]) for n in range(24)]
    outcome = ask_all([server.url, second_server.url], calls, in_flight=4)
    assert outcome.meter.answered == 24
    for one in (server, second_server):
        kinds = {next(k for k in FIELDS if k in str(request.body)) for request in one.chats()}
        assert len(canaries(one)) == len(kinds) > 0


def test_a_free_answer_needs_no_canary(server, ask_all):
    server.obeys = False
    assert ask_all(server.url, ["a"]).texts == ["re: a"]
    assert not canaries(server)


def test_a_canary_that_meets_a_fault_is_tried_again(server, ask_all, make_call):
    server.script = [fs.SERVER_ERROR, fs.NO_CHOICES]
    outcome = ask_all(server.url, [make_call("a", constraint=CHOICE)])
    assert outcome.texts == ["Question"] and len(canaries(server)) == 3


def test_a_canary_that_hangs_does_not_hold_up_the_other_server(
    server, second_server, ask_all, make_call
):
    second_server.always = {CANARY: fs.Fault(delay=0.3)}
    calls = [make_call(f"{n}", constraint=CHOICE) for n in range(6)]
    outcome = ask_all([second_server.url, server.url], calls, in_flight=2)
    assert outcome.meter.answered == 6
    # One canary and nearly all calls; held up, it would get half of them.
    assert len(server.chats()) >= 5
