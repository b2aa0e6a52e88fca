"""Another set of strategies, as the docs tell it: an edit of one file, and the steps run on."""

import json
import re
import shutil
import subprocess
import sys

import pytest

from esc import files, paths

PAGE = (paths.ROOT / "docs" / "own_corpus.md").read_text()
SHOWN = dict(re.findall(r"^```\w+ (\S+)\n(.*?)^```$", PAGE, re.M | re.S))
NAMES = re.findall(r'^    [A-Z_]+ = "(.+)"$', SHOWN["esc/strategies.py"], re.MULTILINE)


def edited(code):
    """``esc/strategies.py`` with what the page shows in place of members and tables."""
    members, tables = SHOWN["esc/strategies.py"].split("\n\n\n", maxsplit=1)
    head, rest = code.split('    QUESTION = "', maxsplit=1)
    methods = rest[rest.index("    @property") : rest.index("UNREADABLE")]
    functions = rest[rest.index("def _key") :]
    return f"{head}{members}\n\n{methods}{tables}\n\n{functions}"


@pytest.fixture
def kit(tmp_path):
    """A copy of the kit with the page's five strategies, and a corpus in them."""
    listed = ["git", "-C", str(paths.ROOT), "ls-files", "--", ":!tests", ":!.*"]
    for name in subprocess.run(listed, capture_output=True, text=True, check=True).stdout.split():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(paths.ROOT / name, tmp_path / name)
    code = tmp_path / "esc" / "strategies.py"
    code.write_text(edited(code.read_text()))
    rows = [json.loads(line) for line in SHOWN["try/mine.jsonl"].splitlines()]
    for number, row in enumerate(rows):
        row["dialog"][1]["strategy"] = NAMES[number % len(NAMES)]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


@pytest.mark.slow
def test_data_statistics_metrics_and_report_take_another_set_of_strategies(kit, run):
    def step(*words, code=0):
        shown = run(sys.executable, "-m", *words, cwd=kit)
        assert shown.returncode == code, shown.stderr[-2000:]
        return shown.stdout + shown.stderr

    assert len(NAMES) == 5, "not the paper's"
    build = ("data_builders", "build", "--esconv", "mine.jsonl")
    assert "rg 8" in step(*build) and "up to date" in step(*build)
    assert f"| {NAMES[0]} (OQ) " in step("data_builders", "stats")
    said = kit / "gold" / "predictions.jsonl"
    step("data_builders", "replies", "--esconv", "mine.jsonl", "--out", str(said))
    step("eval", "metrics", "--predictions", str(said), "--out", str(kit / "gold"))
    preference = files.read_json(kit / "gold" / "metrics.json")["strategy"]["preference"]
    assert {name: found["value"] for name, found in preference.items()} == dict.fromkeys(NAMES, 1)
    assert "Table 6: strategies of the train set: run, 5 of 5 rows" in step("eval", "report")
    system = next(files.read_jsonl(kit / "data" / "sp_sft_train.jsonl"))["system"]
    assert all(name in system for name in NAMES) and "Self-disclosure" not in system
    # Another definition is another prompt: the sets are built anew, and not used before that.
    code = kit / "esc" / "strategies.py"
    code.write_text(code.read_text().replace("Name a strength", "Say a strength"))
    assert "other system prompts or strategies" in step("experiments", "card", code=2)
    assert "up to date" not in step(*build)
