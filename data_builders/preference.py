"""Mined pairs to preference sets: DPO in sharegpt form, the mixes of Table 5, and KTO's singles.

    python -m data_builders preference --model smollm2-135m --task rg
    python -m data_builders preference --model qwen2.5-7b --task rg --from pairs.json

Reads what ``mining route`` left (``pairs.jsonl``, ``singles.jsonl``) beside the train set, turn by
turn; writes ``data/esc_<task>_{dpo,kto}_<model>[_variant][_rN].jsonl`` and, last, a manifest.
Registers sets of later rounds. The prompt of a pair is the train row's own, so that preference
training sees what SFT saw; a pair whose turn is not of the train set stops it, nothing is written,
and so does ``no_pairs.json`` there. A mix that no pair is of has no file. KTO's singles are in an
order in which no reply stands next to one of its own turn: LLaMA-Factory takes the reply of the row
before as the mismatched one, and the last row's for the first.

With ``--from`` the pairs are those of a file of others (`published`), without sampling or a judge,
and their statistics are made at once.
"""

import argparse
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict
from itertools import chain
from pathlib import Path

import orjson

from data_builders import published, registry
from esc import backbones, cli, files, paths, prompts
from esc import step as built
from esc.exceptions import EscError
from esc.files import JsonlWriter, Row
from esc.paths import ALL, MIXES, Lineage
from esc.strategies import Strategy, tag

_SEED = 0


class _Turns:
    """The train rows of a task, found in the order of the set without holding it."""

    def __init__(self, work: Path, task: str) -> None:
        self._task = task
        self.path = work / paths.sft_file(task, "train")
        self._rows = files.read_jsonl(self.path)
        self._row: Row = {"id": None}

    def prompt_and_gold(self, turn: str, source: Path) -> tuple[Row, str]:
        """(system and conversations up to the answer, the gold answer) of a turn.

        Raises EscError where the set does not hold the turn after the last one asked for.
        """
        row_id = turn.rpartition("-")[0] if self._task == "vanilla" else turn
        while self._row["id"] != row_id:
            try:
                self._row = next(self._rows)
            except StopIteration:
                raise EscError(
                    f"{source}: turn {turn} is not in {self.path}, or not in its order; only train "
                    "turns make pairs: mine again from the sets that are built now"
                ) from None
        return _FORMS[self._task](self._row, int(turn.rpartition("-")[2]))


def _sp(row: Row, turn: int) -> tuple[Row, str]:
    said = [{"from": "human", "value": row["instruction"]}]
    return {"system": row["system"], "conversations": said}, row["output"]


def _rg(row: Row, turn: int) -> tuple[Row, str]:
    said = [
        {"from": role, "value": text}
        for exchange in row["history"]
        for role, text in zip(("human", "gpt"), exchange, strict=True)
    ]
    said.append({"from": "human", "value": row["instruction"]})
    return {"system": row["system"], "conversations": said}, row["output"]


def _vanilla(row: Row, turn: int) -> tuple[Row, str]:
    until = 2 * turn + 1
    said = row["conversations"]
    if until >= len(said):
        return {"system": row["system"], "conversations": []}, ""
    return {"system": row["system"], "conversations": said[:until]}, said[until]["value"]


_FORMS = {"sp": _sp, "rg": _rg, "vanilla": _vanilla}


def _answer(task: str, strategy: str, text: str) -> str:
    """An answer in the form the task's model gives it."""
    return tag(Strategy(strategy), text) if task == "vanilla" else text


def build(work: Path, model: str, task: str, lineage: Lineage) -> Row:
    """The manifest of the preference sets of one mining.

    Raises EscError, with the old sets left whole, where the last routing left no pairs, they are
    of another model or of other turns than the train set's, or a chosen answer equals its rejected
    one.
    """
    backbones.get(model)
    built.refuse_without_pairs(work, model, task, lineage)
    source = work / paths.mining(model, lineage) / task / "routed"
    again = paths.make(f"mine-{task}", work=work, model=model, **lineage.variables)
    routed: Row = files.read_json(source / "route.json", made_by=again)
    if (routed["model"], routed["task"]) != (model, task):
        raise EscError(f"{source} is of {routed['model']} {routed['task']}; {again} mines it anew")
    changed = files.differences(routed["provenance"]["data"], built.train_set(built.manifest(work)))
    if changed:
        raise EscError(
            f"{source} is of other train turns than are built now ({'; '.join(changed)}); build "
            f"those again, or {again} FORCE=1"
        )
    for name in ("pairs.jsonl", "singles.jsonl"):
        if files.sha256(source / name) != routed[name]["sha256"]:
            raise EscError(f"{source / name} was changed since it was written; {again}")
    with files.exclusive(paths.data(work)):
        manifest_path = work / paths.preference_manifest(task, model, lineage)
        with ExitStack() as stack:
            sets = {
                name: (one, JsonlWriter(stack.enter_context(files.atomic_writer(work / file))))
                for one, name, file in _named(task, model, lineage)
            }
            of_kind = {
                kind: [(one, writer) for one, writer in sets.values() if one.kind == kind]
                for kind in ("dpo", "kto")
            }
            _write_pairs(work, task, source, of_kind["dpo"])
            _write_singles(work, task, source, of_kind["kto"])
            for _, writer in sets.values():
                writer.flush()
            manifest_path.unlink(missing_ok=True)
            written = {name: asdict(writer.facts()) for name, (_, writer) in sets.items()}
        for name, facts in written.items():
            # LLaMA-Factory takes an empty set for a broken one.
            if not facts["rows"]:
                (work / paths.preference_file(name)).unlink()
        registry.register(
            work,
            dict(registry.preference_entry(task, model, one) for one in _lineages(task, lineage)),
        )
        return _manifest(manifest_path, work, routed, written)


def _lineages(task: str, lineage: Lineage) -> list[Lineage]:
    """Whose sets a mining makes: in round 1 the shared ones and the mixes, later its own alone."""
    if lineage.round > 1:
        return [lineage]
    mixes = lineage.mixes if task == "vanilla" else {None: None}
    return [*(Lineage(variant) for variant in mixes), Lineage("kto")]


def _named(task: str, model: str, mining: Lineage) -> Iterator[tuple[Lineage, str, str]]:
    """(lineage, registered name, file) of every set that a mining makes."""
    for lineage in _lineages(task, mining):
        name = paths.preference_dataset(task, model, lineage)
        yield lineage, name, paths.preference_file(name)


def _write_pairs(
    work: Path, task: str, source: Path, sets: list[tuple[Lineage, JsonlWriter]]
) -> None:
    turns, path = _Turns(work, task), source / "pairs.jsonl"
    mixes = [(MIXES.get(lineage.variant or "", ALL), writer) for lineage, writer in sets]
    for pair in files.read_jsonl(path):
        prompt, gold = turns.prompt_and_gold(pair["id"], path)
        chosen = _answer(task, pair["gold_strategy"], pair["chosen"])
        rejected = _answer(task, pair["strategy"], pair["rejected"])
        if chosen != gold:
            raise EscError(
                f"{path}: the chosen answer of turn {pair['id']} is not the train set's gold one; "
                "the pairs were mined from another corpus or split"
            )
        if chosen == rejected:
            raise EscError(f"{path}: chosen equals rejected in turn {pair['id']}; route again")
        row = {
            "id": pair["id"],
            **prompt,
            "chosen": {"from": "gpt", "value": chosen},
            "rejected": {"from": "gpt", "value": rejected},
            "error": pair["error"],
            "explanation": pair["explanation"],
            "quadrant": pair["quadrant"],
            "provenance": pair["provenance"] | {"sample": pair["sample"], "seed": pair["seed"]},
        }
        for mix, writer in mixes:
            # An entangled pair of others may have no quadrant: it is in no mix.
            if mix == ALL if pair["quadrant"] is None else pair["quadrant"] in mix:
                writer.write(row)


def _write_singles(
    work: Path, task: str, source: Path, sets: list[tuple[Lineage, JsonlWriter]]
) -> None:
    path = source / "singles.jsonl"
    for _, writer in sets:
        order = apart([single["id"] for single in files.read_jsonl(path)])
        # The prompts are found in the train set's order: the rows wait on the disk for theirs.
        with tempfile.TemporaryFile() as waiting:
            starts = []
            for row in _single_rows(_Turns(work, task), task, path):
                starts.append(waiting.tell())
                waiting.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))
            for place in order:
                waiting.seek(starts[place])
                writer.write(orjson.loads(waiting.readline()))


def _single_rows(turns: _Turns, task: str, path: Path) -> Iterator[Row]:
    for single in files.read_jsonl(path):
        prompt, _ = turns.prompt_and_gold(single["id"], path)
        said = _answer(task, single["strategy"], single["text"])
        yield {
            "id": single["id"],
            "system": prompt["system"],
            "conversations": [*prompt["conversations"], {"from": "gpt", "value": said}],
            "label": single["wanted"],
            "error": single["error"],
            "provenance": single["provenance"] | {"sample": single["sample"]},
        }


def apart(turns: list[str]) -> list[int]:
    """A seeded order of rows in which neighbours, and the first and the last, are of other turns.

    ``turns`` holds each row's turn. The rows of a turn are about as far from one another as they
    can be. Empty where one turn has more than half of the rows, so that there is no such order.
    """
    of_turn: dict[str, list[int]] = {}
    for place, turn in enumerate(turns):
        of_turn.setdefault(turn, []).append(place)
    groups, rng = list(of_turn.values()), random.Random(_SEED)
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


def _manifest(path: Path, work: Path, routed: Row, sets: Row) -> Row:
    built_from = built.manifest(work)
    manifest: Row = {
        "licence": built_from["licence"],
        "corpus": built_from["corpus"]["origin"],
        "provenance": routed["provenance"],
        "fates": routed["fates"],
        "errors": routed["errors"],
        "smoke": routed["smoke"],
        "sets": sets,
    }
    files.write_json(path, manifest)
    return manifest


def report(manifest: Row, work: Path) -> Iterator[str]:
    """Rows of every set, and the notice they carry."""
    for name, facts in manifest["sets"].items():
        if facts["rows"]:
            yield f"set         {work / paths.preference_file(name)}: {facts['rows']:,} rows"
        else:
            mined = paths.preference_of(name)
            needs = mined is not None and mined[2].kind == "kto"
            why = " (KTO takes replies of several turns, no more than half of one)" if needs else ""
            yield f"set         {name}: 0 rows, so no file{why}"
    yield f"licence     {manifest['licence']}"
    if manifest["smoke"]:
        yield "SMOKE       embedded model, sample corpus or random judge: no result"


def main(argv: list[str]) -> int:
    """Command line of the step."""
    parser = cli.parser(
        prog="python -m data_builders preference",
        description=__doc__,
        examples=(
            "  python -m data_builders preference --task sp\n"
            "  python -m data_builders preference --model qwen2.5-7b --task rg --round 2\n"
            "  python -m data_builders preference --model qwen2.5-7b --task rg --from pairs.json"
        ),
    )
    backbones.add_model(parser)
    parser.add_argument("--task", choices=prompts.TASKS, nargs="+", required=True)
    cli.add_work(parser)
    parser.add_argument("--variant", type=cli.optional, help="of a later round")
    parser.add_argument("--round", type=cli.optional_count, help="default: 1")
    parser.add_argument(
        "--from",
        dest="pairs",
        type=Path,
        metavar="FILE",
        help="pairs of others, JSON or JSONL, in place of mined ones",
    )
    parser.add_argument("--force", action="store_true", help="with --from: replace other pairs")
    given = parser.parse_args(argv)
    if given.pairs and len(given.task) > 1:
        raise EscError(f"--from {given.pairs} takes one --task: a file holds the pairs of one")
    failed = []
    for task in given.task:
        lineage = Lineage(given.variant, given.round or 1).checked(task).mining
        try:
            if given.pairs:
                _take(given, task, lineage)
            manifest = build(given.work, given.model, task, lineage)
        except EscError as error:
            # One task's mining is none of another's.
            failed.append(str(error))
            continue
        print("\n".join(report(manifest, given.work)))
    if failed:
        raise EscError("; ".join(failed))
    if given.pairs:
        # A step of a package above this one: called as a user would call it.
        own = (f"--{name.lower()}={value}" for name, value in lineage.variables.items() if value)
        command = ["-m", "mining", "stats", "--model", given.model, "--work", str(given.work), *own]
        sys.stdout.flush()
        return subprocess.run([sys.executable, *command], check=False).returncode
    return 0


def _take(given: argparse.Namespace, task: str, lineage: Lineage) -> None:
    """Put the pairs of a file where routing leaves a mining's, and say what became of its rows."""
    model = backbones.get(given.model).name
    done = published.route(
        given.pairs, given.work, model, task, lineage, _FORMS[task], force=given.force
    )
    told = "".join(f"\n            {n:>9,}  {fate}" for fate, n in done["fates"].items())
    print(f"read        {given.pairs}: {done['samples']:,} rows{told}")
    print("errors      " + ", ".join(f"{n:,} {error}" for error, n in done["errors"].items()))
