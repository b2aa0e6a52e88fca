"""Sheets on which people answer: a table for a spreadsheet, a page for a browser or for paper.

Text of a corpus or a model is only text in both: no formula, no markup.
"""

import base64
import csv
import hashlib
import io
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import jinja2
from markupsafe import Markup

from esc.exceptions import EscError
from esc.visible import visible

PAGES = Path(__file__).parent / "pages"
"""The style and script that all sheets share."""
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What a cell begins with that a spreadsheet takes for a formula."""
# Where a spreadsheet splits at another delimiter, a cell of its own may begin inside of ours.
_INNER_FORMULA = re.compile(r"(?<=[;\t\r\n])(?=[=+@]|-(?!\)))")
# By itself it refuses cells of more than 131,072 characters, which this module writes.
csv.field_size_limit(sys.maxsize)


def csv_text(columns: Sequence[str], rows: Iterable[Mapping[str, str]]) -> str:
    """A sheet as CSV; a cell that looks like a formula is shown as text."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, columns, quoting=csv.QUOTE_ALL)
    writer.writeheader()
    for row in rows:
        writer.writerow({name: guarded(cell) for name, cell in row.items()})
    # The mark at its head tells spreadsheets that it is UTF-8.
    return "\ufeff" + stream.getvalue()


def guarded(cell: str) -> str:
    """A cell that a spreadsheet shows as text, whatever it begins with and holds."""
    cell = _INNER_FORMULA.sub("'", visible(cell))
    return f"'{cell}" if cell.startswith(_FORMULA) else cell


def table(path: Path) -> list[list[str]]:
    """The cells of a CSV file, row by row; a blank line is a row without any.

    Reads commas, semicolons and tabs, since spreadsheets save either. Raises EscError where it is
    no CSV file in UTF-8.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise EscError(f"{path} is not UTF-8 text; save it as 'CSV UTF-8'") from error
    head = text.partition("\n")[0]
    delimiter = max(",;\t", key=head.count)
    try:
        return list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True))
    except csv.Error as error:
        raise EscError(f"{path} is no CSV file ({error})") from error


def read_csv(
    path: Path, columns: Sequence[str], *, needed: Sequence[str]
) -> Iterator[tuple[int, dict[str, str]]]:
    """(row as a spreadsheet counts it, its cells in ``columns``) of every row that is not blank.

    Raises EscError where it is no CSV file in UTF-8 or a needed column is missing.
    """
    rows = table(path)
    names = [name.strip().casefold() for name in rows[0]] if rows else []
    for name in needed:
        if name not in names:
            raise EscError(f"{path}: no column {name!r}; it is no sheet of this step")
    for number, row in enumerate(rows[1:], start=2):
        cells = dict(zip(names, (cell.strip() for cell in row), strict=False))
        if any(cells.values()):
            yield number, {name: cells.get(name, "") for name in columns}


def hash_of(sheet: Sequence[str]) -> str:
    """The name of a sheet; ``sheet`` is what makes it another one."""
    return hashlib.sha256("\n".join(sheet).encode()).hexdigest()


def shown(value: object) -> object:
    """What a template puts out for a value: text is made visible, markup of our own stays."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def page(template: Path, *, sheet: str, **variables: object) -> str:
    """A sheet as one HTML page that needs nothing else and runs the shared script alone.

    What a browser keeps of half-done answers is of the `hash_of` that ``sheet`` is; the script
    saves it in a column of that name.
    """
    script = (PAGES / "sheet.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(template.parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=shown,
    )
    return environment.get_template(template.name).render(
        sheet=sheet,
        policy=f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'",
        style=(PAGES / "sheet.css").read_text(encoding="utf-8"),
        script=script,
        **variables,
    )
