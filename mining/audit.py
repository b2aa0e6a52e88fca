"""A sheet on which people say whether the errors the judge named are really there, and its result.

    python -m mining audit --task rg --n 20
    python -m mining audit --task rg --read runs/smollm2-135m/mining/audit/rg/sheet.csv

Draws N pairs per error type by their ids, writes ``runs/<model>/mining…/audit/<task>/``:
``sheet.csv`` for a spreadsheet, ``sheet.html`` for a browser, a phone or paper (its ticks are saved
as a CSV file that is read in the same way), and last ``audit.json``. A sheet with ticks in it is
never overwritten. ``--read`` writes ``precision.json`` beside them: of the answers yes and no, the
share of yes, per error type and over all.
"""

import argparse
import base64
import bisect
import csv
import hashlib
import io
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from operator import itemgetter
from pathlib import Path

import jinja2

from esc import cli, files
from esc.exceptions import EscError
from esc.files import Row
from esc.intervals import wilson
from esc.psych_errors import PsychError
from esc.strategies import Strategy, tag
from esc.turns import GoldTurn, gold_turns
from mining.folders import Mining
from mining.options import add_mining, minings_of
from mining.route import PAIRS
from mining.stats import finished_route

CSV, HTML, DONE, PRECISION = "sheet.csv", "sheet.html", "audit.json", "precision.json"
ANSWERS = ("yes", "no", "unsure")
COLUMNS = (
    *("record", "error", "conversation", "seeker", "strategy", "gold", "rejected", "explanation"),
    *("answer", "comment"),
)
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What a cell begins with that a spreadsheet takes for a formula."""


def draw(pairs: Iterable[Row], n: int) -> list[Row]:
    """``n`` pairs per error type, or all where there are fewer, in an order that mixes the types.

    By a hash of turn and sample: a larger ``n`` adds to what a smaller one draws.
    """
    drawn: dict[str, list[tuple[str, Row]]] = {}
    for pair in pairs:
        if pair["error"] == PsychError.NONE:
            continue
        place = hashlib.sha256(f"audit\n{pair['id']}/{pair['sample']}".encode()).hexdigest()
        first = drawn.setdefault(pair["error"], [])
        bisect.insort(first, (place, pair), key=itemgetter(0))
        del first[n:]
    return [pair for _, pair in sorted((x for y in drawn.values() for x in y), key=itemgetter(0))]


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


def precision(found: Iterable[tuple[int, dict[str, str]]], errors: Mapping[str, str]) -> Row:
    """Per error type and over all: yes, no, unsure, blank, and the share of yes with its interval.

    ``errors`` maps a record of the sheet to its error; one that has no row counts as blank. Raises
    EscError, naming the row, for an unknown record, one given twice, and another word.
    """
    said: dict[str, str] = {}
    for number, row in found:
        record, answer = row["record"], row["answer"].casefold()
        if record not in errors:
            raise EscError(f"row {number}: record {record!r} is not on the sheet")
        if record in said:
            raise EscError(f"row {number}: record {record!r} is there twice")
        if answer and answer not in ANSWERS:
            raise EscError(
                f"row {number} ({record}): answer {row['answer']!r} is none of {', '.join(ANSWERS)}"
            )
        said[record] = answer
    counts: dict[str, Counter[str]] = {}
    for record, error in errors.items():
        counts.setdefault(error, Counter())[said.get(record) or "blank"] += 1
    by_type = {error.value: counts[error] for error in PsychError if error in counts}
    return {
        "all": _precise(sum(by_type.values(), Counter())),
        "errors": {error: _precise(count) for error, count in by_type.items()},
    }


def _precise(count: Counter[str]) -> Row:
    n = count["yes"] + count["no"]
    low, high = wilson(count["yes"], n) or (None, None)
    share = count["yes"] / n if n else None
    told = {answer: count[answer] for answer in (*ANSWERS, "blank")}
    return {"precision": share, "low": low, "high": high, "n": n, **told}


def folder_of(mining: Mining) -> Path:
    """Where the sheet of a mining is."""
    return mining.folder.parent / "audit" / mining.task


def make(mining: Mining, n: int) -> Row:
    """Write the sheet; what ``audit.json`` says.

    Raises EscError where there is one with ticks in it, or no pair to audit.
    """
    routed = finished_route(mining)
    folder = folder_of(mining)
    with files.exclusive(folder):
        if (folder / CSV).is_file():
            ticked = sum(bool(row["answer"] or row["comment"]) for _, row in answers(folder / CSV))
            if ticked:
                raise EscError(
                    f"{folder / CSV} has {ticked} rows with answers; read it with --read, and move "
                    "it away for a new one"
                )
        drawn = draw(files.read_jsonl(mining.routed / PAIRS), n)
        if not drawn:
            raise EscError(f"{mining.routed / PAIRS} holds no pair with an error to audit")
        wanted = {pair["id"] for pair in drawn}
        turns = {t.id: t for t in gold_turns(mining.work, "train", None) if t.id in wanted}
        (folder / DONE).unlink(missing_ok=True)
        done: Row = {
            "task": mining.task,
            "model": mining.model,
            "n": n,
            "sampler": routed["provenance"]["sampler"],
            "judge": routed["provenance"]["judge"],
            "pairs": routed[PAIRS]["sha256"],
            "smoke": routed["smoke"],
            "records": {record_of(pair): pair["error"] for pair in drawn},
        }
        rows = [sheet_row(mining.task, pair, turns[pair["id"]]) for pair in drawn]
        files.write_text(folder / CSV, csv_text(rows))
        files.write_text(folder / HTML, html(rows, [turns[pair["id"]] for pair in drawn], done))
        files.write_json(folder / DONE, done)
    return done


def read(mining: Mining, path: Path) -> Row:
    """Write ``precision.json`` from a ticked sheet; what it says.

    Raises EscError where no sheet was made, or as `answers` and `precision`.
    """
    folder = folder_of(mining)
    again = f"python -m mining audit --task {mining.task}"
    made: Row = files.read_json(folder / DONE, made_by=again)
    try:
        found = precision(answers(path), made["records"])
    except EscError as error:
        raise EscError(f"{path}: {error}" if str(path) not in str(error) else str(error)) from error
    kept = {name: made[name] for name in ("task", "model", "sampler", "judge", "pairs", "smoke")}
    done = kept | {"sheet": files.sha256(path)} | found
    with files.exclusive(folder):
        files.write_json(folder / PRECISION, done)
    return done


def report(done: Row) -> str:
    """The result of a ticked sheet, with what was left open."""
    lines = [f"precision   {done['task']} pairs of {done['model']}, judge {done['judge']}"]
    for name, one in [*done["errors"].items(), ("all", done["all"])]:
        share = "—" if one["precision"] is None else f"{one['precision']:.1%}"
        interval = "" if one["low"] is None else f"[{one['low']:.1%}, {one['high']:.1%}]"
        lines.append(
            f"            {name:<20}{share:>7} {interval:<16} {one['yes']} yes, {one['no']} no, "
            f"{one['unsure']} unsure, {one['blank']} blank"
        )
    lines.append("            'all' is of the sheet, where error types are equally frequent")
    if done["smoke"]:
        lines.append("SMOKE       embedded model, sample corpus or random judge: no result")
    return "\n".join(lines)


def main(argv: list[str]) -> None:
    """Command line of the step."""
    given = _parser().parse_args(argv)
    if given.read and len(given.task) > 1:
        raise EscError("a sheet is of one task; name that one alone with --read")
    for mining in minings_of(given):
        if given.read:
            print(report(read(mining, given.read)))
            print(f"written     {folder_of(mining) / PRECISION}")
            continue
        done = make(mining, given.n or 20)
        told = ", ".join(f"{n} {error}" for error, n in Counter(done["records"].values()).items())
        print(f"sheet       {folder_of(mining)}/{CSV} and {HTML}: {len(done['records'])} ({told})")
        if done["smoke"]:
            print("SMOKE       embedded model, sample corpus or random judge: no result")


def _parser() -> argparse.ArgumentParser:
    parser = cli.parser(
        prog="python -m mining audit",
        description=__doc__,
        examples=(
            "  python -m mining audit --task rg --n 20\n"
            "  python -m mining audit --task rg --read sheet.csv"
        ),
    )
    add_mining(parser)
    parser.add_argument("--n", type=cli.optional_count, help="pairs per error type (default: 20)")
    parser.add_argument("--read", type=Path, metavar="SHEET", help="a sheet with answers in it")
    return parser


def html(rows: list[dict[str, str]], turns: list[GoldTurn], made: Row) -> str:
    """The sheet as one page that needs nothing else; its only script is the one below."""
    digest = base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(_PAGE).render(
        cards=list(zip(rows, turns, strict=True)),
        made=made,
        errors={error.value: error.definition for error in PsychError},
        answers=ANSWERS,
        # What a browser keeps of a half-done sheet is of this very sheet.
        sheet=hashlib.sha256("\n".join([made["pairs"], *made["records"]]).encode()).hexdigest(),
        policy=f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'",
        style=_STYLE,
        script=_SCRIPT,
    )


_STYLE = """
:root{color-scheme:light dark;--page:#f4f5f7;--card:#fff;--ink:#1d2433;--soft:#566074;
--line:#d9dde5;--accent:#1f6f7d;--on:#fff;--gold:#e8f3ee;--bad:#fbf0e4;--warn:#8a1c1c;
--mark:#fde8e8}
@media (prefers-color-scheme:dark){:root{--page:#12151c;--card:#1b202a;--ink:#e7eaf1;--soft:#9fa9bc;
--line:#333b4a;--accent:#63bccb;--on:#0d1a1d;--gold:#1c2f2a;--bad:#352a1d;--warn:#ffb4ab;
--mark:#3b1d1f}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:16px/1.55 system-ui,sans-serif}
main,.bar>div{max-width:46rem;margin:0 auto;padding:0 1rem}
h1{font-size:1.45rem;line-height:1.25;margin:1.5rem 0 .5rem}
p{margin:.5rem 0}.soft{color:var(--soft);font-size:.9rem}
.smoke{background:var(--mark);color:var(--warn);border-radius:.5rem;padding:.6rem .9rem}
.bar{position:sticky;top:0;background:var(--page);border-bottom:1px solid var(--line);z-index:1}
.bar>div{display:flex;align-items:center;gap:.75rem;padding-block:.6rem}
progress{flex:1;min-width:3rem;height:.6rem;accent-color:var(--accent)}
button{font:inherit;font-weight:600;min-height:2.75rem;padding:0 1rem;border:0;border-radius:.5rem;
background:var(--accent);color:var(--on);cursor:pointer}
article{background:var(--card);border:1px solid var(--line);border-radius:.75rem;
padding:1rem 1.1rem;margin:1rem 0;overflow-wrap:anywhere}
article header{display:flex;justify-content:space-between;gap:.1rem 1rem;flex-wrap:wrap}
h2{font-size:1.1rem;margin:0}
details{margin:.6rem 0}summary{cursor:pointer;color:var(--soft);padding:.35rem 0}
dl{margin:.25rem 0}dt{font-size:.8rem;color:var(--soft);margin-top:.55rem}
dd{margin:0;white-space:pre-line}
.box{border-radius:.5rem;padding:.45rem .75rem .6rem;margin-top:.6rem}
.box dt{margin-top:0}.gold{background:var(--gold)}.bad{background:var(--bad)}
fieldset{border:0;border-top:1px solid var(--line);margin:1rem 0 0;padding:.75rem 0 0}
legend{font-weight:600;padding:0 .5rem 0 0}
.ticks{display:flex;gap:.5rem;flex-wrap:wrap;margin:.35rem 0 .6rem}
.ticks label{display:flex;align-items:center;gap:.4rem;min-height:2.75rem;padding:0 .75rem;
flex:1;overflow-wrap:normal;border:1px solid var(--line);border-radius:.5rem;cursor:pointer}
.ticks label:has(:checked){border-color:var(--accent);outline:1px solid var(--accent)}
input[type=radio]{width:1.15rem;height:1.15rem;accent-color:var(--accent);margin:0}
input[type=text]{width:100%;font:inherit;color:inherit;background:transparent;padding:.5rem .75rem;
min-height:2.75rem;border:1px solid var(--line);border-radius:.5rem}
:focus-visible{outline:3px solid var(--accent);outline-offset:2px}
footer{padding:1rem 0 2.5rem}
@media print{:root{color-scheme:light;--page:#fff;--card:#fff;--ink:#000;--soft:#444;--line:#999;
--gold:#f1f1f1;--bad:#f1f1f1;--warn:#000;--mark:#eee}
.bar{display:none}:root{font-size:9.5pt}
body{font-size:1rem;line-height:1.4}article{padding:.5rem .8rem}
.ticks label,input[type=text]{min-height:1.8rem}.box,fieldset{break-inside:avoid}
article header{break-after:avoid}}
"""

_SCRIPT = """
const form = document.querySelector("form"), key = "audit " + form.dataset.sheet;
const cards = [...form.querySelectorAll("article")];
const state = () => cards.map(card => ({
  record: card.dataset.record,
  answer: card.querySelector("input:checked")?.value ?? "",
  comment: card.querySelector("input[type=text]").value,
}));
const count = () => {
  const done = state().filter(row => row.answer).length;
  document.querySelector("progress").value = done;
  document.querySelector("output").textContent = `${done} of ${cards.length}`;
};
const storage = (() => { try { return window.localStorage; } catch { return null; } })();
for (const [at, row] of JSON.parse(storage?.getItem(key) ?? "[]").entries()) {
  for (const tick of cards[at].querySelectorAll("input[type=radio]"))
    tick.checked = tick.value === row.answer;
  cards[at].querySelector("input[type=text]").value = row.comment;
}
form.addEventListener("input", () => { storage?.setItem(key, JSON.stringify(state())); count(); });
form.addEventListener("submit", event => event.preventDefault());
const guarded = text => (/^[=+\\-@\\t\\r]/.test(text) ? "'" : "") + text;
const cell = text => '"' + guarded(text).replaceAll('"', '""') + '"';
document.querySelector("button").addEventListener("click", () => {
  const lines = state().map(row => [row.record, row.answer, row.comment].map(cell).join(","));
  const text = "\\ufeff" + ["record,answer,comment", ...lines].join("\\r\\n") + "\\r\\n";
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], {type: "text/csv"}));
  link.download = "sheet.csv";
  link.click();
});
window.addEventListener("beforeprint", () => {
  for (const one of form.querySelectorAll("details")) one.open = true;
});
count();
"""

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{{ policy }}">
<title>Audit: {{ made.task }} pairs of {{ made.model }}</title>
<style>{{ style|safe }}</style>
</head>
<body>
<div class="bar"><div>
<progress max="{{ cards|length }}" value="0" aria-label="answered"></progress>
<output class="soft">0 of {{ cards|length }}</output>
<button type="button">Save answers</button>
</div></div>
<main>
<h1>Is the error the judge named really there?</h1>
{% if made.smoke %}
<p class="smoke"><strong>SMOKE</strong> Embedded model, sample corpus or random judge: this sheet
shows that the step works, and is no result.</p>
{% endif %}
<p>{{ cards|length }} {{ made.task }} pairs mined from {{ made.model }} ({{ made.sampler }}),
up to {{ made.n }} per error type, in an order that mixes the types;
judge: {{ made.judge or "none, strategies are compared by name" }}. For each, read the conversation
and the rejected {{ "strategy" if made.task == "sp" else "reply" }}, then answer the question below
it. The gold {{ "strategy" if made.task == "sp" else "reply" }} is what the corpus has.</p>
<p class="soft">Answers stay in this browser. <em>Save answers</em> downloads them as
<code>sheet.csv</code>, which <code>python -m mining audit --task {{ made.task }} --read
sheet.csv</code> counts.</p>
<p class="soft"><strong>Research software.</strong> These models are for academic research on
emotional support. They are no counsellor and no help in a crisis, and the conversations here can be
distressing to read.</p>
<form data-sheet="{{ sheet }}">
{% for row, turn in cards %}
<article data-record="{{ row.record }}">
<header><h2>{{ row.error }}</h2>
<span class="soft">{{ loop.index }} of {{ cards|length }} · {{ row.record }}</span></header>
<p class="soft">{{ errors[row.error] }}</p>
{% if turn.history %}
<details><summary>The conversation before ({{ turn.history|length }}
exchange{{ "s" if turn.history|length > 1 }})</summary>
<dl>
{% for seeker, reply in turn.history %}
<dt>seeker</dt><dd>{{ seeker if seeker.strip() else "(says nothing)" }}</dd>
<dt>supporter</dt><dd>{{ reply }}</dd>
{% endfor %}
</dl></details>
{% endif %}
<dl>
<dt>seeker</dt><dd>{{ row.seeker if row.seeker.strip() else "(says nothing)" }}</dd>
<div class="box gold"><dt>gold{{ "" if made.task == "sp" else " · " ~ row.strategy }}</dt>
<dd>{{ row.gold }}</dd></div>
<div class="box bad"><dt>rejected</dt><dd>{{ row.rejected }}</dd></div>
</dl>
{% if row.explanation %}
<details><summary>The judge's reason</summary><p>{{ row.explanation }}</p></details>
{% endif %}
<fieldset><legend>Is “{{ row.error }}” really there in the rejected
{{ "strategy" if made.task == "sp" else "reply" }}?</legend>
<div class="ticks">
{% for answer in answers %}
<label><input type="radio" name="{{ row.record }}" value="{{ answer }}">{{ answer }}</label>
{% endfor %}
</div>
<input type="text" placeholder="comment (optional)" aria-label="comment on {{ row.record }}">
</fieldset>
</article>
{% endfor %}
</form>
<footer class="soft">{% if made.smoke %}SMOKE · {% endif %}{{ made.task }} pairs of
{{ made.model }}, file {{ made.pairs[:12] }}</footer>
</main>
<script>{{ script|safe }}</script>
</body>
</html>
"""
