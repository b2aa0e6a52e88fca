"""One mined pair per error type with its whole conversation, for a person to read."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from esc import built, paths
from esc.dialogue import Role
from esc.files import Row
from esc.markdown import plain
from esc.psych_errors import PsychError
from esc.turns import GoldTurn, gold_turns
from mining.found import Found

EXAMPLE_FIGURES = {
    PsychError.STRATEGY_MISMATCH: 11,
    PsychError.LACK_OF_EMPATHY: 12,
    PsychError.EARLY_EMOTION_SHIFT: 13,
    PsychError.TEMPLATE_RESPONSE: 14,
}
"""Error to the figure of the paper that shows an example of it."""
SILENT = "(says nothing between two replies)"
_SUPPORTERS = {"supporter", "listener", "sys"}
"""How the corpus's layouts name who replies."""


def examples(work: Path, found: dict[str, Found], notes: Sequence[str]) -> str:
    """One pair per error type with its whole conversation, as in Figures 11 to 14.

    Which pair is drawn by its id, not by what it says.
    """
    drawn: dict[str, tuple[str, Row]] = {}
    for task, one in found.items():
        for error, (_, pair) in one.examples.items():
            drawn.setdefault(error, (task, pair))
    wanted = {pair["id"] for _, pair in drawn.values()}
    turns = {turn.id: turn for turn in gold_turns(work, "train", None) if turn.id in wanted}
    lines = ["# One mined pair per error type", *(f"\n{plain(note)}" for note in notes)]
    for error in PsychError:
        # An entangled pair without an error in its reply is one of a wrong strategy.
        if error.value in drawn and error is not PsychError.NONE:
            task, pair = drawn[error.value]
            lines += _example(work, task, pair, turns[pair["id"]], error)
        elif error in EXAMPLE_FIGURES:
            lines += ["", f"## {error}", "", "No pair of it was mined."]
    return "\n".join(lines) + "\n"


def _example(work: Path, task: str, pair: Row, turn: GoldTurn, error: PsychError) -> Iterator[str]:
    like = f" (as in Figure {EXAMPLE_FIGURES[error]})" if error in EXAMPLE_FIGURES else ""
    yield from ("", f"## {error}{like}", "", f"Turn {plain(turn.id)}, {task} pair.", "")
    known = seeker_of(work, [reply for _, reply in turn.history] + [turn.response])
    for name, said in (known or {"Situation": "(not found in the kept corpus)"}).items():
        yield f"**{name}** {plain(said) if known else said}\n"
    for seeker, reply in turn.history:
        yield f"> **{Role.SEEKER}** {plain(seeker) or SILENT}\n>"
        yield f"> **{Role.SUPPORTER}** {plain(reply)}\n>"
    yield f"> **{Role.SEEKER}** {plain(turn.seeker) or SILENT}\n"
    if task == "sp":
        yield f"**Gold strategy** {pair['chosen']}\n"
        yield f"**Rejected strategy** {pair['rejected']}\n"
        return
    yield f"**Gold reply** [{pair['gold_strategy']}] {plain(pair['chosen'])}\n"
    yield f"**Rejected reply** [{pair['strategy']}] {plain(pair['rejected'])}\n"
    yield f"**Explanation** {plain(pair['explanation'] or '(none)')}"


def seeker_of(work: Path, replies: Sequence[str]) -> dict[str, str]:
    """What the corpus knows of the seeker in the one dialogue that holds these replies in a row.

    Name to text: situation, experience, emotion, problem, and the scores of the survey,
    each where the kept corpus has it. Empty where no dialogue or several hold them. By content,
    since the ids of a corpus in another order are not its positions.
    """
    said = " ".join(" ".join(replies).split())
    names = built.manifest(work)["corpus"]["files"]
    found = []
    for path in (paths.corpus(work) / name for name in names):
        if not path.is_file():
            continue
        text = path.read_text(encoding="utf-8-sig")
        is_array = text.lstrip().startswith("[")
        rows = (
            json.loads(text) if is_array else map(json.loads, filter(str.strip, text.split("\n")))
        )
        found += [_seeker(row) for row in rows if said in _replies(row)]
    return found[0] if len(found) == 1 else {}


def _seeker(row: Row) -> dict[str, str]:
    survey = row.get("survey_score")
    scores = survey.get("seeker") if isinstance(survey, dict) else None
    told = scores.items() if isinstance(scores, dict) else ()
    known = {
        "Situation": row.get("situation"),
        "Experience": row.get("experience_type"),
        "Emotion": row.get("emotion_type"),
        "Problem": row.get("problem_type"),
        "Survey": ", ".join(
            f"{name.replace('_', ' ')} {score}" for name, score in told if score not in (None, "")
        ),
    }
    return {name: str(said) for name, said in known.items() if said}


def _replies(row: Row) -> str:
    said = (
        str(one.get("content", one.get("text")))
        for one in row["dialog"]
        if one.get("speaker") in _SUPPORTERS
    )
    return " ".join(" ".join(said).split())
