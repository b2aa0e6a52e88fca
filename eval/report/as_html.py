"""The report as one page that needs nothing else: no script, no address, one style.

The page's policy allows that one style by its hash, and nothing beside it.
"""

import base64
import hashlib
from pathlib import Path

import jinja2
from markupsafe import Markup

from esc import sheets
from eval.report.drawing import svg
from eval.report.page import Figure, Report

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
    drawn = {
        item.table.name: Markup(svg(item))  # noqa: S704 - of our own drawing, which escapes text
        for section in report.sections
        for item in section.items
        if isinstance(item, Figure)
    }
    return environment.get_template("report.html.j2").render(
        report=report,
        style=style,
        policy=f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; "
        "form-action 'none'",
        drawn=drawn,
        of=lambda item: item.table if isinstance(item, Figure) else item,
    )
