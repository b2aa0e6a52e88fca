"""Check pairs: what is wrong with a rejected reply, said before the judge's error is shown.

The answer of a person goes into the audit's own sheet, once: yes where the judge's error is among
those the person named, no where it is not, or unsure. The precision stands beside, with interval.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from data_builders.pairs import Mining
from esc import files, sheets
from esc.files import EscError, Row
from esc.paths import Lineage
from esc.prompts import TASKS
from esc.psych_errors import PsychError
from eval.ui.parts import one_message, reply, said, shown
from mining import audit

NOTHING, UNSURE = "nothing of these", "unsure"
CHOICES = [*(error.value for error in PsychError if error is not PsychError.NONE), NOTHING]


def rows_of(folder: Path) -> list[Row]:
    """The rows of an audit's sheet, with what was answered; EscError without one."""
    if not (folder / audit.CSV).is_file():
        raise EscError(f"{folder} holds no sheet yet: open one first")
    columns = ["record", "error", "conversation", "seeker", "gold", "rejected", "answer"]
    rows = [row for _, row in sheets.read_csv(folder / audit.CSV, columns)]
    if not rows:
        raise EscError(f"{folder / audit.CSV} has no row")
    return rows


def answer(folder: Path, record: str, named: Sequence[str]) -> str:
    """Note what a person named of a record, or `UNSURE`; what stands in the sheet then.

    EscError where nothing is named, or the record has an answer: the judge's error is known then.
    """
    if not named or (NOTHING in named and len(named) > 1):
        raise EscError(f"name what is wrong, or {NOTHING!r} alone")
    with files.exclusive(folder):
        rows = rows_of(folder)
        row = next((one for one in rows if one["record"] == record), None)
        if row is None or row["answer"]:
            raise EscError(f"{record or 'no pair'} is not open for an answer: open the sheet anew")
        told = "yes" if row["error"] in named else "no"
        row["answer"] = UNSURE if [*named] == [UNSURE] else told
        files.write_text(folder / audit.CSV, sheets.csv_text([*rows[0]], rows))
    return str(row["answer"])


def resume(rows: Sequence[Row]) -> int:
    """The place of the first row without an answer; the last where all have one."""
    return next((k for k, row in enumerate(rows) if not row["answer"]), len(rows) - 1)


def precision(mining: Mining) -> str:
    """The share of the judge's errors that a person found too, over all, in words."""
    list(audit.read(mining, audit.folder_of(mining) / audit.CSV))
    found = files.read_json(audit.folder_of(mining) / audit.PRECISION)["all"]
    ends = f" [{found['low']:.0%}, {found['high']:.0%}]" if found["low"] is not None else ""
    share = f"{found['precision']:.0%}{ends}" if found["n"] else "not known"
    told = f"precision {share} of {found['n']} answers"
    return f"{told}, {found['unsure']} unsure, {found['blank']} to go"


def tab(work: Path, model: str, lineage: Lineage) -> None:
    """The widgets."""
    at = gr.State(("", ""))  # the task and record that are shown
    with gr.Row():
        task = gr.Dropdown([*TASKS], value="rg", label="pairs of", elem_id="check-task")
        fresh = gr.Button("Open, or make a sheet", elem_id="check-open")
    turn, status = gr.HTML(elem_id="check-turn"), gr.HTML(elem_id="check-status")
    named = gr.CheckboxGroup(CHOICES, label="what is wrong with the rejected reply?")
    with gr.Row():
        done = gr.Button("Answer", variant="primary", elem_id="check-answer")
        unsure = gr.Button("Unsure", elem_id="check-unsure")
        on = gr.Button("Next", elem_id="check-next")

    def mining(task: str) -> Mining:
        return Mining(work, model, task, lineage.checked(task).mining)

    def show(task: str, pick: Any) -> Any:
        of = mining(task)
        rows = rows_of(audit.folder_of(of))
        k = pick(rows)
        row, notes = rows[k], []
        if row["answer"]:
            notes = [f"the judge: {row['error']}", row.get("explanation", ""), row["answer"]]
        both = [
            reply("gold", row["gold"], look="gold"),
            reply("rejected", row["rejected"], look="bad", notes=notes),
        ]
        about: Row = {"before": row["conversation"], "history": [], "seeker": row["seeker"]}
        title = f"{k + 1} of {len(rows)}: {row['record']}"
        page = shown("turn", title=title, replies=both, **about)
        return (task, row["record"]), page, said(precision(of))

    def place(rows: Sequence[Row], record: str) -> int:
        return next((k for k, row in enumerate(rows) if row["record"] == record), 0)

    def opened(task: str) -> Any:
        with one_message():
            if not (audit.folder_of(mining(task)) / audit.CSV).is_file():
                list(audit.make(mining(task), 20))
            return (*show(task, resume), [])

    def told(at: tuple[str, str], named: list[str]) -> Any:
        with one_message():
            answer(audit.folder_of(mining(at[0] or "rg")), at[1], named)
            return show(at[0], lambda rows: place(rows, at[1]))

    def moved(at: tuple[str, str]) -> Any:
        def after(rows: Sequence[Row]) -> int:
            return min(place(rows, at[1]) + 1, len(rows) - 1)

        with one_message():
            return (*show(at[0] or "rg", after), [])

    how: Row = {"show_progress": "hidden", "api_name": False}
    into = [at, turn, status]
    fresh.click(opened, task, [*into, named], **how)
    task.change(lambda: (("", ""), "", "", []), None, [*into, named], **how)
    done.click(told, [at, named], into, concurrency_limit=1, **how)
    unsure.click(partial(lambda a: told(a, [UNSURE])), at, into, concurrency_limit=1, **how)
    on.click(moved, at, [*into, named], **how)
