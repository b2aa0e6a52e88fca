"""Pair files of others, such as the authors' released ones, as the routed pairs of a mining.

JSONL or a JSON array of ranking rows: ``messages`` (``role``, ``content``) or ``conversations``
(``from``, ``value``) up to the answer, ``chosen`` and ``rejected``; ``id``, ``error`` (or
``error_type``), ``explanation`` and ``quadrant`` where a file has them. A row is of the train turn
with the same conversation and the same gold answer, whatever their case, blanks and punctuation;
of turns that are alike in all of it the one that its id names, else the first that has no such
pair. A row of no train turn is left out: its prompt may be one that a system is tested on.
"""

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from data_builders.corpus import values
from esc import files, paths, psych_errors, step
from esc.adapters import ELSEWHERE
from esc.exceptions import EscError, OptionsDiffer
from esc.files import JsonlWriter, Row
from esc.paths import Lineage, Quadrant
from esc.psych_errors import PsychError
from esc.strategies import Strategy, parse, strip_tag

PAIR = "pair"
NO_TURN = "fits no train turn"
NOT_GOLD = "its chosen answer is not the gold one of its train turn"
HAS_PAIR = "its turn has a pair already"
SAME = "chosen equals rejected"
EMPTY = "its rejected answer is empty"
NO_STRATEGY = "its rejected answer names no strategy"
NOT_SAID = "not said"
"""What stands for the error of a pair whose row names none that is known."""
_LABEL = re.compile(
    r"^\W*(?:seeker|supporter|user|usr|assistant|system|sys|human|gpt|speaker|listener)\W*?:",
    re.IGNORECASE | re.MULTILINE,
)
_QUADRANTS = {one.value: one for one in Quadrant}

Prompt = Callable[[Row, int], tuple[Row, str]]
"""From a train row and the number of a turn to (system and conversations, gold answer)."""


@dataclass(frozen=True, slots=True)
class _Turn:
    place: int
    """In the order of the set."""
    id: str
    strategy: Strategy
    gold: str
    """Without a tag."""


@dataclass(frozen=True, slots=True)
class _Pair:
    turn: _Turn
    strategy: Strategy
    """Of the rejected answer."""
    rejected: str
    """Without a tag."""
    error: PsychError | None
    """None where the file does not say."""
    explanation: str | None
    quadrant: Quadrant | None


def route(
    path: Path, work: Path, model: str, task: str, lineage: Lineage, prompt: Prompt, *, force: bool
) -> Row:
    """Write ``routed/`` of a mining from the pairs in ``path``; what its ``route.json`` says.

    Its ``fates`` count every row of the file. Raises EscError, naming the row, where one is no
    pair, and where none is a pair of a train turn; without ``force`` OptionsDiffer where the pairs
    of a mining or of another file are there.
    """
    manifest = step.manifest(work)
    given = values(path)
    folder = work / paths.mining(model, lineage) / task / "routed"
    with files.exclusive(folder):
        fates: Counter[str] = Counter()
        pairs = sorted(
            _pairs(path, given, task, _Turns(work, task, prompt), fates),
            key=lambda pair: pair.turn.place,
        )
        if not pairs:
            told = ", ".join(f"{count:,} {fate}" for fate, count in fates.most_common())
            raise EscError(f"{path}: no pair of a train turn in {paths.data(work)} ({told})")
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
        _check_same_file(folder, provenance["file"], force=force)
        written = _write(folder, task, pairs, provenance)
        (work / paths.no_pairs(model, task, lineage)).unlink(missing_ok=True)
        done: Row = {
            "task": task,
            "model": model,
            "samples": fates.total(),
            "fates": dict(fates.most_common()),
            "truncated": 0,
            "errors": dict(Counter(pair.error or NOT_SAID for pair in pairs).most_common()),
            "provenance": provenance,
            "smoke": provenance["smoke"],
            **written,
        }
        files.write_json(folder / "route.json", done)
    return done


def _check_same_file(folder: Path, sha256: str, *, force: bool) -> None:
    done = folder / "route.json"
    if done.is_file() and not force:
        there = files.read_json(done)["provenance"]
        if there.get("file") != sha256:
            raise OptionsDiffer(
                f"{folder} holds the pairs of {there['sampler']}; use another WORK=folder, or "
                "--force to put these in their place"
            )


class _Turns:
    """The train turns of a task, found by the words before their gold answers and of these."""

    def __init__(self, work: Path, task: str, prompt: Prompt) -> None:
        self._alike: dict[bytes, list[_Turn]] = defaultdict(list)
        self._contexts: set[bytes] = set()
        place = 0
        for row in files.read_jsonl(work / paths.sft_file(task, "train")):
            turns = len(row["conversations"]) // 2 if task == "vanilla" else 1
            for number in range(turns):
                said, answer = prompt(row, number)
                context = _words(*(message["value"] for message in said["conversations"]))
                strategy, gold = _strategy_and_text(task, row, answer)
                name = f"{row['id']}-{number}" if task == "vanilla" else row["id"]
                self._contexts.add(_key(context))
                self._alike[_key(context, _words(answer))].append(
                    _Turn(place, name, strategy, gold)
                )
                place += 1

    def of(self, context: str, chosen: str) -> list[_Turn]:
        """The turns with this conversation and gold answer, in the order of the set."""
        return self._alike.get(_key(context, chosen), [])

    def has(self, context: str) -> bool:
        """Whether a turn has this conversation."""
        return _key(context) in self._contexts


def _strategy_and_text(task: str, row: Row, answer: str) -> tuple[Strategy, str]:
    """(strategy, answer without a tag) of a train turn."""
    if task == "vanilla":
        name, _, text = answer.removeprefix("[").partition("] ")
        return Strategy(name), text
    return Strategy(answer if task == "sp" else row["strategy"]), answer


def _words(*texts: str) -> str:
    """The words of texts without a layout's case, blanks, punctuation and speakers."""
    said = (_LABEL.sub(" ", text).casefold() for text in texts)
    return " ".join(word for text in said for word in re.findall(r"\w+", text))


def _key(*words: str) -> bytes:
    return hashlib.sha256("\n".join(words).encode(errors="replace")).digest()[:16]


def _pairs(
    path: Path, given: Iterator[Any], task: str, turns: _Turns, fates: Counter[str]
) -> Iterator[_Pair]:
    """The pairs of train turns in the order of the file; every row is counted in ``fates``."""
    taken = set()
    for number, row in enumerate(given):
        where = f"{path}, row {number} (from 0)"
        context, chosen, rejected = _said(row, where)
        strategy, text = strip_tag(rejected) if task == "vanilla" else (None, rejected)
        if task == "sp":
            strategy, known = parse(rejected), parse(chosen)
            chosen = known.value if known else chosen
        quadrant = _QUADRANTS.get(str(row.get("quadrant"))) if task == "vanilla" else None
        words = _words(*context)
        alike = turns.of(words, _words(chosen))
        named = [turn for turn in alike if turn.id == row.get("id")]
        # The planner may err in several ways in one turn.
        kind = strategy if task == "sp" else quadrant
        free = [turn for turn in named or alike if (turn.id, kind) not in taken]
        if not alike:
            fates[NOT_GOLD if turns.has(words) else NO_TURN] += 1
        elif not text.strip():
            fates[EMPTY] += 1
        elif task != "rg" and strategy is None:
            fates[NO_STRATEGY] += 1
        elif strategy is alike[0].strategy if task == "sp" else _plain(chosen) == _plain(rejected):
            fates[SAME] += 1
        elif not free:
            fates[HAS_PAIR] += 1
        else:
            fates[PAIR] += 1
            turn = free[0]
            taken.add((turn.id, kind))
            error = psych_errors.parse(str(row.get("error") or row.get("error_type") or ""))
            explanation = row.get("explanation")
            yield _Pair(
                turn,
                strategy or turn.strategy,
                text.strip(),
                PsychError.STRATEGY_MISMATCH if task == "sp" else error,
                explanation if isinstance(explanation, str) else None,
                quadrant,
            )


def _said(row: Any, where: str) -> tuple[list[str], str, str]:
    """(what stands before the answer, without the system's words; chosen; rejected)."""
    if not isinstance(row, dict):
        raise EscError(f"{where}: not a JSON object")
    said = row.get("messages", row.get("conversations"))
    if not isinstance(said, list) or not said:
        raise EscError(f"{where}: no list of 'messages' (or 'conversations') up to the answer")
    messages = [_message(one, f"{where}: message {number}") for number, one in enumerate(said)]
    _, chosen = _message(row.get("chosen"), f"{where}: 'chosen'")
    _, rejected = _message(row.get("rejected"), f"{where}: 'rejected'")
    return [text for role, text in messages if role != "system"], chosen, rejected


def _message(one: Any, where: str) -> tuple[str, str]:
    """(who speaks, the text) of a message, or of a text alone."""
    if isinstance(one, str):
        return "", one
    text = one.get("content", one.get("value")) if isinstance(one, dict) else None
    if not isinstance(text, str):
        raise EscError(f"{where} is neither a text nor a message with 'content' (or 'value')")
    return str(one.get("role", one.get("from"))), text


def _write(folder: Path, task: str, pairs: list[_Pair], provenance: Row) -> Row:
    """What ``route.json`` says of the files, once they are written in the order of ``pairs``."""
    with ExitStack() as stack:
        writers = {
            name: JsonlWriter(stack.enter_context(files.atomic_writer(folder / name)))
            for name in ("routes.jsonl", "pairs.jsonl", "singles.jsonl")
        }
        for turn, of_turn in groupby(pairs, key=lambda pair: pair.turn):
            gold = {"id": turn.id, "sample": None, "strategy": turn.strategy, "text": turn.gold}
            wanted = gold | {"wanted": True, "error": None, "provenance": provenance}
            writers["singles.jsonl"].write(wanted)
            for sample, pair in enumerate(of_turn):
                own = {"id": turn.id, "sample": sample, "strategy": pair.strategy}
                own |= {"error": pair.error, "provenance": provenance}
                writers["singles.jsonl"].write(own | {"text": pair.rejected, "wanted": False})
                writers["pairs.jsonl"].write(
                    own
                    | {
                        "seed": None,
                        "gold_strategy": turn.strategy,
                        "chosen": turn.gold,
                        "rejected": pair.strategy if task == "sp" else pair.rejected,
                        "explanation": pair.explanation,
                        "quadrant": pair.quadrant,
                        "truncated": False,
                    }
                )
        for writer in writers.values():
            writer.flush()
        # From the first renaming on, the files are no longer those it describes.
        (folder / "route.json").unlink(missing_ok=True)
    return {name: asdict(writer.facts()) for name, writer in writers.items()}


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())
