"""What the command lines make of the sample corpus and fixed answers, held from change to change.

A small OpenAI-compatible server on loopback answers by a hash of what it is asked. The steps run as
users run them; of what they leave, sets and rows are held as hashes and reports as numbers.

    python tests/test_goldens.py --write    # renews tests/goldens.json
"""

import hashlib
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILE = Path(__file__).with_name("goldens.json")
GOLDENS: dict[str, Any] = json.loads(FILE.read_text()) if FILE.is_file() else {}

MODEL, JUDGE = "qwen2.5-7b", "golden-judge"
TASKS = ("sp", "rg", "vanilla")
RUNS = (
    ("vanilla", "base"),
    ("vanilla", "sft"),
    ("vanilla", "dpo"),
    ("decoupled", "sft"),
    ("decoupled", "dpo"),
    ("decoupled-gold", "sft"),
    ("self-refine", "base"),
)
SERVED = ("base", *(f"{task}-{stage}" for task in TASKS for stage in ("sft", "dpo")), JUDGE)

STRATEGIES = (
    "Question",
    "Restatement or Paraphrasing",
    "Reflection of feelings",
    "Self-disclosure",
    "Affirmation and Reassurance",
    "Providing Suggestions",
    "Information",
    "Others",
)
OPENINGS = (
    "That sounds really hard, and I can hear how tired you are of it.",
    "I understand.",
    "Don't worry, just think positive!",
    "Everything happens for a reason.",
    "What has this week been like for you?",
    "You should make a plan and stick to it.",
)
CLOSINGS = (
    "Would you like to tell me more?",
    "I am here with you.",
    "Try to sleep well.",
    "What would help you most right now?",
)
UNHELD = {"seconds", "made_with", "weights"}
"""Fields of rows and reports that hold times and hashes of others, not results."""


class Answers(BaseHTTPRequestHandler):
    """Lists models and chats; refuses everything else, as a server that is not vLLM does."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_: object) -> None:
        """Nothing on stderr."""

    def do_GET(self) -> None:
        listed = {"object": "list", "data": [{"id": name} for name in SERVED]}
        known = self.path == "/v1/models"
        self.send(200 if known else 404, listed if known else {"detail": "Not Found"})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path != "/v1/chat/completions":
            self.send(404, {"detail": "Not Found"})
            return
        message = {"role": "assistant", "content": said(body)}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
        self.send(
            200, {"id": "x", "object": "chat.completion", "choices": [choice], "usage": usage}
        )

    def send(self, status: int, value: Any) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def said(body: dict[str, Any]) -> str:
    """The answer to a chat completion request."""
    asked = json.dumps([body["model"], body.get("seed"), body["messages"]], sort_keys=True)
    # Each of its bytes decides one thing.
    draw = hashlib.sha256(asked.encode()).digest()
    form = body.get("response_format", {}).get("json_schema", {}).get("schema", {})
    if body["model"] == JUDGE:
        return verdict(form.get("properties", {}), draw)
    strategy = STRATEGIES[draw[0] % 8] if draw[1] % 16 else "Encouragement"
    if body["model"].startswith("sp-"):
        return strategy
    reply = f"{OPENINGS[draw[2] % 6]} {CLOSINGS[draw[3] % 4]} ({draw[4]})"
    return reply if body["model"].startswith("rg-") else f"[{strategy}] {reply}"


def verdict(properties: dict[str, Any], draw: bytes) -> str:
    """JSON of the schema asked for, now and then none; a score where no schema is sent."""
    if draw[0] % 16 == 0:
        return "I would rather not say."
    if not properties:
        return str(draw[1] % 6)
    told: dict[str, Any] = {}
    for place, (name, form) in enumerate(properties.items(), 1):
        menu = form.get("enum")
        if menu:
            told[name] = menu[draw[place] % len(menu)]
        else:
            told[name] = "said so" if form.get("type") == "string" else draw[place] % 6
    if "Should the sample be retained" in told and draw[8] % 4:
        told |= {"Should the sample be retained": "Yes", "Error Type in chosen reply": "None"}
    if told.get("Contains Empathy Error") == "No":
        told["Error Type"] = "None"
    return json.dumps(told)


class Kit:
    """A WORK folder of a copy of the kit, and its command lines."""

    def __init__(self, folder: Path, url: str) -> None:
        # A copy, since the recipes and the registry are rendered in place.
        self.root, self.work = folder / "kit", folder / "work"
        left_out = shutil.ignore_patterns(".*", "models", "tests", "saves", "runs", "demo", "data")
        shutil.copytree(ROOT, self.root, ignore=left_out)
        mine = ("PATH", "HOME", "LANG", "TMPDIR")
        self.environment = {name: os.environ[name] for name in mine if name in os.environ} | {
            "HF_HUB_OFFLINE": "1",
            "BASE_URL": url,
            "JUDGE": JUDGE,
            "JUDGE_BASE_URL": url,
        }
        self.at = ("--work", str(self.work))
        self.of = (*self.at, "--model", MODEL)
        self.asking = ("--base-url", url)

    def step(self, *command: str) -> None:
        done = subprocess.run(
            [sys.executable, "-m", *command],
            cwd=self.root,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"

    def together(self, *commands: tuple[str, ...]) -> None:
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(lambda command: self.step(*command), commands))

    def whole_way(self) -> None:
        runs = self.work / "runs" / MODEL
        # Twelve dialogues: intervals take ten.
        mined, limit = ("--task", *TASKS), ("--limit", "12")
        self.step("data_builders", "build", *self.at, "--esconv", "sample")
        predicting = [
            (
                *("eval", "predict", *self.of, "--system", system, "--stage", stage),
                *("--set", "train", *limit, *self.asking),
            )
            for system, stage in RUNS
        ]
        self.together(
            ("mining", "sample", *self.of, *mined, *limit, *self.asking),
            *predicting,
            ("training", "render"),
        )
        judged = ("--task", "rg", "vanilla")
        self.step("mining", "judge", *self.of, *judged)
        self.step("mining", "route", *self.of, *mined)
        self.step("data_builders", "preference", *self.of, *mined)
        files = {run: runs / "_".join(run) / "predictions.jsonl" for run in RUNS}
        whole, plain = files["decoupled", "dpo"], files["vanilla", "dpo"]
        pairs = self.work / "data" / f"esc_rg_dpo_{MODEL}.jsonl"
        scoring = ("eval", "judge", *self.of, "--n", "30")
        classifying = ("mining", "classify", "--model", MODEL)
        self.together(
            ("mining", "stats", *self.of),
            *(
                ("eval", "metrics", "--predictions", str(path), "--out", str(path.parent))
                for (_, stage), path in files.items()
                if stage == "dpo"
            ),
            *(
                (*classifying, "--predictions", str(path), "--out", str(path.parent / "errors"))
                for path in (whole, plain)
            ),
            (*scoring, "--predictions", str(whole), "--out", str(whole.parent / "judge")),
            (*scoring, "--pairs", str(pairs), "--out", str(runs / "pairs_judge")),
            (
                *("eval", "pairwise", *self.of, "--a", str(whole), "--b", str(plain)),
                *("--out", str(runs / "pairwise"), "--n", "30"),
            ),
        )
        self.step("eval", "compare", *self.of)
        self.step("eval", "report", *self.at, "--models", MODEL)


def digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:32]


def kept(value: Any) -> Any:
    """A row without what may differ from run to run."""
    if isinstance(value, dict):
        return {key: kept(one) for key, one in value.items() if key not in UNHELD}
    return [kept(one) for one in value] if isinstance(value, list) else value


def rows(path: Path) -> str:
    """The number of rows of a JSONL file and their hash, whatever the order of their keys."""
    found = [kept(json.loads(line)) for line in path.read_text().splitlines()]
    return f"{len(found)} rows, {digest(found)}"


def numbers(value: Any) -> Any:
    """A report with its numbers alone, to six digits; None where there is none."""
    if isinstance(value, dict | list):
        under = value.items() if isinstance(value, dict) else enumerate(value)
        found = {str(key): numbers(one) for key, one in under if key not in UNHELD}
        return {key: one for key, one in found.items() if one is not None} or None
    held = isinstance(value, int | float) and not isinstance(value, bool)
    return float(f"{value:.6g}") if held else None


def cells(report: Any) -> Any:
    """The numbers in the cells of all tables of a report, those behind its figures too."""
    tables = [item.get("table", item) for part in report["sections"] for item in part["items"]]
    return {
        table["name"]: {
            f"{place} {row['label']}": [
                [numbers(cell[key]) for key in ("value", "low", "high")] for cell in row["cells"]
            ]
            for place, row in enumerate(table["rows"])
        }
        for table in tables
    }


def artefacts(kit: Kit) -> dict[str, Any]:
    """Name to hash, or numbers, of everything that is held."""
    data, runs = kit.work / "data", kit.work / "runs" / MODEL
    sets = sorted(data.glob("*_sft_*.jsonl"))
    found: dict[str, Any] = {
        f"set {path.name}": hashlib.sha256(path.read_bytes()).hexdigest()[:32] for path in sets
    }
    held = (*data.glob("esc_*.jsonl"), *runs.rglob("*.jsonl"))
    found |= {
        f"rows {path.relative_to(kit.work)}": rows(path)
        for path in sorted(held)
        if path.name != "calls.jsonl"
    }
    measured = [
        *(runs / run / "metrics.json" for run in ("decoupled_dpo", "vanilla_dpo")),
        *sorted(runs.rglob("proportions.json")),
        *sorted(runs.rglob("judge.json")),
        *(runs / name for name in ("comparisons.json", "mining/stats/stats.json")),
        runs / "pairwise" / "pairwise.json",
    ]
    for path in measured:
        found[f"numbers {path.relative_to(runs)}"] = numbers(json.loads(path.read_text()))
    # The systems that copy, guess or repeat are the same for every file of the same turns.
    found["numbers vanilla_dpo/metrics.json"].pop("baselines")
    found["cells report.json"] = cells(json.loads((runs / "report.json").read_text()))
    registered = json.loads((kit.work / "dataset_info.json").read_text())
    found["registered dataset_info.json"] = {key: digest(one) for key, one in registered.items()}
    configs = kit.root / "llamafactory_configs"
    found["rendered recipes"] = {
        str(path.relative_to(configs)): hashlib.sha256(path.read_bytes()).hexdigest()[:32]
        for path in sorted(configs.rglob("*.yaml"))
    }
    return found


def made(folder: Path) -> dict[str, Any]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        kit = Kit(folder, f"http://127.0.0.1:{server.server_port}/v1")
        kit.whole_way()
        return artefacts(kit)
    finally:
        server.shutdown()
        server.server_close()


def leaves(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict | list):
        for key, one in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(one, f"{place} > {key}" if place else str(key))
    else:
        yield place, value


def alike(held: Any, found: Any) -> bool:
    """Numbers are held to five digits: another order of a sum is no change."""
    if isinstance(held, float | int) and isinstance(found, float | int):
        return math.isclose(held, found, rel_tol=1e-5, abs_tol=1e-9)
    return bool(held == found)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return made(tmp_path_factory.mktemp("goldens"))


def test_the_artefacts_are_those_held(found: dict[str, Any]) -> None:
    assert sorted(found) == sorted(GOLDENS)


@pytest.mark.parametrize("name", GOLDENS)
def test_as_held(name: str, found: dict[str, Any]) -> None:
    held, now = dict(leaves(GOLDENS[name])), dict(leaves(found.get(name)))
    changed = [
        f"{name} {place}: held {held.get(place)}, now {now.get(place)}"
        for place in {**held, **now}
        if not alike(held.get(place), now.get(place))
    ]
    assert not changed, f"{len(changed)} changed\n" + "\n".join(changed[:20])


if __name__ == "__main__":
    assert sys.argv[1:] == ["--write"], __doc__
    with tempfile.TemporaryDirectory() as folder:
        # An artefact a line.
        told = [
            f"{json.dumps(name)}: {json.dumps(one)}" for name, one in made(Path(folder)).items()
        ]
    FILE.write_text("{\n" + ",\n".join(told) + "\n}\n")
