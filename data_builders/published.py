"""Pair files of others, such as the authors' released ones, as the routed pairs of a mining.

JSONL or a JSON array of ranking rows. A row is of the train turn with the same conversation and the
same gold answer, whatever their case, blanks and punctuation; of turns that are alike in all of it
the one that its id names, else the first that has no such pair. A row of no train turn is left out:
its prompt may be one that a system is tested on.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from pydantic import AliasChoices, BaseModel, Field, ValidationError

from data_builders.build import TrainTurn
from data_builders.corpus import values
from esc import files, paths, psych_errors, step
from esc.adapters import ELSEWHERE
from esc.files import EscError, OptionsDiffer, Row
from esc.paths import Lineage, Quadrant
from esc.psych_errors import PsychError
from esc.strategies import parse, strip_tag, untagged

NOT_SAID = "not said"
"""What stands for the error of a pair whose row names none that is known."""
_LABEL = re.compile(
    r"^\W*(?:seeker|supporter|user|usr|assistant|system|sys|human|gpt|speaker|listener)\W*?:",
    re.IGNORECASE | re.MULTILINE,
)


class _Message(BaseModel):
    role: str = Field("", validation_alias=AliasChoices("role", "from"))
    text: str = Field(validation_alias=AliasChoices("content", "value"))


class _Given(BaseModel):
    """A ranking row: what was said up to the answer, the answer and the rejected one."""

    messages: list[_Message] = Field(
        min_length=1, validation_alias=AliasChoices("messages", "conversations")
    )
    chosen: _Message | str
    rejected: _Message | str
    id: Any = None
    error: Any = Field(None, validation_alias=AliasChoices("error", "error_type"))
    explanation: Any = None
    quadrant: Any = None


def route(
    path: Path,
    work: Path,
    model: str,
    task: str,
    lineage: Lineage,
    turns: Iterable[TrainTurn],
    *,
    force: bool,
) -> Row:
    """Write ``routed/`` of a mining from the pairs in ``path``; what its ``route.json`` says.

    ``turns`` are the task's train turns; ``fates`` count every row of the file. Raises EscError,
    naming the row, where one is no pair, and where none is a pair of a train turn; without
    ``force`` OptionsDiffer where the pairs of a mining or of another file are there.
    """
    manifest = step.manifest(work)
    folder = work / paths.mining(model, lineage) / task / "routed"
    done = folder / "route.json"
    with files.exclusive(folder):
        fates: Counter[str] = Counter()
        pairs = sorted(_pairs(path, task, turns, fates), key=lambda pair: pair[0])
        if not pairs:
            told = ", ".join(f"{count:,} {fate}" for fate, count in fates.most_common())
            raise EscError(f"{path}: no pair of a train turn in {work / paths.DATA} ({told})")
        provenance: Row = {
            "model": model,
            "task": task,
            "variant": lineage.variant,
            "round": lineage.round,
            "sampler": path.name,
            "weights": ELSEWHERE,
            "prompts": manifest["options"]["prompts"],
            "data": step.train_set(manifest),
            "split": "train",
            "smoke": step.is_smoke(model, work),
            "judge": None if task == "sp" else f"of {path.name}",
            "blind": False,
            "file": files.sha256(path),
        }
        there = files.read_json(done)["provenance"] if done.is_file() else provenance
        if there.get("file") != provenance["file"] and not force:
            raise OptionsDiffer(
                f"{folder} holds the pairs of {there['sampler']}; use another WORK=folder, or "
                "--force to put these in their place"
            )
        written = _write(folder, task, pairs, provenance)
        (work / paths.no_pairs(model, task, lineage)).unlink(missing_ok=True)
        errors = Counter(pair["error"] or NOT_SAID for _, _, pair in pairs)
        told_of: Row = {
            "task": task,
            "model": model,
            "samples": fates.total(),
            "fates": dict(fates.most_common()),
            "truncated": 0,
            "errors": dict(errors.most_common()),
            "provenance": provenance,
            "smoke": provenance["smoke"],
            **written,
        }
        files.write_json(done, told_of)
        return told_of


def _words(*texts: str) -> str:
    """The words of texts without a layout's case, blanks, punctuation and speakers."""
    said = (_LABEL.sub(" ", text).casefold() for text in texts)
    return " ".join(word for text in said for word in re.findall(r"\w+", text))


def _given(path: Path) -> Iterator[tuple[list[str], str, str, _Given]]:
    """(what stands before the answer without the system's words, chosen, rejected, the row)."""
    for number, value in enumerate(values(path)):
        try:
            row = _Given.model_validate(value)
        except ValidationError as error:
            wrong = error.errors()[0]
            place = ".".join(map(str, wrong["loc"])) or "all of it"
            raise EscError(
                f"{path}, row {number} (from 0) is no pair ({place}: {wrong['msg'].lower()})"
            ) from error
        sides = [one if isinstance(one, str) else one.text for one in (row.chosen, row.rejected)]
        said = [message.text for message in row.messages if message.role != "system"]
        yield said, sides[0], sides[1], row


def _pairs(
    path: Path, task: str, turns: Iterable[TrainTurn], fates: Counter[str]
) -> Iterator[tuple[int, TrainTurn, Row]]:
    """(place of its turn, turn, what the row says) of the pairs; ``fates`` count every row."""
    alike: dict[str, dict[str, list[tuple[int, TrainTurn]]]] = defaultdict(dict)
    for place, turn in enumerate(turns):
        context = _words(*(message["value"] for message in turn.prompt["conversations"]))
        alike[context].setdefault(_words(turn.answer), []).append((place, turn))
    taken = set()
    for said, chosen, rejected, row in _given(path):
        strategy, text = strip_tag(rejected) if task == "vanilla" else (None, rejected)
        if task == "sp":
            strategy, chosen = parse(rejected), parse(chosen) or chosen
        quadrant = Quadrant(row.quadrant) if row.quadrant in list(Quadrant) else None
        answers = alike.get(_words(*said), {})
        found = answers.get(_words(chosen), [])
        # The planner may err in several ways in one turn.
        kind = strategy if task == "sp" else quadrant
        named = [one for one in found if one[1].id == row.id] or found
        free = [one for one in named if (one[0], kind) not in taken]
        if not answers:
            fates["fits no train turn"] += 1
        elif not found:
            fates["its chosen answer is not the gold one of its train turn"] += 1
        elif not text.strip():
            fates["its rejected answer is empty"] += 1
        elif task != "rg" and strategy is None:
            fates["its rejected answer names no strategy"] += 1
        elif strategy is found[0][1].strategy if task == "sp" else _same(chosen, rejected):
            fates["chosen equals rejected"] += 1
        elif not free:
            fates["its turn has a pair already"] += 1
        else:
            fates["pair"] += 1
            (place, turn), error = free[0], psych_errors.parse(str(row.error or ""))
            taken.add((place, kind))
            yield (
                place,
                turn,
                {
                    "strategy": strategy or turn.strategy,
                    "rejected": strategy if task == "sp" else text.strip(),
                    "error": PsychError.STRATEGY_MISMATCH if task == "sp" else error,
                    "explanation": row.explanation if isinstance(row.explanation, str) else None,
                    "quadrant": quadrant if task == "vanilla" else None,
                },
            )


def _same(chosen: str, rejected: str) -> bool:
    return chosen.casefold().split() == rejected.casefold().split()


def _write(
    folder: Path, task: str, pairs: list[tuple[int, TrainTurn, Row]], provenance: Row
) -> Row:
    """What ``route.json`` says of the files, once they are written in the order of ``pairs``."""
    names = ("routes.jsonl", "pairs.jsonl", "singles.jsonl")
    done = folder / "route.json"
    with files.jsonl_together(folder, *names, described_in=done) as writers:
        _, pairs_file, singles = writers
        for turn, of_turn in groupby(pairs, key=lambda pair: pair[1]):
            gold = turn.answer if task != "vanilla" else untagged(turn.answer)
            single = {"id": turn.id, "sample": None, "strategy": turn.strategy, "text": gold}
            single |= {"wanted": True, "error": None, "provenance": provenance}
            singles.write(single)
            for sample, (_, _, said) in enumerate(of_turn):
                own = {"sample": sample, "strategy": said["strategy"], "error": said["error"]}
                singles.write(single | own | {"text": said["rejected"], "wanted": False})
                pair = {"id": turn.id, "seed": None, "gold_strategy": turn.strategy}
                pair |= {"chosen": gold, "truncated": False, "provenance": provenance}
                pairs_file.write(pair | own | said)
    return {name: one.facts() for name, one in zip(names, writers, strict=True)}
