"""Predictions files made for tests, and what a judge's question quotes from them."""

import json
import re
from pathlib import Path
from typing import Any

from faulty_server import Request

DIALOGUES, TURNS = 10, 4


def row(dialogue: int, turn: int, reply: str | None = None, **changed: Any) -> dict[str, Any]:
    """A record of this kit's own predictions."""
    return {
        "id": f"{dialogue}-{turn}",
        "context": {
            "history": [[f"hi {dialogue} {k}", f"hello {k}"] for k in range(turn)],
            "seeker": f"I feel low, {dialogue} {turn}",
        },
        "gold_strategy": "Question",
        "gold_response": f"gold {dialogue} {turn}",
        "status": "ok",
        "predicted_strategy": "Question",
        "predicted_response": f"reply {dialogue} {turn}" if reply is None else reply,
    } | changed


def rows(**changed: Any) -> list[dict[str, Any]]:
    """All records, in order."""
    return [row(d, t, **changed) for d in range(DIALOGUES) for t in range(TURNS)]


def save(path: Path, records: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def left_by_predict(folder: Path) -> dict[str, bytes]:
    """File to content of a folder that a prediction left."""
    left = {"options.json": {"SYSTEM": "vanilla"}, "run.json": {"predictions.jsonl": {"rows": 1}}}
    folder.mkdir()
    for name, content in left.items():
        (folder / name).write_text(json.dumps(content))
    return {name: (folder / name).read_bytes() for name in left}


def quoted(request: Request) -> dict[str, str]:
    """What a judge's question quotes, by the name its fence gives it."""
    asked = request.asked
    mark = re.search(r"^=== [0-9a-f]{16}(?= conversation$)", asked, re.MULTILINE)
    assert mark, "a question begins with the conversation"
    fence = re.escape(mark[0])
    found = re.findall(rf"^{fence} (?!end of)(\w+)\n(.*?)\n{fence} end of", asked, re.M | re.S)
    return dict(found)


def error(err: str) -> str:
    """The one line of standard error that says what is wrong."""
    (line,) = [text for text in err.splitlines() if text.startswith("error: ")]
    return line
