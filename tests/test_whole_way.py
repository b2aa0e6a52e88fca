"""The whole way by the kit's command lines under lists of its own, against a server that answers.

A small OpenAI-compatible server on loopback answers by a hash of what it is asked, so that every
step from a corpus to the report has all its cases without a model.
"""

import hashlib
import json
import re
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from esc import files, paths

pytestmark = pytest.mark.slow
EXAMPLES = paths.ROOT / "examples"
MODEL, JUDGE = "qwen2.5-7b", "the-judge"
TASKS = ("sp", "rg", "vanilla")
SERVED = ("base", *(f"{task}-{stage}" for task in TASKS for stage in ("sft", "dpo")), JUDGE)


class Answers(BaseHTTPRequestHandler):
    """Lists models and chats; refuses everything else, as a server that is not vLLM does."""

    names: tuple[str, ...]
    asked: list[str]

    def log_message(self, *_: object) -> None:
        """Nothing on stderr."""

    def do_GET(self) -> None:
        self.send({"object": "list", "data": [{"id": name} for name in SERVED]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path != "/v1/chat/completions":
            self.send_error(404)
            return
        self.asked.extend(message["content"] for message in body["messages"])
        choice = {"message": {"content": self.said(body)}, "finish_reason": "stop"}
        self.send({"choices": [choice], "usage": {"prompt_tokens": 9, "completion_tokens": 5}})

    def send(self, value: Any) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def said(self, body: dict[str, Any]) -> str:
        asked = json.dumps([body["model"], body.get("seed"), body["messages"]], sort_keys=True)
        draw = hashlib.sha256(asked.encode()).digest()
        if body["model"] == JUDGE:
            form = body.get("response_format", {}).get("json_schema", {}).get("schema", {})
            return verdict(form.get("properties", {}), draw)
        strategy = self.names[draw[0] % len(self.names)] if draw[1] % 16 else "Something else"
        reply = f"Well, what about number {draw[2]}?"
        if body["model"].startswith("sp-"):
            return strategy
        return reply if body["model"].startswith("rg-") else f"[{strategy}] {reply}"


def verdict(properties: dict[str, Any], draw: bytes) -> str:
    """JSON of the schema asked for; a score where no schema is sent."""
    if not properties:
        return str(draw[1] % 6)
    told = {
        name: form["enum"][draw[place] % len(form["enum"])] if "enum" in form else "said so"
        for place, (name, form) in enumerate(properties.items())
    }
    if "Should the sample be retained" in told and draw[9] % 4:
        told |= {"Should the sample be retained": "Yes", "Error Type in chosen reply": "None"}
    if told.get("Contains Empathy Error") == "No":
        told["Error Type"] = "None"
    return json.dumps(told)


def thirty(folder: Path) -> dict[str, str]:
    """A list of thirty names in several scripts, and a corpus in them."""
    names = ["Why?", "提问", "(a|b)*", "हाँ", *(f"Move {chr(65 + n)}" for n in range(26))]
    codes = [f"{a}{b}" for a in "XYZ" for b in "ABCDEFGHIJ"]
    rows = [
        {"name": name, "code": code, "about": "x", "unreadable": code == "XA"}
        for name, code in zip(names, codes, strict=True)
    ]
    (folder / "list.yaml").write_text(yaml.safe_dump(rows))
    dialogues = [
        {"situation": f"matter {n * 7919} of {n * 104729}", "dialog": [
            one for k in range(3) for one in (
                {"speaker": "usr", "text": f"I say {n} and {k}"},
                {"speaker": "sys", "text": f"so {k} of {n}", "strategy": names[(3 * n + k) % 30]},
            )
        ]} for n in range(20)
    ]  # fmt: skip
    (folder / "c.jsonl").write_text("".join(json.dumps(one) + "\n" for one in dialogues))
    return {"STRATEGIES": str(folder / "list.yaml"), "ESCONV": str(folder / "c.jsonl")}


def tutoring(folder: Path) -> dict[str, str]:
    at = EXAMPLES / "tutoring"
    lists = {name: str(at / f"{name.lower()}.yaml") for name in ("STRATEGIES", "ERRORS", "MAPPING")}
    return lists | {"ESCONV": str(at / "corpus.jsonl")}


def chinese(folder: Path) -> dict[str, str]:
    at = EXAMPLES / "zh"
    return {"STRATEGIES": str(at / "strategies.yaml"), "ESCONV": str(at / "corpus.jsonl")}


class Way:
    """What all steps leave under lists of their own, and what they said and asked."""

    def __init__(self, folder: Path, given: dict[str, str]) -> None:
        self.work, self.runs = folder / "work", folder / "work" / "runs" / MODEL
        listed = yaml.safe_load(Path(given["STRATEGIES"]).read_text())
        listed = listed if isinstance(listed, list) else listed["strategies"]
        self.names = tuple(one["name"] for one in listed)
        self.asked: list[str] = []
        self.told = ""
        answers = type("Named", (Answers,), {"names": self.names, "asked": self.asked})
        server = ThreadingHTTPServer(("127.0.0.1", 0), answers)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/v1"
        self.environment = given | {
            "PATH": "/usr/bin:/bin", "HF_HUB_OFFLINE": "1", "MODEL": MODEL, "WORK": str(self.work),
            "BASE_URL": url, "JUDGE": JUDGE, "JUDGE_BASE_URL": url, "JUDGE_N": "9",
            "HOME": str(folder),
        }  # fmt: skip
        try:
            self.go()
        finally:
            server.shutdown()
            server.server_close()

    def step(self, *command: str) -> None:
        done = subprocess.run(
            [sys.executable, "-m", *command],
            cwd=paths.ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
        self.told += done.stdout

    def go(self) -> None:
        self.step("data_builders", "build")
        self.step("data_builders", "stats")
        tasks = ("--task", *TASKS)
        self.step("mining", "sample", *tasks)
        self.step("mining", "judge", "--task", "rg", "vanilla")
        self.step("mining", "route", *tasks)
        self.step("data_builders", "preference", *tasks)
        self.step("mining", "stats")
        systems = ("vanilla_sft", "decoupled_sft", "decoupled_dpo")
        self.step("eval", "predict", "--set", "train", "--system", *systems)
        for command in (("eval", "metrics"), ("eval", "judge"), ("mining", "classify")):
            self.step(*command)
        self.step("eval", "compare")
        self.step("eval", "report")
        self.step("experiments", "card")

    def measured(self) -> files.Row:
        return files.read_json(self.runs / "decoupled_dpo" / "metrics.json")


@pytest.fixture(scope="module", params=[tutoring, chinese, thirty])
def way(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Way:
    folder = tmp_path_factory.mktemp(request.param.__name__)
    return Way(folder, request.param(folder))


def test_every_step_has_the_strategies_of_the_list(way):
    assert {*way.measured()["strategy"]["preference"]} == {*way.names}
    stats = files.read_json(way.work / paths.STATS)["here"]
    assert {*stats["table_6"]} == {*way.names} == {*stats["figure_8"][0]}
    for row in files.read_jsonl(way.work / "data" / f"esc_sp_dpo_{MODEL}.jsonl"):
        assert {row["chosen"]["value"], row["rejected"]["value"]} <= {*way.names}
    card = (way.work / "data" / "README.md").read_text()
    page = (way.runs / "report.md").read_text()
    assert all(re.sub(r"\W", "", name) in re.sub(r"\W", "", card + page) for name in way.names)


def test_preferences_sum_to_the_size_of_the_list_and_converge(way):
    strategy = way.measured()["strategy"]
    values = [one["value"] for one in strategy["preference"].values()]
    assert sum(values) == pytest.approx(len(way.names))
    solved = strategy["bias_converged"]
    assert solved["value"] is not None or solved["reason"]


def test_no_text_speaks_of_the_shipped_list(way):
    card = (way.work / "data" / "README.md").read_text()
    texts = [way.told, (way.runs / "report.md").read_text(), card, *way.asked]
    for text in texts:
        assert not re.search(r"\beight\b|\bOthers\b|Self-disclosure|Providing Suggestions", text)
    if "Why?" in way.names and len(way.names) == 5:
        for text in (card, *way.asked):
            assert not re.search(r"\b(seekers?|supporters?|emotional|counsel\w*)\b", text), text


def test_pairs_are_mined_for_every_task(way):
    for task in TASKS:
        assert list(files.read_jsonl(way.work / "data" / f"esc_{task}_dpo_{MODEL}.jsonl"))


def test_what_another_list_made_is_refused_with_one_line_and_nothing_is_overwritten(way, tmp_path):
    shutil.copytree(way.work / "data", tmp_path / "data")
    shutil.copy(way.work / paths.REGISTRY, tmp_path)
    others = way.environment | {"WORK": str(tmp_path)}
    del others["STRATEGIES"]
    for command in (
        ("data_builders", "stats"),
        ("mining", "sample", "--task", "sp"),
        ("eval", "predict"),
    ):
        before = sorted(tmp_path.rglob("*"))
        done = subprocess.run(
            [sys.executable, "-m", *command], cwd=paths.ROOT, env=others, capture_output=True,
            text=True, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert "STRATEGIES" in done.stderr and sorted(tmp_path.rglob("*")) == before
