"""Routed pairs: how they are written, and how pair files of others become some.

A file of others, such as the authors' released ones, is JSONL or a JSON array of ranking rows. A
row is of the train turn with the same conversation and the same gold answer, whatever their case,
blanks and punctuation; of turns that are alike in all of it the one that its id names, else the
first that has no such pair. A row of no train turn is left out: its prompt may be one that a system
is tested on.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from pydantic import AliasChoices, BaseModel, Field

from data_builders.corpus import values
from esc import files, paths, psych_errors, step
from esc.adapters import ELSEWHERE
from esc.dialogue import GoldTurn, gold_turns
from esc.files import EscError, OptionsDiffer, Row, checked
from esc.paths import Lineage, Quadrant
from esc.plan_and_speak import chat_and_gold
from esc.psych_errors import PsychError
from esc.strategies import parse, strip_tag

ROUTES, PAIRS, SINGLES, DONE = "routes.jsonl", "pairs.jsonl", "singles.jsonl", "route.json"
NOT_SAID = "not said"
"""What stands for the error of a pair whose row names none that is known."""
_LABEL = re.compile(
    r"^\W*(?:seeker|supporter|user|usr|assistant|system|sys|human|gpt|speaker|listener)\W*?:",
    re.IGNORECASE | re.MULTILINE,
)

Ways = Iterable[tuple[Sequence[Row], Sequence[Row], Sequence[Row]]]
"""Turn by turn its routes, its pairs, and its single replies for KTO."""


def write_routed(
    work: Path, lineage: Lineage, made_by: Row, ways: Ways, fates: Counter[str], *, force: bool
) -> Row:
    """Write ``routed/`` of the mining that ``made_by`` tells of; what its ``route.json`` says.

    ``ways`` count every sample in ``fates``; where they raise, nothing is written. Raises
    OptionsDiffer, without ``force``, where pairs of another judge or file are there.
    """
    none = work / paths.no_pairs(made_by["model"], made_by["task"], lineage)
    folder, names = none.parent, (ROUTES, PAIRS, SINGLES)
    done, errors, truncated = folder / DONE, Counter[str](), 0
    with files.exclusive(folder):
        there = files.read_json(done)["provenance"] if done.is_file() else made_by
        before, now = (
            {name: of.get(name) for name in ("judge", "blind", "file")} for of in (there, made_by)
        )
        if not force and (changed := files.differences(before, now)):
            raise OptionsDiffer(
                f"{folder} holds what another judge's verdicts or another file gave "
                f"({'; '.join(changed)}); use another WORK=folder, or FORCE=1 (--force) to put "
                "these in their place (verdicts are kept)"
            )
        with files.jsonl_together(folder, *names, described_in=done) as writers:
            for of_turn in ways:
                for writer, rows in zip(writers, of_turn, strict=True):
                    for row in rows:
                        writer.write(row)
                errors.update(pair["error"] or NOT_SAID for pair in of_turn[1])
                truncated += sum(pair["truncated"] for pair in of_turn[1])
        # Not before: it keeps the pairs of an earlier routing from being taken.
        none.unlink(missing_ok=True)
        told = {
            "task": made_by["task"],
            "model": made_by["model"],
            "samples": fates.total(),
            "fates": dict(fates.most_common()),
            "truncated": truncated,
            "errors": dict(errors.most_common()),
            "provenance": made_by,
            "smoke": made_by["smoke"],
            **{name: one.facts() for name, one in zip(names, writers, strict=True)},
        }
        files.write_json(done, told)
    return told


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


def route(path: Path, work: Path, model: str, task: str, lineage: Lineage, *, force: bool) -> Row:
    """Write ``routed/`` of a mining from the pairs in ``path``; what its ``route.json`` says.

    ``fates`` count every row of the file. Raises EscError, naming the row, where one is no pair,
    and where none is a pair of a train turn; else as `write_routed`.
    """
    manifest = step.manifest(work)
    made_by: Row = {
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
    fates: Counter[str] = Counter()
    pairs = sorted(
        _pairs(path, task, gold_turns(work, "train", None), fates), key=lambda pair: pair[0]
    )
    if not pairs:
        told = ", ".join(f"{count:,} {fate}" for fate, count in fates.most_common())
        raise EscError(f"{path}: no pair of a train turn in {work / paths.DATA} ({told})")
    return write_routed(work, lineage, made_by, _ways(task, pairs, made_by), fates, force=force)


def _ways(task: str, pairs: list[tuple[int, GoldTurn, Row]], made_by: Row) -> Ways:
    """Of pairs in the order of their turns."""
    for turn, of_turn in groupby(pairs, key=lambda pair: pair[1]):
        gold = turn.strategy if task == "sp" else turn.response
        common = {"id": turn.id, "provenance": made_by}
        single = common | {"sample": None, "strategy": turn.strategy, "text": gold}
        singles = [single | {"wanted": True, "error": None}]
        rows = []
        for sample, (_, _, said) in enumerate(of_turn):
            own = common | {name: said[name] for name in ("strategy", "error")}
            own["sample"] = sample
            singles.append(own | {"text": said["rejected"], "wanted": False})
            pair = {"seed": None, "gold_strategy": turn.strategy, "truncated": False}
            rows.append(own | said | pair | {"chosen": gold})
        yield [], rows, singles


def _words(*texts: str) -> str:
    """The words of texts without a layout's case, blanks, punctuation and speakers."""
    said = (_LABEL.sub(" ", text).casefold() for text in texts)
    return " ".join(word for text in said for word in re.findall(r"\w+", text))


def _pairs(
    path: Path, task: str, turns: Iterable[GoldTurn], fates: Counter[str]
) -> Iterator[tuple[int, GoldTurn, Row]]:
    """(place of its turn, turn, what the row says) of the pairs; ``fates`` count every row."""
    alike: dict[str, dict[str, list[tuple[int, GoldTurn]]]] = defaultdict(dict)
    for place, turn in enumerate(turns):
        (_, *said), gold = chat_and_gold(task, turn)
        context = _words(*(message.content for message in said))
        alike[context].setdefault(_words(gold), []).append((place, turn))
    taken = set()
    for number, value in enumerate(values(path)):
        row = checked(_Given, value, f"{path}, row {number} (from 0) is no pair")
        chosen, rejected = (
            one if isinstance(one, str) else one.text for one in (row.chosen, row.rejected)
        )
        strategy, text = strip_tag(rejected) if task == "vanilla" else (None, rejected)
        if task == "sp":
            strategy, chosen = parse(rejected), parse(chosen) or chosen
        quadrant = Quadrant(row.quadrant) if row.quadrant in list(Quadrant) else None
        theirs = (message.text for message in row.messages if message.role != "system")
        answers = alike.get(_words(*theirs), {})
        found = answers.get(_words(chosen), [])
        # The planner may err in several ways in one turn.
        kind = strategy if task == "sp" else quadrant
        named = [one for one in found if one[1].id == row.id] or found
        free = [one for one in named if (one[0], kind) not in taken]
        if not answers:
            fate = "fits no train turn"
        elif not found:
            fate = "its chosen answer is not the gold one of its train turn"
        elif not text.strip():
            fate = "its rejected answer is empty"
        elif task != "rg" and strategy is None:
            fate = "its rejected answer names no strategy"
        elif strategy is found[0][1].strategy if task == "sp" else _same(chosen, rejected):
            fate = "chosen equals rejected"
        elif not free:
            fate = "its turn has a pair already"
        else:
            fate, (place, turn) = "pair", free[0]
            taken.add((place, kind))
            named_error = psych_errors.parse(str(row.error or ""))
            own = {
                "strategy": strategy or turn.strategy,
                "rejected": strategy if task == "sp" else text.strip(),
                "error": PsychError.STRATEGY_MISMATCH if task == "sp" else named_error,
                "explanation": row.explanation if isinstance(row.explanation, str) else None,
                "quadrant": quadrant if task == "vanilla" else None,
            }
            yield place, turn, own
        fates[fate] += 1


def _same(chosen: str, rejected: str) -> bool:
    return chosen.casefold().split() == rejected.casefold().split()
