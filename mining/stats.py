"""What a mining has brought, beside the paper: Table 1 (lower half), Figures 9 to 14, keep-rates.

    python -m mining stats --model smollm2-135m

Reads ``routed/`` of every task that is mined, and for the examples the train set and the kept
corpus; writes ``runs/<model>/mining…/stats/``: ``stats.md``, ``examples.md`` (one pair per error
type, drawn by its id), four figures as PNG, and last ``stats.json``. The paper prints no numbers
for its Figure 9; those of Figure 10 are Table 1's.
"""

import argparse
import hashlib
import json
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from esc import backbones, cli, files, paths, step
from esc.dialogue import GoldTurn, Role, gold_turns
from esc.exceptions import EscError
from esc.files import Row
from esc.paths import Lineage, Quadrant
from esc.prompts import TASKS
from esc.psych_errors import PsychError
from esc.stats import BY_DIALOGUE, FEWEST, Units, share
from esc.strategies import Strategy
from esc.visible import plain
from mining.route import DONE, PAIRS, ROUTES
from mining.routing import Fate
from mining.sample import Mining, add_lineage

PAPER_COLUMNS = ("total", "Qwen", "Llama")
# Table 1 of the paper, lower half; its columns are PAPER_COLUMNS.
PAPER_TABLE_1: dict[str, tuple[float, float, float]] = {
    "strategy pairs": (21370, 10651, 10719),
    "response pairs": (11887, 6041, 5846),
    "mean characters of chosen": (124.89, 124.72, 125.06),
    "mean characters of rejected": (83.82, 81.04, 86.59),
    PsychError.LACK_OF_EMPATHY.value: (4371, 2288, 2083),
    PsychError.EARLY_EMOTION_SHIFT.value: (3600, 1814, 1786),
    PsychError.TEMPLATE_RESPONSE.value: (3916, 1939, 1977),
}
RG_ERRORS = tuple(name for name in PAPER_TABLE_1 if name in set(PsychError))
SIDES = ("chosen", "rejected")
BIN = 20
"""Characters; longer than `LONGEST` is counted in the last bin."""
LONGEST = 400
KEPT = f"{BY_DIALOGUE}; none below {FEWEST} dialogues"
"""The interval of a share of samples that became pairs."""
_BY_DIALOGUE = Units(by_dialogue=True)


@dataclass
class Found:
    """What the pairs and routes of one task hold, counted row by row."""

    task: str
    routed: Row
    """What its ``route.json`` says."""
    chosen: Counter[str] = field(default_factory=Counter)
    """Strategies of the chosen answers of the pairs."""
    rejected: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    quadrants: Counter[str] = field(default_factory=Counter)
    lengths: dict[str, Counter[int]] = field(
        default_factory=lambda: {"chosen": Counter(), "rejected": Counter()}
    )
    """Characters of a reply to a number of pairs."""
    kept: dict[tuple[str, str], Counter[tuple[int, int]]] = field(
        default_factory=lambda: defaultdict(Counter)
    )
    """(``error`` or ``gold strategy``, its value) to a number of dialogues, by (pairs, samples)."""
    examples: dict[str, tuple[str, Row]] = field(default_factory=dict)
    """Error to (place in the order of drawing, pair)."""

    def take_pair(self, pair: Row) -> None:
        """Count one pair."""
        self.chosen[pair["gold_strategy"]] += 1
        self.rejected[pair["strategy"]] += 1
        if pair["quadrant"]:
            self.quadrants[pair["quadrant"]] += 1
        for side, lengths in self.lengths.items():
            lengths[len(pair[side])] += 1
        if pair["error"] is None:
            return
        self.errors[pair["error"]] += 1
        place = hashlib.sha256(f"example\n{pair['id']}/{pair['sample']}".encode()).hexdigest()
        if pair["error"] not in self.examples or place < self.examples[pair["error"]][0]:
            self.examples[pair["error"]] = place, pair

    def take_dialogue(self, ways: Iterable[Row]) -> None:
        """Count the samples of one dialogue."""
        fates: dict[tuple[str, str], Counter[bool]] = defaultdict(Counter)
        for way in ways:
            for what, value in (("error", way["error"]), ("gold strategy", way["gold_strategy"])):
                if value is not None:
                    fates[what, value][way["fate"] == Fate.PAIR] += 1
        for of, count in fates.items():
            self.kept[of][count[True], count.total()] += 1

    def keep_rates(self, what: str) -> Row:
        """Value to samples, pairs, the share kept (0 to 1) and its 95 % interval (`KEPT`)."""
        rates: Row = {}
        for value in (one.value for one in (PsychError if what == "error" else Strategy)):
            if dialogues := self.kept.get((what, value)):
                samples = sum(n * times for (_, n), times in dialogues.items())
                rate = share(dialogues)
                rates[value] = {"samples": samples, "pairs": rate.pop("count")} | rate
        return rates

    def row(self) -> Row:
        """Its part of ``stats.json``."""
        replies = self.task != "sp"
        return {
            "samples": self.routed["samples"],
            "pairs": self.routed[PAIRS]["rows"],
            "fates": self.routed["fates"],
            "sampler": self.routed["provenance"]["sampler"],
            "judge": self.routed["provenance"]["judge"],
            "strategies": {
                strategy.value: {
                    "chosen": self.chosen[strategy.value],
                    "rejected": self.rejected[strategy.value],
                }
                for strategy in Strategy
            },
            "errors": dict(self.errors),
            "quadrants": {one.value: self.quadrants[one] for one in Quadrant if self.quadrants},
            "characters": {side: spread(self.lengths[side]) for side in self.lengths}
            if replies
            else None,
            "interval": KEPT,
            "kept by error": self.keep_rates("error"),
            "kept by gold strategy": self.keep_rates("gold strategy"),
        }


def spread(lengths: Counter[int]) -> Row:
    """Mean, median and counts per bin of `BIN` characters; None for either of nothing."""
    n = lengths.total()
    bins = [0] * (LONGEST // BIN + 1)
    for length, count in lengths.items():
        bins[min(length, LONGEST) // BIN] += count
    mean = sum(length * count for length, count in lengths.items()) / n if n else None
    return {"n": n, "mean": mean, "median": _median(lengths), "bins": bins}


def _median(lengths: Counter[int]) -> float | None:
    n, passed, low = lengths.total(), 0, None
    for length in sorted(lengths):
        passed += lengths[length]
        if low is None and 2 * passed >= n:
            low = length
        if low is not None and 2 * passed > n:
            return (low + length) / 2
    return None


def finished_route(mining: Mining) -> Row:
    """What ``route.json`` says of a mining.

    Raises EscError where it is not there, a later routing left no pairs, its files were changed, or
    it is of the turns of another corpus or split than the built sets hold now.
    """
    step.refuse_without_pairs(mining.work, mining.model, mining.task, mining.lineage)
    again = mining.again()
    routed: Row = files.read_json(mining.routed / DONE, made_by=again)
    for name in (PAIRS, ROUTES):
        if files.sha256(mining.routed / name) != routed[name]["sha256"]:
            raise EscError(f"{mining.routed / name} was changed since it was written; {again}")
    now = step.train_set(step.manifest(mining.work))
    if changed := files.differences(routed["provenance"]["data"], now):
        raise EscError(
            f"{mining.routed} is of other train turns than are built now ({'; '.join(changed)}); "
            f"build those again, or {again} FORCE=1"
        )
    return routed


def collect(minings: Sequence[Mining]) -> tuple[dict[str, Found], list[str]]:
    """(what every task that is mined holds, by task; why a mined one is left out).

    Raises EscError where none is left.
    """
    found: dict[str, Found] = {}
    left_out = []
    for mining in minings:
        if not any(path.is_file() for path in (mining.routed / DONE, mining.no_pairs)):
            continue
        try:
            routed = finished_route(mining)
        except EscError as error:
            left_out.append(f"{mining.task}: left out, {error}")
            continue
        one = found[mining.task] = Found(mining.task, routed)
        for pair in files.read_jsonl(mining.routed / PAIRS):
            one.take_pair(pair)
        # The routes of a dialogue follow one another, as its turns do in the set.
        ways = files.read_jsonl(mining.routed / ROUTES)
        for _, of_dialogue in groupby(ways, lambda way: _BY_DIALOGUE.unit(way["id"])):
            one.take_dialogue(of_dialogue)
    if not found:
        first = minings[0]
        why = "; ".join(left_out) or f"{first.make('mine')} begins"
        raise EscError(f"nothing is mined in {first.folder.parent}; {why}")
    return found, left_out


def table_1(found: dict[str, Found]) -> dict[str, float | None]:
    """The lower half of Table 1; None where the task is not mined."""
    sp, rg = found.get("sp"), found.get("rg")
    here: dict[str, float | None] = dict.fromkeys(PAPER_TABLE_1)
    if sp:
        here["strategy pairs"] = sp.chosen.total()
    if rg:
        here["response pairs"] = rg.chosen.total()
        here |= {f"mean characters of {side}": spread(rg.lengths[side])["mean"] for side in SIDES}
        # A file of others may name none.
        if rg.errors:
            here |= {error: rg.errors[error] for error in RG_ERRORS}
    return here


def notes_on(found: dict[str, Found]) -> list[str]:
    """What a reader must know of the numbers: the smoke mark, who sampled and judged."""
    notes = []
    if any(one.routed["smoke"] for one in found.values()):
        notes.append("SMOKE: embedded model, sample corpus or random judge; no result")
    for task in TASKS:
        if task not in found:
            notes.append(f"{task}: not mined")
            continue
        of = found[task].routed["provenance"]
        if of.get("file"):
            model, known = found[task].routed["model"], found[task].routed["fates"]["pair"]
            rows = f"{known:,} of its {found[task].routed['samples']:,} rows"
            notes.append(f"{task}: for {model}, pairs of the file {of['sampler']}, {rows}")
            continue
        by = (
            f", judged by {of['judge']}" + (" (blind)" if of["blind"] else "")
            if of["judge"]
            else ""
        )
        notes.append(f"{task}: sampled from {found[task].routed['model']} {of['sampler']}{by}")
    return notes


EXAMPLE_FIGURES = {
    PsychError.STRATEGY_MISMATCH: 11,
    PsychError.LACK_OF_EMPATHY: 12,
    PsychError.EARLY_EMOTION_SHIFT: 13,
    PsychError.TEMPLATE_RESPONSE: 14,
}
"""Error to the figure of the paper that shows an example of it."""
SILENT = "(says nothing between two replies)"
_SUPPORTERS = {"supporter", "listener", "sys"}
"""How the corpus's layouts name who replies."""


def examples(work: Path, found: dict[str, Found], notes: Sequence[str]) -> str:
    """One pair per error type with its whole conversation, as in Figures 11 to 14.

    Which pair is drawn by its id, not by what it says.
    """
    drawn: dict[str, tuple[str, Row]] = {}
    for task, one in found.items():
        for error, (_, pair) in one.examples.items():
            drawn.setdefault(error, (task, pair))
    wanted = {pair["id"] for _, pair in drawn.values()}
    turns = {turn.id: turn for turn in gold_turns(work, "train", None) if turn.id in wanted}
    lines = ["# One mined pair per error type", *(f"\n{plain(note)}" for note in notes)]
    for error in PsychError:
        # An entangled pair without an error in its reply is one of a wrong strategy.
        if error.value in drawn and error is not PsychError.NONE:
            task, pair = drawn[error.value]
            lines += _example(work, task, pair, turns[pair["id"]], error)
        elif error in EXAMPLE_FIGURES:
            lines += ["", f"## {error}", "", "No pair of it was mined."]
    return "\n".join(lines) + "\n"


def _example(work: Path, task: str, pair: Row, turn: GoldTurn, error: PsychError) -> Iterator[str]:
    like = f" (as in Figure {EXAMPLE_FIGURES[error]})" if error in EXAMPLE_FIGURES else ""
    yield from ("", f"## {error}{like}", "", f"Turn {plain(turn.id)}, {task} pair.", "")
    known = seeker_of(work, [reply for _, reply in turn.history] + [turn.response])
    for name, said in (known or {"Situation": "(not found in the kept corpus)"}).items():
        yield f"**{name}** {plain(said) if known else said}\n"
    for seeker, reply in turn.history:
        yield f"> **{Role.SEEKER}** {plain(seeker) or SILENT}\n>"
        yield f"> **{Role.SUPPORTER}** {plain(reply)}\n>"
    yield f"> **{Role.SEEKER}** {plain(turn.seeker) or SILENT}\n"
    if task == "sp":
        yield f"**Gold strategy** {pair['chosen']}\n"
        yield f"**Rejected strategy** {pair['rejected']}\n"
        return
    yield f"**Gold reply** [{pair['gold_strategy']}] {plain(pair['chosen'])}\n"
    yield f"**Rejected reply** [{pair['strategy']}] {plain(pair['rejected'])}\n"
    yield f"**Explanation** {plain(pair['explanation'] or '(none)')}"


def seeker_of(work: Path, replies: Sequence[str]) -> dict[str, str]:
    """What the corpus knows of the seeker in the one dialogue that holds these replies in a row.

    Name to text: situation, experience, emotion, problem, and the scores of the survey,
    each where the kept corpus has it. Empty where no dialogue or several hold them. By content,
    since the ids of a corpus in another order are not its positions.
    """
    said = " ".join(" ".join(replies).split())
    names = step.manifest(work)["corpus"]["files"]
    found = []
    for path in (paths.corpus(work) / name for name in names):
        if not path.is_file():
            continue
        text = path.read_text(encoding="utf-8-sig")
        is_array = text.lstrip().startswith("[")
        rows = (
            json.loads(text) if is_array else map(json.loads, filter(str.strip, text.split("\n")))
        )
        found += [_seeker(row) for row in rows if said in _replies(row)]
    return found[0] if len(found) == 1 else {}


def _seeker(row: Row) -> dict[str, str]:
    survey = row.get("survey_score")
    scores = survey.get("seeker") if isinstance(survey, dict) else None
    told = scores.items() if isinstance(scores, dict) else ()
    known = {
        "Situation": row.get("situation"),
        "Experience": row.get("experience_type"),
        "Emotion": row.get("emotion_type"),
        "Problem": row.get("problem_type"),
        "Survey": ", ".join(
            f"{name.replace('_', ' ')} {score}" for name, score in told if score not in (None, "")
        ),
    }
    return {name: str(said) for name, said in known.items() if said}


def _replies(row: Row) -> str:
    said = (
        str(one.get("content", one.get("text")))
        for one in row["dialog"]
        if one.get("speaker") in _SUPPORTERS
    )
    return " ".join(" ".join(said).split())


def draw_strategies(figure: Any, found: dict[str, Found]) -> None:
    """Figure 9: shares of the strategies in chosen and rejected answers."""
    panels = figure.subplots(1, len(found), squeeze=False, sharey=True)[0]
    for axes, (task, one) in zip(panels, found.items(), strict=True):
        for offset, side in ((0.2, "chosen"), (-0.2, "rejected")):
            count = one.chosen if side == "chosen" else one.rejected
            shares = [100 * count[strategy] / (count.total() or 1) for strategy in Strategy]
            places = [-place + offset for place in range(len(Strategy))]
            bars = axes.barh(places, shares, height=0.38, label=side, color=COLOURS[side])
            axes.bar_label(bars, [f"{share:.1f}" for share in shares], padding=2, fontsize=7)
        axes.set_yticks([-place for place in range(len(Strategy))], [one.value for one in Strategy])
        axes.set_xlabel(f"share of {one.chosen.total():,} {task} pairs (%)")
    figure.legend(*panels[0].get_legend_handles_labels(), **LEGEND)


def draw_errors(figure: Any, found: dict[str, Found]) -> None:
    """Figure 10: errors of the rejected replies, beside the paper's counts (Table 1)."""
    axes = figure.subplots()
    series = {"here": [found["rg"].errors[error] for error in RG_ERRORS]}
    for column in (1, 2):
        name = f"paper, {PAPER_COLUMNS[column]}"
        series[name] = [int(PAPER_TABLE_1[error][column]) for error in RG_ERRORS]
    for place, (name, counts) in enumerate(series.items()):
        total = sum(counts) or 1
        middles = [at + (place - 1) * 0.27 for at in range(len(RG_ERRORS))]
        shares = [100 * count / total for count in counts]
        bars = axes.bar(middles, shares, width=0.25, label=name, color=COLOURS[name])
        labels = [f"{count:,}\n{share:.1f} %" for count, share in zip(counts, shares, strict=True)]
        axes.bar_label(bars, labels, padding=2, fontsize=7)
    axes.set_xticks(range(len(RG_ERRORS)), RG_ERRORS)
    axes.set_ylabel("share of the response pairs (%)")
    axes.margins(y=0.15)
    figure.legend(**LEGEND)


def draw_lengths(figure: Any, found: dict[str, Found]) -> None:
    """Characters of chosen and rejected replies, with their medians."""
    panels = figure.subplots(1, len(found), squeeze=False)[0]
    for axes, (task, one) in zip(panels, found.items(), strict=True):
        for side in SIDES:
            got = spread(one.lengths[side])
            edges = [BIN * place for place in range(len(got["bins"]) + 1)]
            axes.stairs(got["bins"], edges, fill=True, alpha=0.45, color=COLOURS[side], label=side)
            if got["median"] is not None:
                line = "--" if side == "chosen" else ":"
                axes.axvline(got["median"], color=COLOURS[side], linestyle=line, linewidth=2)
        axes.set_xlabel(f"characters of a {task} reply (last bin: {LONGEST} and more)")
        axes.set_ylabel("pairs")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, title="lines: medians", title_fontsize=8, **LEGEND)


def draw_kept(figure: Any, found: dict[str, Found]) -> None:
    """Share of the samples that became pairs, by error and by gold strategy, with intervals."""
    panels = figure.subplots(2, len(found), squeeze=False)
    for column, (task, one) in enumerate(found.items()):
        for axes, what in zip(panels[:, column], ("error", "gold strategy"), strict=True):
            rates = one.keep_rates(what)
            places = [-place for place in range(len(rates))]
            shares = [100 * rate["share"] for rate in rates.values()]
            reach = [
                [_reach(rate["low"], rate["share"]) for rate in rates.values()],
                [_reach(rate["share"], rate["high"]) for rate in rates.values()],
            ]
            axes.barh(places, shares, xerr=reach, color=COLOURS["here"], ecolor="#444")
            axes.set_yticks(places, [f"{k} ({v['samples']:,})" for k, v in rates.items()])
            axes.set_xlim(0, 105)
            axes.set_xlabel("became pairs (%)")
            axes.set_title(f"{task}, by {what}", fontsize=9)


def _reach(begin: float | None, end: float | None) -> float:
    """A side of an interval in per cent; none is drawn where there is no interval."""
    return math.nan if begin is None or end is None else max(0.0, end - begin) * 100


LEGEND: Any = {"loc": "outside lower center", "ncols": 3, "frameon": False, "fontsize": 8}
COLOURS = {
    "chosen": "#2a7f8e",
    "rejected": "#d9822b",
    "here": "#2a7f8e",
    "paper, Qwen": "#b9a7d6",
    "paper, Llama": "#8b8f98",
}
FIGURES: dict[str, tuple[str, Callable[[Any, dict[str, Found]], None], tuple[str, ...]]] = {
    "strategies": (
        "Strategies of chosen and rejected answers (Figure 9)",
        draw_strategies,
        ("sp", "vanilla"),
    ),
    "errors": ("Errors of the rejected replies (Figure 10)", draw_errors, ("rg",)),
    "lengths": ("Length of chosen and rejected replies", draw_lengths, ("rg", "vanilla")),
    "kept": ("Samples that became pairs (95 % intervals, by dialogue)", draw_kept, TASKS),
}
"""File's name to title, drawing, and the tasks that are in it; without one of them it is absent."""


def draw(name: str, found: dict[str, Found], notes: Sequence[str], path: Path) -> None:
    """One of `FIGURES` as a PNG, where a task of it is mined; a smoke run's is marked across."""
    # Slow to import, and drawn by this step alone.
    from matplotlib.figure import Figure

    title, drawn, tasks = FIGURES[name]
    found = {task: found[task] for task in tasks if task in found}
    if name in ("kept", "errors"):
        # A file of others has no samples that were dropped, and may name no errors.
        found = {task: one for task, one in found.items() if getattr(one, name)}
    path.unlink(missing_ok=True)
    if not found:
        return
    wide, high = (4.6 * max(len(found), 2), 7.5) if name == "kept" else (9.2, 5)
    figure = Figure(figsize=(wide, high), layout="constrained")
    drawn(figure, found)
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
        axes.xaxis.label.set_fontsize(9)
        axes.yaxis.label.set_fontsize(9)
    told = [notes[0], *("; ".join(notes[1:][at : at + 2]) for at in range(0, len(notes) - 1, 2))]
    figure.suptitle("\n".join([title, *told]), fontsize=9)
    if notes[0].startswith("SMOKE"):
        mark = figure.text(0.5, 0.45, "SMOKE", ha="center", va="center", fontsize=80, rotation=25)
        mark.set(color="#b00020", alpha=0.13, zorder=10)
    with files.atomic_writer(path) as stream:
        figure.savefig(stream, format="png", dpi=150)


def markdown(found: dict[str, Found], notes: Sequence[str]) -> str:
    """All tables, beside the paper's values where it has some."""
    lines = ["# The mined pairs beside the paper", *(f"\n{plain(note)}" for note in notes)]
    lines += ["", "## Table 1, lower half", ""]
    lines += ["| | here | " + " | ".join(f"paper, {name}" for name in PAPER_COLUMNS) + " |"]
    lines += ["|---|---:|---:|---:|---:|"]
    for name, cells in _table_1_rows(found):
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    for task, one in found.items():
        lines += ["", f"## {task}: {one.routed[PAIRS]['rows']:,} pairs", ""]
        # The generator answers under the gold strategy: both sides of its pairs have the same.
        lines += _length_table(one) if task == "rg" else _strategy_table(one)
        if task == "vanilla":
            lines += ["", *_length_table(one)]
        # Pairs of a file of others have no samples that were dropped.
        for what in ("error", "gold strategy") if one.kept else ():
            lines += ["", *_keep_table(one, what)]
        if one.quadrants:
            told = ", ".join(f"{name} {one.quadrants[name]:,}" for name in sorted(one.quadrants))
            lines += ["", f"Quadrants: {told}."]
    return "\n".join(lines) + "\n"


def _table_1_rows(found: dict[str, Found]) -> Iterator[tuple[str, list[str]]]:
    """(name, here and the paper's values as text) of every row of Table 1's lower half."""
    for name, value in table_1(found).items():
        digits = 2 if "mean" in name else 0
        shown = [value, *PAPER_TABLE_1[name]]
        yield name, ["—" if one is None else f"{one:,.{digits}f}" for one in shown]


def report(found: dict[str, Found], notes: Sequence[str]) -> Iterator[str]:
    """The numbers one should see."""
    yield f"{'Table 1, lower half':<30}" + "".join(
        f"{name:>14}" for name in ("here", *(f"paper, {column}" for column in PAPER_COLUMNS))
    )
    for name, cells in _table_1_rows(found):
        yield f"  {name:<28}" + "".join(f"{cell:>14}" for cell in cells)
    yield from notes


def _strategy_table(one: Found) -> Iterator[str]:
    yield "Strategies of the pairs (Figure 9):"
    yield from ("", "| strategy | chosen | share | rejected | share |", "|---|---:|---:|---:|---:|")
    for strategy in Strategy:
        cells = (
            f"{count[strategy]:,} | {_percent(count[strategy], count.total())}"
            for count in (one.chosen, one.rejected)
        )
        yield f"| {strategy} ({strategy.code}) | " + " | ".join(cells) + " |"


def _length_table(one: Found) -> Iterator[str]:
    yield "Characters of the replies:"
    yield from ("", "| | mean | median |", "|---|---:|---:|")
    for side in SIDES:
        got = spread(one.lengths[side])
        cells = ("—" if got[name] is None else f"{got[name]:,.2f}" for name in ("mean", "median"))
        yield f"| {side} | " + " | ".join(cells) + " |"


def _keep_table(one: Found, what: str) -> Iterator[str]:
    yield f"Samples that became pairs, by {what} (interval: {KEPT}):"
    yield from ("", f"| {what} | samples | pairs | share | 95 % |", "|---|---:|---:|---:|---:|")
    for value, rate in one.keep_rates(what).items():
        known = rate["low"] is not None
        interval = f"{rate['low']:.1%} to {rate['high']:.1%}" if known else "—"
        cells = f"{rate['samples']:,} | {rate['pairs']:,} | {rate['share']:.1%} | {interval}"
        yield f"| {value} | {cells} |"


def _percent(count: int, total: int) -> str:
    return f"{count / total:.1%}" if total else "—"


def main(argv: list[str]) -> None:
    """Command line of the step."""
    given = _parser().parse_args(argv)
    # Of all tasks the entangled one has the most variants.
    lineage = Lineage(given.variant, given.round or 1).checked("vanilla").mining
    folder = given.work / paths.mining(given.model, lineage) / "stats"
    # Also where nothing is left to count: the report takes what stands there for this mining's.
    (folder / "stats.json").unlink(missing_ok=True)
    found, left_out = collect([Mining(given.work, given.model, task, lineage) for task in TASKS])
    notes = [*notes_on(found), *left_out]
    text = markdown(found, notes)
    with files.exclusive(folder):
        files.write_text(folder / "stats.md", text)
        files.write_text(folder / "examples.md", examples(given.work, found, notes))
        for name in FIGURES:
            draw(name, found, notes, folder / f"{name}.png")
        told = {
            "notes": notes,
            "smoke": any(one.routed["smoke"] for one in found.values()),
            "table_1": {"here": table_1(found), "paper": PAPER_TABLE_1, "columns": PAPER_COLUMNS},
            "tasks": {task: one.row() for task, one in found.items()},
        }
        files.write_json(folder / "stats.json", told)
    print("\n".join(report(found, notes)))
    drawn = ", ".join(path.name for path in sorted(folder.glob("*.png")))
    print(f"written     {folder}/stats.json, stats.md, examples.md, {drawn}")


def _parser() -> argparse.ArgumentParser:
    parser = cli.parser(
        prog="python -m mining stats",
        description=__doc__,
        examples="  python -m mining stats\n  python -m mining stats --model qwen2.5-7b --round 2",
    )
    backbones.add_model(parser)
    cli.add_work(parser)
    add_lineage(parser)
    return parser
