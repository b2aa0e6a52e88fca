"""A judge's stored verdicts, read beside the samples they are of."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from esc import files
from esc.exceptions import EscError
from esc.files import Row
from esc.run_folder import DONE, OPTIONS
from esc.verdicts import Reason, Unscored
from mining.candidates import Key
from mining.judge import VERDICTS, Asked
from mining.routing import Judgement
from mining.verdicts import FilterVerdict

SHOWN = 3


class StoredVerdicts:
    """The verdicts of one file, taken turn by turn in the order of the samples."""

    def __init__(self, asked: Asked, options: Row, written: str) -> None:
        """``written`` is the SHA-256 of the file as it was written."""
        self._written = written
        self.options = options
        """What they were judged with."""
        self._asked = asked
        self._path = asked.mining.judged(asked.slug) / VERDICTS
        self._rows = _checked(self._path, asked.slug)
        self._next = next(self._rows, None)
        self._lacking: list[Key] = []

    def take(self, wanted: Sequence[Key]) -> dict[Key, Judgement]:
        """The verdicts on the candidates of one turn; those that lack one are noted."""
        turn = {key[0] for key in wanted}
        found: dict[Key, Judgement] = {}
        while self._next is not None and self._next["id"] in turn:
            key = (self._next["id"], self._next["sample"])
            if key in found or key not in wanted:
                raise EscError(
                    f"{self._path}: sample {key[1]} of turn {key[0]} "
                    f"{'is there twice' if key in found else 'was not to be judged'}; judge again"
                )
            found[key] = _judgement(self._path, self._next)
            self._next = next(self._rows, None)
        self._lacking += [key for key in wanted if key not in found]
        return found

    def finish(self) -> None:
        """Raise EscError where samples lack a verdict, verdicts are left over, or were changed."""
        again = self._asked.again()
        if self._lacking:
            shown = ", ".join(f"{turn} sample {index}" for turn, index in self._lacking[:SHOWN])
            more = ", …" if len(self._lacking) > SHOWN else ""
            raise EscError(
                f"{self._path} lacks the verdicts on {len(self._lacking)} samples ({shown}{more}); "
                f"{again} FORCE=1 judges them (stored answers are kept)"
            )
        if self._next is not None:
            raise EscError(
                f"{self._path} holds a verdict on turn {self._next['id']}, which was not sampled, "
                f"or is in another order; {again} FORCE=1 writes it anew (stored answers are kept)"
            )
        if files.sha256(self._path) != self._written:
            raise EscError(
                f"{self._path} was changed since it was written; {again} writes it anew from the "
                "stored answers"
            )


def finished_verdicts(asked: Asked, samples: str) -> StoredVerdicts:
    """The judge's verdicts on the samples of that SHA-256.

    Raises EscError where they are not there, not complete, or on other samples.
    """
    folder = asked.mining.judged(asked.slug)
    again = asked.again()
    if not (folder / VERDICTS).is_file():
        others = sorted(path.parent.name for path in folder.parent.glob(f"*/{VERDICTS}"))
        have = f" (there are some by {', '.join(others)})" if others else ""
        raise EscError(f"{folder / VERDICTS} does not exist{have}; {again} asks the judge")
    if not (folder / DONE).is_file():
        raise EscError(f"{folder / VERDICTS} is not complete; {again} asks for what is missing")
    options: Row = files.read_json(folder / OPTIONS)
    done: Row = files.read_json(folder / DONE)
    if not (
        isinstance(options, dict)
        and isinstance(done, dict)
        and options.keys() >= {"samples", "JUDGE", "BLIND", "prompts", "smoke"}
        and VERDICTS in done
    ):
        raise EscError(
            f"{folder / OPTIONS} or {DONE} there is not of this step; move {folder} away, {again}"
        )
    if options["samples"] != samples:
        raise EscError(
            f"{folder / VERDICTS} are on other samples than are there now; {again} FORCE=1 judges "
            "these (stored answers are kept)"
        )
    return StoredVerdicts(asked, options, done[VERDICTS]["sha256"])


def _checked(path: Path, judge: str) -> Iterator[Row]:
    """The rows of a verdict file, of one judge alone."""
    for number, row in enumerate(files.read_jsonl(path), start=1):
        if not (isinstance(row.get("id"), str) and isinstance(row.get("sample"), int)):
            raise EscError(f"{path}, line {number}: no verdict of this kit (no id and sample)")
        if row.get("judge") != judge:
            raise EscError(
                f"{path}, line {number}: a verdict by {row.get('judge')}, among those by {judge}; "
                "verdicts of two judges are never mixed"
            )
        yield row


def _judgement(path: Path, row: Row) -> Judgement:
    try:
        if row["status"] == "scored":
            return FilterVerdict.model_validate(row)
        return Unscored(Reason(row["reason"]), row["detail"])
    except (KeyError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise EscError(f"{path}: the verdict on turn {row['id']} is none: {reason}") from error
