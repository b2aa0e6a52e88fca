"""The report as Markdown. Text of a corpus or a model means nothing but itself."""

from collections.abc import Iterator, Sequence

from esc.markdown import code, plain
from eval.report.page import SMOKE, Cell, Example, Figure, Manifest, Report, Table, TableRow, Todo


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
    mark = f" · {SMOKE}" if table.smoke else ""
    yield from ("", f"### {plain(table.title)}{mark} ({table.status})", "")
    grouped = any(row.group for row in table.rows)
    heads = ["backbone"] * grouped + [table.head, *table.columns]
    yield "| " + " | ".join(plain(head) for head in heads) + " |"
    yield "|" + "---|" * (len(heads) - len(table.columns)) + "---:|" * len(table.columns)
    for row in table.rows:
        cells = [plain(row.group)] * grouped + [_label(row), *map(_cell, row.cells)]
        yield "| " + " | ".join(cells) + " |"
    for note in table.notes:
        yield from ("", plain(note))
    yield from _todo(table.todo)


def _label(row: TableRow) -> str:
    return plain(f"{row.label} ({row.measured_on})" if row.measured_on else row.label)


def _cell(cell: Cell) -> str:
    shown = plain(cell.shown)
    parts = [f"**{shown}**" if cell.value is not None else shown, cell.mark]
    parts += [plain(cell.interval), cell.counted, plain(f"({cell.note})") if cell.note else ""]
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
        told = f" {SMOKE}" if one.smoke else ""
        yield f"| {plain(one.system)}{told} | {plain(one.strategy)} | {plain(one.reply)} |"


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
