import json

import pytest
from corpora import release_row

from data_builders import corpus
from esc.files import EscError
from esc.strategies import Strategy


def loaded(path, *rows, lines=False):
    separate, around = ("\n", "{}") if lines else (",\n", "[{}]")
    told = separate.join(json.dumps(row, ensure_ascii=False) for row in rows)
    path.write_text(around.replace("{}", told), encoding="utf-8-sig")
    return list(corpus.read([path])[1])


def in_hf_layout(row):
    speakers = {"seeker": "usr", "supporter": "sys"}
    said = [
        {"speaker": speakers[u["speaker"]], "text": u["content"], **u["annotation"]}
        for u in row["dialog"]
    ]
    return row | {"dialog": said}


def in_failed_layout(row):
    speakers = {"seeker": "speaker", "supporter": "listener"}
    return row | {"dialog": [u | {"speaker": speakers[u["speaker"]]} for u in row["dialog"]]}


def test_the_three_layouts_of_one_corpus_load_to_the_same_dialogues(tmp_path):
    rows = [release_row(number) for number in range(3)]
    path = tmp_path / "corpus"
    first = loaded(path, *rows)
    assert corpus.read([path])[0] == "release" and len(first) == 3
    assert loaded(path, *map(in_failed_layout, rows)) == first
    assert corpus.read([path])[0] == "failed"
    assert loaded(path, *map(in_hf_layout, rows), lines=True) == first
    assert corpus.read([path])[0] == "hf"


@pytest.mark.parametrize("lines", [True, False])
def test_white_space_inside_an_utterance_stays_and_its_ends_are_stripped(tmp_path, lines):
    row = release_row(0)
    row["dialog"][0]["content"] = " \n a \n\n b\u2028c\t \r\n"
    (dialogue,) = loaded(tmp_path / "c", row, lines=lines)
    assert dialogue.utterances[0].text == "a \n\n b\u2028c"


def test_a_strategy_beside_an_annotation_without_one_is_read(tmp_path):
    row = release_row(0)
    row["dialog"][1] |= {"annotation": {"feedback": "4"}, "strategy": "Information"}
    (dialogue,) = loaded(tmp_path / "c.json", row)
    assert dialogue.utterances[1].strategy is Strategy.INFORMATION


@pytest.mark.parametrize(
    ("place", "change", "message"),
    [
        (1, {"annotation": {"strategy": "Hugging"}}, "unknown strategy 'Hugging'"),
        (1, {"annotation": "Question"}, "unknown strategy None"),
        (2, {"speaker": "doctor"}, "unknown speaker 'doctor'"),
        (2, {"content": " \n"}, "the utterance is empty"),
    ],
)
@pytest.mark.parametrize("lines", [True, False])
def test_a_fault_is_named_by_file_dialogue_and_utterance(tmp_path, lines, place, change, message):
    good, bad = release_row(1), release_row(0)
    bad["dialog"][place] |= change
    with pytest.raises(EscError, match=f"^bad.json, dialogue 1, utterance {place}: {message}"):
        loaded(tmp_path / "bad.json", good, bad, lines=lines)


@pytest.mark.parametrize(
    ("dialog", "message"),
    [
        ([{"speaker": "seeker"}], "no text where the mapping has it"),
        ([], "no utterances under 'dialog'"),
        (None, "no utterances under 'dialog'"),
        (release_row(0)["dialog"][::2], "no supporter utterance"),
    ],
)
def test_a_dialogue_that_is_none_is_named_with_what_it_lacks(tmp_path, dialog, message):
    with pytest.raises(EscError, match=f"^bad.json, dialogue 1.*: {message}"):
        loaded(tmp_path / "bad.json", release_row(1), {"dialog": dialog})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "no dialogues"),
        ("[]", "no dialogues"),
        ('[{},\n{"dialog": [', r"no JSON array, or is incomplete \(.*: line 2"),
        ("hello", "line 1: not JSON"),
        ('{"data": [1, 2]}', "no utterances under 'dialog'"),
        ('[{"dialog": [{"speaker": "a \\ud83d"}]}]', "low surrogate .*: line 1"),
        ("[1, 2]", "no utterances under 'dialog'"),
    ],
)
def test_a_file_that_is_no_corpus_is_refused(tmp_path, content, message):
    path = tmp_path / "bad.json"
    path.write_text(content)
    with pytest.raises(EscError, match=message):
        corpus.read([path])


def test_failed_esconv_loads_with_its_own_labels(esconv_folder):
    layout, dialogues = corpus.read([esconv_folder / "FailedESConv.json"])
    assert (layout, len(list(dialogues))) == ("failed", 196)
