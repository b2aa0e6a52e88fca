"""What a model has seen of the dialogues it is tested on."""

from corpora import dialogue

from data_builders import build, corpus, leaks
from data_builders.split import Survey
from esc import files, paths


def known(*numbers, situation="case {}"):
    return {f"{number:040x}": situation.format(number * 7919) for number in numbers}


def adapter(tmp_path, name, seen):
    files.write_json(tmp_path / name / leaks.TRAINED_ON, seen)
    return tmp_path / name


def test_tested_dialogues_are_found_in_what_any_adapter_of_a_system_was_trained_on(tmp_path):
    planner, generator = (adapter(tmp_path, n, known(*of)) for n, of in (("sp", [1]), ("rg", [2])))
    found = leaks.overlap(known(1, 2, 3), [planner, generator])
    assert found == {"dialogues": 3, "seen": 2, "near": 0, "unknown": []}
    assert leaks.told(found).startswith("2 of 3 tested dialogues are in the train set")
    assert not leaks.told(leaks.overlap(known(3), [planner]))
    unknown = leaks.overlap(known(3), [planner, tmp_path / "rg_dpo"])
    assert leaks.told(unknown) == "what rg_dpo learned from is not known here"


def test_a_near_situation_is_told_apart_from_the_same_dialogue(tmp_path):
    words = "we lost the house and the dog in the flood of {}"
    seen = adapter(tmp_path, "sp", known(1, situation=words))
    found = leaks.overlap(known(1, 2, 3, situation=words), [seen])
    assert (found["seen"], found["near"]) == (1, 2)
    assert "2 of 3 tested dialogues have nearly the situation" in leaks.told(found)


def test_a_training_remembers_its_train_set_and_what_its_start_had_seen(tmp_path):
    said = [
        dialogue(("seeker", f"hi {n}"), ("supporter", "Others", "hello"), position=n)
        for n in range(3)
    ]
    sides = ["train", "test", "train"]
    made = leaks.built(Survey(said), sides, [0, 1, 2])
    files.write_json(tmp_path / paths.DIALOGUES, made)
    start = adapter(tmp_path, "sp_sft", known(5))
    leaks.remember(tmp_path, tmp_path / "sp_dpo", [start])
    seen = files.read_json(tmp_path / "sp_dpo" / leaks.TRAINED_ON)
    hashes = [corpus.fingerprint(one).hex() for one in said]
    assert {*seen} == {hashes[0], hashes[2], *known(5)}
    # Turns are known by their dialogue; a number that no dialogue has is passed over.
    assert [*leaks.of_ids(tmp_path, ["1-0", "1-3", "9-1"])] == [hashes[1]]


def test_the_sides_of_the_releases_splits_are_recognised():
    of_hub = [sha1.hex() for sha1, sides in corpus.release().items() if sides["hf"] == "test"]
    assert leaks.recognised(dict.fromkeys(of_hub, "")) == [
        "the paper's split: 151 in its train, 25 in its validation, 19 in its test",
        "the Hugging Face split: 195 in its test",
    ]
    assert leaks.recognised(known(1)) == []


def test_the_hubs_split_leaks_into_a_model_of_the_papers(esconv, tmp_path):
    build.build(str(esconv), tmp_path, build.BuildOptions("paper"))
    leaks.remember(tmp_path, tmp_path / "sp_sft", [])
    build.build(str(esconv), tmp_path, build.BuildOptions("hf"))
    ids = [row["id"] for row in files.read_jsonl(tmp_path / paths.sft_file("vanilla", "test"))]
    found = leaks.overlap(leaks.of_ids(tmp_path, ids), [tmp_path / "sp_sft"])
    assert (found["seen"], found["dialogues"]) == (151, 195)
