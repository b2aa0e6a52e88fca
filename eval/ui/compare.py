"""Compare blind: two replies, sides shuffled and unnamed, five questions, one key each.

Of a sheet of `eval.human`, or of two systems that answer a person live. Votes go, as they are
given, to ``votes_<name>.csv`` beside the sheet's ``key.json``, which `eval human --read` reads; of
what is typed live, nothing is kept.
"""

import re
import secrets
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from esc import files, sheets, step
from esc.files import EscError, Row
from esc.predictions import PREDICTIONS
from eval import human
from eval.human import KEY, MEANINGS
from eval.ui import talk
from eval.ui.parts import one_message, reply, said, shown

ASKED = tuple(MEANINGS)
LIVE = "human_live_"
"""How the folder of two systems that answered a person is named."""
Votes = dict[str, dict[str, str]]
"""Record to its answers by column."""


def votes_file(folder: Path, name: str) -> Path:
    """Of an annotator; EscError for a name that makes no file's."""
    if not re.fullmatch(r"[A-Za-z0-9.-]+", name):
        raise EscError("say who you are first: letters, digits, dots and dashes")
    return folder / f"votes_{name}.csv"


def read_votes(folder: Path, name: str) -> Votes:
    """What an annotator has said so far; EscError, naming the row, for what is no vote."""
    path, records = votes_file(folder, name), key_of(folder)["records"]
    return human.votes_of(path, records) if path.is_file() else {}


def key_of(folder: Path) -> Row:
    """Whose reply is where; EscError where that is not known."""
    key = files.read_json(folder / KEY)
    if not isinstance(key.get("records"), dict):
        raise EscError(f"{folder / KEY} is no key of a sheet")
    return key


def open_question(votes: Votes, record: str) -> int:
    """The place of the first question of a record without an answer; their number where none is."""
    given = votes.get(record, {})
    return next((k for k, name in enumerate(ASKED) if not given.get(name)), len(ASKED))


def vote(folder: Path, name: str, record: str, column: str, choice: str) -> Votes:
    """Note a choice for the question that was shown; empty, take the last answer back.

    Nothing is noted where that question is no longer the open one. The file is whole at any time,
    and keeps columns that somebody wrote into it.
    """
    path = votes_file(folder, name)
    with files.exclusive(folder):
        votes = read_votes(folder, name)
        place = open_question(votes, record) - (not choice)
        if not 0 <= place < len(ASKED) or (choice and ASKED[place] != column):
            return votes
        votes.setdefault(record, dict.fromkeys(ASKED, ""))[ASKED[place]] = choice
        old = sheets.read_csv(path, ["record"]) if path.is_file() else ()
        before = {row["record"]: row for _, row in old}
        own = [one for row in before.values() for one in row if one not in ("record", *ASKED)]
        records = [one for one in key_of(folder)["records"] if one in votes]
        columns = ["record", *ASKED, *dict.fromkeys([*own, "comment"])]
        blank = dict.fromkeys(columns, "")
        rows = [blank | before.get(r, {}) | votes[r] | {"record": r} for r in records]
        files.write_text(path, sheets.csv_text(columns, rows))
    return votes


def resume(votes: Votes, records: Sequence[str]) -> int:
    """The place of the first record that is not answered throughout; the last where all are."""
    left = (k for k, one in enumerate(records) if open_question(votes, one) < len(ASKED))
    return next(left, len(records) - 1)


def question(votes: Votes, records: Sequence[str], place: int) -> str:
    """What is asked now, what was answered, and how far one is."""
    asked = open_question(votes, records[place])
    now = "all answered, → is the next turn"
    if asked < len(ASKED):
        now = f"{ASKED[asked].title()}: {MEANINGS[ASKED[asked]]} (1 A, 2 B, 3 tie)"
    done = sum(open_question(votes, one) == len(ASKED) for one in records)
    given = ", ".join(f"{name} {one}" for name, one in votes.get(records[place], {}).items() if one)
    return f"Turn {place + 1} of {len(records)}, {done} answered. {now}. {given}"


def sheet_of(work: Path, model: str, a: str, b: str) -> Path:
    """The folder of the sheet of two systems' stored predictions, made where it is not there.

    EscError where it is of other predictions than there are now.
    """
    root = work / "runs" / model
    there = (root / f"human_{one}_{other}" for one, other in ((a, b), (b, a)))
    folder = next((one for one in there if (one / KEY).is_file()), root / f"human_{a}_{b}")
    if not (folder / KEY).is_file():
        human.make(root / a / PREDICTIONS, root / b / PREDICTIONS, folder, 20, [])
    key = key_of(folder)
    made_of = {key[side].get("predictions") for side in ("a", "b")}
    if made_of != {files.sha256(root / one / PREDICTIONS) for one in (a, b)}:
        raise EscError(f"{folder} is of other predictions than there are now: move it away")
    return folder


def opened(folder: Path) -> Row:
    """A sheet as the page has it: folder, records, the texts of each; EscError without one."""
    if not (found := sorted(folder.glob("sheet*.csv"))):
        raise EscError(f"{folder} holds no sheet; python -m eval human makes one")
    columns = ["record", "conversation", "seeker", "a", "b"]
    texts = {row["record"]: row for _, row in sheets.read_csv(found[0], columns)}
    if not texts.keys() & key_of(folder)["records"].keys():
        raise EscError(f"{found[0]} has no row of its key")
    return {"folder": folder, "records": [*texts], "texts": texts}


def live(folder: Path, a: str, b: str, *, smoke: bool) -> Row:
    """The same of a new conversation with two systems, whose sides are drawn once."""
    with files.exclusive(folder):
        sides: Row = {"a": {"name": a}, "b": {"name": b}, "n": 0, "annotators": []}
        if not (folder / KEY).is_file():
            files.write_json(folder / KEY, sides | {"left_out": {}, "records": {}, "smoke": smoke})
    left = secrets.choice(("a", "b"))
    key = {"A": left, "B": "b" if left == "a" else "a"}
    about: Row = {"folder": folder, "records": [], "texts": {}, "systems": {"a": a, "b": b}}
    return about | {"key": key, "stamp": secrets.token_hex(3), "turns": {"a": [], "b": []}}


def heard(sheet: Row, words: str, turns: Mapping[str, Sequence[talk.Turn]]) -> Row:
    """A live conversation with one more turn; the key learns whose reply is where, and no text."""
    record = f"live {sheet['stamp']} {len(sheet['records']) + 1}"
    with files.exclusive(sheet["folder"]):
        key = key_of(sheet["folder"])
        key["records"][record] = sheet["key"]
        files.write_json(sheet["folder"] / KEY, key | {"n": len(key["records"])})
    last = {side: turns[of][-1]["reply"] for side, of in sheet["key"].items()}
    before = [
        f"{one['seeker']}\n\nA: {one['a']}\n\nB: {one['b']}" for one in sheet["texts"].values()
    ]
    text = {"conversation": "\n\n".join(before), "seeker": words, "a": last["A"], "b": last["B"]}
    texts = sheet["texts"] | {record: text}
    return sheet | {"records": [*sheet["records"], record], "texts": texts, "turns": turns}


def named(folder: Path, name: str, records: Sequence[str], place: int) -> str:
    """Who is who; EscError before all is answered."""
    votes = read_votes(folder, name)
    if left := sum(open_question(votes, one) < len(ASKED) for one in records):
        raise EscError(f"the names are shown at the end: {left} turns are not answered yet")
    key = key_of(folder)
    who = {side: key[of].get("name") for side, of in key["records"][records[place]].items()}
    return f"Here A is {who['A']}, B is {who['B']}. Votes: {votes_file(folder, name)}"


def tab(models: talk.Models, page: gr.Blocks) -> None:
    """The widgets."""
    work, model = models.work, models.model
    root = work / "runs" / model
    state, place, asked = gr.State(dict[str, Any]()), gr.State(0), gr.State("")
    with gr.Row():
        name = gr.Textbox(label="your name", elem_id="vote-name")
        sheet = gr.Dropdown([], value=None, label="a sheet that is there", elem_id="vote-sheet")
    with gr.Row():
        a, b = (
            gr.Dropdown([], value=None, label=of, elem_id=f"vote-{of}") for of in ("one", "other")
        )
        make = gr.Button("Stored replies of both", elem_id="vote-make")
        begin = gr.Button("Talk to both", elem_id="vote-live")
    turn, status = gr.HTML(elem_id="vote-turn"), gr.HTML(elem_id="vote-status")
    with gr.Row():
        labels = {"A": "A (1)", "B": "B (2)", "tie": "tie (3)", "": "undo (⌫)"}
        keys = {
            one: gr.Button(text, elem_id=f"vote-{one or 'undo'}") for one, text in labels.items()
        }
    with gr.Row():
        back, on = (gr.Button(text, elem_id=f"vote-{text[2:]}") for text in ("← back", "→ next"))
        names = gr.Button("Show who is who", elem_id="vote-names")
    with gr.Row():
        words = gr.Textbox(label="you, to both", elem_id="vote-words", scale=4)
        send = gr.Button("Send", elem_id="vote-send", scale=1)

    def choices() -> Any:
        sheets_ = (one.parent.name for one in root.glob(f"*/{KEY}"))
        there = sorted(one for one in sheets_ if not one.startswith(LIVE))
        stored = [one.parent.name for one in root.glob(f"*/{PREDICTIONS}")]
        every = sorted({*stored, *models.systems()})
        return [gr.Dropdown(there), gr.Dropdown(every), gr.Dropdown(every)]

    def show(state: Row, name: str, place: int | None, vote_: tuple[str, str] | None = None) -> Any:
        if not state:
            return state, 0, "", "", said("Choose a sheet, or two systems.")
        if not (records := state["records"]):
            return state, 0, "", "", said("Say something to both.")
        folder = state["folder"]
        with one_message():
            votes = read_votes(folder, name)
            k = resume(votes, records) if place is None else min(max(place, 0), len(records) - 1)
            if vote_ is not None and not state.get("closed"):
                votes = vote(folder, name, records[k], *vote_)
        row = state["texts"][records[k]]
        replies = [reply(side, row[side.casefold()]) for side in "AB"]
        about: Row = {"before": row["conversation"], "history": [], "seeker": row["seeker"]}
        html = shown("turn", title="", replies=replies, **about)
        place = open_question(votes, records[k])
        column = ASKED[place] if place < len(ASKED) else ""
        return state, k, column, html, said(question(votes, records, k))

    def open_sheet(found: str | None, name: str) -> Any:
        with one_message():
            return show(opened(root / found) if found else {}, name, None)

    def made(a: str | None, b: str | None, name: str) -> Any:
        with one_message():
            if not a or not b or a == b:
                raise EscError("choose two systems")
            return show(opened(sheet_of(work, model, a, b)), name, None)

    def begun(a: str | None, b: str | None, name: str) -> Any:
        with one_message():
            if not a or not b or a == b or not {a, b} <= {*models.systems()}:
                raise EscError(f"choose two of {', '.join(models.systems())}")
            votes_file(root, name)
            folder = root / f"{LIVE}{a}_{b}"
            return show(live(folder, a, b, smoke=step.is_smoke(model, work)), name, None)

    async def sent(words: str, state: Row, name: str) -> Any:
        with one_message():
            votes_file(root, name)
            if not words.strip() or "turns" not in state or state.get("closed"):
                raise EscError("talk to both first, and say something")
            turns = {}
            for side, system in state["systems"].items():
                before = state["turns"][side]
                to_answer = talk.as_turn(before, words)
                answer = await talk.answer(models, system, 0.7, to_answer, len(before))
                turns[side] = [*before, talk.spoken(system, words, answer)]
            return (*show(heard(state, words, turns), name, len(state["records"])), "")

    def told(state: Row, name: str, place: int) -> Any:
        with one_message():
            if not state or not state["records"]:
                raise EscError("there is nothing to name yet")
            who = named(state["folder"], name, state["records"], place)
        # A live conversation whose sides are known is at its end.
        return state | {"closed": "turns" in state}, said(who)

    how: Row = {"show_progress": "hidden", "api_name": False, "queue": False}
    into = [state, place, asked, turn, status]
    page.load(choices, None, [sheet, a, b], **how)
    sheet.change(open_sheet, [sheet, name], into, **how)
    name.submit(lambda s, n: show(s, n, None), [state, name], into, **how)
    make.click(made, [a, b, name], into, **how)
    begin.click(begun, [a, b, name], into, **how)
    # The one that takes its time, and so stands in Gradio's queue.
    waits = how | {"show_progress": "minimal", "queue": True}
    said_to = [words, state, name], [*into, words]
    speaking = gr.on([words.submit, send.click], sent, *said_to, **waits)
    begin.click(None, cancels=[speaking])
    names.click(told, [state, name, place], [state, status], **how)
    # Keys that are pressed fast are answers in their order.
    how |= {"trigger_mode": "multiple", "queue": True, "concurrency_id": "votes"}
    for choice, key in keys.items():
        pressed = partial(lambda c, s, n, k, q: show(s, n, k, (q, c)), choice)
        key.click(pressed, [state, name, place, asked], into, concurrency_limit=1, **how)
    for button, by in ((back, -1), (on, 1)):
        moved = partial(lambda d, s, n, k: show(s, n, k + d), by)
        button.click(moved, [state, name, place], into, concurrency_limit=1, **how)
