"""How far two judges agree on the same sampled replies: Cohen's kappa of what they decided.

    python -m mining judge --task rg --judge B
    python -m mining agreement --task rg --judge A --judge2 B

Reads the verdicts that both left on one mining, matched by turn and sample, writes
``judges/agreement_<judge>_<judge>.json`` beside the judges' folders: kappa for retaining a pair and
for the error in the rejected reply, with its confusion matrix, and how many pairs both, one or none
scored. It asks nobody. With ``--blind`` both are the verdicts of judges that did not know the gold
reply.
"""

import argparse
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from esc import cli, files
from esc.agreement import kappa
from esc.exceptions import EscError
from esc.files import Row
from esc.intervals import FEWEST, too_few
from esc.judge import add_judge_name, judge_for
from mining.candidates import SAMPLES, Key, read_turns
from mining.folders import Mining
from mining.judge import Asked
from mining.options import add_blind, add_mining, minings_of
from mining.routing import Judgement, screen
from mining.samples import finished_samples
from mining.stored import finished_verdicts
from mining.verdicts import FILTER_MENU, FilterVerdict

RESAMPLES = 1000
SEED = 0
Cells = Counter[tuple[str, str]]
"""(what the first says, what the second says) to a number of pairs."""
LABELS = {
    "retain": ("Yes", "No"),
    "rejected_error": tuple(error.value for error in FILTER_MENU),
}
"""What is compared to the labels that can be given."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """Two judges' labels beside one another."""

    kappa: float | None
    """-1 to 1; None where both judges give one label throughout, or nothing is compared."""
    low: float | None
    """Of the 95 % interval; None where there is none."""
    high: float | None
    agreed: int
    n: int
    said: str
    """Why there is no kappa or no interval, in words."""


def agreement(by_dialogue: Sequence[Cells]) -> Agreement:
    """Kappa over all dialogues; its interval by a seeded bootstrap that resamples dialogues.

    Pairs of one dialogue resemble one another, so that an interval by pairs would be too narrow.
    """
    cells = sum(by_dialogue, Cells())
    agreed = sum(count for (one, other), count in cells.items() if one == other)
    found = kappa(cells)
    n = cells.total()
    if found is None:
        why = "both judges give one label throughout, so agreement cannot be told from chance"
        return Agreement(None, None, None, agreed, n, why if n else "no pair is scored by both")
    if len(by_dialogue) < FEWEST:
        why = f"no interval: {too_few(len(by_dialogue), 'dialogue')}"
        return Agreement(found, None, None, agreed, n, why)
    rng = random.Random(SEED)
    drawn = [_resampled(by_dialogue, rng) for _ in range(RESAMPLES)]
    defined = sorted(one for one in drawn if one is not None)
    if len(defined) < 0.95 * RESAMPLES:
        return Agreement(found, None, None, agreed, n, "too few pairs for an interval")
    low, high = (defined[int(share * (len(defined) - 1))] for share in (0.025, 0.975))
    return Agreement(found, low, high, agreed, n, "")


def _resampled(by_dialogue: Sequence[Cells], rng: random.Random) -> float | None:
    cells: dict[tuple[str, str], int] = defaultdict(int)
    for one in rng.choices(by_dialogue, k=len(by_dialogue)):
        for cell, count in one.items():
            cells[cell] += count
    return kappa(cells)


def compare(verdicts: Iterable[tuple[Key, Judgement, Judgement]]) -> Row:
    """What the written file says of the verdicts of two judges."""
    scored: Counter[str] = Counter()
    cells: dict[str, dict[str, Cells]] = {what: defaultdict(Counter) for what in LABELS}
    for (turn, _), one, other in verdicts:
        both = isinstance(one, FilterVerdict), isinstance(other, FilterVerdict)
        scored[_SCORED[both]] += 1
        if isinstance(one, FilterVerdict) and isinstance(other, FilterVerdict):
            dialogue = turn.rpartition("-")[0]
            for what in LABELS:
                cells[what][dialogue][_label(one, what), _label(other, what)] += 1
    return {"pairs": {name: scored[name] for name in _SCORED.values()}} | {
        what: _told(what, list(of_dialogue.values())) for what, of_dialogue in cells.items()
    }


_SCORED = {
    (True, True): "both",
    (True, False): "first only",
    (False, True): "second only",
    (False, False): "none",
}


def _label(verdict: FilterVerdict, what: str) -> str:
    if what == "retain":
        return "Yes" if verdict.retain else "No"
    return verdict.rejected_error.value


def _told(what: str, by_dialogue: list[Cells]) -> Row:
    found = agreement(by_dialogue)
    cells = sum(by_dialogue, Cells())
    return {
        "kappa": found.kappa,
        "low": found.low,
        "high": found.high,
        "interval": f"95 %, {RESAMPLES} bootstrap resamples of dialogues, seed {SEED}",
        "n": found.n,
        "dialogues": len(by_dialogue),
        "agreed": found.agreed,
        "note": found.said or None,
        # Rows are the first judge's labels, columns the second's.
        "labels": list(LABELS[what]),
        "confusion": [[cells[one, other] for other in LABELS[what]] for one in LABELS[what]],
    }


def agree(first: Asked, second: Asked) -> Row:
    """What two judges' finished verdicts on one mining have in common, as it is written.

    Raises EscError where verdicts are not whole, or on other samples.
    """
    mining = first.mining
    options, facts = finished_samples(mining)
    judged = [finished_verdicts(asked, facts[SAMPLES]["sha256"]) for asked in (first, second)]
    found: list[tuple[Key, Judgement, Judgement]] = []
    for turn in read_turns(mining.folder / SAMPLES):
        dropped = screen(mining.task, turn)
        wanted = [candidate.key for candidate in turn if dropped[candidate.key] is None]
        one, other = (verdicts.take(wanted) for verdicts in judged)
        found += [(key, one.get(key), other.get(key)) for key in wanted]
    for verdicts in judged:
        verdicts.finish()
    smoke = options["smoke"] or any(verdicts.options["smoke"] for verdicts in judged)
    done = {"task": mining.task, "model": mining.model, "judges": [first.slug, second.slug]}
    done |= compare(found) | {"samples": facts[SAMPLES]["sha256"], "smoke": bool(smoke)}
    path = path_of(mining, done)
    with files.exclusive(path.parent):
        files.write_json(path, done)
    return done


def path_of(mining: Mining, done: Row) -> Path:
    """Of the result: beside the judges' folders, one file for two judges."""
    return mining.judged(f"agreement_{'_'.join(done['judges'])}.json")


def report(mining: Mining, done: Row) -> str:
    """The numbers one should see."""
    pairs = done["pairs"]
    lines = [
        f"agreement   {path_of(mining, done)}: {' and '.join(done['judges'])}",
        f"pairs       {sum(pairs.values()):,}: {pairs['both']:,} scored by both, "
        f"{pairs['first only']:,} by {done['judges'][0]} only, "
        f"{pairs['second only']:,} by {done['judges'][1]} only, {pairs['none']:,} by none",
    ]
    for what, name in (("retain", "retain"), ("rejected_error", "error of the rejected reply")):
        one = done[what]
        value = "none" if one["kappa"] is None else f"{one['kappa']:.3f}"
        interval = "" if one["low"] is None else f" [{one['low']:.3f}, {one['high']:.3f}]"
        why = f" ({one['note']})" if one["note"] else ""
        lines.append(
            f"kappa       {name}: {value}{interval}{why}; "
            f"agreed on {one['agreed']:,} of {one['n']:,}"
        )
        wide = max(map(len, one["labels"]))
        for label, row in zip(one["labels"], one["confusion"], strict=True):
            counts = "".join(f"{count:>8,}" for count in row)
            lines.append(f"            {label:<{wide}}{counts}")
    lines.append(f"            rows {done['judges'][0]}, columns {done['judges'][1]}, same order")
    if done["smoke"]:
        lines.append("SMOKE       embedded model, sample corpus or random judge: no result")
    return "\n".join(lines)


def main(argv: list[str]) -> None:
    """Command line of the step."""
    given = _parser().parse_args(argv)
    if "sp" in given.task:
        raise EscError("the planner's errors are found by comparing names; compare rg or vanilla")
    judges = [
        judge_for(given.model, name, None, keyless=True) for name in (given.judge, given.judge2)
    ]
    for mining in minings_of(given):
        first, second = (Asked(mining, judge, given.blind) for judge in judges)
        if first.slug == second.slug:
            raise EscError(f"--judge and --judge2 are both {first.slug}; name two judges")
        print(report(mining, agree(first, second)))


def _parser() -> argparse.ArgumentParser:
    parser = cli.parser(
        prog="python -m mining agreement",
        description=__doc__,
        examples=(
            "  python -m mining agreement --task rg --judge gpt-4.1-mini-2025-04-14 "
            "--judge2 my-model\n"
            "  python -m mining agreement --model qwen2.5-7b --task rg vanilla --judge a "
            "--judge2 b --blind"
        ),
    )
    add_mining(parser)
    add_judge_name(parser)
    add_blind(parser)
    parser.add_argument("--judge2", required=True, help="the other judge")
    return parser
