"""Build the SFT sets: ``data/{sp,rg,vanilla}_sft_{train,validation,test}.jsonl`` and a manifest.

Reads the corpus once. Writes fifteen sets, then ``data/manifest.json``, which exists exactly when
the sets are complete. The mined preference sets are built by ``preference``. ``replies`` writes a
corpus's own replies in the form of predictions.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from tqdm import tqdm

from data_builders import leaks, registry, source, split
from data_builders.corpus import at_release_positions, read, read_mapping
from esc import cli, files, paths, prompts, step
from esc.backbones import CUTOFF
from esc.dialogue import Consecutive, Dialogue, GoldTurn, Role, Turn, turns
from esc.files import EscError, JsonlWriter, Row
from esc.paths import DIALOGUE
from esc.plan_and_speak import chat_and_gold, sharegpt
from esc.records import Built, Corpus
from esc.strategies import tag

FORMAT = 4
"""Raised with every change of the rules, so that sets built before it are built anew."""


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """What a user asks of a build."""

    split: Annotated[
        str | None, typer.Option(envvar="SPLIT", help="paper, hf, files (its own) or seed:N")
    ] = None
    """None is the corpus's default."""
    limit: cli.Limit = None
    consecutive: Annotated[
        Consecutive, typer.Option(envvar="CONSECUTIVE", help="of the supporter's utterances")
    ] = "separate"
    mapping: Annotated[
        Path | None, typer.Option(envvar="MAPPING", help="where the corpus keeps what; a YAML file")
    ] = None


def sp_rows(turns: Sequence[Turn], provenance: Row) -> Iterator[Row]:
    """Planner rows: the whole conversation in one user message, the strategy's name as answer."""
    transcript = ""
    for index, turn in enumerate(turns):
        transcript += prompts.transcript_line(Role.SEEKER, turn.seeker)
        yield {
            "id": turn.id,
            "system": prompts.sp_system(),
            "instruction": transcript,
            "input": "",
            "output": turn.strategy.value,
            "provenance": provenance | {"turn": index},
        }
        transcript += prompts.transcript_line(Role.SUPPORTER, turn.response)


def rg_rows(turns: Sequence[Turn], provenance: Row) -> Iterator[Row]:
    """Generator rows: the strategy in the system prompt, the chat as real turns, one reply."""
    for index, turn in enumerate(turns):
        yield {
            "id": turn.id,
            "system": prompts.rg_system(turn.strategy),
            "instruction": turn.seeker,
            "input": "",
            "output": turn.response,
            "history": [[said.seeker, said.response] for said in turns[:index]],
            "strategy": turn.strategy.value,
            "provenance": provenance | {"turn": index},
        }


def vanilla_rows(turns: Sequence[Turn], provenance: Row) -> Iterator[Row]:
    """The one entangled row of a dialogue: every reply is ``[Strategy] response``."""
    conversations = []
    for turn in turns:
        conversations.append({"from": "human", "value": turn.seeker})
        conversations.append({"from": "gpt", "value": tag(turn.strategy, turn.response)})
    yield {
        "id": turns[0].id.partition("-")[0],
        "system": prompts.vanilla_system(),
        "conversations": conversations,
        "provenance": provenance,
    }


def _tokens(turn: Turn) -> float:
    """At most about what a turn takes in any script, with its strategy and the template's own."""
    said = f"{turn.seeker}{turn.response}"
    if said.isascii():
        return len(said) / 3 + 22
    plain = len(said.encode("ascii", "ignore"))
    return plain / 3 + (len(said.encode()) - plain) * 0.65 + 22


def dialogue_rows(task: str, turns: Sequence[Turn], provenance: Row) -> Iterator[Row]:
    """The planner's or generator's one row of a dialogue, every answer of it learned.

    One that would be too long goes on in another row, from a turn on: `check` shows what is cut.
    """
    start, size = 0, 0.0
    for place, turn in enumerate(turns):
        size += (one := _tokens(turn))
        if size > CUTOFF and place > start:
            yield _dialogue_row(task, turns[start:place], provenance, start)
            start, size = place, one
    yield _dialogue_row(task, turns[start:], provenance, start)


def _dialogue_row(task: str, turns: Sequence[Turn], provenance: Row, start: int) -> Row:
    *past, last = turns
    gold = GoldTurn(
        last.id,
        last.seeker,
        last.strategy,
        last.response,
        history=tuple((one.seeker, one.response) for one in past),
        history_strategies=tuple(one.strategy for one in past),
        dialogue_turns=len(turns),
    )
    chat, answer = chat_and_gold(task, gold, DIALOGUE)
    told = sharegpt(chat)
    told["conversations"].append({"from": "gpt", "value": answer})
    dialogue = turns[0].id.partition("-")[0]
    return {"id": turns[0].id if start else dialogue} | told | {"provenance": provenance}


ROWS = {"sp": sp_rows, "rg": rg_rows, "vanilla": vanilla_rows}
"""Task to its row function, in the turn layout."""
SETS = {(task, paths.TURN): rows for task, rows in ROWS.items()} | {
    (task, DIALOGUE): partial(dialogue_rows, task) for task in ("sp", "rg")
}
"""(task, layout) to the function of its rows."""


_ESCONV_LICENCE = "{}: CC BY-NC 4.0, academic use; so are these files, which are built from it"
LICENCES = {
    "esconv": _ESCONV_LICENCE.format("ESConv"),
    "failed-esconv": _ESCONV_LICENCE.format("FailedESConv"),
    "sample": "sample corpus of this project, Apache-2.0; for trying the software out, not results",
    "other": "the licence of the corpus these files are built from applies to them",
}
"""Kind of corpus to the notice that its files carry."""


def build(esconv: str | None, work: Path, wanted: BuildOptions) -> tuple[Built, bool]:
    """(manifest of all sets, whether they were built now).

    Where they are complete and were made with the same options, nothing is written. Raises
    EscError, with the old sets left whole, where the corpus or an option is wrong.
    """
    # Several machines begin the same training, and each builds the sets first.
    with files.exclusive(work / paths.DATA, patience=3600):
        found = source.locate(esconv, work, wanted.mapping)
        digests = {path.name: files.sha256(path) for path in found.files}
        mapping = read_mapping(found.mapping) if found.mapping else None
        layout, dialogues = read(found.files, mapping)
        survey = split.Survey(list(tqdm(dialogues, "reading", leave=False, delay=1)))
        spec = split.resolve(wanted.split, survey)
        stamp = {
            "format": FORMAT,
            "ESCONV": survey.corpus,
            "SPLIT": spec,
            "LIMIT": wanted.limit,
            "CONSECUTIVE": wanted.consecutive,
            **{key: prompts.wording(layout) for layout, key in prompts.KEYS.items()},
        }
        # Before any set is replaced, so that a clash there leaves all as it was.
        registry.write_for(work)
        if there := _finished(work, stamp):
            return there, False
        sides = split.assign(survey, spec)
        chosen = split.subset(sides, wanted.limit)
        # By content: given by its path, or kept from before, it is still the sample corpus.
        is_sample = [*digests.values()] == [files.sha256(paths.SAMPLE)]
        known = "esconv" if survey.is_release else {"failed": "failed-esconv"}.get(layout, "other")
        kind = "sample" if is_sample else known
        rows = _rows([survey.dialogues[place] for place in chosen], sides, wanted.consecutive, kind)
        names = [paths.sft_file(t, side, of) for side in paths.SPLITS for t, of in SETS]
        with files.jsonl_together(work, *names, described_in=work / paths.MANIFEST) as writing:
            writers = dict(zip(names, writing, strict=True))
            for name, row in rows:
                writers[name].write(row)
            sets = {name: writer.facts() for name, writer in writers.items()}
            if empty := [name for name, facts in sets.items() if not facts.rows]:
                raise EscError(
                    f"{empty[0]} would have no row (the corpus has {len(sides)} dialogues); every "
                    "split takes one, so at least 10, of situations that differ"
                )
        source.keep(found, work)
        files.write_json(work / paths.DIALOGUES, leaks.built(survey, sides, chosen))
        of = Corpus(
            kind=kind,
            origin=found.origin,
            layout=layout,
            mapping=found.mapping.name if found.mapping else None,
            dialogues=len(survey.dialogues),
            utterances=sum(len(dialogue.utterances) for dialogue in survey.dialogues),
            files=digests,
        )
        manifest = Built(
            corpus=of,
            licence=LICENCES[kind],
            smoke=kind == "sample",
            options=stamp,
            dialogues={s: sum(sides[place] == s for place in chosen) for s in paths.SPLITS},
            leaks=split.leaks(survey, sides, chosen),
            sets=sets,
        )
        files.write_json(work / paths.MANIFEST, manifest.model_dump())
        return manifest, True


def _finished(work: Path, stamp: Row) -> Built | None:
    """The manifest of sets that are there, whole and of these options."""
    try:
        manifest = step.built(work)
    except EscError:
        return None  # not finished: it is built anew
    whole = (
        (work / paths.DIALOGUES).is_file()
        and manifest.options == stamp
        and all(
            (work / name).is_file() and files.sha256(work / name) == facts.sha256
            for name, facts in manifest.sets.items()
        )
    )
    return manifest if whole else None


def _rows(
    dialogues: Sequence[Dialogue], sides: Sequence[str], consecutive: Consecutive, kind: str
) -> Iterator[tuple[str, Row]]:
    """(name of its set, row) of all tasks, dialogue by dialogue."""
    for dialogue in tqdm(dialogues, "building", unit=" dialogues", leave=False):
        side, said = sides[dialogue.position], turns(dialogue, consecutive=consecutive)
        provenance = {"corpus": kind, "split": side, "dialogue": dialogue.position}
        for (task, layout), rows in SETS.items():
            for row in rows(said, provenance | {"turns": len(said)}):
                yield paths.sft_file(task, side, layout), row


def report(manifest: Built, work: Path) -> Iterator[str]:
    """What one should see after a build: rows per set, what the leak check found, the licence."""
    corpus, leaked, sets = manifest.corpus, manifest.leaks, manifest.sets
    known = "the ESConv release" if corpus.kind == "esconv" else "not the ESConv release"
    yield (
        f"corpus   {corpus.origin} ({known}): {corpus.dialogues:,} dialogues, "
        f"{corpus.utterances:,} utterances, layout {corpus.layout}"
    )
    of_dialogues = (sets[paths.sft_file("rg", side, DIALOGUE)].rows for side in paths.SPLITS)
    split_up = sum(of_dialogues) - sum(manifest.dialogues.values())
    yield from (f"         SHA-256 {sha256}  {name}" for name, sha256 in corpus.files.items())
    yield f"split    {manifest.options['SPLIT']}"
    for side, count in manifest.dialogues.items():
        rows = (f"  {t} {sets[paths.sft_file(t, side)].rows:,}" for t in ROWS)
        yield f"  {side:<11}{count:>6,} dialogues{''.join(rows)}"
    shown = [f"{leak['what']} {'/'.join(leak['ids'])}" for leak in leaked[:5]]
    shown += ["…"] * (len(leaked) > 5)
    none = "none: no dialogue and no near-identical situation on two sides"
    two = f"{len(leaked)} pairs on two sides of the split: {', '.join(shown)}"
    yield f"leaks    {two if leaked else none}"
    if split_up:
        yield f"layout   {split_up} more rows in the dialogue layout, of dialogues too long for one"
    yield f"licence  {manifest.licence}"
    if manifest.smoke:
        yield "SMOKE    sample corpus: every number from here on is a smoke test, no result"
    yield f"written  {work / paths.MANIFEST}"


Esconv = Annotated[
    str | None,
    typer.Option(
        envvar="ESCONV",
        help="corpus: a file, a folder, thu-coai/esconv, or 'sample'; default: the one used "
        "before, else the official download",
    ),
]


@cli.command(
    examples="  python -m data_builders build                         # download ESConv\n"
    "  python -m data_builders build --esconv ESConv.json --split paper\n"
    "  python -m data_builders build --esconv sample --work demo --limit 4"
)
def main(wanted: BuildOptions, esconv: Esconv = None, work: cli.Work = Path()) -> None:
    """The SFT sets of three tasks and three splits from ESConv, with a manifest.

    Does nothing where they are there and were made with the same options.
    """
    manifest, built_now = build(esconv, work, wanted)
    if built_now:
        print("\n".join(report(manifest, work)))
    else:
        print(f"{work / paths.DATA} is up to date ({manifest.corpus.origin})")


def records(dialogues: Iterable[Dialogue]) -> Iterator[Row]:
    """One record a supporter turn: its reply stands as gold and as predicted."""
    for dialogue in dialogues:
        said = turns(dialogue)
        for row, turn in zip(rg_rows(said, {}), said, strict=True):
            yield {
                "id": turn.id,
                "dialogue_turns": len(said),
                "context": {"history": row["history"], "seeker": turn.seeker},
                "gold_strategy": turn.strategy.value,
                "gold_response": turn.response,
                "status": "ok",
                "predicted_strategy": turn.strategy.value,
                "raw_strategy": turn.strategy.value,
                "predicted_response": turn.response,
            }


@cli.command(
    name="replies",
    examples="  python -m data_builders replies --esconv FailedESConv.json --out replies.jsonl",
)
def replies_main(
    esconv: Annotated[Path, typer.Option(help="a corpus in one of ESConv's layouts")],
    out: Annotated[Path, typer.Option(help="the file of records")],
) -> None:
    """A corpus's own replies in the form of predictions, and beside them what they are of."""
    if not esconv.exists():
        raise EscError(f"{esconv}: no such file; name a corpus in one of ESConv's layouts")
    corpus = source.of_path(esconv).files
    beside = step.check_own_file(out, "sha256")
    dialogues = list(read(corpus)[1])
    with files.atomic_writer(out) as stream:
        writer = JsonlWriter(stream)
        for record in records(at_release_positions(dialogues) or dialogues):
            writer.write(record)
    sha256 = files.sha256(corpus[0]) if len(corpus) == 1 else files.sha256_of(corpus)
    smoke = sha256 == files.sha256(paths.SAMPLE)
    written = sorted({*beside.get("files", ()), out.name})
    made_of = {"corpus": esconv.name, "sha256": sha256, "smoke": smoke, "files": written}
    files.write_json(out.with_name(step.OPTIONS), made_of)
    print(f"replies     {out}: {writer.facts().rows:,} of {len(dialogues):,} dialogues")
    if smoke:
        print("SMOKE       sample corpus: no result")
