"""The one loop that asks, and a judge's answer, read strictly.

`ask_all` goes from records by a rehearsal, questions and answers to rows, a summary and
``run.json`` for every step that asks a model; an `Asking` is what differs between them.

A verdict in an answer is whole and as offered, or there is none. A kind of verdict is a pydantic
model: a field's title is its name in the judge's answer, a field that may be missing is an
explanation and decides nothing. Names of fields are read tolerantly, since judges paraphrase them;
whatever stays unclear is unscored, with the reason.
"""

import asyncio
import json
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Generic, Literal, TypeVar, cast

import typer
from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator

from esc import backbones, cli, files, policy_server
from esc.files import EscError, Row, Waiting
from esc.llm import (
    Asks,
    Cache,
    Chat,
    Failure,
    FailureKind,
    Meter,
    Pool,
    Price,
    Rehearsal,
    RunStopped,
    counted,
)
from esc.llm_batch import SHARD, Batch, BatchChat
from esc.paths import EMBEDDED
from esc.plan_and_speak import TIMEOUT
from esc.step import CALLS, DONE, SMOKE, RunFolder
from esc.visible import visible

IN_FLIGHT = {"gpu": 256, "cpu": 32}
"""Requests at a time that keep an engine full, by where the backbone runs."""
JUDGE_IN_FLIGHT = 64
"""Questions at a time to a judge, whose limits have nothing to do with the backbone's server."""
LIVE = "live"
"""No batches for this step, where others of the same command use them."""

Engine = Literal["vllm", "ray", "openai", "write", "read", "live"]
_BY_FILES = "an engine that reads batch files, instead of a live server"

Record = TypeVar("Record")


@dataclass(frozen=True)
class Sending:
    """How requests are sent, as options of a step: nothing of it changes an answer."""

    model: cli.Model = EMBEDDED
    work: cli.Work = Path()
    in_flight: Annotated[
        int | None, typer.Option(envvar="IN_FLIGHT", min=1, help="requests at a time")
    ] = None
    price: Annotated[
        Price | None,
        typer.Option(envvar="PRICE", parser=Price.parse, help="money per million tokens: IN/OUT"),
    ] = None
    max_cost: Annotated[
        float | None,
        typer.Option(envvar="MAX_COST", parser=cli.amount, help="stop before this call costs more"),
    ] = None
    batch: Annotated[Engine | None, typer.Option(envvar="BATCH", help=_BY_FILES)] = None
    shard: Annotated[
        int, typer.Option(envvar="SHARD", min=1, help="requests of one batch file")
    ] = SHARD
    dry_run: cli.DryRun = False
    force: cli.Force = False

    @cached_property
    def meter(self) -> Meter:
        """What this call of the program asks and spends."""
        return Meter(self.price, self.max_cost)

    @property
    def connections(self) -> int:
        """Requests at a time, over all endpoints."""
        where = "gpu" if backbones.get(self.model).settings["gpus"] else "cpu"
        return self.in_flight or IN_FLIGHT[where]

    @property
    def batches(self) -> Batch | None:
        """Through files and an engine that reads them, or None for a live endpoint."""
        if self.batch in (None, LIVE):
            return None
        return Batch(str(self.batch), self.shard, self.model, self.work)


JudgeName = Annotated[
    str | None,
    typer.Option(envvar="JUDGE", help="model at its endpoint, or random [default: the backbone's]"),
]
JudgeUrl = Annotated[
    str | None,
    typer.Option(
        envvar="JUDGE_BASE_URL", help="one or several, by commas [default: the hosted one]"
    ),
]


@dataclass(frozen=True)
class JudgeSending(Sending):
    """How a judge is asked; it has a number in flight, and batches, of its own."""

    in_flight: Annotated[
        int, typer.Option(envvar="JUDGE_IN_FLIGHT", min=1, help="questions at a time")
    ] = JUDGE_IN_FLIGHT
    batch: Annotated[
        Engine | None, typer.Option(envvar=["JUDGE_BATCH", "BATCH"], help=_BY_FILES)
    ] = None
    judge: JudgeName = None
    judge_base_url: JudgeUrl = None

    def who(self, default: str | None = None) -> "Judge":
        """The judge a user asks for, or ``default``, or the one the table of backbones names.

        Raises EscError where the hosted one is to be asked and there is no key.
        """
        keyless = self.dry_run or self.batch not in (None, LIVE, "openai")
        name = self.judge or default
        return judge_for(self.model, name, self.judge_base_url, keyless=keyless)


def failed(rows: Sequence[Row]) -> int:
    """How many rows another run may still fill."""
    return sum(row["status"] == "failed" for row in rows)


@dataclass(frozen=True, slots=True)
class Asking(Generic[Record]):
    """One folder of answers: what is asked of which records, and what becomes of it."""

    folder: RunFolder
    what: str
    """For the progress bar, and before what a dry run says."""
    run: Row
    """What the stored answers are of."""
    records: Callable[[], Sequence[Record]]
    """Every record, in the order of the rows; called where there is something to do."""
    work: Callable[[Asks, Record], Awaitable[Row]]
    """From somebody to ask and a record to its row; it need not ask."""
    without: Callable[[Record, Failure], Row]
    """The row of a record whose request failed for good."""
    told: Callable[[Sequence[Row]], Row]
    """What the rows come to: for the report, and the summary file or ``run.json``."""
    report: Callable[[Row], str]
    """The numbers one should see, of what is told and, without a summary, what asking took:
    ``requests`` (answered, cached, failed), ``cost`` (None where no price is given), ``seconds``.
    """
    models: Sequence[str]
    """The served names it asks."""
    weights: Mapping[str, str] = field(default_factory=dict)
    """Served name to a hash of what answers under it."""
    at: str | None = None
    """URLs to ask, by commas; else the running server of the model is, or one for this run."""
    missing: Callable[[Sequence[Row]], int] = failed
    summary: str = ""
    """The name of the file of what is told, where that is not ``run.json``."""
    judge: str = ""
    """Who is asked, as a reader knows it; its endpoint need not list its models. Empty for ours."""


def ask_all(askings: Iterable[Asking[Any]], sending: Sending) -> int:
    """Exit code: 0 where no row of any folder is missing, 1 where requests failed.

    The one loop that asks: claims every folder, rehearses, asks what no stored answer tells (one
    start of a server for all of them), writes rows, summary and ``run.json``, prints the report.
    Raises EscError for whatever a user can mend, and, once the others are done, Waiting where BATCH
    leaves some of the asking to others.
    """
    _ = sending.meter  # what is wrong with it is told before a folder is claimed
    with ExitStack() as stack:
        opened = [one for asking in askings if (one := _opened(asking, sending, stack))]
        if sending.dry_run:
            return 0
        to_ask = [one for one in opened if one.rehearsal.meter.answered]
        weights = {name: sha for one in to_ask for name, sha in one.asking.weights.items()}
        given = to_ask[0].asking.at if to_ask else None
        urls: Sequence[str] = policy_server.split_urls(given or "")
        if to_ask and not sending.batches:
            urls = policy_server.servers(sending.model, sending.work, given, weights)
        missing, waits = 0, []
        for one in opened:
            try:
                missing += _finish(one, urls, sending)
            except Waiting as waiting:
                waits.append(str(waiting))
    if waits:
        raise Waiting("\n".join(waits))
    return 1 if missing else 0


def ask_each(every: Mapping[str, Callable[[], Asking[Any]]], sending: Sending) -> int:
    """`ask_all` of one folder after the other, by name, with one start of a server for all.

    A folder that fails, or cannot be asked for at all, does not take down the others: exit code 1.
    Raises Waiting where none fails and BATCH leaves some of the asking to others.
    """
    codes, waits = [0], []
    for name, asking in every.items():
        print(f"--- {name}", flush=True)
        try:
            codes.append(ask_all([asking()], sending))
        except Waiting as waiting:
            waits.append(str(waiting))
        except EscError as error:
            print(f"error: {name}: {visible(str(error))}", file=sys.stderr)
            codes.append(1)
    if waits and not max(codes):
        raise Waiting("\n".join(waits))
    return max(codes)


@dataclass(frozen=True, slots=True)
class _Opened:
    asking: Asking[Any]
    records: Sequence[Any]
    cache: Cache
    rehearsal: Rehearsal
    rehearsed: Sequence[Row]


def _opened(asking: Asking[Any], sending: Sending, stack: ExitStack) -> _Opened | None:
    """What is to be asked, or None where all is there; its folder is held until the end."""
    folder = asking.folder
    stack.enter_context(files.exclusive(folder.path))
    folder.check_own()
    if not sending.dry_run:
        folder.claim(force=sending.force)
        told = folder.path / (asking.summary or DONE)
        if folder.finished() is not None and told.is_file():
            print(f"{folder.path / folder.records} is complete with these options; nothing to do")
            print(asking.report(files.read_json(told)))
            return None
        if asking.summary:
            (folder.path / asking.summary).unlink(missing_ok=True)
    cache = Cache(folder.path / CALLS, asking.run)
    if cache.repaired:
        print("the last stored answer was torn and is asked for again", file=sys.stderr)
    records = asking.records()
    rehearsal = Rehearsal(cache, asking.weights, Meter(sending.price))

    async def rehearsed() -> list[Row]:
        return [await asking.work(rehearsal, record) for record in records]

    one = _Opened(asking, records, cache, rehearsal, asyncio.run(rehearsed()))
    if sending.dry_run:
        print(f"{asking.what}: {rehearsal}")
    return one


def _finish(one: _Opened, urls: Sequence[str], sending: Sending) -> int:
    """Ask, write and tell; the number of rows to ask for again."""
    asking, meter = one.asking, sending.meter
    before, begin = replace(meter), time.monotonic()
    results: Sequence[Row | Failure] = one.rehearsed
    if not one.rehearsal.meter.answered:
        meter.cached += one.rehearsal.meter.cached
    elif sending.batches:
        folder = asking.folder.path / "batch"
        chat = BatchChat(sending.batches, urls, folder, one.cache, asking.weights, meter)
        results = chat.run(one.records, asking.work)
    else:
        results = asyncio.run(_live(one, urls, sending))
    asked = {
        name: getattr(meter, name) - getattr(before, name)
        for name in ("answered", "cached", "failed")
    }
    if asked["failed"] and sending.batch == "read":
        brought = f"{asked['failed']:,} failures were brought"
        print(f"batch       {brought}: BATCH=write asks again", file=sys.stderr)
    is_any = bool(asked["answered"] or asked["cached"])
    _check_some_answered(asking, results, is_any=is_any, told=meter.told())
    rows = [
        asking.without(record, found) if isinstance(found, Failure) else found
        for record, found in zip(one.records, results, strict=True)
    ]
    sent = {
        "requests": asked,
        "cost": round(meter.spent - before.spent, 4) if meter.price else None,
        "seconds": round(time.monotonic() - begin, 1),
    }
    told, missing = asking.told(rows), asking.missing(rows)
    if asking.summary:
        files.write_json(asking.folder.path / asking.summary, told)
        asking.folder.write(rows, sent, complete=not missing)
    else:
        told |= sent
        asking.folder.write(rows, told, complete=not missing)
    print(asking.report(told))
    return missing


async def _live(one: _Opened, urls: Sequence[str], sending: Sending) -> Sequence[Row | Failure]:
    """A row, or the final failure, of every record, in order."""
    asking = one.asking
    pool = Pool(urls, timeout=TIMEOUT, connections=sending.connections, meter=sending.meter)
    chat = Chat(pool, one.cache, asking.weights)
    try:
        await pool.connect(asking.models, listed=not asking.judge)
        return await chat.run(one.records, asking.work, asking.what)
    finally:
        await pool.close()


def _check_some_answered(
    asking: Asking[Any], results: Sequence[Row | Failure], *, is_any: bool, told: str
) -> None:
    """Tell why answers are missing; raise where all are, for what is no single record's fault."""
    lost = [one for one in results if isinstance(one, Failure)]
    kinds = set() if is_any else {one.kind for one in lost}
    if kinds == {FailureKind.EMPTY}:
        raise RunStopped(
            f"every answer is empty{told}: {lost[0].message}; nothing is written: "
            "switch the model's thinking off where it is served, or take another one"
        )
    if lost:
        why = visible(counted((one.kind.value, one.message) for one in lost))
        print(f"no answer   {why}", file=sys.stderr)
    if asking.judge and kinds == {FailureKind.REFUSED}:
        raise EscError(
            f"{asking.judge} refuses every question ({lost[0].message}); nothing is written: take "
            "another judge (JUDGE, JUDGE_BASE_URL)"
        )


RANDOM = "random"
HOSTED = "https://api.openai.com/v1"
NUMBER, REASON = "number", "reason"
"""What is asked for a score: the number alone (Figures 17 to 20), or a reason and the number."""


def is_smoke(name: str) -> bool:
    """Whether what a judge of that name says is no judgement: random draws, the embedded model."""
    return name in (RANDOM, EMBEDDED)


@dataclass(frozen=True, slots=True)
class Judge:
    """Who answers the judge's questions."""

    name: str
    """The model's name at its endpoint, or ``random``."""
    urls: str
    """Separated by commas; empty for ``random``, and for this kit's own server."""

    @property
    def is_random(self) -> bool:
        """Whether verdicts are drawn, not judged."""
        return self.name == RANDOM


def judge_for(model: str, name: str | None, urls: str | None, *, keyless: bool = False) -> Judge:
    """The judge a user asks for, or the one the table of backbones names.

    Raises EscError where the hosted one is meant and there is no key; ``keyless`` says that it is
    not going to be asked.
    """
    name = name or backbones.get(model).judge
    if name == RANDOM:
        if urls:
            raise EscError("JUDGE=random asks nobody; drop JUDGE_BASE_URL, or name the model there")
        return Judge(RANDOM, "")
    if urls:
        return Judge(name, urls)
    if not keyless and not os.environ.get("OPENAI_API_KEY", "").strip():
        raise EscError(
            f"JUDGE={name} is asked at {HOSTED}, and OPENAI_API_KEY is not set; set it, give "
            "JUDGE_BASE_URL=http://host:port/v1 for another endpoint, or take JUDGE=random, which "
            "is a smoke run"
        )
    return Judge(name, HOSTED)


LEFT_OPEN = ("unscored", "failed", "not judged")
"""Statuses of a row without a verdict: for good, not yet, and since there is nothing to judge."""


class Reason(StrEnum):
    """Why an answer is no verdict."""

    EMPTY = "empty answer"
    PROSE = "no verdict in the answer"
    CUT = "answer cut at its length limit"
    INCOMPLETE = "fields missing"
    OFF_MENU = "label not offered"
    OFF_SCALE = "score not on the scale"
    TWO = "two verdicts that differ"
    CONTRADICTION = "verdict contradicts itself"
    REFUSED = "request refused"


FOR_GOOD = {
    FailureKind.EMPTY: Reason.EMPTY,
    FailureKind.TOO_LONG: Reason.REFUSED,
    FailureKind.REFUSED: Reason.REFUSED,
}
"""Failures that another run would meet again: what was asked about stays without a verdict."""


def lost(failure: Failure) -> tuple[str, str, str]:
    """(status, reason, detail) of a row whose request failed: for good, or worth asking again."""
    if failure.kind in FOR_GOOD:
        return "unscored", FOR_GOOD[failure.kind].value, failure.message
    return "failed", failure.kind.value, failure.message


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
    counts = {"scored": n} | {name: told[name.replace(" ", "_")]["total"] for name in LEFT_OPEN}
    return " + ".join(f"{count:,} {name}" for name, count in counts.items())


def closing(told: Row) -> list[str]:
    """The last lines of a report: why rows have no verdict, the kind of interval, the marks."""
    counted = [(status, told[status.replace(" ", "_")]) for status in LEFT_OPEN]
    lines = [
        f"{status:<12}{count:,} {why}"
        for status, reasons in counted
        for why, count in reasons.items()
        if why != "total"
    ]
    lines.append(f"interval    {told['interval']}")
    if told["failed"]["total"]:
        lines.append("incomplete  the same command asks again for what is missing")
    return lines + [SMOKE] * told["smoke"]


@dataclass(frozen=True, slots=True)
class Unscored:
    """An answer that is no verdict."""

    reason: Reason
    detail: str = ""
    """What was said instead, shortened."""


class Verdict(BaseModel):
    """What every kind of verdict is."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    not_offered: ClassVar[Reason] = Reason.OFF_MENU
    """Why a value that its field does not allow is no verdict."""

    @classmethod
    def schema_text(cls, **changed: dict[str, Any]) -> str:
        """The JSON schema that a judge's answer is asked under, as JSON text.

        A field is text, unless its ``json_schema_extra`` or ``changed``, by its title, says what
        else. Every field is required and no other allowed, which is what strict endpoints ask for.
        """
        properties: dict[str, Any] = {
            str(field.title): {"type": "string"} | cast(Row, field.json_schema_extra or {})
            for field in cls.model_fields.values()
        }
        form: dict[str, Any] = {"type": "object", "properties": properties | changed}
        form |= {"required": list(properties), "additionalProperties": False}
        return json.dumps(form)

    @field_validator("*", mode="before")
    @classmethod
    def _one_line(cls, value: object, info: ValidationInfo) -> object:
        """An explanation as text; half a character, which JSON can name, cannot be written."""
        if cls.model_fields[str(info.field_name)].is_required():
            return value
        return " ".join(str(value or "").split()).encode(errors="replace").decode()


V = TypeVar("V", bound=Verdict)
_OPENED = re.compile(r'\{\s*"([^"\n]{1,80})"\s*:')
"""The beginning of an object, with its first key."""
_BEGINS = re.compile(r"\s*(?:```\w*\s*)?\{")
"""The head of an answer that is the verdict itself."""


def read(kind: type[V], text: str, *, truncated: bool = False) -> V | Unscored:
    """The verdict of ``kind`` in a judge's answer, or why there is none.

    A judge may think aloud before it, unless it was cut: objects that are not whole do not count.
    Two whole verdicts that differ are none, since one of them may be quoted from the text that was
    judged; nor is one that stands in a broken verdict, or one that names a field twice, for the
    same reason.
    """
    shown = " ".join(text.split())[:120].encode(errors="replace").decode()
    # Whatever stands in a cut answer may be the draft of a verdict that was still thought about.
    if not shown or (truncated and not _BEGINS.match(text)):
        return Unscored(Reason.CUT if truncated else Reason.EMPTY, shown)
    names = {
        _letters(said): name
        for name, field in kind.model_fields.items()
        for said in (name, field.title or name)
    }
    objects: list[dict[str, object]] = []
    broken = False
    for found in _objects(text):
        if isinstance(found, str):
            broken |= _letters(found) in names
        elif not broken:
            named = [
                (names[_letters(key)], value) for key, value in found if _letters(key) in names
            ]
            # Where a field is named twice, either may be the quoted one.
            objects += [dict(named[::-1]), dict(named)]
    labels = {name for name, field in kind.model_fields.items() if field.is_required()}
    whole = [_validated(kind, fields) for fields in objects if labels <= fields.keys()]
    if not whole:
        begun = broken or any(labels & fields.keys() for fields in objects)
        reason = Reason.INCOMPLETE if begun else Reason.PROSE
        return Unscored(Reason.CUT if truncated else reason, shown)
    # The labels make two the same, not the words around them.
    said = {
        one if isinstance(one, Unscored) else tuple(getattr(one, name) for name in sorted(labels))
        for one in whole
    }
    if len(said) > 1:
        return Unscored(Reason.TWO, shown)
    return whole[-1]


def _validated(kind: type[V], fields: Mapping[str, object]) -> V | Unscored:
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        told = ": ".join([*map(str, first["loc"]), first["msg"].removeprefix("Value error, ")])
        is_whole = first["type"] == Reason.CONTRADICTION
        return Unscored(Reason.CONTRADICTION if is_whole else kind.not_offered, told)


def _letters(name: str) -> str:
    return "".join(re.findall(r"[a-z]+", name.casefold()))


def _objects(text: str) -> Iterator[tuple[tuple[str, Any], ...] | str]:
    """Every JSON object in the text, outermost ones alone, in order; of a broken one its key.

    An object comes as it was written: its keys may be there twice.
    """
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
