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
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import jinja2
import pandas
import typer
from pydantic import ValidationError

from esc import backbones, cli, dialogue, files, sheets
from esc.files import EscError, Row
from esc.paths import EMBEDDED, SYSTEMS_OF_TABLE_3, SYSTEMS_OF_TABLE_4
from esc.predictions import PREDICTIONS
from esc.records import Record
from esc.visible import Markdown, markdown, plain
from eval.paper import BIBTEX
from eval.report import tables
from eval.report.figures import pictures
from eval.report.manifest import Sources, first, manifest, read_backbones
from eval.report.parts import LAYOUT, Cell, Table, Todo, value

HERE = Path(__file__).parent
SHOWN = 3
"""Turns that are shown with what every system says to them."""


def report(work: Path, models: Sequence[str]) -> Row:
    """Everything that was run under ``work`` for ``models``, beside the paper.

    Raises EscError, with the command that renews it, where a file has another shape.
    """
    sources = Sources(work)
    backbones = read_backbones(sources, models)
    found = [
        *tables.systems(backbones),
        *tables.questions(sources, backbones),
        *tables.errors(sources, backbones),
        *tables.corpus(sources),
        *tables.mining(sources, models),
        tables.pairs(sources, models),
        tables.human(sources, models),
        tables.movement(sources, models),
    ]
    by_name = {one.name: one for one in found if one.rows}
    sections = [
        {
            "title": part["title"],
            "lead": part["lead"],
            "items": [by_name[name] for name in part["tables"] if name in by_name],
        }
        for part in LAYOUT["sections"]
    ]
    shown = {model: examples(sources, model) for model in models}
    smoke = any(one.smoke for one in found) or any(
        one["smoke"] for of in shown.values() for one in of
    )
    return {
        "title": f"Emotional support, evaluated beside the paper: {', '.join(models)}",
        "lead": LAYOUT["lead"],
        "notice": LAYOUT["notice"],
        "smoke": smoke,
        "banner": LAYOUT["banner"] if smoke else "",
        "models": list(models),
        "ran": _ran(list(by_name.values())),
        "answers": tables.answers(by_name["table-differences"], by_name["table-rq4"]),
        "sections": sections,
        "examples": [one for of_model in shown.values() for one in of_model],
        "examples_todo": [
            Todo(f"{model} examples", sources.make("predict", model, STAGE="sft"))
            for model, of_model in shown.items()
            if not of_model
        ],
        "manifest": manifest(sources, models, found),
        "words": LAYOUT["words"],
        "citation": BIBTEX,
    }


def _ran(found: Sequence[Table]) -> dict[str, str]:
    """What was run, in a few words."""
    filled = sum(bool(one.filled) for one in found)
    said = {"tables and figures": f"{filled} of {len(found)} have a number"}
    rows = next(one for one in found if one.name == "table-3").rows
    if measured := [row for row in rows if row.measured_on]:
        said["systems of Table 3"] = ", ".join(dict.fromkeys(row.label for row in measured))
        said["measured on"] = "; ".join(dict.fromkeys(row.measured_on for row in measured))
    return said


def examples(sources: Sources, model: str) -> list[Row]:
    """Three turns of those that most systems answered, with what each says to them.

    None where nothing is predicted. Raises EscError, naming the record, where a file of predictions
    has another shape.
    """
    kinds = {kind.name: kind.label for kind in (*SYSTEMS_OF_TABLE_3, *SYSTEMS_OF_TABLE_4)}
    there = {Path("runs") / model / name / PREDICTIONS: label for name, label in kinds.items()}
    answered: Counter[str] = Counter()
    for path in [path for path in there if not (sources.work / path).is_file()]:
        del there[path]
    for path in there:
        answered.update(str(row.get("id")) for row in files.read_jsonl(sources.whole(path)))
    # Of those that equally many systems answered, in the order in which they are drawn.
    drawn = sorted(dialogue.order(answered), key=lambda name: -answered[name])[:SHOWN]
    found: dict[str, Row] = {}
    for path, label in there.items():
        smoke = model == EMBEDDED or bool(sources.options_of(path.parent).get("smoke"))
        for row in files.read_jsonl(sources.work / path):
            if str(row.get("id")) in drawn:
                record = _record(sources.work / path, row)
                example = found.setdefault(record.id, _example(record, model))
                example["smoke"] |= smoke
                reply = record.predicted_response or f"(no reply: {record.status})"
                raw = f"unreadable: {record.raw_strategy}" if record.raw_strategy else "none"
                strategy = record.predicted_strategy or raw
                example["said"].append({"system": label, "strategy": strategy, "reply": reply})
    return [found[name] for name in drawn]


def _record(path: Path, row: Row) -> Record:
    try:
        return Record.model_validate(row)
    except ValidationError as error:
        raise EscError(
            f"{path}, record {row.get('id')!r}: {first(error)}; make predict FORCE=1 renews it"
        ) from error


def _example(record: Record, model: str) -> Row:
    context = [("seeker", record.seeker)]
    for seeker, supporter in reversed(record.history):
        context = [("seeker", seeker), ("supporter", supporter), *context]
    gold = {"gold_strategy": record.gold_strategy, "gold_reply": record.gold_response}
    return {"id": record.id, "model": model, "context": context, "said": [], "smoke": False} | gold


def html(found: Row) -> str:
    """The page: it needs nothing else, and runs and loads nothing."""
    style = (HERE / "page.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    drawn = [*found["answers"], *(one for part in found["sections"] for one in part["items"])]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=sheets.shown,
    )
    return environment.get_template("page.html.j2").render(
        found,
        style=style,
        policy=f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; "
        "base-uri 'none'; form-action 'none'",
        drawn={one.name: pictures(one) for one in drawn if one.drawing},
    )


def _grid(one: Table) -> Markdown:
    """The table itself in Markdown."""
    grouped = any(row.group for row in one.rows)
    frame = pandas.DataFrame(
        [
            [plain(row.group)] * grouped
            + [plain(f"{row.label} ({row.measured_on})" if row.measured_on else row.label)]
            + [_told(cell) for cell in row.cells]
            for row in one.rows
        ],
        columns=[plain(head) for head in (*["backbone"] * grouped, one.head, *one.columns)],
    )
    sides = ["left"] * (1 + grouped) + ["right"] * len(one.columns)
    return Markdown(frame.to_markdown(index=False, colalign=sides, disable_numparse=True))


def _told(cell: Cell) -> str:
    shown = plain(cell.shown) if cell.value is None else f"**{plain(cell.shown)}**"
    beside = f"({', '.join(cell.beside)})" if cell.paper else ""
    return " ".join(filter(None, (shown, plain(cell.interval), plain(beside))))


def summary(found: Row, folder: Path) -> str:
    """The numbers one should see: how much of each table is there."""
    lines = [f"report      {folder / 'report.html'} (and report.md, report.json)"]
    for one in (table for part in found["sections"] for table in part["items"]):
        told = f", {one.filled} of {len(one.ours)} rows" if one.filled else ""
        lines.append(f"            {one.title}: {one.status}{told}")
    lines.append(f"examples    {len(found['examples'])} turns")
    if found["banner"]:
        lines.append(f"SMOKE       {found['banner'].partition(': ')[2]}")
    return "\n".join(lines)


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
) -> None:
    """Everything that was run, on one page beside the paper: Tables 1 to 6, Figures 2 to 10.

    Writes report.json, report.md and report.html to runs/MODEL, or for several to runs. What was
    not run is shown as not run, with the command that runs it.
    """
    named = list(dict.fromkeys(models or [model]))
    for one in named:
        backbones.get(one)
    folder = work / "runs" / (named[0] if len(named) == 1 else "")
    found = report(work, named)
    with files.exclusive(folder):
        files.write_json(folder / "report.json", value(found))
        text = markdown(HERE / "page.md.j2", grid=_grid, **found)
        files.write_text(folder / "report.md", text)
        files.write_text(folder / "report.html", html(found))
    print(summary(found, folder))
