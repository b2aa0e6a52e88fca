"""Mined pairs to preference sets: DPO in sharegpt form, the mixes of Table 5, and KTO's singles.

Reads what ``mining route`` left, or with ``--from`` the pairs of others; writes
``data/esc_<task>_{dpo,kto}_<model>[_variant][_rN].jsonl`` and, last, a manifest. The prompt of a
pair is the train row's own, so that preference training sees what SFT saw. A mix that no pair is of
has no file. KTO's singles are in an order in which no reply stands next to one of its own turn:
LLaMA-Factory takes the reply of the row before as the mismatched one, the last row's for the first.
"""

import random
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Annotated

import typer

from data_builders import pairs, registry
from data_builders.pairs import Mining, Wanted
from esc import cli, files, paths, step
from esc.dialogue import GoldTurn, gold_turns
from esc.files import EscError, Row
from esc.paths import ALL, MIXES
from esc.plan_and_speak import chat_and_gold, sharegpt
from esc.records import MinedSets
from esc.strategies import Strategy, tag


def build(mining: Mining) -> MinedSets:
    """The manifest of the sets of a mining; EscError, with the old sets left, as `Mining.pairs`."""
    work, task, lineage = mining.work, mining.task, mining.lineage
    routed, built = mining.pairs(), step.manifest(work)
    # In round 1 the shared sets and the mixes; a later round has its own alone.
    variants = [None, *(MIXES if task == "vanilla" else ()), "kto"]
    first = [replace(lineage, variant=one) for one in variants]
    lineages = first if lineage.round == 1 else [lineage]
    made = [paths.preference_dataset(task, mining.model, one) for one in lineages]
    turns = {turn.id: turn for turn in gold_turns(work, "train", None)}
    described_in = work / paths.preference_manifest(task, mining.model, lineage)
    with files.exclusive(work / paths.DATA):
        names = map(paths.preference_file, made)
        with files.jsonl_together(work, *names, described_in=described_in) as writers:
            for row in _pairs(mining, turns):
                for one, writer in zip(lineages, writers, strict=True):
                    mix = MIXES.get(one.variant or "", ALL)
                    # An entangled pair of others may have no quadrant: it is in no mix.
                    if one.kind == "dpo" and (mix == ALL or row["quadrant"] in mix):
                        writer.write(row)
            if lineages[-1].kind == "kto":
                for row in _singles(mining, turns, routed.provenance):
                    writers[-1].write(row)
        told = MinedSets(
            **routed.model_dump(include={"provenance", "fates", "errors", "smoke"}),
            licence=built.licence,
            corpus=built.corpus.origin,
            sets={name: one.facts() for name, one in zip(made, writers, strict=True)},
        )
        for name, facts in told.sets.items():
            # LLaMA-Factory takes an empty set for a broken one.
            if not facts.rows:
                (work / paths.preference_file(name)).unlink()
        entries = (registry.preference_entry(task, mining.model, one) for one in lineages)
        registry.write_for(work, dict(entries))
        files.write_json(described_in, told.model_dump())
        return told


def _prompt(task: str, turn: GoldTurn, layout: str) -> Row:
    """What SFT saw up to the answer, in sharegpt form."""
    return {"id": turn.id} | sharegpt(chat_and_gold(task, turn, layout)[0])


def _answer(task: str, strategy: str, text: str) -> Row:
    """An answer in the form the task's model gives it."""
    said = tag(Strategy(strategy), text) if task == "vanilla" else text
    return {"from": "gpt", "value": said}


def _pairs(mining: Mining, turns: Mapping[str, GoldTurn]) -> Iterator[Row]:
    for pair in files.read_jsonl(mining.routed / pairs.PAIRS):
        yield _prompt(mining.task, turns[pair["id"]], mining.lineage.layout) | {
            "chosen": _answer(mining.task, pair["gold_strategy"], pair["chosen"]),
            "rejected": _answer(mining.task, pair["strategy"], pair["rejected"]),
            **{name: pair[name] for name in ("error", "explanation", "quadrant")},
            "provenance": pair["provenance"] | {"sample": pair["sample"], "seed": pair["seed"]},
        }


def _singles(mining: Mining, turns: Mapping[str, GoldTurn], made_by: Row) -> Iterator[Row]:
    # All are in memory for their order, and so without what all have in common.
    read = files.read_jsonl(mining.routed / pairs.SINGLES)
    singles = [single | {"provenance": None} for single in read]
    for place in apart([single["id"] for single in singles]):
        single = singles[place]
        row = _prompt(mining.task, turns[single["id"]], mining.lineage.layout)
        row["conversations"].append(_answer(mining.task, single["strategy"], single["text"]))
        own = {"label": single["wanted"], "error": single["error"]}
        yield row | own | {"provenance": made_by | {"sample": single["sample"]}}


def apart(turns: list[str]) -> list[int]:
    """A seeded order of rows in which neighbours, and the first and the last, are of other turns.

    ``turns`` holds each row's turn. Empty where one turn has more than half of the rows.
    """
    of_turn: dict[str, list[int]] = {}
    for place, turn in enumerate(turns):
        of_turn.setdefault(turn, []).append(place)
    groups, rng = list(of_turn.values()), random.Random(0)
    rng.shuffle(groups)
    for group in groups:
        rng.shuffle(group)
    # The largest first, each over slots that are `stride` from one another.
    groups.sort(key=len, reverse=True)
    stride = len(turns) // max(map(len, groups), default=1)
    if stride < 2:
        return []
    slots = chain.from_iterable(range(start, len(turns), stride) for start in range(stride))
    placed = dict(zip(slots, chain.from_iterable(groups), strict=True))
    return [placed[slot] for slot in range(len(turns))]


def report(manifest: MinedSets, work: Path) -> Iterator[str]:
    """Rows of every set, and the notice they carry."""
    for name, facts in manifest.sets.items():
        rows = f"{facts.rows:,} rows" if facts.rows else "0 rows, so no file"
        yield f"set         {work / paths.preference_file(name)}: {rows}"
    yield f"licence     {manifest.licence}"
    if manifest.smoke:
        yield step.SMOKE


@cli.command(
    examples="  python -m data_builders preference --model qwen2.5-7b --task rg --round 2\n"
    "  python -m data_builders preference --model qwen2.5-7b --task rg --from pairs.json"
)
def main(
    wanted: Wanted,
    model: cli.Model = paths.EMBEDDED,
    work: cli.Work = Path(),
    theirs: Annotated[
        Path | None,
        typer.Option("--from", help="pairs of others, JSON or JSONL, in place of mined ones"),
    ] = None,
    force: cli.Force = False,
    planned: cli.Planned = False,
) -> None:
    """Mined pairs as DPO and KTO sets, registered; or with --from the pairs of others.

    --force puts pairs of others in the place of those that are there.
    """
    minings = wanted.minings(model, work)
    if theirs and len(minings) > 1:
        raise EscError(f"--from {theirs} takes one --task: a file holds the pairs of one")

    def built(mining: Mining) -> Iterator[str]:
        if theirs:
            yield from pairs.report(mining, pairs.take(theirs, mining, force=force))
        yield from report(build(mining), work)

    cli.each(minings, built, planned=planned)
