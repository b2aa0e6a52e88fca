"""Read: predictions, mined pairs and simulated conversations, filtered; a turn side by side."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import gradio as gr

from data_builders.pairs import PAIRS
from esc import files, paths
from esc.files import Row
from esc.predictions import PREDICTIONS, named_rows, prediction_of
from esc.psych_errors import PsychError
from eval.conversation_measures import CONVERSATIONS
from eval.ui.parts import one_message, said, shown

SHOWN = 50
KINDS = ("predictions", "mined pairs", "conversations")
RIGHT = ("any", "right", "wrong")


@dataclass(frozen=True, slots=True)
class Read:
    """One thing to read: a reply of a system to a turn, a pair, or a conversation."""

    id: str
    kind: str
    system: str
    history: tuple[tuple[str, str], ...]
    seeker: str
    replies: tuple[tuple[str, str, str, str], ...]
    """Name, look, strategy, words."""
    right: bool | None = None
    """Of its strategy, where there is gold."""
    error: str = ""

    @property
    def words(self) -> str:
        """All that is searched."""
        return "\n".join(
            [*(one for pair in self.history for one in pair), self.seeker]
            + [reply for *_, reply in self.replies]
        ).casefold()


def everything(work: Path, model: str) -> list[Read]:
    """All there is of a model under ``work``; EscError where a file is of another form."""
    root = work / "runs" / model
    found: list[Read] = []
    for name, make in (
        (f"*/{PREDICTIONS}", _predictions),
        (f"mining*/*/routed/{PAIRS}", _pairs),
        (f"*/*/{CONVERSATIONS}", _conversations),
    ):
        for path in sorted(root.glob(name)):
            found += make(path, path.stat().st_mtime_ns)
    return found


@lru_cache(maxsize=64)
def _predictions(path: Path, _: int) -> list[Read]:
    errors = path.parent / "errors" / "classified.jsonl"
    named = files.read_jsonl(errors) if errors.is_file() else ()
    error = {row["id"]: str(row.get("error") or "") for row in named}
    found = []
    for one in named_rows(path):
        told = prediction_of(one)
        gold = str(one.row.get("gold_strategy") or "")
        replies = [("gold", "gold", gold, told.gold)] if told.gold else []
        words = told.reply or f"({told.lacking})"
        replies.append((path.parent.name, "", told.strategy, words))
        right = told.strategy == gold if gold else None
        of = told.id, KINDS[0], path.parent.name, told.history, told.seeker, tuple(replies)
        found.append(Read(*of, right, error.get(told.id, "")))
    return found


@lru_cache(maxsize=16)
def _pairs(path: Path, _: int) -> list[Read]:
    turns = _turns(path.parents[4] if path.parents[4].name != "runs" else path.parents[5])
    found = []
    for row in files.read_jsonl(path):
        history, seeker = turns.get(row["id"], ((), ""))
        replies = (
            ("chosen", "gold", str(row["gold_strategy"]), str(row["chosen"])),
            ("rejected", "bad", str(row["strategy"] or ""), str(row["rejected"])),
        )
        name = f"{path.parents[1].name} pairs"
        error = str(row["error"] or "")
        found.append(Read(row["id"], KINDS[1], name, history, seeker, replies, None, error))
    return found


def _turns(work: Path) -> dict[str, Any]:
    path = work / paths.sft_file("rg", "train")
    rows = files.read_jsonl(path) if path.is_file() else ()
    return {row["id"]: (tuple(map(tuple, row["history"])), row["instruction"]) for row in rows}


@lru_cache(maxsize=64)
def _conversations(path: Path, _: int) -> list[Read]:
    found = []
    for row in files.read_jsonl(path):
        turns = row.get("turns", ())
        history = tuple((f"{one['said']} ({one['intensity']} of 5)", one["reply"]) for one in turns)
        last = f"{row['last']['said']} ({row['last']['intensity']} of 5)" if row.get("last") else ""
        card = row["card"]
        about = (("card", "", card["emotion"], card["situation"]),)
        found.append(Read(row["id"], KINDS[2], path.parent.name, history, last, about))
    return found


def matching(
    every: Iterable[Read], kind: str, systems: Sequence[str], right: str, error: str, text: str
) -> list[Read]:
    """Those that all filters let through; an empty filter lets all."""
    wanted = {"right": True, "wrong": False}.get(right)
    return [
        one
        for one in every
        if one.kind == kind
        and (not systems or one.system in systems)
        and (wanted is None or one.right is wanted)
        and (not error or one.error == error)
        and text.casefold() in one.words
    ]


def page_of(every: Iterable[Read], turn: str) -> str:
    """Everything of one turn, systems side by side; a word where there is nothing."""
    of = [one for one in every if one.id == turn]
    if not of:
        return said(f"Nothing of turn {turn} here.")
    parts = []
    for kind in KINDS:
        if not (same := [one for one in of if one.kind == kind]):
            continue
        for alone in same if kind == KINDS[2] else same[:1]:
            together = [alone] if kind == KINDS[2] else same
            replies = dict.fromkeys(reply for one in together for reply in one.replies)
            listed = [
                {"name": name, "look": look, "strategy": strategy, "reply": words}
                for name, look, strategy, words in replies
            ]
            title = f"{kind}, {turn}" + (f", {alone.system}" if kind == KINDS[2] else "")
            about: Row = {"history": alone.history, "seeker": alone.seeker, "replies": listed}
            parts.append(shown("turn", title=title, **about))
    return "".join(parts)


def listed(found: Sequence[Read]) -> str:
    """The first of what was found, a line a turn, each a link that can be shared."""
    by_turn: dict[str, list[Read]] = {}
    for one in found:
        by_turn.setdefault(one.id, []).append(one)
    rows = [
        {"id": name, "names": [one.system for one in of], "text": of[0].seeker[:90]}
        for name, of in [*by_turn.items()][:SHOWN]
    ]
    return shown("list", rows=rows, found=len(by_turn))


def tab(work: Path, model: str) -> gr.HTML:
    """The widgets; where a turn is shown."""
    with one_message():
        systems = sorted({one.system for one in everything(work, model)})
    with gr.Row():
        kind = gr.Dropdown([*KINDS], value=KINDS[0], label="what", elem_id="read-kind")
        of = gr.Dropdown(systems, label="systems", multiselect=True, elem_id="read-systems")
        right = gr.Dropdown([*RIGHT], value=RIGHT[0], label="strategy", elem_id="read-right")
        error = gr.Dropdown(["", *PsychError], value="", label="error", elem_id="read-error")
        text = gr.Textbox(label="text", elem_id="read-text")
    found, turn = gr.HTML(elem_id="read-list"), gr.HTML(elem_id="read-turn")

    def filtered(*given: Any) -> str:
        with one_message():
            return listed(matching(everything(work, model), *given))

    filters = [kind, of, right, error, text]
    changes = [one.change for one in (kind, of, right, error)]
    gr.on([*changes, text.submit], filtered, filters, found, show_progress="hidden", api_name=False)
    return turn
