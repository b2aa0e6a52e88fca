"""Check pairs: what is wrong with a rejected reply, said before the judge's error is shown.

The answer of a person goes into the audit's own sheet: yes where the judge's error is among those
the person named, no where it is not, or unsure. The precision stands beside, with its interval.
"""

from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from data_builders.pairs import Mining
from esc import files, sheets
from esc.files import EscError, Row
from esc.paths import PAPER
from esc.psych_errors import PsychError
from eval.ui.parts import one_message, reply, said, shown
from mining import audit

ERRORS = [error.value for error in PsychError if error is not PsychError.NONE]
UNSURE = "unsure"


def rows_of(folder: Path) -> list[Row]:
    """The rows of an audit's sheet, with what was answered; EscError without one."""
    if not (folder / audit.CSV).is_file():
        raise EscError(f"{folder} holds no sheet; make one")
    columns = ["record", "error", "gold", "rejected", "answer"]
    return [row for _, row in sheets.read_csv(folder / audit.CSV, columns)]


def answer(folder: Path, record: str, named: list[str], *, unsure: bool = False) -> str:
    """Note what a person named of a record; the answer as the sheet has it: yes, no or unsure."""
    with files.exclusive(folder):
        rows = rows_of(folder)
        row = next(one for one in rows if one["record"] == record)
        row["answer"] = UNSURE if unsure else "yes" if row["error"] in named else "no"
        files.write_text(folder / audit.CSV, sheets.csv_text([*rows[0]], rows))
    return str(row["answer"])


def resume(rows: list[Row]) -> int:
    """The place of the first row without an answer; the last where all have one."""
    return next((k for k, row in enumerate(rows) if not row["answer"]), len(rows) - 1)


def precision(mining: Mining) -> str:
    """The share of the judge's errors that a person found too, over all, in words."""
    list(audit.read(mining, audit.folder_of(mining) / audit.CSV))
    found = files.read_json(audit.folder_of(mining) / audit.PRECISION)["all"]
    if not found["n"]:
        return "no answer yet"
    ends = f" [{found['low']:.0%}, {found['high']:.0%}]" if found["low"] is not None else ""
    told = f"precision {found['precision']:.0%}{ends} of {found['n']} answers"
    return f"{told}, {found['unsure']} unsure, {found['blank']} to go"


def tab(work: Path, model: str) -> None:
    """The widgets."""
    place = gr.State(0)
    with gr.Row():
        task = gr.Dropdown(["rg", "vanilla", "sp"], value="rg", label="pairs of")
        fresh = gr.Button("Open, or make a sheet", elem_id="check-open")
    turn, status = gr.HTML(elem_id="check-turn"), gr.HTML(elem_id="check-status")
    named = gr.CheckboxGroup(ERRORS, label="what is wrong with the rejected reply?")
    with gr.Row():
        done = gr.Button("Answer", variant="primary", elem_id="check-answer")
        unsure = gr.Button("Unsure", elem_id="check-unsure")
        on = gr.Button("Next", elem_id="check-next")

    def show(task: str, k: int | None, *, is_open: bool = False) -> Any:
        mining = Mining(work, model, task, PAPER)
        folder = audit.folder_of(mining)
        with one_message():
            rows = rows_of(folder)
            k = resume(rows) if k is None else min(k, len(rows) - 1)
            row, notes = rows[k], []
            if is_open:
                notes = [f"the judge: {row['error']}", row.get("explanation", ""), row["answer"]]
            replies = [
                reply("gold", row["gold"], look="gold"),
                reply("rejected", row["rejected"], look="bad", notes=notes),
            ]
            title = f"{k + 1} of {len(rows)}: {row['record']}"
            about: Row = {
                "before": row["conversation"],
                "history": [],
                "seeker": row["seeker"],
                "replies": replies,
            }
            return k, shown("turn", title=title, **about), said(precision(mining))

    def opened(task: str) -> Any:
        mining = Mining(work, model, task, PAPER)
        with one_message():
            if not (audit.folder_of(mining) / audit.CSV).is_file():
                list(audit.make(mining, 20))
        return (*show(task, None), [])

    def told(is_unsure: bool, task: str, k: int, named: list[str]) -> Any:
        folder = audit.folder_of(Mining(work, model, task, PAPER))
        with one_message():
            record = rows_of(folder)[k]["record"]
            answer(folder, record, named, unsure=is_unsure)
        return show(task, k, is_open=True)

    def moved(task: str, k: int) -> Any:
        return (*show(task, k + 1), [])

    how: Row = {"show_progress": "hidden", "api_name": False}
    into = [place, turn, status]
    fresh.click(opened, task, [*into, named], **how)
    for button, is_unsure in ((done, False), (unsure, True)):
        button.click(
            partial(told, is_unsure), [task, place, named], into, concurrency_limit=1, **how
        )
    on.click(moved, [task, place], [*into, named], **how)
