"""Mined pairs to preference sets: DPO in sharegpt form, the mixes of Table 5, and KTO's singles.

Reads what ``mining route`` left (``pairs.jsonl``, ``singles.jsonl``) beside the train set, turn by
turn; writes ``data/esc_<task>_{dpo,kto}_<model>[_variant][_rN].jsonl`` and, last, a manifest.
Registers sets of later rounds. The prompt of a pair is the train row's own, so that preference
training sees what SFT saw; a pair whose turn is not of the train set stops it, nothing is written,
and so does ``no_pairs.json`` there. A mix that no pair is of has no file. KTO's singles are in an
order in which no reply stands next to one of its own turn: LLaMA-Factory takes the reply of the row
before as the mismatched one, and the last row's for the first.

With ``--from`` the pairs are those of a file of others (`published`), without sampling or a judge.
"""

import random
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Annotated

import typer

from data_builders import published, registry
from esc import backbones, cli, files, paths, step
from esc.dialogue import GoldTurn, gold_turns
from esc.files import EscError, Row
from esc.paths import ALL, MIXES, Lineage
from esc.plan_and_speak import chat_and_gold
from esc.strategies import Strategy, tag


def build(work: Path, model: str, task: str, lineage: Lineage) -> Row:
    """The manifest of the preference sets of one mining.

    Raises EscError, with the old sets left whole, where the last routing left no pairs, they are
    of another model or of other turns than the train set's, or a chosen answer equals its rejected
    one.
    """
    backbones.get(model)
    again = paths.make(f"mine-{task}", work=work, model=model, **lineage.variables)
    built, routed = step.manifest(work), step.routed_pairs(work, model, task, lineage, again)
    source = work / paths.mining(model, lineage) / task / "routed"
    if (routed["model"], routed["task"]) != (model, task):
        raise EscError(f"{source} is of {routed['model']} {routed['task']}; {again} mines it anew")
    # In round 1 the shared sets and the mixes; a later round has its own alone.
    first = [*map(Lineage, lineage.mixes if task == "vanilla" else [None]), Lineage("kto")]
    made = {
        paths.preference_dataset(task, model, one): one
        for one in (first if lineage.round == 1 else [lineage])
    }
    turns = {turn.id: turn for turn in gold_turns(work, "train", None)}
    described_in = work / paths.preference_manifest(task, model, lineage)
    with files.exclusive(work / paths.DATA):
        names = map(paths.preference_file, made)
        with files.jsonl_together(work, *names, described_in=described_in) as writing:
            writers = dict(zip(made, writing, strict=True))
            mixes = {n: MIXES.get(one.variant or "", ALL) for n, one in made.items()}
            singles = [name for name, one in made.items() if one.kind == "kto"]
            for row in _pair_rows(task, source / published.PAIRS, turns):
                for name in mixes.keys() - singles:
                    # An entangled pair of others may have no quadrant: it is in no mix.
                    if mixes[name] == ALL or row["quadrant"] in mixes[name]:
                        writers[name].write(row)
            for name in singles:
                for row in _single_rows(task, source / published.SINGLES, turns, routed):
                    writers[name].write(row)
        sets = {name: writer.facts() for name, writer in writers.items()}
        for name, facts in sets.items():
            # LLaMA-Factory takes an empty set for a broken one.
            if not facts["rows"]:
                (work / paths.preference_file(name)).unlink()
        entries = (registry.preference_entry(task, model, one) for one in made.values())
        registry.write_for(work, dict(entries))
        told = {name: routed[name] for name in ("provenance", "fates", "errors", "smoke")}
        of = {"licence": built["licence"], "corpus": built["corpus"]["origin"]}
        files.write_json(described_in, of | told | {"sets": sets})
        return of | told | {"sets": sets}


def _prompt(task: str, turn: GoldTurn) -> tuple[Row, str]:
    """(what SFT saw up to the answer, in sharegpt form; the gold answer)."""
    (system, *said), gold = chat_and_gold(task, turn)
    who = {"user": "human", "assistant": "gpt"}
    conversations = [{"from": who[one.role], "value": one.content} for one in said]
    return {"system": system.content, "conversations": conversations}, gold


def _answer(task: str, strategy: str, text: str) -> str:
    """An answer in the form the task's model gives it."""
    return tag(Strategy(strategy), text) if task == "vanilla" else text


def _pair_rows(task: str, path: Path, turns: Mapping[str, GoldTurn]) -> Iterator[Row]:
    for pair in files.read_jsonl(path):
        turn = turns.get(pair["id"])
        prompt, gold = _prompt(task, turn) if turn else ({}, None)
        chosen = _answer(task, pair["gold_strategy"], pair["chosen"])
        rejected = _answer(task, pair["strategy"], pair["rejected"])
        if chosen != gold or chosen == rejected:
            raise EscError(
                f"{path}: the chosen answer of turn {pair['id']} is not the gold one of a train "
                "turn, or is the rejected one too; mine again from the sets that are built now"
            )
        yield {
            "id": pair["id"],
            **prompt,
            "chosen": {"from": "gpt", "value": chosen},
            "rejected": {"from": "gpt", "value": rejected},
            **{name: pair[name] for name in ("error", "explanation", "quadrant")},
            "provenance": pair["provenance"] | {"sample": pair["sample"], "seed": pair["seed"]},
        }


def _single_rows(
    task: str, path: Path, turns: Mapping[str, GoldTurn], routed: Row
) -> Iterator[Row]:
    # All are in memory for their order, and so without what all have in common.
    rows = [row | {"provenance": None} for row in files.read_jsonl(path)]
    for place in apart([row["id"] for row in rows]):
        single = rows[place]
        prompt, _ = _prompt(task, turns[single["id"]])
        said = _answer(task, single["strategy"], single["text"])
        yield {
            "id": single["id"],
            "system": prompt["system"],
            "conversations": [*prompt["conversations"], {"from": "gpt", "value": said}],
            "label": single["wanted"],
            "error": single["error"],
            "provenance": routed["provenance"] | {"sample": single["sample"]},
        }


def apart(turns: list[str]) -> list[int]:
    """A seeded order of rows in which neighbours, and the first and the last, are of other turns.

    ``turns`` holds each row's turn. The rows of a turn are about as far from one another as they
    can be. Empty where one turn has more than half of the rows, so that there is no such order.
    """
    of_turn: dict[str, list[int]] = {}
    for place, turn in enumerate(turns):
        of_turn.setdefault(turn, []).append(place)
    groups, rng = list(of_turn.values()), random.Random(0)
    rng.shuffle(groups)
    for group in groups:
        rng.shuffle(group)
    # The largest first, each over slots that are `step` from one another.
    groups.sort(key=len, reverse=True)
    step = len(turns) // max(map(len, groups), default=1)
    if step < 2:
        return []
    slots = chain.from_iterable(range(start, len(turns), step) for start in range(step))
    placed = dict(zip(slots, chain.from_iterable(groups), strict=True))
    return [placed[slot] for slot in range(len(turns))]


def report(manifest: Row, work: Path) -> Iterator[str]:
    """Rows of every set, and the notice they carry."""
    for name, facts in manifest["sets"].items():
        if facts["rows"]:
            yield f"set         {work / paths.preference_file(name)}: {facts['rows']:,} rows"
        else:
            needs = "_kto_" in name
            why = " (KTO takes replies of several turns, no more than half of one)" if needs else ""
            yield f"set         {name}: 0 rows, so no file{why}"
    yield f"licence     {manifest['licence']}"
    if manifest["smoke"]:
        yield "SMOKE       embedded model, sample corpus or random judge: no result"


@cli.command(
    examples="  python -m data_builders preference --task sp\n"
    "  python -m data_builders preference --model qwen2.5-7b --task rg --round 2\n"
    "  python -m data_builders preference --model qwen2.5-7b --task rg --from pairs.json"
)
def main(
    task: cli.Tasks,
    model: cli.Model = paths.EMBEDDED,
    work: cli.Work = Path(),
    variant: cli.Variant = None,
    round: cli.Round = 1,  # noqa: A002
    pairs: Annotated[
        Path | None,
        typer.Option("--from", help="pairs of others, JSON or JSONL, in place of mined ones"),
    ] = None,
    force: cli.Force = False,
    planned: cli.Planned = False,
) -> int:
    """Mined pairs as DPO and KTO sets, registered; or with --from the pairs of others.

    The statistics of others' pairs are made at once; --force puts them in the place of other pairs.
    """
    if pairs and len(task) > 1:
        raise EscError(f"--from {pairs} takes one --task: a file holds the pairs of one")

    def built(one: str) -> Iterator[str]:
        lineage = Lineage(variant, round).checked(one).mining
        if pairs:
            name = backbones.get(model).name
            done = published.route(pairs, work, name, one, lineage, force=force)
            yield f"read        {pairs}: {done['samples']:,} rows"
            yield from (f"            {count:>9,}  {fate}" for fate, count in done["fates"].items())
            told = (f"{count:,} {error}" for error, count in done["errors"].items())
            yield f"errors      {', '.join(told)}"
        yield from report(build(work, model, one, lineage), work)

    cli.each(task, built, planned=planned)
    if not pairs:
        return 0
    # A step of a package above this one: called as a user would call it.
    command = paths.step(
        "mining",
        "stats",
        work=work,
        model=model,
        variant=variant,
        round=round if round > 1 else None,
    )
    sys.stdout.flush()
    return subprocess.run([sys.executable, *shlex.split(command)[1:]], check=False).returncode
