"""The pairs of a mining: where they lie, how they are written, and pair files of others.

A file of others, such as the authors', is JSONL or a JSON array of ranking rows. A row is of the
train turn with the same conversation and gold answer, whatever their case, blanks and punctuation;
of turns that are alike the one that its id names, else the first without such a pair. A row of no
train turn is left out: its prompt may be one that a system is tested on.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import AliasChoices, BaseModel, Field

from data_builders.corpus import values
from esc import backbones, cli, files, paths, prompts, psych_errors, step
from esc.adapters import ELSEWHERE
from esc.dialogue import GoldTurn, gold_turns
from esc.files import EscError, OptionsDiffer, Row, checked
from esc.paths import Lineage, Quadrant
from esc.plan_and_speak import chat_and_gold
from esc.prompts import TASKS
from esc.psych_errors import PsychError
from esc.records import Routed
from esc.strategies import Strategy, parse, strip_tag

ROUTES, PAIRS, SINGLES, DONE = "routes.jsonl", "pairs.jsonl", "singles.jsonl", "route.json"
PAIR = "pair"
"""The one fate that is no reason for dropping."""


@dataclass(frozen=True, slots=True)
class Mining:
    """One mining of one task."""

    work: Path
    model: str
    task: str
    lineage: Lineage
    """As `Lineage.mining`."""

    @property
    def folder(self) -> Path:
        """Of the samples."""
        return self.routed.parent

    @property
    def routed(self) -> Path:
        """Of the routes and pairs."""
        return self.no_pairs.parent

    @property
    def no_pairs(self) -> Path:
        """What routing leaves where no pair came out; those that lie there are then of before."""
        return self.work / paths.no_pairs(self.model, self.task, self.lineage)

    @property
    def named(self) -> Row:
        """The options that tell it from others, as ``options.json`` has them."""
        named: Row = {"MODEL": self.model, "task": self.task}
        named |= {"VARIANT": self.lineage.variant, "ROUND": self.lineage.round}
        return named | {"LAYOUT": self.lineage.layout}

    def again(self, **variables: object) -> str:
        """The make command that goes on with this mining as it was begun."""
        begun = files.read_json(self.folder / step.OPTIONS, default={})
        as_begun = {name: begun.get(name) for name in ("LIMIT", "SAMPLES", "DECODE")}
        of = self.lineage.variables | as_begun | variables
        return paths.make(f"mine-{self.task}", work=self.work, model=self.model, **of)

    def pairs(self) -> Routed:
        """What ``route.json`` says, as `step.routed_pairs`."""
        return step.routed_pairs(self.work, self.model, self.task, self.lineage, self.again())


@dataclass(frozen=True)
class Wanted:
    """Which minings a user means, as options of a step."""

    task: cli.Tasks
    variant: cli.Variant = None
    round: cli.Round = 1
    layout: cli.Layout = "turn"

    def minings(self, model: str, work: Path) -> list[Mining]:
        """One per task; EscError for an unknown model or task, or a variant that it has not."""
        backbones.get(model)
        if unknown := [task for task in self.task if task not in TASKS]:
            raise EscError(f"TASK={unknown[0]} is none of {', '.join(TASKS)}")
        if self.variant == paths.CONVERSE:
            raise EscError(f"VARIANT={paths.CONVERSE} is mined by make mine-converse alone")
        lineage, tasks = Lineage(self.variant, self.round, self.layout), dict.fromkeys(self.task)
        return [Mining(work, model, task, lineage.checked(task).mining) for task in tasks]


Ways = tuple[Sequence[Row], Sequence[Row], Sequence[Row]]
"""Of one turn its routes, its pairs, and its single replies for KTO."""


def write(
    mining: Mining, made_by: Row, ways: Iterable[Ways], fates: Counter[str], *, force: bool
) -> Routed:
    """Write ``routed/`` of a mining; what its ``route.json`` says.

    ``ways`` count every sample in ``fates``; where they raise, nothing is written. Raises
    OptionsDiffer, without ``force``, where pairs of another judge or file are there.
    """
    done, names = mining.routed / DONE, (ROUTES, PAIRS, SINGLES)
    errors, truncated = Counter[str](), 0
    with files.exclusive(mining.routed):
        there = files.read_json(done, default={"provenance": made_by})["provenance"]
        source = ("judge", "blind", "file")
        before, now = ({name: of.get(name) for name in source} for of in (there, made_by))
        if not force and (changed := files.differences(before, now)):
            raise OptionsDiffer(
                f"{mining.routed} is of another judge or file ({'; '.join(changed)}); use another "
                "WORK=folder, or FORCE=1 (--force) to replace it (verdicts are kept)"
            )
        with files.jsonl_together(mining.routed, *names, described_in=done) as writers:
            for of_turn in ways:
                for writer, rows in zip(writers, of_turn, strict=True):
                    for row in rows:
                        writer.write(row)
                errors.update(pair["error"] or "not said" for pair in of_turn[1])
                truncated += sum(pair["truncated"] for pair in of_turn[1])
        # Not before: it keeps the pairs of an earlier routing from being taken.
        mining.no_pairs.unlink(missing_ok=True)
        told: Row = {name: made_by[name] for name in ("task", "model", "smoke")}
        told |= {"samples": fates.total(), "truncated": truncated, "provenance": made_by}
        told |= {"fates": dict(fates.most_common()), "errors": dict(errors.most_common())}
        told |= {name: one.facts().model_dump() for name, one in zip(names, writers, strict=True)}
        files.write_json(done, told)
    return Routed(**told)


def report(mining: Mining, done: Routed) -> Iterator[str]:
    """The counts one should see: every sample once, every reason for dropping."""
    dropped = {fate: n for fate, n in done.fates.items() if fate != PAIR}
    yield (
        f"routed      {mining.routed}: {done.samples:,} samples = {done.pairs.rows:,} pairs "
        f"+ {sum(dropped.values()):,} dropped"
    )
    yield from (f"            {n:>9,}  {fate}" for fate, n in dropped.items())
    if done.truncated:
        yield f"            {done.truncated:,} of the pairs with a rejected answer cut"
    yield f"errors      {listed(done.errors)}"
    if done.smoke:
        yield step.SMOKE


def listed(counts: dict[str, int]) -> str:
    """Counts in words, the largest first."""
    return ", ".join(f"{n:,} {what}" for what, n in Counter(counts).most_common())


def singles(unwanted: Sequence[Row], made_by: Row, *, with_gold: bool = True) -> list[Row]:
    """The single replies of a turn: its rejected answers, after the chosen one, of pairs."""
    names = ("id", "sample", "strategy", "error")
    rows = [
        {name: pair[name] for name in names} | {"text": pair["rejected"], "wanted": False}
        for pair in unwanted
    ]
    if unwanted and with_gold:
        gold = {"strategy": unwanted[0]["gold_strategy"], "text": unwanted[0]["chosen"]}
        rows.insert(0, rows[0] | gold | {"sample": None, "error": None, "wanted": True})
    return [row | {"provenance": made_by} for row in rows]


class _Message(BaseModel):
    role: str = Field("", validation_alias=AliasChoices("role", "from"))
    text: str = Field(validation_alias=AliasChoices("content", "value"))


class _Given(BaseModel):
    """A ranking row of others."""

    messages: list[_Message] = Field(
        min_length=1, validation_alias=AliasChoices("messages", "conversations")
    )
    chosen: _Message | str
    rejected: _Message | str
    id: Any = None
    error: Any = Field(None, validation_alias=AliasChoices("error", "error_type"))
    explanation: Any = None
    quadrant: Any = None
    provenance: Any = None


def take(path: Path, mining: Mining, *, force: bool) -> Routed:
    """`write`, of the pairs of others in ``path``; EscError, naming the row, where one is none."""
    manifest = step.manifest(mining.work)
    made_by: Row = {name.lower(): value for name, value in mining.named.items()} | {
        "sampler": path.name,
        "weights": ELSEWHERE,
        "prompts": prompts.wording(mining.lineage.layout),
        "data": step.train_set(manifest),
        "split": "train",
        "smoke": step.is_smoke(mining.model, mining.work),
        "judge": None if mining.task == "sp" else f"of {path.name}",
        "blind": False,
        "file": files.sha256(path),
    }
    turns, fates = gold_turns(mining.work, "train", None), Counter[str]()
    found = _matched(path, mining, turns, fates)
    if not found:
        raise EscError(
            f"{path}: no pair of a train turn in {mining.work / paths.DATA} ({listed(fates)})"
        )

    def way(turn: GoldTurn, said: Sequence[Row]) -> Ways:
        gold = turn.strategy if mining.task == "sp" else turn.response
        common: Row = {"id": turn.id, "gold_strategy": turn.strategy, "chosen": gold}
        common |= {"seed": None, "truncated": False, "provenance": made_by}
        pairs = [common | one | {"sample": sample} for sample, one in enumerate(said)]
        return [], pairs, singles(pairs, made_by)

    ways = (way(turns[place], found[place]) for place in sorted(found))
    return write(mining, made_by, ways, fates, force=force)


_LABEL = re.compile(
    r"^\W*(?:seeker|supporter|user|usr|assistant|system|sys|human|gpt|speaker|listener)\W*?:",
    re.IGNORECASE | re.MULTILINE,
)


def _words(*texts: str) -> str:
    """The words of texts without a layout's case, blanks, punctuation and speakers."""
    said = (_LABEL.sub(" ", text).casefold() for text in texts)
    return " ".join(word for text in said for word in re.findall(r"\w+", text))


def _matched(
    path: Path, mining: Mining, turns: Sequence[GoldTurn], fates: Counter[str]
) -> dict[int, list[Row]]:
    """Place of a train turn to what the file's pairs of it say; ``fates`` count every row."""
    task, layout = mining.task, mining.lineage.layout
    alike: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for place, turn in enumerate(turns):
        (_, *said), gold = chat_and_gold(task, turn)
        alike[_words(*(message.content for message in said))][_words(gold)].append(place)
    pairs: dict[int, list[Row]] = defaultdict(list)
    taken: set[tuple[int, Strategy | Quadrant | None]] = set()
    for number, value in enumerate(values(path)):
        row = checked(_Given, value, f"{path}, row {number} (from 0) is no pair")
        made_by: Row = row.provenance if isinstance(row.provenance, dict) else {}
        if (its := made_by.get("layout", layout)) != layout:
            raise EscError(f"{path} holds pairs of LAYOUT={its}, and this mining is of {layout}")
        chosen, rejected = (
            side if isinstance(side, str) else side.text for side in (row.chosen, row.rejected)
        )
        strategy, text = strip_tag(rejected) if task == "vanilla" else (None, rejected)
        if task == "sp":
            strategy, chosen = parse(rejected), parse(chosen) or chosen
        named_error = psych_errors.parse(str(row.error or ""))
        quadrant = Quadrant(row.quadrant) if row.quadrant in list(Quadrant) else None
        answers = alike.get(_words(*(one.text for one in row.messages if one.role != "system")), {})
        found = answers.get(_words(chosen), [])
        # The planner may err in several ways in one turn.
        kind = strategy if task == "sp" else quadrant
        named = [place for place in found if turns[place].id == row.id] or found
        free = [place for place in named if (place, kind) not in taken]
        same = chosen.casefold().split() == rejected.casefold().split()
        if task == "sp":
            same = any(strategy is turns[place].strategy for place in found)
        reasons = {
            "fits no train turn": not answers,
            "its chosen answer is not the gold one of its train turn": not found,
            "its rejected answer is empty": not text.strip(),
            "its rejected answer names no strategy": task != "rg" and strategy is None,
            "chosen equals rejected": same,
            "its turn has a pair already": not free,
        }
        fate = next((reason for reason, holds in reasons.items() if holds), PAIR)
        fates[fate] += 1
        if fate == PAIR:
            taken.add((free[0], kind))
            own = {
                "strategy": strategy or turns[free[0]].strategy,
                "rejected": strategy if task == "sp" else text.strip(),
                "error": PsychError.STRATEGY_MISMATCH if task == "sp" else named_error,
                "explanation": row.explanation if isinstance(row.explanation, str) else None,
                "quadrant": quadrant if task == "vanilla" else None,
            }
            pairs[free[0]].append(own)
    return pairs
