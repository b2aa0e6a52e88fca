"""What steps leave beside what they make: option stamps, when a run is done, the SMOKE mark.

The mark says which numbers show that everything runs, and are no results.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from esc import files, paths, prompts, strategies
from esc.files import EscError, JsonlWriter, NoPairs, OptionsDiffer, Row
from esc.paths import EMBEDDED, Lineage
from esc.records import Built, Routed

SMOKE = "SMOKE       embedded model, sample corpus or random judge: no result"
"""What a report says of such a run."""


def built(work: Path) -> Built:
    """The manifest of the built sets."""
    return files.read_as(Built, work / paths.MANIFEST, made_by="make data")


def manifest(work: Path) -> Built:
    """`built`; EscError where the system prompts have changed since."""
    found = built(work)
    worded = {key: prompts.wording(layout) for layout, key in prompts.KEYS.items()}
    if any(found.options.get(key) != now for key, now in worded.items()):
        raise EscError(
            f"the sets in {work / paths.DATA} were built with other system prompts or strategies; "
            "set PROMPTS_DIR and STRATEGIES as they were then, or build and train again"
        )
    return found


def set_of(manifest: Built, split: str) -> str:
    """What is predicted, in words: the side, the corpus and its split."""
    return f"{split} of {manifest.corpus.origin}, SPLIT={manifest.options['SPLIT']}"


def train_set(manifest: Built) -> Row:
    """What names the train turns: corpus, split, how turns were made, and the set's own hash."""
    options = {name: manifest.options[name] for name in ("ESCONV", "SPLIT", "CONSECUTIVE")}
    return options | {"train set": manifest.sets[paths.sft_file("rg", "train")].sha256}


def refuse_without_pairs(work: Path, model: str, task: str, lineage: Lineage) -> None:
    """Raise NoPairs where the last mining ended with none: those there are of one before it."""
    none = work / paths.no_pairs(model, task, lineage)
    if none.is_file():
        raise NoPairs(f"{none}: {files.read_json(none)['told']}")


def routed_pairs(work: Path, model: str, task: str, lineage: Lineage, again: str) -> Routed:
    """What ``route.json`` says of a mining; ``again`` is the command that routes it.

    EscError where a later routing left no pairs, or files or the train turns were changed since.
    """
    refuse_without_pairs(work, model, task, lineage)
    folder = (work / paths.no_pairs(model, task, lineage)).parent
    routed = files.read_as(Routed, folder / "route.json", made_by=again)
    changed = files.differences(routed.provenance["data"], train_set(manifest(work)))
    written = {"routes": routed.routes, "pairs": routed.pairs, "singles": routed.singles}
    changed += [
        f"{name}.jsonl was changed since it was written"
        for name, one in written.items()
        if files.sha256(folder / f"{name}.jsonl") != one.sha256
    ]
    if changed:
        raise EscError(
            f"{folder} is not as it was written, or of other train turns than are built now "
            f"({'; '.join(changed)}); build those again, or {again} FORCE=1"
        )
    return routed


OPTIONS, CALLS, DONE = "options.json", "calls.jsonl", "run.json"


def check_apart(out: Path, *read: Path) -> None:
    """Raise EscError where ``out`` is the folder of a file that is read."""
    if any(path.resolve().parent == out.resolve() for path in read):
        raise EscError(f"--out {out} holds the file that is read; name a folder of its own")


def check_own_file(out: Path, mark: str) -> Row:
    """The options beside ``out``, one file of a step; EscError where it would replace another.

    They hold ``mark`` and, as ``files``, the names of what the step wrote.
    """
    options = files.read_json(out.with_name(OPTIONS), default={})
    if options and mark not in options:
        raise EscError(f"{out.parent} holds another run; name a folder of its own in --out")
    if out.name == OPTIONS or (out.exists() and out.name not in options.get("files", ())):
        raise EscError(f"--out {out} is there and was not written by this step; name another file")
    return options


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The folder and the options asked for; where a user names it, they hold the ``step``."""

    path: Path
    options: Row
    records: str
    """The name of the file of records."""

    @property
    def stamp(self) -> Row:
        """The options, and the list of strategies they were asked for under."""
        return self.options | {"STRATEGIES": strategies.HASH}

    def finished(self) -> Row | None:
        """What ``run.json`` says where these options are done and its records whole, or None."""
        done, records = self.path / DONE, self.path / self.records
        if not done.is_file() or not records.is_file():
            return None
        facts = files.read_json(done)
        return facts if facts[self.records]["sha256"] == files.sha256(records) else None

    def check_own(self) -> None:
        """Raise EscError where a user named the folder of another step: it is never replaced."""
        there = [n for n in (OPTIONS, self.records, DONE) if (self.path / n).exists()]
        step = self.options.get("step")
        if step and there and files.read_json(self.path / OPTIONS, default={}).get("step") != step:
            raise EscError(
                f"--out {self.path} is the folder of another step ({there[0]} is not of {step}); "
                "name a folder of its own"
            )

    def claim(self, *, force: bool) -> None:
        """Leave the options in the folder; OptionsDiffer where there are records of others.

        ``force`` deletes records, so that what was refused is asked again; stored answers never.
        """
        old = [self.path / name for name in (DONE, self.records)]
        made_with = files.read_json(self.path / OPTIONS, default={}) or {"options": "unknown"}
        changed = files.differences(made_with, self.stamp)
        if changed and not force and any(path.is_file() for path in old):
            other = "another --out" if "step" in self.options else "another WORK=folder"
            raise OptionsDiffer(
                f"{self.path} was made with other options ({'; '.join(changed)}); use {other}, or "
                f"FORCE=1 to make its {old[1].stem} anew (stored answers are kept)"
            )
        for path in old if force else ():
            path.unlink(missing_ok=True)
        files.write_json(self.path / OPTIONS, self.stamp)

    def write(self, records: Iterable[Row], facts: Row, *, complete: bool) -> None:
        """Write the records, and ``run.json`` where none is missing."""
        (self.path / DONE).unlink(missing_ok=True)
        with files.atomic_writer(self.path / self.records) as stream:
            writer = JsonlWriter(stream)
            for record in records:
                writer.write(record)
        if complete:
            written = writer.facts().model_dump(include={"rows", "sha256"})
            files.write_json(self.path / DONE, facts | {self.records: written})


def is_smoke(model: str, work: Path) -> bool:
    """Whether ``model`` is the embedded one or the built sets are of the sample corpus."""
    return built(work).smoke or model == EMBEDDED


def made_beside(path: Path) -> bool:
    """Whether options that a step left beside a file of records mark them; other files say none."""
    return bool(files.read_json(path.with_name(OPTIONS), default={}).get("smoke"))
