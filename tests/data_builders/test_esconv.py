import copy
import json

import pytest
from corpora import release_row

from data_builders import corpus
from esc.exceptions import CorpusError
from esc.strategies import Strategy


def loaded(path):
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
    release, failed, hf = (tmp_path / name for name in ("ESConv.json", "Failed.json", "train.txt"))
    release.write_text(json.dumps(rows))
    failed.write_text(json.dumps([in_failed_layout(row) for row in rows]))
    hf.write_text("".join(json.dumps(in_hf_layout(row)) + "\n" for row in rows))
    found = [corpus.read([p]) for p in (release, failed, hf)]
    assert [layout for layout, _ in found] == ["release", "failed", "hf"]
    first, *others = [list(dialogues) for _, dialogues in found]
    assert len(first) == 3 and others == [first, first]


def test_white_space_inside_an_utterance_stays_and_its_ends_are_stripped(tmp_path):
    row = release_row(0)
    row["dialog"][0]["content"] = " \n a \n\n b\u2028c\t \r\n"
    path = tmp_path / "c.json"
    path.write_text(json.dumps([row], ensure_ascii=False))
    assert loaded(path)[0].utterances[0].text == "a \n\n b\u2028c"


def test_a_line_separator_inside_a_json_line_does_not_end_it(tmp_path):
    row = in_hf_layout(release_row(0))
    row["dialog"][0]["text"] = "a\u2028b"
    path = tmp_path / "train.txt"
    path.write_text(json.dumps(row, ensure_ascii=False) + "\n")
    assert len(loaded(path)) == 1


def broken(change):
    row = copy.deepcopy(release_row(0))
    change(row)
    return [release_row(1), row]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda row: row["dialog"][1]["annotation"].update(strategy="Hugging"),
            "bad.json, dialogue 1, utterance 1: unknown strategy 'Hugging'",
        ),
        (
            lambda row: row["dialog"][1]["annotation"].clear(),
            "bad.json, dialogue 1, utterance 1: unknown strategy None",
        ),
        (
            lambda row: row["dialog"][2].update(speaker="doctor"),
            "bad.json, dialogue 1, utterance 2: unknown speaker 'doctor'",
        ),
        (
            lambda row: row["dialog"][2].update(content=" \n"),
            "bad.json, dialogue 1, utterance 2: the utterance is empty",
        ),
        (
            lambda row: row["dialog"][2].pop("content"),
            "bad.json, dialogue 1, utterance 2: no 'content' text",
        ),
        (
            lambda row: row["dialog"][1].update(annotation="Question"),
            "bad.json, dialogue 1, utterance 1: unknown strategy None",
        ),
        (
            lambda row: row["dialog"][2].update(content="a \ud83d"),
            "bad.json, dialogue 1, utterance 2: half of a surrogate pair",
        ),
        (
            lambda row: row.update(situation="a \ud83d"),
            "bad.json, dialogue 1, situation: half of a surrogate pair",
        ),
        (lambda row: row["dialog"].clear(), "bad.json, dialogue 1: the dialogue is empty"),
        (lambda row: row.pop("dialog"), "bad.json, dialogue 1: no 'dialog' list"),
        (
            lambda row: row.update(dialog=row["dialog"][::2]),
            "bad.json, dialogue 1: no supporter utterance",
        ),
    ],
)
def test_a_fault_is_named_by_file_dialogue_and_utterance(tmp_path, change, message):
    path = tmp_path / "bad.json"
    good, bad = broken(change)
    path.write_text(json.dumps([good, bad]))
    with pytest.raises(CorpusError, match=message):
        loaded(path)
    path.write_text(json.dumps([bad, good]))
    with pytest.raises(CorpusError, match=r"bad\.json, dialogue 0"):
        loaded(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "no dialogues"),
        ("[" * 100_000, "nested too deeply"),
        ("[]", "no dialogues"),
        ('[{"dialog": [', r"incomplete \(line 1"),
        ("hello", "neither a JSON array nor JSON lines"),
        ('{"data": [1, 2]}', "not a layout of ESConv"),
        ('[{"dialog": [{"who": "x", "said": "y"}]}]', "not a layout of ESConv"),
        ("[1, 2]", "not a layout of ESConv"),
    ],
)
def test_a_file_that_is_no_corpus_is_refused(tmp_path, content, message):
    path = tmp_path / "bad.json"
    path.write_text(content)
    with pytest.raises(CorpusError, match=message):
        loaded(path)


def test_a_strategy_beside_an_annotation_without_one_is_read(tmp_path):
    row = release_row(0)
    row["dialog"][1] |= {"annotation": {"feedback": "4"}, "strategy": "Information"}
    path = tmp_path / "c.json"
    path.write_text(json.dumps([row]))
    (dialogue,) = loaded(path)
    assert dialogue.utterances[1].strategy is Strategy.INFORMATION


@pytest.mark.parametrize("layout", ["array", "lines"])
def test_dialogues_before_a_fault_are_read(tmp_path, layout):
    rows = [release_row(number) for number in range(3)]
    rows[2]["dialog"][1]["annotation"]["strategy"] = "Hugging"
    path = tmp_path / "c.json"
    path.write_text(
        json.dumps(rows) if layout == "array" else "\n".join(json.dumps(row) for row in rows)
    )
    dialogues = corpus.read([path])[1]
    assert [next(dialogues).position, next(dialogues).position] == [0, 1]
    with pytest.raises(CorpusError, match="dialogue 2, utterance 1: unknown strategy"):
        next(dialogues)


def test_failed_esconv_loads_with_its_own_labels(esconv_folder):
    layout, dialogues = corpus.read([esconv_folder / "FailedESConv.json"])
    assert (layout, len(list(dialogues))) == ("failed", 196)
