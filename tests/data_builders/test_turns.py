import pytest
from corpora import dialogue

from esc.dialogue import turns

RUN = (
    ("seeker", "hello"),
    ("supporter", "Others", "hi"),
    ("supporter", "Question", "how are you?"),
    ("supporter", "Question", "what happened?"),
    ("seeker", "bad"),
    ("supporter", "Others", "oh"),
)


def exchanges(*utterances, **options):
    return [
        (t.seeker, t.strategy.code, t.response) for t in turns(dialogue(*utterances), **options)
    ]


def test_consecutive_seeker_utterances_are_joined_with_a_line_break():
    assert exchanges(("seeker", "a"), ("seeker", "b"), ("supporter", "Others", "c")) == [
        ("a\nb", "Ot", "c")
    ]


def test_a_blank_seeker_turn_stands_between_consecutive_supporter_utterances():
    assert exchanges(*RUN) == [
        ("hello", "Ot", "hi"),
        (" ", "Qu", "how are you?"),
        (" ", "Qu", "what happened?"),
        ("bad", "Ot", "oh"),
    ]


def test_a_dialogue_that_the_supporter_opens_begins_with_hi():
    assert exchanges(("supporter", "Others", "a"), ("supporter", "Question", "b")) == [
        ("Hi", "Ot", "a"),
        (" ", "Qu", "b"),
    ]


def test_seeker_utterances_after_the_last_supporter_turn_are_dropped():
    assert exchanges(("seeker", "a"), ("supporter", "Others", "b"), ("seeker", "c")) == [
        ("a", "Ot", "b")
    ]


def test_ids_are_the_position_and_the_supporter_turn():
    assert [t.id for t in turns(dialogue(*RUN, position=231))] == [
        "231-0",
        "231-1",
        "231-2",
        "231-3",
    ]


@pytest.mark.parametrize(
    ("consecutive", "expected"),
    [
        (
            "merge-same",
            [
                ("hello", "Ot", "hi"),
                (" ", "Qu", "how are you?\nwhat happened?"),
                ("bad", "Ot", "oh"),
            ],
        ),
        ("merge", [("hello", "Ot", "hi\nhow are you?\nwhat happened?"), ("bad", "Ot", "oh")]),
    ],
)
def test_runs_of_the_supporter_can_be_merged(consecutive, expected):
    assert exchanges(*RUN, consecutive=consecutive) == expected
