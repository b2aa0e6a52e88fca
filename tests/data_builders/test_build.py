import json
import resource
import signal
import subprocess
import sys
import time

import pytest
from corpora import release_row

from data_builders import build
from data_builders.build import ROWS, BuildOptions
from esc import files, paths, prompts
from esc.files import EscError

# Section 3 of the paper's data: (dialogues, supporter turns) of each split.
PAPER = {"train": (1040, 14763), "validation": (130, 1821), "test": (130, 1792)}


def made(corpus, work, **options):
    return build.build(str(corpus) if corpus else None, work, BuildOptions(**options))[0]


def contents(work):
    return {p.name: p.read_bytes() for p in (work / paths.DATA).glob("*.jsonl")}


def test_the_papers_split_gives_the_papers_counts_and_ids_that_planner_and_generator_share(
    esconv_work,
):
    manifest, ids = files.read_json(esconv_work / paths.MANIFEST), {"sp": [], "rg": []}
    for split, (dialogues, turns) in PAPER.items():
        rows = {task: manifest["sets"][paths.sft_file(task, split)]["rows"] for task in ROWS}
        assert rows == {"sp": turns, "rg": turns, "vanilla": dialogues}
        for task, found in ids.items():
            path = esconv_work / paths.sft_file(task, split)
            found += [row["id"] for row in files.read_jsonl(path)]
    assert ids["sp"] == ids["rg"] and len({*ids["sp"]}) == 18376
    assert "CC BY-NC 4.0" in manifest["licence"]


def test_the_train_split_has_the_papers_blank_opening_and_dropped_turns(esconv, esconv_work):
    rows = list(files.read_jsonl(esconv_work / paths.sft_file("vanilla", "train")))
    raw = json.loads(esconv.read_text())
    said = [m["value"] for row in rows for m in row["conversations"] if m["from"] == "human"]
    spoken = [[one["speaker"] for one in raw[int(row["id"])]["dialog"]] for row in rows]
    openers = {row["id"] for row, who in zip(rows, spoken, strict=True) if who[0] == "supporter"}
    inserted = {row["id"] for row in rows if row["conversations"][0]["value"] == "Hi"} & openers
    tails = sum(who[-1] == "seeker" for who in spoken)
    assert (said.count(" "), len(inserted), len(openers), tails) == (2467, 556, 556, 337)


def test_validation_is_the_releases_own_messages_to_the_byte(esconv_folder, esconv_work):
    raw = json.loads((esconv_folder / "ESConv.json").read_text())
    split = json.loads((esconv_folder / "paper_split.json").read_text())
    expected = {}
    for position in split["validation"]:
        said, seeker = [], []
        for one in raw[position]["dialog"]:
            text = one["content"].strip()
            if one["speaker"] == "seeker":
                seeker.append(text)
                continue
            said.append("\n".join(seeker) or (" " if said else "Hi"))
            said.append(f"[{one['annotation']['strategy']}] {text}")
            seeker = []
        expected[str(position)] = said
    rows = files.read_jsonl(esconv_work / paths.sft_file("vanilla", "validation"))
    built = {row["id"]: [message["value"] for message in row["conversations"]] for row in rows}
    assert built == expected
    # Its runs of blanks are the original ones.
    assert sum("  " in text for said in built.values() for text in said) > 200


def test_a_second_build_writes_nothing_and_needs_no_esconv(small_corpus, tmp_path):
    made(small_corpus, tmp_path)
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / paths.DATA).rglob("*.json*")}
    small_corpus.unlink()
    assert build.build(None, tmp_path, BuildOptions())[1] is False
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / paths.DATA).rglob("*.json*")} == before


def test_other_options_blanks_or_prompts_rebuild_the_sets(small_corpus, tmp_path, monkeypatch):
    assert made(small_corpus, tmp_path, limit=1).dialogues["train"] == 1
    second = made(small_corpus, tmp_path, limit=2)
    assert second.sets["data/vanilla_sft_train.jsonl"].rows == 2
    small_corpus.write_text(small_corpus.read_text().replace("hello from", "hello  from"))
    third = made(small_corpus, tmp_path, limit=2)
    assert third.options["ESCONV"] != second.options["ESCONV"]
    (tmp_path / "sp_system.j2").write_text("plan")
    monkeypatch.setenv("PROMPTS_DIR", str(tmp_path))
    prompts.sp_system.cache_clear()
    made(small_corpus, tmp_path, limit=2)
    row = next(files.read_jsonl(tmp_path / paths.sft_file("sp", "train")))
    prompts.sp_system.cache_clear()
    assert row["system"] == "plan"


def test_a_changed_set_a_lost_registry_and_a_broken_manifest_are_made_again(small_corpus, tmp_path):
    manifest = made(small_corpus, tmp_path)
    before = contents(tmp_path)
    (tmp_path / paths.sft_file("sp", "train")).write_text("{}\n")
    (tmp_path / paths.REGISTRY).unlink()
    assert made(small_corpus, tmp_path) == manifest and contents(tmp_path) == before
    assert (tmp_path / paths.REGISTRY).is_file()
    for content in ("{", "[]", "{}"):
        (tmp_path / paths.MANIFEST).write_text(content)
        assert made(small_corpus, tmp_path) == manifest


def test_the_sample_corpus_is_marked_as_smoke_by_its_path_too(tmp_path):
    manifest = made(paths.SAMPLE, tmp_path)
    assert manifest.smoke is True and manifest.corpus.kind == "sample"
    assert any(line.startswith("SMOKE") for line in build.report(manifest, tmp_path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (json.dumps([release_row(number) for number in range(3)]), "would have no row"),
        ("[{]", "no JSON array"),
    ],
)
def test_what_stops_a_build_leaves_the_old_sets_whole(small_corpus, tmp_path, content, message):
    made(small_corpus, tmp_path, limit=1)
    before = contents(tmp_path)
    small_corpus.write_text(content)
    with pytest.raises(EscError, match=message):
        made(small_corpus, tmp_path, limit=2)
    assert contents(tmp_path) == before and (tmp_path / paths.MANIFEST).exists()


def test_a_full_disk_leaves_the_old_sets_whole(small_corpus, tmp_path):
    made(small_corpus, tmp_path, limit=1)
    before = contents(tmp_path)
    # A limit on the size of a file: the write fails as it does on a full disk.
    limited = subprocess.run(
        [sys.executable, "-m", "data_builders", "build", "--work", str(tmp_path)],
        cwd=paths.ROOT,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)),
    )
    assert limited.returncode == 2
    assert "error: the disk is full" in limited.stderr and "Traceback" not in limited.stderr
    assert contents(tmp_path) == before and (tmp_path / paths.MANIFEST).exists()
    assert not list((tmp_path / paths.DATA).glob(".*.tmp"))


def test_a_kill_in_the_middle_of_writing_leaves_the_old_sets_whole(esconv, tmp_path):
    made(esconv, tmp_path, limit=1)
    before, data = contents(tmp_path), tmp_path / paths.DATA
    command = [sys.executable, "-m", "data_builders", "build", "--work", str(tmp_path)]
    with subprocess.Popen(command, cwd=paths.ROOT, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 60
        # The largest set is being written once its temporary file has grown.
        while not any(p.stat().st_size > 1_000_000 for p in data.glob(".sp_sft_train*.tmp")):
            assert process.poll() is None and time.monotonic() < deadline
        process.send_signal(signal.SIGKILL)
    assert contents(tmp_path) == before
    assert made(esconv, tmp_path, limit=2).options["LIMIT"] == 2
    assert not list(data.glob(".*.tmp"))
