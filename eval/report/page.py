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
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import jinja2
import pandas
from pydantic import ValidationError

from esc import backbones, cli, dialogue, files, sheets
from esc.exceptions import EscError
from esc.files import Row
from esc.paths import EMBEDDED, SYSTEMS_OF_TABLE_3, SYSTEMS_OF_TABLE_4
from esc.records import Record
from esc.visible import code, plain
from eval.report import figures, tables
from eval.report.figures import figure_6, pictures
from eval.report.manifest import PREDICTIONS, Sources, first, manifest, on_one_split, read_backbone
from eval.report.parts import (
    SMOKE,
    Cell,
    Example,
    Figure,
    Manifest,
    Report,
    Said,
    Section,
    Table,
    TableRow,
    Todo,
)
from eval.report.tables import differences, movement, rq4, trainings

PAGES = Path(__file__).parent.parent / "pages"


def page(report: Report) -> str:
    """The page."""
    style = (PAGES / "report.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(PAGES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=sheets.shown,
    )
    figures_of = [
        *report.answers,
        *(one for part in report.sections for one in part.items if isinstance(one, Figure)),
    ]
    return environment.get_template("report.html.j2").render(
        report=report,
        style=style,
        policy=f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; "
        "base-uri 'none'; form-action 'none'",
        drawn={one.table.name: pictures(one) for one in figures_of},
        of=lambda item: item.table if isinstance(item, Figure) else item,
    )


_SHOWN: dict[type, tuple[str, ...]] = {
    Cell: ("shown", "interval"),
    Table: ("smoke", "mark", "status"),
    Example: ("smoke",),
    Report: ("smoke", "banner"),
}
"""Properties that are written with the fields."""


def value(report: Report) -> Any:
    """The report as what ``json`` writes."""
    return _value(report)


def _value(one: Any) -> Any:
    if is_dataclass(one) and not isinstance(one, type):
        told = {
            field.name: _value(getattr(one, field.name))
            for field in fields(one)
            # The mark stands once, with the table or figure.
            if not (isinstance(one, Cell) and field.name == "smoke")
        }
        for name in _SHOWN.get(type(one), ()):
            told[name] = _value(getattr(one, name))
        if isinstance(one, Figure):
            told["smoke"] = one.table.smoke
        return told
    if isinstance(one, dict):
        return {str(key): _value(item) for key, item in one.items()}
    if isinstance(one, list | tuple):
        return [_value(item) for item in one]
    return one


def markdown(report: Report) -> str:
    """The whole report."""
    return "\n".join(_lines(report)) + "\n"


def _lines(report: Report) -> Iterator[str]:
    yield f"# {plain(report.title)}"
    if report.banner:
        yield from ("", f"> **{SMOKE}** {plain(report.banner.removeprefix(SMOKE + ': '))}")
    yield from ("", plain(report.lead), "", f"> {plain(report.notice)}", "")
    for name, meaning in report.words.items():
        yield f"- **{plain(name)}**: {plain(meaning)}"
    for section in report.sections:
        yield from ("", f"## {plain(section.title)}", "", plain(section.lead))
        for item in section.items:
            yield from _table(item.table if isinstance(item, Figure) else item)
    yield from ("", "## Examples", "")
    yield "Turns drawn by a hash of their ids, not chosen."
    yield from _todo(report.examples_todo)
    for example in report.examples:
        yield from _example(example)
    yield from _manifest(report.manifest)
    yield from ("", "## Citation", "", "```bibtex", report.citation, "```")


def _table(table: Table) -> Iterator[str]:
    mark = f" · {plain(table.mark)}" if table.mark else ""
    yield from ("", f"### {plain(table.title)}{mark} ({table.status})", "")
    heads = ["backbone"] * table.grouped + [table.head, *table.columns]
    frame = pandas.DataFrame(
        [
            [plain(row.group)] * table.grouped + [_label(row), *map(_cell, row.cells)]
            for row in table.rows
        ],
        columns=[plain(head) for head in heads],
    )
    sides = ["left"] * (len(heads) - len(table.columns)) + ["right"] * len(table.columns)
    yield frame.to_markdown(index=False, colalign=sides, disable_numparse=True)
    for note in table.notes:
        yield from ("", plain(note))
    yield from _todo(table.todo)


def _label(row: TableRow) -> str:
    return plain(f"{row.label} ({row.measured_on})" if row.measured_on else row.label)


def _cell(cell: Cell) -> str:
    shown = plain(cell.shown)
    parts = [f"**{shown}**" if cell.value is not None else shown, plain(cell.interval)]
    if cell.paper:
        parts.append(plain(f"({', '.join(cell.beside)})"))
    return " ".join(part for part in parts if part)


def _todo(todo: Sequence[Todo]) -> Iterator[str]:
    if todo:
        yield from ("", "Not run, or not whole; these fill it:", "")
        for one in todo:
            yield f"- {plain(one.what)}: {code(one.command)}"


def _example(example: Example) -> Iterator[str]:
    mark = f" · {SMOKE}" if example.smoke else ""
    yield from ("", f"### Turn {plain(example.id)}, {plain(example.model)}{mark}", "")
    for speaker, words in example.context:
        yield f"- {speaker}: {plain(words)}"
    yield from ("", "| | strategy | reply |", "|---|---|---|")
    yield f"| **gold** | {plain(example.gold_strategy)} | {plain(example.gold_reply)} |"
    for one in example.said:
        yield f"| {plain(one.system)} | {plain(one.strategy)} | {plain(one.reply)} |"


def _manifest(manifest: Manifest) -> Iterator[str]:
    yield from ("", "## Manifest", "", f"- commit: {plain(manifest.commit)}")
    yield f"- Python: {plain(manifest.python)}"
    for name, said in manifest.packages.items():
        yield f"- {plain(name)}: {plain(said)}"
    for name, said in manifest.seeds.items():
        yield f"- seed, {plain(name)}: {plain(said)}"
    yield from ("", "### Commands", "")
    yield from (f"- {code(command)}" for command in manifest.commands)
    yield from ("", "### What decides each number", "")
    yield from (f"- {plain(name)}: {plain(said)}" for name, said in manifest.signatures.items())
    yield from ("", "### Options", "")
    for folder, options in manifest.options.items():
        told = ", ".join(f"{name}={value}" for name, value in options.items())
        yield f"- {plain(folder)}: {plain(told)}"
    yield from ("", "### Files read", "", "| file | SHA-256 |", "|---|---|")
    yield from (f"| {plain(name)} | {digest} |" for name, digest in manifest.files.items())


SHOWN = 3
KINDS = (*SYSTEMS_OF_TABLE_3, *SYSTEMS_OF_TABLE_4)


def examples(sources: Sources, model: str) -> tuple[Example, ...]:
    """Three turns of those that most systems answered; none where nothing is predicted.

    Raises EscError, naming the record, where a file of predictions has another shape.
    """
    folders = {kind: Path("runs") / model / kind.name for kind in KINDS}
    there = {
        kind: folder / PREDICTIONS
        for kind, folder in folders.items()
        if (sources.work / folder / PREDICTIONS).is_file()
    }
    answered: Counter[str] = Counter()
    for path in there.values():
        answered.update(str(row.get("id")) for row in sources.rows(path))
    place = {name: number for number, name in enumerate(dialogue.order(answered))}
    chosen = sorted(answered, key=lambda name: (-answered[name], place[name]))[:SHOWN]
    said: dict[str, list[Said]] = {name: [] for name in chosen}
    gold: dict[str, Record] = {}
    for kind, path in there.items():
        marked = bool(sources.options_of(path.parent).get("smoke")) or model == EMBEDDED
        for row in sources.rows(path):
            if str(row.get("id")) in said:
                record = _record(sources.work / path, row)
                gold.setdefault(record.id, record)
                said[record.id].append(_said(kind.label, record, smoke=marked))
    return tuple(_example_of_examples(gold[name], model, tuple(said[name])) for name in chosen)


def _record(path: Path, row: Row) -> Record:
    try:
        return Record.model_validate(row)
    except ValidationError as error:
        raise EscError(
            f"{path}, record {row.get('id')!r}: {first(error)}; make predict FORCE=1 renews it"
        ) from error


def _said(label: str, record: Record, *, smoke: bool) -> Said:
    strategy = record.predicted_strategy
    if strategy is None:
        raw = record.raw_strategy
        strategy = f"unreadable: {raw}" if raw else "none"
    reply = record.predicted_response or f"(no reply: {record.status})"
    return Said(label, strategy, reply, smoke)


def _example_of_examples(record: Record, model: str, said: tuple[Said, ...]) -> Example:
    context = []
    for seeker, supporter in record.context.history:
        context += [("seeker", seeker), ("supporter", supporter)]
    context.append(("seeker", record.context.seeker))
    return Example(
        record.id, model, tuple(context), record.gold_strategy, record.gold_response, said
    )


NOTICE = (
    "Research software. These models are for academic research on emotional support. They are no "
    "counsellor and no help in a crisis, a judge's score is no verdict of a clinician, and the "
    "conversations here can be distressing to read."
)
LEAD = (
    "Every number stands with its 95 % interval over the one the paper prints; Qwen and Llama name "
    "the paper's two backbones. What was not run says so, with the command that runs it."
)
WORDS: Row = {
    "D-1, B-1, F1, R-L": "Distinct-1, BLEU-1, unigram F1, ROUGE-L, of each reply, then averaged",
    "Flu., Pro., Emp., Hel.": "Fluency, Professionalism, Empathy, Helpfulness, a judge's, 0 to 5",
    "bias": "standard deviation of the preferences of the eight strategies (Eq. 8)",
    "Q_w, Q": "weighted and macro F1 of the strategies",
    "Ps, Ns, Pr, Nr": "positive and negative strategy, positive and negative response",
}


def report(work: Path, models: Sequence[str]) -> Report:
    """Everything that was run under ``work`` for ``models``, beside the paper.

    Raises EscError, with the command that renews it, where a file has another shape.
    """
    sources = Sources(work)
    corpus = tables.read_corpus(sources)
    minings = [tables.read_mined(sources, model) for model in models]
    backbones = on_one_split(sources, [read_backbone(sources, model) for model in models])
    failed = figures.read_failed(sources)
    others = tables.other_runs(backbones)
    apart, errors = differences(sources, backbones), rq4(sources, backbones)
    sections = (
        Section(
            "Systems",
            "Strategies and replies of every system on the same turns.",
            (
                tables.table_3(backbones),
                figures.figure_bias(backbones),
                apart,
                tables.table_4(backbones),
                tables.table_5(backbones),
                *([others] if others else []),
            ),
        ),
        Section(
            "Strategies",
            "Which strategies the systems choose, and how the two mixes of pairs change that.",
            (
                figures.figure_3(backbones),
                *figures.figure_4(backbones),
                tables.strategy_extras(backbones),
            ),
        ),
        Section(
            "Replies",
            "Errors, people's choice, and the text metrics the paper leaves out.",
            (
                figures.figure_2(sources, backbones, failed),
                figures.figure_7(backbones),
                errors,
                figure_6(sources, models),
                tables.corpus_family(backbones),
                tables.counts(backbones),
            ),
        ),
        Section(
            "Data and training",
            "What the systems were trained on, and how far it moved them.",
            (
                tables.table_1_corpus(corpus),
                tables.table_1_pairs(minings),
                tables.table_2(sources, models),
                tables.table_6(corpus),
                figures.figure_8(corpus),
                figures.figure_9(minings),
                figures.figure_10(minings),
                movement(sources, models),
            ),
        ),
    )
    shown = [(model, examples(sources, model)) for model in models]
    for model in models:
        trainings(sources, model)
    return Report(
        title=f"Emotional support, evaluated beside the paper: {', '.join(models)}",
        lead=LEAD,
        notice=NOTICE,
        models=tuple(models),
        answers=figures.answers(apart, errors),
        sections=sections,
        examples=tuple(one for _, found in shown for one in found),
        examples_todo=tuple(
            Todo(f"{model} examples", sources.make("predict", model, STAGE="sft"))
            for model, found in shown
            if not found
        ),
        manifest=manifest(sources, models, _tables(sections)),
        words=WORDS,
    )


def _tables(sections: Sequence[Section]) -> list[Table]:
    return [
        item.table if isinstance(item, Figure) else item
        for section in sections
        for item in section.items
    ]


def write(found: Report, folder: Path) -> None:
    """Write the three forms, the page last."""
    with files.exclusive(folder):
        files.write_json(folder / "report.json", value(found))
        files.write_text(folder / "report.md", markdown(found))
        files.write_text(folder / "report.html", page(found))


def summary(found: Report, folder: Path) -> str:
    """The numbers one should see: how much of each table is there."""
    lines = [f"report      {folder / 'report.html'} (and report.md, report.json)"]
    for table in found.tables():
        told = "" if not table.filled else f", {table.filled} of {len(table.ours)} rows"
        lines.append(f"            {table.title}: {table.status}{told}")
    lines.append(f"examples    {len(found.examples)} turns")
    if found.banner:
        lines.append(f"SMOKE       {found.banner.partition(': ')[2]}")
    return "\n".join(lines)


def main(argv: list[str]) -> None:
    """Command line of the step."""
    parser = cli.parser(
        prog="python -m eval report",
        description=__doc__,
        examples="  python -m eval report\n"
        "  python -m eval report --models qwen2.5-7b llama3.1-8b --work runs-of-may",
    )
    parser.add_argument(
        "--models",
        nargs="+",
        default=[EMBEDDED],
        metavar="MODEL",
        help="folders of llamafactory_configs; several stand side by side",
    )
    cli.add_work(parser)
    given = parser.parse_args(argv)
    models = list(dict.fromkeys(given.models))
    for model in models:
        backbones.get(model)
    folder = given.work / "runs" / (models[0] if len(models) == 1 else "")
    found = report(given.work, models)
    write(found, folder)
    print(summary(found, folder))
