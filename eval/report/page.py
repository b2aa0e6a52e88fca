"""Everything that was run, on one page beside the paper: Tables 1 to 6, Figures 2 to 4, 6 to 10.

    python -m eval report --models smollm2-135m
    python -m eval report --models qwen2.5-7b llama3.1-8b

Reads what the other steps left under ``runs/``, ``data/`` and ``saves/``, and computes nothing of
its own; writes ``report.json``, ``report.md`` and ``report.html`` from one object to
``runs/<model>/``, or for several backbones to ``runs/``. What was not run is shown as not run, with
the command that runs it. Numbers of the embedded model, a random judge or the sample corpus are
marked SMOKE, once for a table, figure or example.
"""

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from esc import backbones, cli, dialogue, files, sheets
from esc.files import Row
from esc.paths import EMBEDDED, SYSTEMS_OF_TABLE_3, SYSTEMS_OF_TABLE_4
from esc.predictions import PREDICTIONS, named_rows, prediction_of
from esc.strategies import CONVERSATION
from esc.visible import markdown
from eval.paper import BIBTEX
from eval.report import tables
from eval.report.conversations import conversations
from eval.report.figures import pictures
from eval.report.manifest import Sources, manifest, marked, read_backbones
from eval.report.parts import LAYOUT, todo

_HERE = Path(__file__).parent
_SHOWN = 3
"""Turns that are shown with what every system says to them."""
_SPEAKERS = CONVERSATION.seeker, CONVERSATION.supporter


def report(work: Path, models: Sequence[str], *, force: bool = False) -> Row:
    """Everything that was run under ``work`` for ``models``, beside the paper.

    Raises EscError, with the command that renews it, where a file has another shape.
    """
    sources = Sources(work)
    runs = read_backbones(sources, models, force=force)
    talked, tells, transcripts = conversations(sources, models, force=force)
    found = {
        one["name"]: one
        for one in (
            *talked,
            *tables.systems(sources, runs),
            *tables.questions(sources, runs),
            *tables.corpus(sources),
            *tables.mining(sources, models),
            tables.pairs(sources, models),
            tables.human(sources, models),
            tables.movement(sources, models),
        )
        if one["rows"] or one["todo"]
    }
    shown = {model: _examples(sources, model) for model in models}
    turns = [one for of_model in shown.values() for one in of_model]
    smoke = any(one["mark"] for one in found.values()) or any(one["smoke"] for one in turns)
    return {
        "title": f"Planned and spoken, beside the paper: {', '.join(models)}",
        **{name: LAYOUT[name] for name in ("lead", "notice", "words")},
        "smoke": smoke,
        "banner": LAYOUT["banner"] if smoke else "",
        "models": list(models),
        "ran": _ran(found),
        "answers": list(tables.answers(found)),
        "sections": [
            {"title": part["title"], "lead": _lead(part, tells), "items": items}
            for part in LAYOUT["sections"]
            if (items := [found[name] for name in part["tables"] if name in found])
        ],
        "transcripts": transcripts,
        "examples": turns,
        "examples_todo": [
            todo(f"{model} examples", sources.make("predict", model, STAGE="sft"))
            for model, of_model in shown.items()
            if not of_model
        ],
        "manifest": manifest(sources, models),
        "citation": BIBTEX,
    }


def _lead(part: Row, tells: str) -> str:
    """A section's first words; of conversations whether their numbers can be trusted."""
    return f"{tells} {part['lead']}" if tells and part["title"] == "Conversations" else part["lead"]


def _ran(found: dict[str, Row]) -> dict[str, str]:
    """What was run, in a few words."""
    filled = sum(bool(one["filled"]) for one in found.values())
    said = {"tables and figures": f"{filled} of {len(found)} have a number"}
    if measured := [row for row in found["table-3"]["rows"] if row["measured_on"]]:
        said["systems of Table 3"] = ", ".join(dict.fromkeys(row["label"] for row in measured))
        said["measured on"] = "; ".join(dict.fromkeys(row["measured_on"] for row in measured))
    return said


def _examples(sources: Sources, model: str) -> list[Row]:
    """Three turns of those that most systems answered, with what each says to them.

    None where nothing is predicted. Raises EscError, naming the record, where one is none.
    """
    turns: dict[str, Row] = {}
    for kind in (*SYSTEMS_OF_TABLE_3, *SYSTEMS_OF_TABLE_4):
        path = Path("runs") / model / kind.name / PREDICTIONS
        if not (sources.work / path).is_file():
            continue
        smoke = marked(model) or bool(sources.options_of(path.parent).get("smoke"))
        for named in named_rows(sources.whole(path)):
            one, row = prediction_of(named), named.row
            before = [said for pair in one.history for said in zip(_SPEAKERS, pair, strict=True)]
            turn: Row = {"id": one.id, "model": model, "said": [], "smoke": False}
            turn["context"] = [*before, (_SPEAKERS[0], one.seeker)]
            turn |= {"gold_strategy": row.get("gold_strategy"), "gold_reply": one.gold}
            turn = turns.setdefault(one.id, turn)
            raw = f"unreadable: {row['raw_strategy']}" if row.get("raw_strategy") else "none"
            reply = one.reply or f"(no reply: {one.lacking})"
            strategy = row.get("predicted_strategy") or raw
            turn["said"].append({"system": kind.label, "strategy": strategy, "reply": reply})
            turn["smoke"] |= smoke
    # Of those that equally many systems answered, in the order in which they are drawn.
    drawn = sorted(dialogue.order(turns), key=lambda name: -len(turns[name]["said"]))[:_SHOWN]
    return [turns[name] for name in drawn]


def _html(found: Row) -> str:
    """The page: it needs nothing else, and runs and loads nothing."""
    style = sheets.STYLE + (_HERE / "page.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    drawn = [*found["answers"], *(one for part in found["sections"] for one in part["items"])]
    return sheets.rendered(
        _HERE / "page.html.j2",
        **found,
        style=style,
        policy=f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; "
        "base-uri 'none'; form-action 'none'",
        drawn={one["name"]: pictures(one) for one in drawn if one["drawing"]},
    )


@cli.command(
    name="report",
    examples="  python -m eval report\n"
    "  python -m eval report --models qwen2.5-7b llama3.1-8b --work runs-of-may",
)
def main(
    models: Annotated[
        list[str] | None,
        typer.Option(envvar="MODELS", help="several stand side by side; without, the MODEL"),
    ] = None,
    model: cli.Model = EMBEDDED,
    work: cli.Work = Path(),
    force: cli.Force = False,
) -> None:
    """Everything that was run, on one page beside the paper: Tables 1 to 6, Figures 2 to 10.

    Writes report.json, report.md and report.html to runs/MODEL, or for several to runs. What was
    not run is shown as not run, with the command that runs it; --force also shows a system that
    was tested on what it was trained on.
    """
    named = list(dict.fromkeys(models or [model]))
    for one in named:
        backbones.get(one)
    folder = work / "runs" / (named[0] if len(named) == 1 else "")
    found = report(work, named, force=force)
    with files.exclusive(folder):
        files.write_json(folder / "report.json", found)
        files.write_text(folder / "report.md", markdown(_HERE / "page.md.j2", **found))
        files.write_text(folder / "report.html", _html(found))
    print(f"report      {folder / 'report.html'} (and report.md, report.json)")
    for table in (table for part in found["sections"] for table in part["items"]):
        told = f", {table['filled']} of {table['ours']} rows" if table["filled"] else ""
        print(f"            {table['title']}: {table['status']}{told}")
    print(f"examples    {len(found['examples'])} turns")
    if found["banner"]:
        print(f"SMOKE       {found['banner'].partition(': ')[2]}")
