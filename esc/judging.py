"""The one loop that asks, and a judge's answer, read strictly.

`ask_all` goes from records by a rehearsal, questions and answers to rows, a summary and
``run.json`` for every step that asks a model; an `Asking` is what differs between them.

A kind of verdict is a pydantic model: a field's title is its name in the judge's answer, a field
that may be missing is an explanation and decides nothing. Names are read tolerantly, since judges
paraphrase them; whatever stays unclear is unscored, with the reason.
"""

import asyncio
import hashlib
import json
import math
import os
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Generic, Literal, Self, TypeVar, cast

import typer
from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator

from esc import (
    adapters,
    backbones,
    cli,
    files,
    llm,
    policy_server,
    prompts,
    psych_errors,
)
from esc.dialogue import Exchange
from esc.files import EscError, Row, Waiting
from esc.llm import Asks, Constraint, Failure, Generation, Price, Reason, RunStopped, Sampling
from esc.llm_batch import SHARD, BatchChat
from esc.paths import EMBEDDED
from esc.plan_and_speak import TIMEOUT
from esc.prompts import Message
from esc.step import CALLS, DONE, SMOKE, RunFolder
from esc.visible import visible

IN_FLIGHT = {"gpu": 256, "cpu": 32}  # requests that keep an engine full, by where it runs
JUDGE_IN_FLIGHT = 64  # a judge's limits have nothing to do with the backbone's server
HOSTED = "https://api.openai.com/v1"
RANDOM = "random"
DRAWN = "JUDGE=random: drawn, not judged"
NUMBER, REASON = "number", "reason"  # of a score: the number alone (Figures 17 to 20), or both

# Live means no batches for a step, where others of the same command use them.
Engine = Literal["vllm", "ray", "openai", "write", "read", "live"]
_BY_FILES = "an engine that reads batch files, instead of a live server"


def _option(variable: str | list[str], told: str, **more: Any) -> Any:
    return typer.Option(envvar=variable, help=told, **more)


@dataclass(frozen=True)
class Sending:
    """How requests are sent, as options of a step: nothing of it changes an answer."""

    model: cli.Model = EMBEDDED
    work: cli.Work = Path()
    in_flight: Annotated[int | None, _option("IN_FLIGHT", "requests at a time", min=1)] = None
    price: Annotated[
        llm.Price | None,
        _option("PRICE", "money per million tokens: IN/OUT", parser=Price.parse),
    ] = None
    max_cost: Annotated[
        float | None, _option("MAX_COST", "stop before this call costs more", parser=cli.amount)
    ] = None
    batch: Annotated[Engine | None, _option("BATCH", _BY_FILES)] = None
    shard: Annotated[int, _option("SHARD", "requests of one batch file", min=1)] = SHARD
    dry_run: cli.DryRun = False
    force: cli.Force = False

    def __post_init__(self) -> None:
        if self.max_cost is not None and self.price is None:
            raise EscError("MAX_COST needs PRICE=PROMPT/COMPLETION, money per million tokens")

    @cached_property
    def meter(self) -> llm.Meter:
        """What this call of the program asks and spends."""
        return llm.Meter(self.price, self.max_cost or math.inf)

    @property
    def connections(self) -> int:
        """Requests at a time, over all endpoints."""
        where = "gpu" if backbones.get(self.model).settings["gpus"] else "cpu"
        return self.in_flight or IN_FLIGHT[where]

    @property
    def engine(self) -> str:
        """What reads batch files; empty for a live endpoint."""
        return "" if self.batch in (None, "live") else str(self.batch)


@dataclass(frozen=True, slots=True)
class Policies:
    """Who answers: models of this kit, by name with a hash, at ``urls`` or their own server."""

    weights: Mapping[str, str]
    urls: str | None = None


@dataclass(frozen=True, slots=True)
class Judge:
    """Who answers a judge's questions; ``random`` draws verdicts."""

    name: str  # as a reader knows it
    urls: str = ""  # by commas; empty for this kit's own server, too
    served: str = ""  # its name at the endpoint, where that is another
    weights: Mapping[str, str] = field(default_factory=dict)  # as of `Policies`, for our own server

    @property
    def is_random(self) -> bool:
        """Whether verdicts are drawn, not judged."""
        return self.name == RANDOM

    @property
    def is_embedded(self) -> bool:
        """Whether it is the embedded model on this kit's own server."""
        return bool(self.weights) and is_smoke(self.name)

    def prompts(self, folder: Path, names: Iterable[str]) -> str | None:
        """A hash of all that words its questions; None where it is asked none."""
        return None if self.is_random else prompts.hash_of(names, folder, psych_errors.HASH)


def is_smoke(judge: str) -> bool:
    """Whether what a judge of that name says is no judgement: random draws, the embedded model."""
    return judge in (RANDOM, EMBEDDED, f"{EMBEDDED} (base)")


JudgeName = Annotated[
    str | None, _option("JUDGE", "model at its endpoint, or random [default: the backbone's]")
]
JudgeUrl = Annotated[
    str | None, _option("JUDGE_BASE_URL", "one or several, by commas [default: the hosted one]")
]


@dataclass(frozen=True)
class JudgeSending(Sending):
    """How a judge is asked; it has a number in flight, and batches, of its own."""

    in_flight: Annotated[int, _option("JUDGE_IN_FLIGHT", "questions at a time", min=1)] = (
        JUDGE_IN_FLIGHT
    )
    batch: Annotated[Engine | None, _option(["JUDGE_BATCH", "BATCH"], _BY_FILES)] = None
    judge: JudgeName = None
    judge_base_url: JudgeUrl = None

    @property
    def keyless(self) -> bool:
        """Whether nobody is asked who would want a key."""
        return self.dry_run or self.engine not in ("", "openai")

    def who(self) -> Judge:
        """As `judge_for` says."""
        return judge_for(self.model, self.judge, self.judge_base_url, keyless=self.keyless)


def judge_for(
    model: str,
    name: str | None,
    urls: str | None,
    *,
    keyless: bool = False,
    variable: str = "JUDGE",
) -> Judge:
    """The judge a user asks for, or the one the table of backbones names.

    Raises EscError where the hosted one is meant and there is no key; ``keyless`` says that it is
    not going to be asked. ``variable`` is make's, of another role that a model can have.
    """
    name = name or backbones.get(model).judge
    if name == RANDOM and variable != "JUDGE":
        raise EscError(f"{variable}={name}: nobody talks at random; name a model")
    if name == RANDOM and urls:
        raise EscError("JUDGE=random asks nobody; drop JUDGE_BASE_URL, or name the model there")
    hosted = not urls and name != RANDOM
    if hosted and not keyless and not os.environ.get("OPENAI_API_KEY", "").strip():
        drawn = ", or take JUDGE=random, which is a smoke run" if variable == "JUDGE" else ""
        raise EscError(
            f"{variable}={name} is asked at {HOSTED}, and OPENAI_API_KEY is not set; set it, or "
            f"give {variable}_BASE_URL=http://host:port/v1 for another endpoint{drawn}"
        )
    return Judge(name, HOSTED if hosted else urls or "")


def base_or(model: str, work: Path, name: str | None, urls: str | None, **how: Any) -> Judge:
    """As `judge_for`, but of the embedded model, where no other is named, its own server's base."""
    base = adapters.BASE
    if name != base and (name or model != EMBEDDED):
        return judge_for(model, name, urls, **how)
    weights = adapters.weights_of(work, model, [] if urls else [base])
    return Judge(f"{model} (base)", urls or "", base, weights)


Record = TypeVar("Record")


def failed(rows: Sequence[Row]) -> int:
    """How many rows another run may still fill."""
    return sum(row["status"] == "failed" for row in rows)


@dataclass(frozen=True, slots=True)
class Asking(Generic[Record]):
    """One folder of answers: what is asked of which records, and what becomes of it."""

    folder: RunFolder
    who: Policies | Judge
    # Every record, in the order of the rows; called where there is something to do.
    records: Callable[[], Sequence[Record]]
    # From somebody to ask and a record to what is said of it; it need not ask.
    ask: Callable[[Asks, Record], Awaitable[Any]]
    # Of a record and what was said, or the `Failure` of its request: of a judge's, `Unscored`.
    row: Callable[[Record, Any], Row]
    # What the rows come to: for the report, and the summary file or ``run.json``.
    told: Callable[[Sequence[Row]], Row]
    # The numbers one should see, of what is told and, without a summary, what asking took:
    # ``requests`` (answered, cached, failed), ``cost`` (None without a price), ``seconds``.
    report: Callable[[Row], str]
    missing: Callable[[Sequence[Row]], int] = failed
    summary: str = ""  # the file of what is told, where that is not ``run.json``
    # Who answers the questions of a step, where that is somebody else.
    others: Mapping[str, Judge] = field(default_factory=dict)
    # Served names that cost nothing, and files of others' answers, which are not asked for again.
    free: frozenset[str] = frozenset()
    known: Sequence[Path] = ()

    @property
    def weights(self) -> Mapping[str, str]:
        """Of all who are asked."""
        return {
            name: sha
            for one in (*self.others.values(), self.who)
            for name, sha in one.weights.items()
        }


def ask_all(askings: Mapping[str, Callable[[], Asking[Any]]], sending: Sending) -> int:
    """Exit code: 0 where no row of any folder is missing, 1 where requests failed.

    A folder, by name, that fails takes down no other: EscError for whatever a user can mend, or
    Waiting where BATCH leaves some of the asking to others, is raised once the others are done.
    """
    wrong, waiting, missing = [], [], 0
    for name, asking in askings.items():
        try:
            missing += _ask(name, asking(), sending)
        except Waiting as error:
            waiting.append(str(error))
        except EscError as error:
            wrong.append(f"{name}: {error}" if len(askings) > 1 else str(error))
    if wrong:
        raise EscError("; ".join(wrong))
    if waiting:
        raise Waiting("\n".join(waiting))
    return 1 if missing else 0


def _ask(name: str, asking: Asking[Any], sending: Sending) -> int:
    """The one loop that asks; the number of rows to ask for again."""
    folder, who, meter = asking.folder, asking.who, sending.meter
    summary = folder.path / (asking.summary or DONE)
    with files.exclusive(folder.path):
        folder.check_own()
        if not sending.dry_run:
            folder.claim(force=sending.force)
            if folder.finished() is not None and summary.is_file():
                at = folder.path / folder.records
                print(f"{at} is complete with these options; nothing to do")
                print(asking.report(files.read_json(summary)))
                return 0
            summary.unlink(missing_ok=True)
        cache, records = llm.Cache(folder.path / CALLS), asking.records()
        for path in asking.known:
            cache.borrow(path)
        meter.free = asking.free
        rehearsal = llm.Rehearsal(cache, asking.weights, llm.Meter(sending.price, free=asking.free))
        said = asyncio.run(rehearsal.run(records, asking.ask))
        if sending.dry_run:
            print(f"{name}: {rehearsal}")
            return 0
        before, begin = replace(meter), time.monotonic()
        if rehearsal.meter.answered:
            said = _said(name, asking, records, cache, sending)
        else:
            meter.cached += rehearsal.meter.cached
        counts = ("answered", "cached", "failed")
        facts: Row = {
            "requests": {one: getattr(meter, one) - getattr(before, one) for one in counts},
            "cost": round(meter.spent - before.spent, 4) if meter.price else None,
            "seconds": round(time.monotonic() - begin, 1),
        }
        if lost := [found for found in said if isinstance(found, Failure)]:
            _tell_lost(lost, who, facts["requests"], sending)
        by: Row = {}
        if isinstance(who, Judge):
            by = {"judge": who.name}
            said = [Unscored.of(found) if isinstance(found, Failure) else found for found in said]
        rows = [by | asking.row(record, one) for record, one in zip(records, said, strict=True)]
        told, missing = asking.told(rows), asking.missing(rows)
        if asking.summary:
            files.write_json(summary, told)
        else:
            facts = told = told | facts
        folder.write(rows, facts, complete=not missing)
    print(asking.report(told))
    return missing


def _said(
    name: str, asking: Asking[Any], records: Sequence[Any], cache: llm.Cache, sending: Sending
) -> list[Any]:
    """What is said of every record, or its final failure, in order."""
    who = asking.who
    shared = cache, asking.weights, sending.meter
    if sending.engine:
        if asking.others:
            raise EscError("BATCH is not for what several models say in turn; leave it out")
        chat = BatchChat(
            *shared,
            folder=asking.folder.path / "batch",
            urls=policy_server.split_urls(who.urls or ""),
            engine=sending.engine,
            size=sending.shard,
            model=sending.model,
            work=sending.work,
        )
        return chat.rounds(records, asking.ask)
    asked = {
        step: (one, policy_server.servers(sending.model, sending.work, one.urls, one.weights))
        for step, one in {"": who, **asking.others}.items()
    }

    async def live() -> list[Any]:
        chats = {}
        async with AsyncExitStack() as stack:
            for step, (one, urls) in asked.items():
                chat = llm.Chat(urls, *shared, timeout=TIMEOUT, connections=sending.connections)
                chats[step] = await stack.enter_async_context(aclosing(chat))
                # A judge's endpoint need not list its models.
                await chat.connect([*one.weights] if isinstance(one, Policies) else [])
            first = chats.pop("")
            return await first.run(records, llm.apart(asking.ask, chats), name)

    return asyncio.run(live())


def _tell_lost(
    lost: Sequence[Failure], who: Policies | Judge, asked: Mapping[str, int], sending: Sending
) -> None:
    """Tell why answers are missing; raise where all are, for what is no single record's fault."""
    kinds, first = Counter(one.kind for one in lost), {one.kind: one.message for one in lost[::-1]}
    final = {Reason.EMPTY, Reason.REFUSED} if isinstance(who, Judge) else {Reason.EMPTY}
    if not (asked["answered"] or asked["cached"]) and kinds.keys() <= final:
        raise RunStopped(
            f"no question was answered{sending.meter.told()}: {lost[0].message}; nothing is "
            "written: take another model (JUDGE, JUDGE_BASE_URL), or switch its thinking off"
        )
    told = ", ".join(f"{count} {kind} ({first[kind]})" for kind, count in kinds.most_common())
    print(f"no answer   {visible(told)}", file=sys.stderr)
    if sending.engine == "read":
        print("batch       these failures were brought: BATCH=write asks again", file=sys.stderr)


# Of a row; the last three have no verdict: for good, not yet, and for lack of a reply.
STATUSES = SCORED, UNSCORED, FAILED, NOT_JUDGED = "scored", "unscored", "failed", "not judged"
LEFT_OPEN = STATUSES[1:]
# Failures that another run would meet again: what was asked about stays without a verdict.
FOR_GOOD = {Reason.EMPTY, Reason.TOO_LONG, Reason.REFUSED}


@dataclass(frozen=True, slots=True)
class Unscored:
    """No verdict, why, and what was said instead, shortened."""

    reason: str
    detail: str = ""
    status: str = UNSCORED

    @classmethod
    def of(cls, failure: Failure) -> Self:
        """Of a request that failed for good, or is worth another one."""
        status = UNSCORED if failure.kind in FOR_GOOD else FAILED
        return cls(failure.kind.value, failure.message, status)


def without_score(rows: Iterable[Row]) -> Row:
    """How many rows have no verdict, and why: by status, then by reason."""
    found: dict[str, Counter[str]] = {name: Counter() for name in LEFT_OPEN}
    for row in rows:
        if row["status"] in found:
            found[row["status"]][str(row["reason"])] += 1
    return {
        name.replace(" ", "_"): {"total": reasons.total(), **dict(reasons.most_common())}
        for name, reasons in found.items()
    }


def every_row(told: Row, n: int) -> str:
    """Every row once, in words: ``n`` with a verdict, and what `without_score` counted."""
    counts = {SCORED: n} | {name: told[name.replace(" ", "_")]["total"] for name in LEFT_OPEN}
    return " + ".join(f"{count:,} {name}" for name, count in counts.items())


def closing(told: Row) -> list[str]:
    """The last lines of a report: why rows have no verdict, the kind of interval, the marks."""
    lines = [
        f"{status:<12}{count:,} {why}"
        for status in LEFT_OPEN
        for why, count in told[status.replace(" ", "_")].items()
        if why != "total"
    ]
    if number := told.get("numbered"):
        lines.append(f"ids         {number:,} records have none; theirs is their row, from 0")
    if "interval" in told:
        lines.append(f"interval    {told['interval']}")
    if told["failed"]["total"]:
        lines.append("incomplete  the same command asks again for what is missing")
    return lines + [SMOKE] * told["smoke"]


_OPENED = re.compile(r'\{\s*"([^"\n]{1,80})"\s*:')  # an object, with its first key
_BEGINS = re.compile(r"\s*(?:```\w*\s*)?\{")  # the head of an answer that is the verdict itself


class Verdict(BaseModel):
    """What every kind of verdict is."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    not_offered: ClassVar[Reason] = Reason.OFF_MENU  # of a value that its field does not allow
    status: ClassVar[str] = SCORED

    @classmethod
    def drawn(cls, chance: random.Random) -> Self:
        """A verdict of a judge that is asked nothing."""
        raise NotImplementedError

    @classmethod
    def constraint(cls, *, is_own: bool) -> Constraint | None:
        """What the answer is held to, as a hint: texts, unless a field says other.

        Every field is required and no other allowed, which is what strict endpoints ask for.
        ``is_own``: by this kit's own server.
        """
        properties = {
            str(field.title): {"type": "string"} | cast(Row, field.json_schema_extra or {})
            for field in cls.model_fields.values()
        }
        form: Row = {"type": "object", "properties": properties, "required": list(properties)}
        return Constraint(schema=json.dumps(form | {"additionalProperties": False}), hint=True)

    @field_validator("*", mode="before")
    @classmethod
    def _one_line(cls, value: object, info: ValidationInfo) -> object:
        """An explanation as text; half a character, which JSON can name, cannot be written."""
        if cls.model_fields[str(info.field_name)].is_required():
            return value
        return " ".join(str(value or "").split()).encode(errors="replace").decode()

    @classmethod
    def read(cls, text: str, *, truncated: bool = False) -> Self | Unscored:
        """The verdict in a judge's answer, or why there is none.

        A judge may think aloud before it, unless it was cut. Two whole verdicts that differ are
        none, since one may be quoted from the text that was judged; nor is one in a broken verdict,
        or one that names a field twice.
        """
        shown = " ".join(text.split())[:120].encode(errors="replace").decode()
        # Whatever stands in a cut answer may be the draft of a verdict still thought about.
        if not shown or (truncated and not _BEGINS.match(text)):
            return Unscored(Reason.CUT if truncated else Reason.EMPTY, shown)
        fields = cls.model_fields
        titles = {_letters(field.title or name): name for name, field in fields.items()}
        names = {_letters(name): name for name in fields} | titles
        objects: list[dict[str, object]] = []
        broken = False
        for found in _objects(text):
            if isinstance(found, str):
                broken |= _letters(found) in names
            elif not broken:
                named = [(names.get(_letters(key), ""), value) for key, value in found]
                # Where a field is named twice, either may be the quoted one.
                objects += [dict(named[::-1]), dict(named)]
        labels = {name for name, field in fields.items() if field.is_required()}
        whole = [cls._validated(one) for one in objects if labels <= one.keys()]
        if not whole:
            begun = broken or any(labels & one.keys() for one in objects)
            reason = Reason.INCOMPLETE if begun else Reason.PROSE
            return Unscored(Reason.CUT if truncated else reason, shown)
        # The labels make two the same, not the words around them.
        said = {
            one if isinstance(one, Unscored) else tuple(getattr(one, name) for name in labels)
            for one in whole
        }
        return whole[-1] if len(said) == 1 else Unscored(Reason.TWO, shown)

    @classmethod
    def _validated(cls, fields: Mapping[str, object]) -> Self | Unscored:
        try:
            return cls.model_validate(fields)
        except ValidationError as error:
            first = error.errors()[0]
            told = ": ".join([*map(str, first["loc"]), first["msg"].removeprefix("Value error, ")])
            is_whole = first["type"] == Reason.CONTRADICTION
            return Unscored(Reason.CONTRADICTION if is_whole else cls.not_offered, told)


def _letters(name: str) -> str:
    return "".join(re.findall(r"[a-z]+", name.casefold()))


def _objects(text: str) -> Iterator[tuple[tuple[str, Any], ...] | str]:
    """Every outermost JSON object in the text, as its (key, value)s; of a broken one its key."""
    decoder = json.JSONDecoder(object_pairs_hook=tuple)
    position = text.find("{")
    while position >= 0:
        try:
            found, end = decoder.raw_decode(text, position)
        except (ValueError, RecursionError):
            end = position + 1
            if opened := _OPENED.match(text, position):
                yield opened[1]
        else:
            yield found
        position = text.find("{", end)


_NEITHER = {"neither", "tie", "none", "draw", "equal"}
# Words around a side that say no more than it; any other leaves it unclear.
_AROUND = {
    *("it", "s", "is", "the", "reply", "answer", "option", "response", "one", "clearly", "much"),
    *("far", "slightly", "better", "best", "preferred", "wins", "winner"),
}


def side(value: object, neither: str = "neither") -> str:
    """The side that an answer names: A, B or ``neither``; ValueError where that is not clear."""
    text = re.sub(r"\ba (?=tie|draw)", "", value.casefold()) if isinstance(value, str) else "?"
    words = set(re.findall(r"[a-z]+|\?", text)) - _AROUND
    named = {neither if word in _NEITHER else word.upper() for word in words}
    if len(named) == 1 and named <= {"A", "B", neither}:
        return named.pop()
    raise ValueError(f"{str(value)[:60]!r} is none of A, B and {neither}")


V = TypeVar("V", bound=Verdict)


def question(
    system: str, user: Path, history: Sequence[Exchange], said: Mapping[str, str], **words: str
) -> tuple[Message, ...]:
    """A chat that asks a judge; the template ``user`` fences what people and models ``said``."""
    conversation = prompts.exchanges(history).strip() or "(nothing yet)"
    fence = prompts.mark(conversation, *said.values())
    words |= {"conversation": conversation, "mark": fence, **said}
    asked = prompts.render(user.parent, user.name, **words)
    return Message("system", system), Message("user", asked)


async def verdict(
    asks: Asks,
    judge: Judge,
    kind: type[V],
    record: str,
    chat: tuple[Message, ...],
    drawn_by: str = "",
    *,
    tokens: int = 512,
    sample: int = 0,
) -> V | Unscored:
    """What a judge says, at temperature 0, or what chance says that is the same by ``drawn_by``.

    The schema of ``kind`` is a hint: whatever comes back is read as strictly as an answer without.
    """
    if judge.is_random:
        seed = hashlib.sha256(drawn_by.encode()).digest()[:8]
        return kind.drawn(random.Random(int.from_bytes(seed)))
    constraint, sampling = kind.constraint(is_own=bool(judge.weights)), Sampling(tokens)
    model = judge.served or judge.name
    answer = await asks.ask(
        Generation(record, "judge", model, chat, sampling, constraint, sample, expected="{}")
    )
    return kind.read(answer.text, truncated=answer.truncated)
