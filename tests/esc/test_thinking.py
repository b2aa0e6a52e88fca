import pytest

from esc.llm import spoken

SAID = {
    "an empty block": "<think>\n\n</think>\n\n[Question] How long?",
    "a block": "<think>They lost a job, [Others] fits.</think>[Question] How long?",
    "one that the prompt opened": "They lost a job.\n</think>\n\n[Question] How long?",
    "two blocks": "<think>One.</think>\n<think>Two.</think>\n[Question] How long?",
    "a block in a block": "<think>One <think>two</think> three</think>[Question] How long?",
    "a block amid the answer": "[Question] <think>Open?</think>How long?",
    "another spelling": "<Thinking>Open?</Thinking>\n[Question] How long?",
}


@pytest.mark.parametrize("text", SAID.values(), ids=SAID)
def test_thinking_is_dropped(text):
    assert spoken(text) == ("[Question] How long?", False)


@pytest.mark.parametrize(
    "text", ["<think>\nOkay, a Question", "So. <think>Or", "a</think>b<think>"]
)
def test_nothing_is_said_where_the_thinking_is_cut(text):
    assert spoken(text) == ("", True)


@pytest.mark.parametrize("text", ["", " I think: 2 < 3. \n", "think> about </ think"])
def test_other_text_is_left_as_it_is(text):
    assert spoken(text) == (text, False)
