"""Everything that was run, on one page beside the paper: Tables 1 to 6, Figures 2 to 4, 6 to 10.

    python -m eval report --models smollm2-135m
    python -m eval report --models qwen2.5-7b llama3.1-8b

Reads what the other steps left under ``runs/``, ``data/`` and ``saves/``, and computes nothing of
its own; writes ``report.json``, ``report.md`` and ``report.html`` from one object to
``runs/<model>/``, or for several backbones to ``runs/``. What was not run is shown as not run, with
the command that runs it. Numbers of the embedded model, a random judge or the sample corpus are
marked SMOKE, one by one.
"""

from pathlib import Path

from esc import backbones, cli, files
from eval.report import as_html, as_json, as_markdown
from eval.report.build import report
from eval.report.page import Report


def write(found: Report, folder: Path) -> None:
    """Write the three forms, the page last."""
    with files.exclusive(folder):
        files.write_json(folder / "report.json", as_json.value(found))
        files.write_text(folder / "report.md", as_markdown.markdown(found))
        files.write_text(folder / "report.html", as_html.page(found))


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
        default=[backbones.EMBEDDED],
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
