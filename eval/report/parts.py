"""Cells, rows and tables as in ``report.json``; the other forms are written from them alone."""

from collections.abc import Iterable, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pandas
import yaml

from esc.files import Row
from esc.records import Number
from esc.strategies import Strategy

NOT_RUN, UNDEFINED, SMOKE = "not run", "undefined", "SMOKE"
"""No measurement; a measurement that gave no number; a number that is no result."""
LAYOUT = yaml.safe_load(Path(__file__).with_name("layout.yaml").read_text(encoding="utf-8"))
"""What stands on the page besides numbers: its sections in order, and what is said of a table."""
OF_TABLES = {name: one for part in LAYOUT["sections"] for name, one in part["tables"].items()}
CODES = [one.code for one in Strategy]
STRATEGIES = "; ".join(f"{one.code} {one.value}" for one in Strategy) + "."
Paper = float | Iterable[tuple[str, float | None]] | None
"""The paper's value, or where several stand here, the name and value of each of its columns."""


def cell(
    found: Any,
    missing: str = NOT_RUN,
    *,
    paper: Paper = None,
    form: str = ".2f",
    unit: str = "",
    smoke: bool = False,
    **told: Any,
) -> Row:
    """A number as a reader meets it, or UNDEFINED, or what is ``missing`` where nothing was found.

    ``found``: a record's number, whose shares become per cent, or a plain value. ``told``: its n,
    note and signature where they are not the record's.
    """
    own: Row = {"n": None, "note": "", "signature": ""}
    value, low, high = found, None, None
    if isinstance(found, Number):
        value, low, high = ends = found.value, found.low, found.high
        # All of a judge's answers may be unscored.
        note = found.reason or ("none scored" if found.n == 0 else "")
        if found.count is not None:
            value, low, high = (None if one is None else 100 * one for one in ends)
            note = f"{found.count:,} counted"
        own = {"n": found.n, "note": note, "signature": found.signature}
    absent = missing if found is None else UNDEFINED
    has_interval = low is not None and high is not None
    named = [("paper", paper)] if isinstance(paper, int | float) else paper or []
    beside = [(name, one) for name, one in named if one is not None]
    return {
        "value": value,
        "low": low,
        "high": high,
        "missing": absent if value is None else "",
        "shown": absent if value is None else _text(value, form) + unit,
        "interval": f"[{_text(low, form)}, {_text(high, form)}]" if has_interval else "",
        "paper": beside,
        "beside": [f"{name} {_text(one, form)}{unit}" for name, one in beside],
        "smoke": smoke,
        **(own | told),
    }


def _text(value: Any, form: str) -> str:
    # What rounds to nothing has no sign.
    text = format(value, form)
    return text.removeprefix("-") if not text.strip("-0.,") else text


def row(
    label: str, found: Iterable[Any], group: str = "", papers: Iterable[Paper] = (), **look: Any
) -> Row:
    """A `cell` for each column, of what was found, under ``group`` where there are several blocks.

    ``look``: more of all cells.
    """
    cells = [
        one if isinstance(one, dict) else cell(one, paper=of, **look)
        for one, of in zip_longest(found, papers)
    ]
    return {"label": label, "group": group, "of_paper": False, "measured_on": "", "cells": cells}


def todo(what: str, command: str) -> Row:
    """What was not run, and the commands that would fill it."""
    return {"what": what, "command": command}


def table(
    name: str,
    rows: Sequence[Row],
    notes: Iterable[str] = (),
    missing: Sequence[Row] = (),
    columns: Sequence[str] = (),
    **words: str,
) -> Row:
    """A table under its words and, without ``columns``, its columns on the page.

    ``notes`` follow those it has; ``missing`` are its `todo`. ``status`` says how much was run,
    ``filled`` in how many of ``ours`` rows; ``mark`` is SMOKE where a number of ours is, with the
    columns, backbones or rows that are so where not all are.
    """
    said = OF_TABLES.get(name, {})
    columns = list(columns or said["columns"])
    cells = pandas.DataFrame(
        [
            one | {"row": f"{of['group']} {of['label']}".strip(), "column": column, **of}
            for of in rows
            for column, one in zip(columns, of["cells"], strict=True)
            if not of["of_paper"]
        ],
        columns=["group", "column", "row", "value", "missing", "smoke"],
    )
    there = cells["value"].notna()
    smoke, real = cells[there & cells["smoke"].eq(True)], cells[there & cells["smoke"].eq(False)]
    mark = "" if smoke.empty else SMOKE
    if mark and not real.empty:
        apart = [of for of in ("column", "group") if not smoke[of].isin(real[of]).any()]
        mark = f"{SMOKE}: {', '.join(smoke[(*apart, 'row')[0]].unique())}"
    filled = cells[there | cells["missing"].eq(UNDEFINED)]["row"].nunique()
    whole = not missing and not cells["missing"].eq(NOT_RUN).any()
    keys = ("title", "head", "drawing", "axis")
    return {
        "name": name,
        **{key: words.get(key, said.get(key, "")) for key in keys},
        "columns": columns,
        "rows": list(rows),
        "notes": [*said.get("notes", ()), *notes, *[STRATEGIES] * (columns == CODES)],
        "todo": list(missing),
        "mark": mark,
        "status": NOT_RUN if not filled else "run" if whole else "partly run",
        "filled": filled,
        "ours": cells["row"].nunique(),
    }
