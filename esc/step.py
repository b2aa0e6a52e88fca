"""What steps leave beside what they make: option stamps, when a run is done, the SMOKE mark.

The mark says which numbers show that everything runs, and are no results.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from esc import files, paths, prompts
from esc.dialogue import CounselingStage
from esc.files import EscError, JsonlWriter, NoPairs, OptionsDiffer, Row
from esc.paths import EMBEDDED, Lineage
from esc.strategies import Strategy

SMOKE = "SMOKE       embedded model, sample corpus or random judge: no result"
"""What a report says of such a run."""


def manifest(work: Path) -> Row:
    """The manifest of the built sets.

    Raises EscError where there is none, or the system prompts have changed since.
    """
    found: Row = files.read_json(work / paths.MANIFEST, made_by="make data")
    if wording() != found["options"]["prompts"]:
        raise EscError(
            f"the sets in {work / paths.DATA} were built with other system prompts or strategies; "
            "set PROMPTS_DIR (or esc/strategies.py) as it was then, or build and train again"
        )
    return found


def wording() -> str:
    """One hash over all that words the system prompts: their files, strategies and stages."""
    named = [(one.value, one.definition) for one in (*Strategy, *CounselingStage)]
    digest = hashlib.sha256(files.sha256_of(system_prompts()).encode())
    digest.update(repr(named).encode())
    return digest.hexdigest()


def system_prompts() -> list[Path]:
    """The files of the three system prompts."""
    return [prompts.source(prompts.TEMPLATES, name) for name in prompts.PROMPTS]


def train_set(manifest: Row) -> Row:
    """What names the train turns: corpus, split, how turns were made, and the set's own hash."""
    options = {name: manifest["options"][name] for name in ("ESCONV", "SPLIT", "CONSECUTIVE")}
    return options | {"train set": manifest["sets"][paths.sft_file("rg", "train")]["sha256"]}


def refuse_without_pairs(work: Path, model: str, task: str, lineage: Lineage) -> None:
    """Raise NoPairs where the last mining ended with none: those there are of one before it."""
    none = work / paths.no_pairs(model, task, lineage)
    if none.is_file():
        raise NoPairs(f"{none}: {files.read_json(none)['told']}")


def routed_pairs(work: Path, model: str, task: str, lineage: Lineage, again: str) -> Row:
    """What ``route.json`` says of a mining; ``again`` is the command that routes it.

    Raises EscError where it is not there, a later routing left no pairs, its files were changed, or
    it is of the turns of another corpus or split than the built sets hold now.
    """
    refuse_without_pairs(work, model, task, lineage)
    folder = (work / paths.no_pairs(model, task, lineage)).parent
    routed: Row = files.read_json(folder / "route.json", made_by=again)
    if changed := files.differences(routed["provenance"]["data"], train_set(manifest(work))):
        raise EscError(
            f"{folder} is of other train turns than are built now ({'; '.join(changed)}); build "
            f"those again, or {again} FORCE=1"
        )
    for name in (name for name in routed if name.endswith(".jsonl")):
        if files.sha256(folder / name) != routed[name]["sha256"]:
            raise EscError(f"{folder / name} was changed since it was written; {again}")
    return routed


OPTIONS, CALLS, DONE = "options.json", "calls.jsonl", "run.json"


def check_apart(out: Path, *read: Path) -> None:
    """Raise EscError where ``out`` is the folder of a file that is read."""
    if any(path.resolve().parent == out.resolve() for path in read):
        raise EscError(f"--out {out} holds the file that is read; name a folder of its own")


def check_own_file(out: Path, mark: str) -> Row:
    """The options beside ``out``, a file that a user names; empty where there are none.

    For the steps that write one file, and beside it what it is of: options that hold ``mark`` and,
    as ``files``, the names of what the step wrote there. Raises EscError where ``out`` is there and
    is none of these, or the options are of another run.
    """
    path = out.with_name(OPTIONS)
    options = files.read_json(path) if path.is_file() else {}
    if options and mark not in options:
        raise EscError(f"{out.parent} holds another run; name a folder of its own in --out")
    if out == path or (out.exists() and out.name not in options.get("files", ())):
        raise EscError(f"--out {out} is there and was not written by this step; name another file")
    return options


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The folder and the options asked for."""

    path: Path
    options: Row
    records: str
    """The name of the file of records."""
    ways_out: str = "use another WORK=folder, or FORCE=1"
    """What a user can do where there are records of other options."""

    def finished(self) -> Row | None:
        """What ``run.json`` says where these options are done and its records whole, or None."""
        done, records = self.path / DONE, self.path / self.records
        if not done.is_file() or not records.is_file():
            return None
        facts: Row = files.read_json(done)
        return facts if facts[self.records]["sha256"] == files.sha256(records) else None

    def check_own(self) -> None:
        """Raise EscError where another step left its options: they are never replaced.

        For the steps whose folder a user names; their options hold ``step``.
        """
        path = self.path / OPTIONS
        if path.is_file():
            if files.read_json(path).get("step") != self.options["step"]:
                raise EscError(
                    f"--out {self.path} is the folder of another step ({path} is not of "
                    f"{self.options['step']}), which --force does not replace either; name a "
                    "folder of its own"
                )
        elif there := [name for name in (self.records, DONE) if (self.path / name).exists()]:
            raise EscError(
                f"{self.path / there[0]} is there, and no {OPTIONS} that says it is of this step; "
                "name a folder of its own in --out"
            )

    def claim(self, *, force: bool) -> None:
        """Leave the options in the folder.

        With ``force``, records are deleted and made anew, so that what was refused is asked again;
        stored answers never are, since an answer is found by what was asked. Raises OptionsDiffer
        where there are records of others.
        """
        path = self.path / OPTIONS
        changed = []
        if (self.path / self.records).is_file() or (self.path / DONE).is_file():
            made_with = files.read_json(path) if path.is_file() else {"options": "unknown"}
            changed = files.differences(made_with, self.options)
        if changed and not force:
            raise OptionsDiffer(
                f"{self.path} was made with other options ({'; '.join(changed)}); "
                f"{self.ways_out} to make its {Path(self.records).stem} anew (stored "
                "answers are kept)"
            )
        if force:
            for name in (DONE, self.records):
                (self.path / name).unlink(missing_ok=True)
        files.write_json(path, self.options)

    def write(self, records: Iterable[Row], facts: Row, *, complete: bool) -> None:
        """Write the records, and ``run.json`` where none is missing."""
        (self.path / DONE).unlink(missing_ok=True)
        with files.atomic_writer(self.path / self.records) as stream:
            writer = JsonlWriter(stream)
            for record in records:
                writer.write(record)
        if complete:
            written = {name: writer.facts()[name] for name in ("rows", "sha256")}
            files.write_json(self.path / DONE, facts | {self.records: written})


def is_smoke(model: str, work: Path) -> bool:
    """Whether ``model`` is the embedded one or the sets of ``work`` are of the sample corpus.

    Raises EscError where no sets are built.
    """
    manifest = files.read_json(work / paths.MANIFEST, made_by="make data")
    return model == EMBEDDED or bool(manifest["smoke"])


def made_beside(path: Path) -> bool:
    """Whether the options that a step left beside a file of records mark them.

    A file that lies elsewhere says nothing of what it was made with.
    """
    beside = path.parent / OPTIONS
    made_with = files.read_json(beside) if beside.is_file() else None
    return isinstance(made_with, dict) and bool(made_with.get("smoke"))
