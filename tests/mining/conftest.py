"""A small mining made by the kit's own code, and a judge on a real server that knows the plan."""

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from corpora import release_row
from faulty_server import Fault, FaultyServer, Request
from predicted import quoted

from data_builders import build, preference
from data_builders.build import BuildOptions
from esc import cli, files, strategies
from esc.dialogue import GoldTurn, gold_turns
from esc.llm import derived_seed
from esc.paths import EMBEDDED, Lineage
from esc.psych_errors import PsychError
from esc.records import SAMPLES
from esc.step import RunFolder
from mining import judge, route
from mining.sample import Asked, Mining, options_of

Say = Callable[[GoldTurn, int], str]

NAMES = {
    "filter": (
        "Should the sample be retained",
        "Error Type in chosen reply",
        "Explanation for chosen reply error",
        "Error Type in rejected reply",
        "Explanation for rejected reply error",
    ),
    "blind": (
        "Better reply",
        "Error Type in reply A",
        "Explanation for reply A",
        "Error Type in reply B",
        "Explanation for reply B",
    ),
}


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    for name in ("JUDGE", "JUDGE_BASE_URL", "PROMPTS_DIR", "OPENAI_API_KEY", "VLLM_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("openai._base_client.MAX_RETRY_DELAY", 0.01)


def build_sets(work: Path, corpus: Path, **options: Any) -> None:
    build.build(str(corpus), work, BuildOptions(**options))


@pytest.fixture(scope="session")
def built_once(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mined")
    corpus = folder / "small.json"
    corpus.write_text(json.dumps([release_row(number) for number in range(20)]))
    build_sets(folder / "work", corpus)
    return folder


@dataclass
class Bench:
    """A WORK folder and the steps of the kit on it."""

    work: Path
    corpus: Path
    model: str = EMBEDDED
    lineage: Lineage = field(default_factory=Lineage)
    capsys: Any = None

    def mining(self, task: str) -> Mining:
        return Mining(self.work, self.model, task, self.lineage)

    def turns(self, limit: int | None = None) -> list[GoldTurn]:
        return gold_turns(self.work, "train", limit)

    def build(self, **options: Any) -> None:
        build_sets(self.work, self.corpus, **options)

    def sample(
        self,
        task: str,
        say: Say,
        count: int = 1,
        *,
        limit: int | None = None,
        complete: bool = True,
    ) -> Mining:
        """Leave what ``mining sample`` leaves, with ``say`` in the model's place."""
        mining, turns = self.mining(task), self.turns(limit)
        asked = Asked(mining, limit, count, "choice", None)
        options = options_of(asked, {mining.sampler: "a" * 64}, turns)
        folder = RunFolder(mining.folder, options, SAMPLES)
        folder.claim(force=True)
        rows = [
            sampled_row(task, turn, index, say(turn, index))
            for turn in turns
            for index in range(count)
        ]
        facts = {"samples": len(rows), "turns": len(turns), "failed": 0}
        folder.write(rows, facts, complete=complete)
        return mining

    def judge(self, task: str, *options: str, judge_name: str = "m", url: str | None = None):
        """Exit code, stdout and stderr of the step."""
        argv = ["--work", str(self.work), "--model", self.model, "--task", task]
        argv += ["--judge", judge_name]
        return self._shown(
            judge.main, [*argv, *(("--judge-base-url", url) if url else ()), *options]
        )

    def route(self, task: str, *options: str, judge_name: str = "m"):
        """The same of the next step."""
        argv = ["--work", str(self.work), "--model", self.model, "--task", task]
        return self._shown(route.main, [*argv, "--judge", judge_name, *options])

    def preference(self, *tasks: str, options: tuple[str, ...] = ()):
        """And of the one after it."""
        argv = ["--work", str(self.work), "--model", self.model, "--task", *tasks]
        return self._shown(preference.main, [*argv, *options])

    def _shown(self, main: Callable[[list[str]], int | None], argv: list[str]):
        self.capsys.readouterr()
        code = cli.run(main, argv)
        shown = self.capsys.readouterr()
        return code, shown.out, shown.err

    def judged(self, task: str, slug: str = "m") -> Path:
        return self.mining(task).judged(slug)

    def verdicts(self, task: str, slug: str = "m") -> list[files.Row]:
        return list(files.read_jsonl(self.judged(task, slug) / "verdicts.jsonl"))

    def routed(self, task: str, name: str) -> list[files.Row]:
        return list(files.read_jsonl(self.mining(task).routed / name))

    def set_rows(self, name: str) -> list[files.Row]:
        return list(files.read_jsonl(self.work / "data" / f"{name}.jsonl"))


def sampled_row(task: str, turn: GoldTurn, index: int, text: str) -> files.Row:
    if task == "sp":
        strategy, response = strategies.parse(text), None
    elif task == "rg":
        strategy, response = turn.strategy, text.strip()
    else:
        strategy, response = strategies.strip_tag(text)
    return {
        "id": turn.id,
        "sample": index,
        "seed": derived_seed(turn.id, index),
        "gold_strategy": turn.strategy.value,
        "gold_response": turn.response,
        "status": "ok",
        "strategy": strategy.value if strategy else None,
        "response": response,
        "text": text,
        "truncated": False,
    }


@pytest.fixture
def bench(built_once, tmp_path, capsys):
    shutil.copytree(built_once / "work", tmp_path / "work")
    return Bench(tmp_path / "work", built_once / "small.json", capsys=capsys)


@dataclass
class PlantedJudge:
    """Finds exactly the errors planted in replies, in gold ones too; ``odd`` answers go as said."""

    plan: dict[str, PsychError] = field(default_factory=dict)
    """Text of a reply to its error; others have none."""
    odd: dict[str, str | Fault] = field(default_factory=dict)
    """Text of a sampled reply to the whole answer to its question."""

    def __call__(self, request: Request) -> str | Fault:
        said = quoted(request)
        kind = "filter" if "chosen" in said else "blind"
        sides = [said["chosen"], said["rejected"]] if kind == "filter" else [said["A"], said["B"]]
        for text in sides:
            if text in self.odd:
                return self.odd[text]
        errors = [self.plan.get(text, PsychError.NONE) for text in sides]
        if kind == "filter":
            first = "Yes" if errors[1] is not PsychError.NONE is errors[0] else "No"
        else:
            clean = [error is PsychError.NONE for error in errors]
            first = "neither" if clean[0] == clean[1] else "A" if clean[0] else "B"
        values = (first, errors[0].value, "because", errors[1].value, "because")
        return json.dumps(dict(zip(NAMES[kind], values, strict=True)))


@pytest.fixture
def planted():
    return PlantedJudge()


@pytest.fixture
def server(planted):
    with FaultyServer() as server:
        server.answer = planted
        yield server


@pytest.fixture
def quoted_in():
    """From a request to what it quotes."""
    return quoted


@pytest.fixture
def hashes():
    """From a folder to the SHA-256 of every file under it, locks left out."""

    def of(folder: Path) -> dict[str, str]:
        return {
            str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.rglob("*"))
            if path.is_file() and path.name != ".lock"
        }

    return of


@pytest.fixture
def error_line():
    """The one error line of a step's stderr."""

    def of(err: str) -> str:
        (line,) = [text for text in err.splitlines() if text.startswith("error: ")]
        return line

    return of
