"""The batch runner's command and script, and one line for whatever ends the engine."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from batches import answer_line, error_line

from esc import adapters, files, paths
from esc.exceptions import EscError
from esc.llm_batch import Shard
from serving import batch

MODEL = "smollm2-135m"
BOTH = ("0001", "0002")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with two shards, and an engine that is a shell program: its text is given."""
    for name in ("0001", "0002"):
        (tmp_path / f"{name}.requests.jsonl").write_text(f'{{"custom_id": "{name}"}}\n')
    monkeypatch.setattr(batch, "_flags", lambda *_: [])
    return tmp_path


@pytest.fixture
def run(folder, monkeypatch):
    """Run the first shard through a shell program that gets ``-i REQUESTS -o ANSWERS``."""

    def call(program):
        root = folder / "root"
        (root / ".venv-serve" / "bin").mkdir(parents=True, exist_ok=True)
        python = root / ".venv-serve" / "bin" / "python"
        python.write_text(f'#!/bin/sh\nout="$6"\n{program}\n')
        python.chmod(0o755)
        (root / ".venv-serve" / ".ready").write_text("cpu\n")
        shard = Shard(folder / "0001.requests.jsonl")
        # An input that stays open.
        ends = [os.fdopen(end, mode) for end, mode in zip(os.pipe(), "rw", strict=True)]
        with ends[0], ends[1], pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "stdin", ends[0])
            batch.run(shard, batch.Options(MODEL, folder, "vllm", ""), root=root)
        return shard

    return call


def test_answers_appear_when_all_are_there(run):
    shard = run('[ "$3" = -i ] && cp "$4" "$out"')
    assert shard.answers.read_text() == shard.requests.read_text()


def left(folder):
    return sorted(path.name for path in folder.iterdir() if path.is_file())


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("echo half > $out; echo 'ValueError: no such thing' >&2; exit 1",
         r"the engine stopped: ValueError: no such thing \(log: .*0001.log\)"),
        ("echo half > $out; kill -9 $$", "was killed, as a system does that runs out of memory"),
    ],
)  # fmt: skip
def test_an_engine_that_ends_early_leaves_no_answers_and_one_line(run, folder, program, reason):
    with pytest.raises(EscError, match=reason):
        run(program)
    assert left(folder) == ["0001.log", "0001.requests.jsonl", "0002.requests.jsonl"]


def test_an_engine_that_dies_under_its_runner_is_told_and_its_answers_are_kept(run, folder):
    dead = error_line("0001", 500, "EngineCore encountered an issue. See stack trace").strip()
    with pytest.raises(EscError, match=r"the engine died on the way.* had answered is kept"):
        run(f"echo '{dead}' > $out")
    (row,) = Shard(folder / "0001.requests.jsonl").lines()
    assert row["response"]["status_code"] == 500


def test_without_rays_environment_it_names_the_command(folder, run):
    run("cp $4 $out")
    options = batch.Options(MODEL, folder, "ray", "")
    with pytest.raises(EscError, match="make setup-ray"):
        batch.run(Shard(folder / "0002.requests.jsonl"), options, root=folder / "root")


def test_the_engine_ends_with_the_process_that_waits_for_it(folder, run, tmp_path):
    """What started the runner may be killed: its end of the pipe closes then."""
    mark = tmp_path / "pid"
    program = f"echo $$ > {mark}; sleep 60 & wait"
    root = folder / "root"
    with pytest.raises(EscError):
        run("exit 1")
    python = root / ".venv-serve" / "bin" / "python"
    python.write_text(f"#!/bin/sh\n{program}\n")
    code = (
        "import sys; from pathlib import Path; from serving import batch\n"
        "from esc.llm_batch import Shard\n"
        "batch._flags = lambda *_: []\n"
        f"options = batch.Options('{MODEL}', Path('.'), 'vllm', '')\n"
        f"batch.run(Shard(Path('{folder}/0001.requests.jsonl')), options, root=Path('{root}'))\n"
    )
    runner = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        cwd=paths.ROOT,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not mark.exists() or not mark.read_text().strip():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    _, told = runner.communicate()
    assert "nobody waits for the answers" in told
    with pytest.raises(ProcessLookupError):
        os.kill(int(mark.read_text()), signal.SIGCONT)


@pytest.fixture
def fake_vllm(tmp_path):
    """A ``vllm`` on PATH that notes what it is asked and answers it."""
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    program = bin_folder / "vllm"
    line = answer_line("x", "hello").strip()
    program.write_text(
        '#!/bin/sh\necho "$@" >> "$ASKED"\n'
        'while [ "$1" != -o ]; do shift; done\n'
        f"echo '{line}' > \"$2\"\n"
    )
    program.chmod(0o755)
    return os.environ | {
        "PATH": f"{bin_folder}:{os.environ['PATH']}",
        "ASKED": str(tmp_path / "log"),
    }


def test_the_script_runs_every_shard_once_and_again_only_what_is_missing(folder, fake_vllm):
    script = batch.script(folder, BOTH, ["big-judge"], batch.Options(MODEL, folder, "vllm", ""))
    for _ in range(2):
        subprocess.run(["sh", script], env=fake_vllm, check=True)
    asked = (folder / "log").read_text().splitlines()
    assert [line.split()[:5] for line in asked] == [
        ["run-batch", "--model", "big-judge", "-i", f"{name}.requests.jsonl"]
        for name in ("0001", "0002")
    ]
    (folder / "0001.answers.jsonl").unlink()
    subprocess.run(["sh", script], env=fake_vllm, check=True)
    assert len((folder / "log").read_text().splitlines()) == 3


def test_several_nodes_share_the_shards(folder, fake_vllm):
    script = batch.script(folder, BOTH, ["big-judge"], batch.Options(MODEL, folder, "vllm", ""))
    subprocess.run(["sh", script], env=fake_vllm | {"NNODES": "2", "NODE_RANK": "1"}, check=True)
    assert not (folder / "0001.answers.jsonl").exists()
    assert (folder / "0002.answers.jsonl").exists()


def test_the_script_finds_adapters_and_template_in_a_copy_of_work(tmp_path, fake_vllm, monkeypatch):
    monkeypatch.setattr("esc.adapters.of", lambda *_: "template")
    work, copy = tmp_path / "work", tmp_path / "mounted" / "deeper" / "copy"
    for name in ("rg_sft", "sp_sft", "rg_dpo", "rg_dpo/served"):
        trained = work / paths.adapters(MODEL) / name
        trained.mkdir(parents=True)
        files.write_json(trained / "adapter_config.json", {"r": 16})
        (trained / adapters.WEIGHTS).touch()
    run = paths.run(MODEL, "decoupled", "sft") / "batch"
    (work / run).mkdir(parents=True)
    batch.script(work / run, ["0001"], ["rg-dpo"], batch.Options(MODEL, work, "vllm", ""))
    shutil.copytree(work, copy)
    shutil.rmtree(work)
    subprocess.run(["sh", copy / run / "run.sh"], env=fake_vllm, check=True)
    words = (tmp_path / "log").read_text().split()
    template = words[words.index("--chat-template") + 1]
    assert (copy / run / template).read_text() == "template"
    begin, end = (words.index(flag) for flag in ("--lora-modules", "-i"))
    named = dict(word.split("=") for word in words[begin + 1 : end])
    places = {name: (copy / run / path).resolve() for name, path in named.items()}
    saves = copy / paths.adapters(MODEL)
    assert places == {
        "rg-dpo": saves / "rg_dpo" / "served", "rg-sft": saves / "rg_sft",
        "sp-sft": saves / "sp_sft",
    }  # fmt: skip
    assert all((place / adapters.WEIGHTS).is_file() for place in places.values())


def test_a_script_asks_either_this_works_models_or_one_other(folder):
    with pytest.raises(EscError, match="big-judge cannot be run together"):
        batch.script(folder, BOTH, ["base", "big-judge"], batch.Options(MODEL, folder, "vllm", ""))


def test_the_script_leaves_shards_alone_that_nobody_asks_for_any_more(folder, fake_vllm):
    script = batch.script(folder, ["0002"], ["big-judge"], batch.Options(MODEL, folder, "vllm", ""))
    subprocess.run(["sh", script], env=fake_vllm, check=True)
    assert not (folder / "0001.answers.jsonl").exists()
    assert (folder / "0002.answers.jsonl").exists()


def test_the_script_hands_on_the_users_flags_for_another_model_too(folder, fake_vllm):
    options = batch.Options(MODEL, folder, "vllm", "--tensor-parallel-size 4")
    script = batch.script(folder, ["0001"], ["big-judge"], options)
    subprocess.run(["sh", script], env=fake_vllm, check=True)
    assert "--model big-judge --tensor-parallel-size 4 -i" in (folder / "log").read_text()


def test_the_script_stops_where_the_engine_died_on_the_way(folder, fake_vllm):
    program = Path(fake_vllm["PATH"].partition(":")[0]) / "vllm"
    dead = error_line("0001", 500, "EngineCore encountered an issue. See stack trace").strip()
    to_output = 'while [ "$1" != -o ]; do shift; done'
    program.write_text(f"#!/bin/sh\n{to_output}\necho '{dead}' > \"$2\"\n")
    script = batch.script(folder, BOTH, ["big-judge"], batch.Options(MODEL, folder, "vllm", ""))
    run = subprocess.run(["sh", script], env=fake_vllm, capture_output=True, text=True, check=False)
    assert run.returncode == 1 and "BATCH=write asks again" in run.stderr
    assert (folder / "0001.answers.jsonl").exists() and not (folder / "0002.answers.jsonl").exists()
