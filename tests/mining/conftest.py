"""A small mining made by the kit's own code, and a judge on a real server that knows the plan."""

import asyncio
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from corpora import release_row
from faulty_server import Fault, FaultyServer, Request
from predicted import error, quoted

from data_builders import build, preference
from data_builders.build import BuildOptions
from data_builders.pairs import Mining
from esc import cli, files, paths
from esc.dialogue import gold_turns
from esc.llm import Reply
from esc.paths import EMBEDDED, Lineage
from esc.psych_errors import PsychError
from mining import audit, judge, route, sample, stats
from mining.verdicts import BlindVerdict, FilterVerdict


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    for name in ("JUDGE", "JUDGE_BASE_URL", "PROMPTS_DIR", "OPENAI_API_KEY", "VLLM_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("esc.llm.USUAL", 0.01)


@pytest.fixture(scope="session")
def built_once(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mined")
    corpus = folder / "small.json"
    corpus.write_text(json.dumps([release_row(number) for number in range(20)]))
    build.build(str(corpus), folder / "work", BuildOptions())
    return folder


@dataclass
class Says:
    """Stands in a model's place: answers what it is given."""

    text: str

    async def ask(self, call: Any) -> Any:
        return Reply(self.text)


@dataclass
class Bench:
    """A WORK folder and the steps of the kit on it: each gives exit code, stdout and stderr."""

    work: Path
    corpus: Path
    capsys: Any
    model: str = EMBEDDED
    lineage: Lineage = field(default_factory=Lineage)

    def mining(self, task):
        return Mining(self.work, self.model, task, self.lineage)

    def turns(self, limit=None):
        return gold_turns(self.work, "train", limit)

    def build(self, **options):
        build.build(str(self.corpus), self.work, BuildOptions(**options))

    def sample(self, task, say, count=1, *, limit=None, complete=True):
        """Leave what ``mining sample`` leaves, with ``say`` in the model's place."""
        asking = sample.asking(self.mining(task), limit, count, "choice", "http://elsewhere/v1")
        asking.folder.claim(force=True)
        draws = asking.records()
        said = [asyncio.run(asking.ask(Says(say(*draw)), draw)) for draw in draws]
        rows = [asking.row(*one) for one in zip(draws, said, strict=True)]
        asking.folder.write(rows, asking.told(rows), complete=complete)
        return self.mining(task)

    def run(self, main, *options):
        self.capsys.readouterr()
        argv = ["--work", str(self.work), "--model", self.model, *map(str, options)]
        code = cli.run(main, argv)
        shown = self.capsys.readouterr()
        return code, shown.out, shown.err

    def judge(self, task, *options, judge_name="m", url=None):
        where = ("--judge-base-url", url) if url else ()
        return self.run(judge.main, "--task", task, "--judge", judge_name, *where, *options)

    def route(self, task, *options, judge_name="m"):
        return self.run(route.main, "--task", task, "--judge", judge_name, *options)

    def mine(self, *tasks, judge_name="m", url=None, later=()):
        """Judge what is sampled and route it, without an error."""
        judged = [task for task in tasks if task != "sp"]
        by = ("--judge", judge_name, *(("--judge-base-url", url) if url else ()), *later)
        for main, of in ((judge.main, judged), (route.main, tasks)):
            assert not of or self.run(main, "--task", *of, *by)[0] == 0

    def preference(self, *tasks_and_options):
        return self.run(preference.main, "--task", *tasks_and_options)

    def stats(self, *options):
        return self.run(stats.main, *options)

    def audit(self, *options):
        return self.run(audit.main, "--task", "rg", *options)

    def judged(self, task, slug="m"):
        return self.mining(task).folder / "judges" / slug

    def verdicts(self, task, slug="m"):
        return list(files.read_jsonl(self.judged(task, slug) / "verdicts.jsonl"))

    def routed(self, task, name):
        return list(files.read_jsonl(self.mining(task).routed / name))

    def set_rows(self, name):
        return list(files.read_jsonl(self.work / "data" / f"{name}.jsonl"))


@pytest.fixture
def bench(built_once, tmp_path, capsys):
    shutil.copytree(built_once / "work", tmp_path / "work")
    return Bench(tmp_path / "work", built_once / "small.json", capsys)


@dataclass
class PlantedJudge:
    """Finds exactly the errors planted in replies, in gold ones too; ``odd`` answers go as said."""

    plan: dict[str, PsychError] = field(default_factory=dict)
    """Text of a reply to its error; others have none."""
    odd: dict[str, str | Fault] = field(default_factory=dict)
    """Text of a sampled reply to the whole answer to its question."""

    def __call__(self, request: Request) -> str | Fault:
        said = quoted(request)
        kind: Any = FilterVerdict if "chosen" in said else BlindVerdict
        sides = [said[side] for side in ("chosen", "rejected", "A", "B") if side in said]
        for text in sides:
            if text in self.odd:
                return self.odd[text]
        errors = [self.plan.get(text, PsychError.NONE) for text in sides]
        first, second = (error is PsychError.NONE for error in errors)
        better = "neither" if first == second else "A" if first else "B"
        keep = "Yes" if first and not second else "No"
        titles = [one.title for one in kind.model_fields.values()]
        values = (keep if kind is FilterVerdict else better, errors[0], "because", errors[1], "so")
        return json.dumps(dict(zip(titles, values, strict=True)))


@pytest.fixture
def planted():
    return PlantedJudge()


@pytest.fixture
def server(planted):
    with FaultyServer() as server:
        server.answer = planted
        yield server


@pytest.fixture
def hashes():
    """From a folder to the SHA-256 of every file under it, locks left out."""
    return lambda folder: {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


@pytest.fixture
def error_line():
    """The one error line of a step's stderr."""
    return error


@pytest.fixture
def killed():
    """Run a step of mining, kill it once answers are stored, and return those."""

    def run(server, folder, *step):
        calls, server.delay = folder / "calls.jsonl", 0.05
        command = [sys.executable, "-m", "mining", *step, "--in-flight", "3"]
        process = subprocess.Popen(command, cwd=paths.ROOT, stderr=subprocess.DEVNULL)
        try:
            patience = time.monotonic() + 60
            while not calls.exists() or calls.read_bytes().count(b"\n") < 8:
                assert process.poll() is None and time.monotonic() < patience
                time.sleep(0.01)
        finally:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
        assert not list(folder.glob("[!oc]*.json*")), "records or run.json, though it was killed"
        time.sleep(2 * server.delay)
        server.delay = 0.0
        return [row for row in files.read_jsonl(calls) if "messages" in row]

    return run
