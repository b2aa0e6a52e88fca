"""Strategies and errors from files of a user: how they are checked, and what they change."""

import json
import os
import subprocess
import sys

import pytest
import yaml

from esc import paths, psych_errors, strategies
from esc.files import EscError
from esc.strategies import Strategy

EXAMPLES = paths.ROOT / "examples"
TWO = [
    {"name": "Ask", "code": "As", "about": "ask"},
    {"name": "Tell", "code": "Te", "about": "tell", "unreadable": True},
]


def listed(tmp_path, value, read=strategies.read):
    path = tmp_path / "list.yaml"
    path.write_text(value if isinstance(value, str) else yaml.safe_dump(value))
    return read(path)


def told(program, **lists):
    """What a program says in a process of its own, under lists of its own."""
    given = {**os.environ, **{name: str(path) for name, path in lists.items()}}
    command = [sys.executable, "-c", program]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, env=given)
    return json.loads(shown.stdout)


def test_the_shipped_list_is_the_papers_and_names_it_in_prompts():
    assert strategies.IS_SHIPPED and len(Strategy) == 8
    assert strategies.CONVERSATION.stages and strategies.UNREADABLE is Strategy.OTHERS


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ([{"name": "ASK!"}], "'ASK!' and 'Ask' share the name 'ask'"),
        ([{"name": "Ａｓｋ"}], "share the name 'ask'"),
        ([{"name": "More", "aliases": ["tell"]}], "'More' and 'Tell' share the name 'tell'"),
        ([{"name": "More", "code": "Te"}], "share the name 'te'"),
        ([{"name": "???"}], "has no letter or digit"),
        ([{"name": "More", "unreadable": True}], "mark one strategy"),
        ([{"name": "More", "code": "M1"}], r"strategies.2.code: string should match"),
        ([{"name": "Mo\nre"}], r"strategies.2.name: string should match"),
        ([{"name": "More", "abuot": "x"}], r"strategies.2.abuot: extra inputs"),
    ],
)
def test_a_list_with_a_fault_is_one_line_that_names_it(tmp_path, change, message):
    added = [{"code": "Mo", "about": "more"} | one for one in change]
    with pytest.raises(EscError, match=f"list.yaml.*{message}") as error:
        listed(tmp_path, [*TWO, *added])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "is empty"), ("- a", "strategies.0"), ("{", "as YAML"), ("[]", "2 it")],
)
@pytest.mark.parametrize("read", [strategies.read, psych_errors.read])
def test_a_file_that_is_no_list_is_one_line(tmp_path, read, text, message):
    with pytest.raises(EscError) as error:
        listed(tmp_path, text, read)
    assert "\n" not in str(error.value) and "list.yaml" in str(error.value)
    if read is strategies.read:
        assert message in str(error.value)


@pytest.mark.parametrize("size", [2, 30])
def test_names_of_any_characters_survive_tag_parse_and_the_expression_of_decoding(tmp_path, size):
    names = ["Why?", "Explain [worked example]", "Hint / scaffold", "(a|b)*", "提问", "हाँ", "x] y"]
    names += ["long " * 40, *(f"name {chr(97 + n)}" for n in range(size))]
    codes = [f"{a}{b}" for a in "ABCDE" for b in "ABCDEF"]
    rows = [
        {"name": name, "code": code, "about": "x", "unreadable": code == "AA"}
        for name, code in zip(names[:size], codes, strict=False)
    ]
    path = tmp_path / "list.yaml"
    path.write_text(yaml.safe_dump(rows))
    program = """
import json, re
from esc.plan_and_speak import constraint_of
from esc.strategies import Strategy, parse, strip_tag, tag
held = constraint_of("vanilla", "choice")
print(json.dumps([
    [parse(s) is s, parse(s.code) is s, strip_tag(tag(s, "a [b] c")) == (s, "a [b] c"),
     held.allows(tag(s, "a")), Strategy[s.name] is s]
    for s in Strategy]))
"""
    found = told(program, STRATEGIES=path)
    assert len(found) == size and all(all(one) for one in found)


def test_the_words_of_a_conversation_are_those_of_its_list():
    program = r"""
import json
from esc import prompts
from esc.strategies import Strategy
from mining.verdicts import BlindVerdict, ErrorVerdict, FilterVerdict, question
said = dict(seeker="s", strategy="x", reply="r", chosen="c", rejected="d", reply_a="a", reply_b="b")
kinds = (BlindVerdict, ErrorVerdict, FilterVerdict)
asked = [m.content for kind in kinds for m in question(kind, [], **said)]
print(json.dumps([prompts.sp_system(), prompts.rg_system(Strategy["WHY"]), prompts.vanilla_system(),
    prompts.sp_transcript([("hello", "tutor: no\nlearner: yes")], "bye"), *asked]))
"""
    folder = EXAMPLES / "tutoring"
    lists = {"STRATEGIES": folder / "strategies.yaml", "ERRORS": folder / "errors.yaml"}
    texts = told(program, **lists)
    for text in texts:
        assert not {
            "seeker",
            "supporter",
            "emotional",
            "support",
            "counselling",
            "psychologist",
        } & {word.strip(".,:;()").casefold() for word in text.split()}
    assert texts[3] == "learner: hello\ntutor: (tutor): no\n(learner): yes\nlearner: bye\n"
    assert "Gives It Away" in "".join(texts) and "Lack of Empathy" not in "".join(texts)


def error_list(**changes):
    base = [
        {"name": "Wrong Move", "definition": "x", "feeds": "sp"},
        {"name": "Wrong Fact", "definition": "x", "feeds": "rg", "aliases": ["untrue"]},
        {"name": "Other", "definition": "x", "is": "other"},
        {"name": "None", "definition": "x", "is": "none"},
    ]
    return {"good": "helps", "errors": [one | changes.get(one["name"][-4:], {}) for one in base]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"Fact": {"name": "wrong MOVE"}}, "'wrong move', is 'Wrong Move' too"),
        ({"Fact": {"feeds": "sp"}}, "it takes one error with 'is: none'"),
        ({"None": {"is": "other"}}, "it takes one error with 'is: none'"),
        ({"Fact": {"pattern": "(x"}}, "the pattern of 'Wrong Fact' is wrong"),
        ({"Fact": {"pattern": "{felt}"}}, "the pattern of 'Wrong Fact' is wrong"),
        ({"Fact": {"name": "!!"}}, "has no letter or digit"),
    ],
)
def test_a_list_of_errors_with_a_fault_is_one_line(tmp_path, changes, message):
    with pytest.raises(EscError, match=f"list.yaml.*{message}") as error:
        listed(tmp_path, error_list(**changes), psych_errors.read)
    assert "\n" not in str(error.value)


def test_errors_of_a_list_are_read_and_feed_the_training_that_it_says(tmp_path):
    path = tmp_path / "list.yaml"
    path.write_text(yaml.safe_dump(error_list()))
    program = """
import json
from esc.psych_errors import PsychError, parse
from mining.verdicts import FILTER_MENU
print(json.dumps([[one.name, one.feeds, parse(one)] for one in PsychError]
    + [parse("Untrue!"), parse("Lack of Empathy"), list(FILTER_MENU)]))
"""
    *errors, alias, unknown, menu = told(program, ERRORS=path)
    assert errors == [
        ["STRATEGY_MISMATCH", "sp", "Wrong Move"], ["WRONG_FACT", "rg", "Wrong Fact"],
        ["OTHER", None, "Other"], ["NONE", None, "None"],
    ]  # fmt: skip
    assert (alias, unknown, menu) == ("Wrong Fact", None, ["None", "Wrong Fact"])
