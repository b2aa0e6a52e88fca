"""Read: predictions, mined pairs and simulated conversations, filtered; a turn side by side."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import gradio as gr

from data_builders.pairs import PAIR, PAIRS
from esc import files, paths
from esc.dialogue import Exchange
from esc.files import EscError, Row
from esc.predictions import PREDICTIONS, named_rows, prediction_of
from esc.psych_errors import PsychError
from eval.conversation_measures import CONVERSATIONS
from eval.ui.parts import reply, said, shown
from mining import converse
from mining.classify import ERRORS

SHOWN = 50
KINDS = OF_PREDICTIONS, OF_PAIRS, OF_TALK, OF_AHEAD = (
    "predictions",
    "mined pairs",
    "conversations",
    "pairs of conversations",
)


@dataclass(frozen=True, slots=True)
class Read:
    """One thing to read: a reply of a system to a turn, a pair, or a conversation."""

    id: str
    kind: str
    system: str
    history: tuple[Exchange, ...]
    seeker: str
    replies: tuple[Row, ...]
    """As a part of the page has them: name, look, strategy, reply."""
    right: bool | None = None
    """Of its strategy, where there is gold."""
    error: str = ""

    def holds(self, text: str) -> bool:
        """Whether a text stands in it, whatever its case."""
        before = [words for pair in self.history for words in pair]
        words = [*before, self.seeker, *(one["reply"] for one in self.replies)]
        return text.casefold() in "\n".join(words).casefold()


def _predictions(path: Path, work: Path) -> Iterator[Read]:
    errors = path.parent / "errors" / ERRORS
    told = files.read_jsonl(errors) if errors.is_file() else ()
    error = {row["id"]: row.get("error") or "" for row in told}
    for named in named_rows(path):
        one, gold = prediction_of(named), str(named.row.get("gold_strategy") or "")
        both = [reply("gold", one.gold, gold, "gold")] if one.gold else []
        both.append(reply(path.parent.name, one.reply or f"({one.lacking})", one.strategy))
        right = one.strategy == gold if gold else None
        of = one.id, OF_PREDICTIONS, path.parent.name, one.history, one.seeker, tuple(both)
        yield Read(*of, right, error.get(one.id, ""))


def _pairs(path: Path, work: Path) -> Iterator[Read]:
    train = work / paths.sft_file("rg", "train")
    turns = {row["id"]: row for row in (files.read_jsonl(train) if train.is_file() else ())}
    name = f"{path.parents[2].name} {path.parents[1].name}"
    for row in files.read_jsonl(path):
        turn, error = turns.get(row["id"], {"history": [], "instruction": ""}), row["error"] or ""
        chosen = reply(f"{name}: chosen", row["chosen"], row["gold_strategy"], "gold")
        rejected = reply(f"{name}: rejected", row["rejected"], row["strategy"], "bad", [error])
        history = tuple((words, said) for words, said in turn["history"])
        of = row["id"], OF_PAIRS, name, history, turn["instruction"], (chosen, rejected)
        yield Read(*of, None, error)


def _looked_ahead(path: Path, work: Path) -> Iterator[Read]:
    for turn in (turn for row in files.read_jsonl(path) for turn in row["turns"]):
        if converse.fate(turn) == PAIR:
            both = zip(("chosen", "rejected"), ("gold", "bad"), converse.sides(turn), strict=True)
            replies = tuple(
                reply(name, one["text"], turn["strategy"], look, [f"felt then: {one['intensity']}"])
                for name, look, one in both
            )
            history = tuple((words, said) for words, said in turn["history"])
            yield Read(turn["id"], OF_AHEAD, path.parent.name, history, turn["seeker"], replies)


def _conversations(path: Path, work: Path) -> Iterator[Read]:
    felt = "{said} ({intensity} of 5)".format_map
    name = "/".join(path.parts[-3:-1])
    for row in files.read_jsonl(path):
        history = tuple((felt(one), one["reply"]) for one in row.get("turns", ()))
        last, card = felt(row["last"]) if row.get("last") else "", row["card"]
        about = (reply("card", card["situation"], card["emotion"]),)
        yield Read(row["id"], OF_TALK, name, history, last, about)


_PLACES = {
    f"*/{PREDICTIONS}": _predictions,
    f"mining*/*/routed/{PAIRS}": _pairs,
    f"mining*/*/{converse.RECORDS}": _looked_ahead,
    f"conversations/*/{CONVERSATIONS}": _conversations,
    f"conversations/*/*/{CONVERSATIONS}": _conversations,
    f"safety/*/{CONVERSATIONS}": _conversations,
}


@lru_cache(maxsize=64)
def _of(place: str, path: Path, work: Path, *changed: int) -> list[Read]:
    try:
        return list(_PLACES[place](path, work))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise EscError(f"{path} is not in the form of this kit ({error!r:.80})") from error


def everything(work: Path, model: str) -> tuple[list[Read], list[str]]:
    """(all there is of a model under ``work``, what is wrong with a file of another form)."""
    found, wrong = list[Read](), list[str]()
    for place in _PLACES:
        for path in sorted((work / "runs" / model).glob(place)):
            beside = path.parent / "errors" / ERRORS
            changed = [one.stat().st_mtime_ns for one in (path, beside) if one.is_file()]
            try:
                found += _of(place, path, work, *changed)
            except EscError as error:
                wrong.append(str(error))
    return found, wrong


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
        and one.holds(text)
    ]


def page_of(every: Iterable[Read], turn: str) -> str:
    """Everything of one turn, systems side by side; a word where there is nothing."""
    together: dict[tuple[str, str], list[Read]] = {}
    for one in every:
        if one.id == turn:
            alone = one.system if one.kind == OF_TALK else ""
            together.setdefault((one.kind, alone), []).append(one)
    parts = []
    for (kind, alone), of in together.items():
        replies: list[Row] = []
        for told in (told for one in of for told in one.replies):
            replies += [] if told in replies else [told]
        about: Row = {"history": of[0].history, "seeker": of[0].seeker, "replies": replies}
        parts.append(shown("turn", title=f"{turn}: {alone or kind}", **about))
    return "".join(parts) or said(f"Nothing of turn {turn} here.")


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


def tab(work: Path, model: str, page: gr.Blocks) -> gr.HTML:
    """The widgets; where a turn is shown."""
    choose = partial(gr.Dropdown, interactive=True)
    with gr.Row():
        kind = choose([*KINDS], value=KINDS[0], label="what", elem_id="read-kind")
        of = choose([], label="systems", multiselect=True, elem_id="read-systems")
        right = choose(["any", "right", "wrong"], value="any", label="strategy")
        errors = [("any", ""), *((one.value, one.value) for one in PsychError)]
        error = choose(errors, value="", label="error", elem_id="read-error")
        text = gr.Textbox(label="text", elem_id="read-text")
    found, turn = gr.HTML(elem_id="read-list"), gr.HTML(elem_id="read-turn")

    def filtered(*given: Any) -> str:
        every, wrong = everything(work, model)
        told = "".join(said(f"left out: {one}", "smoke") for one in wrong)
        return told + listed(matching(every, *given))

    def first() -> Any:
        systems = sorted({one.system for one in everything(work, model)[0]})
        return gr.Dropdown(systems), filtered(KINDS[0], [], "any", "", "")

    changes = [one.change for one in (kind, of, right, error)]
    asked = [kind, of, right, error, text]
    how: Row = {"show_progress": "hidden", "api_name": False}
    gr.on([*changes, text.submit], filtered, asked, found, **how)
    page.load(first, None, [of, found], **how)
    return turn
