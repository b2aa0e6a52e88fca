"""Sheets on which people answer: a table for a spreadsheet, a page for a browser or for paper.

Text of a corpus or a model is only text in both: no formula, no markup.
"""

import base64
import csv
import hashlib
import io
import re
import sys
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import jinja2

from esc.files import EscError
from esc.strategies import CONVERSATION
from esc.visible import visible

_PAGES = Path(__file__).parent / "pages"
STYLE = (_PAGES / "shared.css").read_text(encoding="utf-8")
"""What all pages share: colours, light and dark, a conversation in two columns, chips."""
# What a spreadsheet takes for a formula at the head of a cell; where it splits at another
# delimiter, a cell of its own may begin inside of ours.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_INNER_FORMULA = re.compile(r"(?<=[;\t\r\n])(?=[=+@]|-(?!\)))")
# By itself it refuses cells of more than 131,072 characters, which this module writes.
csv.field_size_limit(sys.maxsize)


def csv_text(columns: Sequence[str], rows: Iterable[Mapping[str, str]]) -> str:
    """A sheet as CSV, blank where a row says nothing; a cell like a formula is shown as text."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, columns, quoting=csv.QUOTE_ALL)
    writer.writeheader()
    writer.writerows({name: guarded(cell) for name, cell in row.items()} for row in rows)
    # The mark at its head tells spreadsheets that it is UTF-8.
    return "\ufeff" + stream.getvalue()


def guarded(cell: str) -> str:
    """A cell that a spreadsheet shows as text, whatever it begins with and holds."""
    cell = _INNER_FORMULA.sub("'", visible(cell))
    return f"'{cell}" if cell.startswith(_FORMULA) else cell


def conversation(history: Iterable[tuple[str, str]]) -> str:
    """What was said, as one cell."""
    asks, answers = CONVERSATION.seeker, CONVERSATION.supporter
    return "\n".join(f"{asks}: {said}\n{answers}: {reply}" for said, reply in history)


def text_of(path: Path) -> str:
    """A file's text, with a byte order mark or without; EscError where it is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise EscError(f"{path} is not UTF-8 text (byte {error.start}); save it as such") from error


def table(path: Path) -> list[list[str]]:
    """The cells of a CSV file (commas, semicolons, tabs) by row; EscError where it is none."""
    text = text_of(path)
    delimiter = max(",;\t", key=text.partition("\n")[0].count)
    try:
        return list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True))
    except csv.Error as error:
        raise EscError(f"{path} is no CSV file ({error})") from error


def read_csv(path: Path, needed: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """(row as a spreadsheet counts it, its cells by column) of every row that is not blank."""
    head, *rows = table(path) or [[]]
    names = [name.strip().casefold() for name in head]
    if missing := [name for name in needed if name not in names]:
        raise EscError(f"{path}: no column {missing[0]!r}; it is no sheet of this step")
    for number, row in enumerate(rows, start=2):
        if any(cells := [cell.strip() for cell in row]):
            yield number, dict.fromkeys(names, "") | dict(zip(names, cells, strict=False))


def check_blank(path: Path, asked: Sequence[str]) -> None:
    """Raise EscError where a sheet cannot be read, or has an answer or a comment in it."""
    rows = [row for _, row in read_csv(path, ["record", *asked])]
    if filled := sum(any(row.get(name) for name in (*asked, "comment")) for row in rows):
        raise EscError(
            f"{path} has {filled} rows with answers; read it with --read, and move it away for a "
            "new sheet"
        )


def answers(
    path: Path, asked: Sequence[str], choices: Sequence[str], records: Container[str]
) -> dict[str, dict[str, str]]:
    """Record to its answers, by the columns ``asked``: one of ``choices``, or blank.

    EscError, naming the row, for another word and for a record not in ``records`` or there twice.
    """
    words = {choice.casefold(): choice for choice in ("", *choices)}
    found: dict[str, dict[str, str]] = {}
    for number, row in read_csv(path, ["record", *asked]):
        where, record = f"{path}: row {number}", row["record"]
        if record not in records:
            raise EscError(f"{where}: record {record!r} is not on the sheet of this folder")
        if record in found:
            raise EscError(f"{where}: record {record!r} is there twice")
        for name in asked:
            if row[name].casefold() not in words:
                told = f"{name} {row[name]!r} is none of {', '.join(choices)}"
                raise EscError(f"{where} ({record}): {told}")
        found[record] = {name: words[row[name].casefold()] for name in asked}
    return found


def rendered(template: Path, **variables: object) -> str:
    """An HTML page of a template; text is only text in it."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(template.parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda one: visible(one) if type(one) is str else one,
    )
    environment.globals["setting"] = CONVERSATION
    return environment.get_template(template.name).render(variables)


def page(template: Path, *, sheet: Sequence[str], **variables: object) -> str:
    """A sheet as one HTML page that needs nothing else and runs the shared script alone.

    What a browser keeps of half-done answers is of this ``sheet``: all that makes it another one.
    """
    script = (_PAGES / "sheet.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return rendered(
        template,
        sheet=hashlib.sha256("\n".join(sheet).encode()).hexdigest(),
        policy=f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'",
        style=STYLE + (_PAGES / "sheet.css").read_text(encoding="utf-8"),
        script=script,
        **variables,
    )
