"""Corpora of other forms: tiny files in the form of public ones, each with its mapping."""

import csv
import json

import pytest
import yaml

from data_builders import corpus, inspect
from esc.files import EscError

SAID = [("a", "I cannot sleep."), ("b", "Since when?", "Question"), ("a", "May."), ("b", "Oh.", "")]


def lines(path, rows):
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def mesc(path):
    said = [
        {"speaker": {"a": "user", "b": "system"}[who], "utterance": text}
        | ({"strategy": label[0]} if label else {})
        for who, text, *label in SAID
    ]
    path.write_text(json.dumps([{"situation": "no sleep", "dialog": said}]))
    return {"seeker": "user", "supporter": "system", "text": "utterance"}


def extes(path):
    said = [
        {"User": text} if who == "a" else {"AI Strategy": label[0], "AI": text}
        for who, text, *label in SAID
    ]
    path.write_text(json.dumps([{"scene": "sleep", "description": "no sleep", "content": said}]))
    return {
        "turns": "content", "speaker": None, "seeker": "User", "supporter": "AI",
        "strategy": "AI Strategy", "situation": "description",
    }  # fmt: skip


def esc_pro(path):
    said = [
        {"role": {"a": "seeker", "b": "supporter"}[who], "meta": {"strategy": (*label, "")[0]},
         "content": text} for who, text, *label in SAID
    ]  # fmt: skip
    path.write_text(json.dumps({"data": [{"id": 7, "situation": "no sleep", "messages": said}]}))
    return {
        "dialogues": "data", "turns": "messages", "speaker": "role", "strategy": "meta.strategy",
        "id": "id",
    }  # fmt: skip


def annomi(path):
    rows = [
        {"transcript_id": 3, "topic": "no sleep", "utterance_id": number, "utterance_text": text,
         "interlocutor": {"a": "client", "b": "therapist"}[who], "annotator_id": annotator,
         "main_therapist_behaviour": (*label, "n/a")[0].lower()}
        for number, (who, text, *label) in enumerate(SAID)
        for annotator in (1, 2)
    ]  # fmt: skip
    lines(path, rows)
    return {
        "turns": "lines", "id": "transcript_id", "utterance": "utterance_id",
        "speaker": "interlocutor", "seeker": "client", "supporter": "therapist",
        "text": "utterance_text", "strategy": "main_therapist_behaviour", "situation": "topic",
    }  # fmt: skip


def persuasion(path):
    rows = [
        {"Unit": text, "Turn": number // 2, "B4": "2018_11", "B2": {"a": 1, "b": 0}[who],
         "er_label": {"Question": "task-related-inquiry"}.get((*label, "")[0], "")}
        for number, (who, text, *label) in enumerate(SAID)
    ]  # fmt: skip
    lines(path, rows)
    return {
        "turns": "lines", "id": "B4", "speaker": "B2", "seeker": 1, "supporter": 0, "text": "Unit",
        "strategy": "er_label", "labels": {"task-related-inquiry": "Question"},
    }  # fmt: skip


FORMS = {"c.json": mesc, "d.json": extes, "e.json": esc_pro, "f.csv": annomi, "g.csv": persuasion}


def mapped(tmp_path, **fields):
    path = tmp_path / "mapping.yaml"
    path.write_text(yaml.safe_dump(fields))
    return corpus.read_mapping(path)


@pytest.mark.parametrize(("name", "form"), FORMS.items())
def test_public_forms_are_read_by_a_mapping_of_their_keys(tmp_path, name, form):
    fields = form(tmp_path / name)
    mapping = mapped(tmp_path, **fields, unlabelled="Others")
    _, (dialogue,) = corpus.read([tmp_path / name], mapping)
    told = [(one.role, one.text, one.strategy) for one in dialogue.utterances]
    assert told == [
        ("seeker", "I cannot sleep.", None), ("supporter", "Since when?", "Question"),
        ("seeker", "May.", None), ("supporter", "Oh.", "Others"),
    ]  # fmt: skip
    assert dialogue.situation == ("" if form is persuasion else "no sleep")
    # Unlabelled turns stop where nothing is said of them.
    with pytest.raises(EscError, match=f"{name}, dialogue 0, utterance 3: unknown strategy"):
        corpus.read([tmp_path / name], mapped(tmp_path, **fields))


@pytest.mark.parametrize(("name", "form"), FORMS.items())
def test_inspect_shows_a_corpus_and_writes_a_mapping_that_reads_it(tmp_path, capsys, name, form):
    fields, out = form(tmp_path / name), tmp_path / "out.yaml"
    inspect.main([str(tmp_path / name), "--out", str(out)])
    assert "I cannot sleep." in capsys.readouterr().out
    guessed = yaml.safe_load(out.read_text())
    labels = dict.fromkeys(guessed["labels"], "Others") | fields.get("labels", {})
    # Who asks is the one whose name says so, or who speaks first.
    mapping = mapped(tmp_path, **guessed | {"labels": labels, "unlabelled": "Others"})
    (dialogue,) = corpus.read([tmp_path / name], mapping)[1]
    assert [one.role for one in dialogue.utterances] == ["seeker", "supporter"] * 2
    assert dialogue.utterances[1].strategy == "Question"
    with pytest.raises(EscError, match="is there already"):
        inspect.main([str(tmp_path / name), "--out", str(out)])


def test_inspect_finds_the_strategies_under_a_name_of_ones_own_by_what_stands_there(tmp_path):
    path, out = tmp_path / "h.json", tmp_path / "out.yaml"
    mesc(path)
    path.write_text(path.read_text().replace('"strategy"', '"move"'))
    inspect.main([str(path), "--out", str(out)])
    assert yaml.safe_load(out.read_text())["strategy"] == "move"


def test_two_dialogues_of_one_id_are_refused(tmp_path):
    form = esc_pro(tmp_path / "e.json")
    found = json.loads((tmp_path / "e.json").read_text())
    (tmp_path / "e.json").write_text(json.dumps({"data": found["data"] * 2}))
    dialogues = corpus.read([tmp_path / "e.json"], mapped(tmp_path, **form, unlabelled="Others"))[1]
    with pytest.raises(EscError, match="dialogue 1: its id 7 is that of e"):
        list(dialogues)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"labels": {"ask": "Asking"}}, "'Asking' is no strategy; known: Question"),
        ({"unlabelled": "skip"}, "'skip' is no strategy"),
        ({"turns": "lines"}, "needs the key of a dialogue's id"),
        ({"speakers": "x"}, r"\(speakers: extra inputs"),
    ],
)
def test_a_mapping_that_cannot_be_is_one_line(tmp_path, fields, message):
    with pytest.raises(EscError, match=f"mapping.yaml .*{message}") as error:
        mapped(tmp_path, **fields)
    assert "\n" not in str(error.value)


def test_a_mapping_that_matches_nothing_says_which_keys_there_are(tmp_path):
    mesc(tmp_path / "c.json")
    for fields, told in (
        ({"turns": "talk"}, r"no utterances under 'talk' \(its keys: situation, dialog\)"),
        ({"text": "words"}, r"no text where the mapping has it \(speaker, utterance\)"),
        ({"text": "utterance"}, "unknown speaker 'user'; known: seeker, speaker, usr"),
        ({"dialogues": "data"}, "holds a list, not a JSON object"),
    ):
        with pytest.raises(EscError, match=told):
            corpus.read([tmp_path / "c.json"], mapped(tmp_path, **fields))


@pytest.mark.parametrize(
    ("name", "side"),
    [("hf_valid", "validation"), ("Train", "train"), ("dev.v2", "validation"), ("latest", None)],
)
def test_the_name_of_a_file_says_its_side_by_a_whole_word(name, side):
    assert corpus.side_of(name) == side


@pytest.mark.parametrize(
    ("form", "name", "typo", "told"),
    [
        (annomi, "f.csv", {"utterance": "uttr"}, r"row 0: no 'uttr' in it \(transcript_id"),
        (annomi, "f.csv", {"id": "nope"}, "row 0: no 'nope' in it"),
        (annomi, "f.csv", {"strategy": "typo"}, "no strategy under 'typo', where the mapping has"),
        (esc_pro, "e.json", {"situation": "scene"}, "no situation under 'scene'"),
        (esc_pro, "e.json", {"split": "part"}, "no split under 'part'"),
        (esc_pro, "e.json", {"dialogues": "nope"}, r"no list of dialogues in 'nope' \(data\)"),
    ],
)
def test_a_mistyped_key_is_no_silent_loss(tmp_path, form, name, typo, told):
    mapping = mapped(tmp_path, **form(tmp_path / name) | {"unlabelled": "Others"} | typo)
    with pytest.raises(EscError, match=told):
        list(corpus.read([tmp_path / name], mapping)[1])


def test_a_table_that_is_no_text_is_one_line(tmp_path):
    (tmp_path / "c.csv").write_bytes("a,b\nü,1\n".encode("latin-1"))
    with pytest.raises(EscError, match="is no table in UTF-8"):
        list(corpus.values(tmp_path / "c.csv"))
