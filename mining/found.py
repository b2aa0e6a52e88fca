"""What the pairs and routes of a mining hold, counted row by row; Table 1's lower half of it."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from esc import built, files
from esc.exceptions import EscError
from esc.files import Row
from esc.forms import TASKS
from esc.intervals import FEWEST
from esc.lineage import Quadrant
from esc.means import Units
from esc.psych_errors import PsychError
from esc.shares import BY_DIALOGUE, share
from esc.strategies import Strategy
from mining.folders import Mining
from mining.routed import DONE, PAIRS, ROUTES
from mining.routing import Fate

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
    built.refuse_without_pairs(mining.work, mining.model, mining.task, mining.lineage)
    again = mining.again()
    routed: Row = files.read_json(mining.routed / DONE, made_by=again)
    for name in (PAIRS, ROUTES):
        if files.sha256(mining.routed / name) != routed[name]["sha256"]:
            raise EscError(f"{mining.routed / name} was changed since it was written; {again}")
    now = built.train_set(built.manifest(mining.work))
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
