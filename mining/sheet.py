"""The sheet of an audit: as a table for a spreadsheet, and as a page for a browser or paper."""

import base64
import csv
import hashlib
import io
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import jinja2

from esc.exceptions import EscError
from esc.files import Row
from esc.psych_errors import PsychError
from esc.strategies import Strategy, tag
from esc.turns import GoldTurn

PAGES = Path(__file__).parent / "pages"
ANSWERS = ("yes", "no", "unsure")
COLUMNS = (
    *("record", "error", "conversation", "seeker", "strategy", "gold", "rejected", "explanation"),
    *("answer", "comment"),
)
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What a cell begins with that a spreadsheet takes for a formula."""


def record_of(pair: Row) -> str:
    """What names a pair on the sheet; no spreadsheet takes it for a date."""
    return f"{pair['id']} sample {pair['sample']}"


def sheet_row(task: str, pair: Row, turn: GoldTurn) -> dict[str, str]:
    """A pair as a row of the sheet, its answer and comment still blank."""
    sides = {"gold": pair["chosen"], "rejected": pair["rejected"]}
    if task == "vanilla":
        # The strategy is part of an entangled answer, and its two sides need not share it.
        strategies = Strategy(pair["gold_strategy"]), Strategy(pair["strategy"])
        sides = {
            side: tag(strategy, text)
            for (side, text), strategy in zip(sides.items(), strategies, strict=True)
        }
    said = [f"seeker: {seeker}\nsupporter: {reply}" for seeker, reply in turn.history]
    return dict.fromkeys(COLUMNS, "") | {
        "record": record_of(pair),
        "error": pair["error"],
        "conversation": "\n".join(said),
        "seeker": turn.seeker,
        "strategy": pair["gold_strategy"],
        "explanation": pair["explanation"] or "",
        **sides,
    }


def csv_text(rows: Iterable[Mapping[str, str]]) -> str:
    """The sheet as CSV; text of a corpus or model is no formula in it."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, COLUMNS)
    writer.writeheader()
    for row in rows:
        writer.writerow({name: guarded(cell) for name, cell in row.items()})
    # The mark at its head tells spreadsheets that it is UTF-8.
    return "\ufeff" + stream.getvalue()


def guarded(cell: str) -> str:
    """A cell that a spreadsheet shows as text, whatever it begins with."""
    return f"'{cell}" if cell.startswith(_FORMULA) else cell


def answers(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """(row as a spreadsheet counts it, record, answer and comment) of every row that is not blank.

    Reads commas, semicolons and tabs, since spreadsheets save either. Raises EscError where it is
    no CSV file in UTF-8 or a column is missing.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise EscError(f"{path} is not UTF-8 text; save it as 'CSV UTF-8'") from error
    head = text.partition("\n")[0]
    delimiter = max(",;\t", key=head.count)
    try:
        rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True))
    except csv.Error as error:
        raise EscError(f"{path} is no CSV file ({error})") from error
    names = [name.strip().casefold() for name in rows[0]] if rows else []
    for needed in ("record", "answer"):
        if needed not in names:
            raise EscError(f"{path}: no column {needed!r}; it is no sheet of this step")
    for number, row in enumerate(rows[1:], start=2):
        cells = dict(zip(names, (cell.strip() for cell in row), strict=False))
        if any(cells.values()):
            yield number, {name: cells.get(name, "") for name in ("record", "answer", "comment")}


def html(rows: list[dict[str, str]], turns: list[GoldTurn], made: Row) -> str:
    """The sheet as one page that needs nothing else; its only script is that of its folder."""
    script = (PAGES / "audit.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(PAGES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("audit.html.j2").render(
        cards=list(zip(rows, turns, strict=True)),
        made=made,
        errors={error.value: error.definition for error in PsychError},
        answers=ANSWERS,
        # What a browser keeps of a half-done sheet is of this very sheet.
        sheet=hashlib.sha256("\n".join([made["pairs"], *made["records"]]).encode()).hexdigest(),
        policy=f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'",
        style=(PAGES / "audit.css").read_text(encoding="utf-8"),
        script=script,
    )
