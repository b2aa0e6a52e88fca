"""The one loop that asks, and a judge's answer, read strictly.

`ask_all` goes from records by a rehearsal, questions and answers to rows, a summary and
``run.json`` for every step that asks a model; an `Asking` is what differs between them.

A verdict in an answer is whole and as offered, or there is none. A kind of verdict is a pydantic
model: a field's title is its name in the judge's answer, a field that may be missing is an
explanation and decides nothing. Names of fields are read tolerantly, since judges paraphrase them;
whatever stays unclear is unscored, with the reason.
"""

import argparse
import asyncio
import json
import os
import re
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from esc import backbones, cli, files, policy_server
from esc.exceptions import EscError, Waiting
from esc.files import Row
from esc.llm import (
    Asks,
    Budget,
    Cache,
    Chat,
    Failure,
    FailureKind,
    Meter,
    Policy,
    Pool,
    Price,
    Rehearsal,
    RunStopped,
    counted,
)
from esc.llm_batch import ENGINES, SHARD, Batch, Rounds, engine_of
from esc.paths import EMBEDDED
from esc.plan_and_speak import TIMEOUT
from esc.step import RunFolder
from esc.visible import visible

IN_FLIGHT = {"gpu": 256, "cpu": 32}
"""Requests at a time that keep an engine full, by where the backbone runs."""
JUDGE_IN_FLIGHT = 64
"""Questions at a time to a judge, whose limits have nothing to do with the backbone's server."""

LIVE = "live"
"""No batches for this step, where others of the same command use them."""

Record = TypeVar("Record")


@dataclass(frozen=True, slots=True)
class Sending:
    """How requests are sent: nothing of it changes an answer."""

    budget: Budget
    policy: Policy
    timeout: float
    dry_run: bool
    batch: Batch | None
    """Through files and an engine that reads them, or None for a live endpoint."""

    @classmethod
    def of(cls, given: argparse.Namespace) -> "Sending":
        """The options in parsed arguments."""
        where = "gpu" if backbones.get(given.model).settings["gpus"] else "cpu"
        work = getattr(given, "work", Path())
        return cls(
            Budget(Price.parse(given.price) if given.price else None, given.max_cost),
            Policy(in_flight=given.in_flight or IN_FLIGHT[where]),
            given.timeout or TIMEOUT,
            given.dry_run,
            Batch(given.batch, given.shard or SHARD, given.model, work) if given.batch else None,
        )

    def at(self, given: argparse.Namespace) -> "Where":
        """Where policies are asked: BASE_URL, else the running server, else one for the block."""

        def urls(weights: Mapping[str, str]) -> AbstractContextManager[Sequence[str]]:
            return self.servers(given.model, given.work, given.base_url, weights)

        return urls

    @contextmanager
    def servers(
        self, model: str, work: Path, given: str | None, weights: Mapping[str, str]
    ) -> Iterator[Sequence[str]]:
        """URLs as of `policy_server.servers`; a batch has an engine of its own, none is started."""
        if self.batch:
            yield policy_server.split_urls(given or "")
        else:
            with policy_server.servers(model, work, given, weights) as where:
                yield where.urls


def add_arguments(parser: argparse.ArgumentParser, *, judge: bool = False) -> None:
    """Add the options of `Sending`; a step that asks a ``judge`` takes JUDGE_BATCH before BATCH.

    A judge's number in flight is JUDGE_IN_FLIGHT.
    """
    batch = ("JUDGE_BATCH", "BATCH") if judge else ("BATCH",)
    in_flight = parser.add_argument(
        "--in-flight",
        type=cli.optional_count,
        default=JUDGE_IN_FLIGHT if judge else None,
        help="requests at a time" + (f" (default: {JUDGE_IN_FLIGHT})" if judge else ""),
    )
    if judge:
        cli.variable(in_flight, "JUDGE_IN_FLIGHT")
    parser.add_argument(
        "--timeout", type=cli.optional_amount, default=TIMEOUT, help="seconds for an answer"
    )
    parser.add_argument("--price", type=cli.optional, help="money per million tokens: IN/OUT")
    parser.add_argument(
        "--max-cost", type=cli.optional_amount, help="stop before this very call costs more"
    )
    parser.add_argument(
        "--batch",
        type=_engine,
        metavar="|".join(ENGINES),
        default=next(filter(None, map(os.environ.get, batch)), None),
        help="an engine that reads batch files, instead of a live server (default: "
        f"{', '.join(f'${name}' for name in batch)})",
    )
    parser.add_argument(
        "--shard",
        type=cli.optional_count,
        default=os.environ.get("SHARD") or None,
        help=f"requests of one batch file (default: $SHARD, or {SHARD})",
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be sent")


def _engine(text: str) -> str | None:
    """The name of a batch engine; None where none is meant, or make passes an unset variable."""
    if text and text not in (*ENGINES, LIVE):
        raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join((*ENGINES, LIVE))}")
    return text if text not in ("", LIVE) else None


@dataclass(frozen=True, slots=True)
class Sent:
    """What the asking of one folder took."""

    requests: Row
    """How many were answered, found in the cache, and failed."""
    cost: float | None
    """Money, or None where no price is given."""
    seconds: float

    @property
    def facts(self) -> Row:
        """For ``run.json``."""
        return {"requests": self.requests, "cost": self.cost}


def failed(rows: Sequence[Row]) -> int:
    """How many rows another run may still fill."""
    return sum(row["status"] == "failed" for row in rows)


@dataclass(frozen=True, slots=True)
class Asking(Generic[Record]):
    """One folder of answers: what is asked of which records, and what becomes of it."""

    folder: RunFolder
    what: str
    """For the progress bar."""
    run: Row
    """What the stored answers are of."""
    records: Callable[[], Sequence[Record]]
    """Every record, in the order of the rows; called where there is something to do."""
    work: Callable[[Asks, Record], Awaitable[Row]]
    """From somebody to ask and a record to its row."""
    without: Callable[[Record, Failure | None], Row]
    """The row of a record's final failure, or, with None, of one that nobody is asked about."""
    told: Callable[[Sequence[Row], Sent], Row]
    """What the rows come to: for the report, and the summary file or ``run.json``."""
    report: Callable[[Row], str]
    """The numbers one should see, of what is told."""
    models: Sequence[str]
    """The served names it asks."""
    weights: Mapping[str, str] = field(default_factory=dict)
    """Served name to a hash of what answers under it."""
    is_asked: Callable[[Record], bool] = lambda _: True
    missing: Callable[[Sequence[Row]], int] = failed
    summary: str = ""
    """The name of the file of what is told, where that is not ``run.json``."""
    judge: str = ""
    """Who is asked, as a reader knows it; its endpoint need not list its models. Empty for ours."""
    name: str = ""
    """Before what a dry run says, where several folders are asked for."""

    def finished(self) -> Row | None:
        """What was told where these options are done and the files whole, or None."""
        done = self.folder.finished()
        if done is None or not self.summary:
            return done
        path = self.folder.path / self.summary
        return files.read_json(path) if path.is_file() else None


Where = Callable[[Mapping[str, str]], AbstractContextManager[Sequence[str]]]
"""From the weights asked, by served name, to the URLs to ask while the block runs."""


def ask_all(askings: Iterable[Asking[Any]], where: Where, sending: Sending, *, force: bool) -> int:
    """Exit code: 0 where no row of any folder is missing, 1 where requests failed.

    The one loop that asks: claims every folder, rehearses, asks what no stored answer tells (one
    start of ``where`` for all of them), writes rows, summary and ``run.json``, prints the report.
    Raises EscError for whatever a user can mend, and, once the others are done, Waiting where BATCH
    leaves some of the asking to others.
    """
    with ExitStack() as stack:
        opened = [one for asking in askings if (one := _opened(asking, sending, force, stack))]
        if sending.dry_run:
            return 0
        to_ask = [one for one in opened if one.rehearsal.requests]
        weights = {name: sha for one in to_ask for name, sha in one.asking.weights.items()}
        urls = stack.enter_context(where(weights)) if to_ask else ()
        missing, waits = 0, []
        for one in opened:
            try:
                missing += _finish(one, urls, sending)
            except Waiting as waiting:
                waits.append(str(waiting))
    if waits:
        raise Waiting("\n".join(waits))
    return 1 if missing else 0


@dataclass(frozen=True, slots=True)
class _Opened:
    asking: Asking[Any]
    records: Sequence[Any]
    """All of them."""
    asked: Sequence[Any]
    cache: Cache
    rehearsal: Rehearsal
    rehearsed: Sequence[Row]


def _opened(asking: Asking[Any], sending: Sending, force: bool, stack: ExitStack) -> _Opened | None:
    """What is to be asked, or None where all is there; its folder is held until the end."""
    folder = asking.folder
    stack.enter_context(files.exclusive(folder.path))
    if "step" in folder.options:
        folder.check_own()
    if not sending.dry_run:
        folder.claim(force=force)
        if (done := asking.finished()) is not None:
            print(f"{folder.path / folder.records} is complete with these options; nothing to do")
            print(asking.report(done))
            return None
        if asking.summary:
            (folder.path / asking.summary).unlink(missing_ok=True)
    cache = folder.cache(asking.run)
    if cache.repaired:
        print("the last stored answer was torn and is asked for again", file=sys.stderr)
    records = asking.records()
    asked = [record for record in records if asking.is_asked(record)]
    rehearsal = Rehearsal(cache, asking.weights)

    async def all_records() -> list[Row]:
        return [await asking.work(rehearsal, record) for record in asked]

    rehearsed = asyncio.run(all_records())
    if sending.dry_run:
        print(f"{asking.name}: " * bool(asking.name) + rehearsal.report(sending.budget))
    return _Opened(asking, records, asked, cache, rehearsal, rehearsed)


def _finish(one: _Opened, urls: Sequence[str], sending: Sending) -> int:
    """Ask, write and tell; the number of rows to ask for again."""
    asking, folder, budget = one.asking, one.asking.folder, sending.budget
    spent, begin = budget.spent, time.monotonic()
    results: Sequence[Row | Failure] = one.rehearsed
    meter = Meter(budget, cached=one.rehearsal.cached)
    if one.rehearsal.requests:
        results, meter = _ask(one, urls, sending)
    if asking.judge:
        check_not_all_refused(asking.judge, results)
    answers = iter(results)
    rows = []
    for record in one.records:
        found = next(answers) if asking.is_asked(record) else None
        rows.append(found if isinstance(found, dict) else asking.without(record, found))
    sent = Sent(
        {"answered": meter.answered, "cached": meter.cached, "failed": meter.failed},
        round(budget.spent - spent, 4) if budget.price else None,
        time.monotonic() - begin,
    )
    told, missing = asking.told(rows, sent), asking.missing(rows)
    if asking.summary:
        files.write_json(folder.path / asking.summary, told)
    folder.write(rows, sent.facts if asking.summary else told, complete=not missing)
    print(asking.report(told))
    return missing


def _ask(one: _Opened, urls: Sequence[str], sending: Sending) -> tuple[list[Row | Failure], Meter]:
    """(a row, or the final failure, for every record asked about, in order; what was sent)."""
    work, weights = one.asking.work, one.asking.weights
    if sending.batch:
        engine, meter = engine_of(sending.batch, urls, sending.budget), Meter(sending.budget)
        found = Rounds(one.cache, weights, engine, sending.batch.shard, meter).ask(one.asked, work)
        if meter.failed and not engine.writes:
            print(
                f"batch       {meter.failed:,} failures were brought: BATCH=write asks again",
                file=sys.stderr,
            )
    else:
        found, meter = asyncio.run(_ask_live(one, urls, sending))
    _check_not_all_empty(found, sending.budget)
    if lost := [(it.kind.value, it.message) for it in found if isinstance(it, Failure)]:
        print(f"no answer   {visible(counted(lost))}", file=sys.stderr)
    return found, meter


async def _ask_live(
    one: _Opened, urls: Sequence[str], sending: Sending
) -> tuple[list[Row | Failure], Meter]:
    asking, policy = one.asking, sending.policy
    pool = Pool(urls, timeout=sending.timeout, connections=policy.in_flight)
    chat = Chat(pool, one.cache, weights=asking.weights, policy=policy, budget=sending.budget)
    try:
        await pool.connect(asking.models, listed=not asking.judge)
        rows = await chat.run(one.asked, asking.work, asking.what)
    finally:
        await pool.close()
    return rows, chat.meter


def _check_not_all_empty(results: Sequence[object], budget: Budget) -> None:
    """Raise RunStopped where no record has an answer, because none of the answers has a text."""
    empty = [one for one in results if isinstance(one, Failure) and one.kind is FailureKind.EMPTY]
    if empty and len(empty) == len(results):
        raise RunStopped(
            f"every answer is empty{budget.told()}: {empty[0].message}; nothing is written: switch "
            "the model's thinking off where it is served, or take another one"
        )


RANDOM = "random"
_NO_JUDGES = (RANDOM, EMBEDDED)
HOSTED = "https://api.openai.com/v1"
NUMBER, REASON = "number", "reason"
FORMS = (NUMBER, REASON)
"""What is asked for a score: the number alone (Figures 17 to 20), or a reason and the number."""


def is_smoke(name: str) -> bool:
    """Whether what a judge of that name says is no judgement: random draws, the embedded model."""
    return name in _NO_JUDGES


@dataclass(frozen=True, slots=True)
class Judge:
    """Who answers the judge's questions."""

    name: str
    """The model's name at its endpoint, or ``random``."""
    urls: tuple[str, ...]
    """Empty for ``random``."""

    @property
    def is_random(self) -> bool:
        """Whether verdicts are drawn, not judged."""
        return self.name == RANDOM

    @property
    def is_smoke(self) -> bool:
        """Whether what it says is no judgement."""
        return is_smoke(self.name)

    @property
    def slug(self) -> str:
        """Its name as that of a folder."""
        return re.sub(r"[^A-Za-z0-9.-]+", "-", self.name).strip(".-") or "judge"


def judge_for(model: str, name: str | None, urls: str | None, *, keyless: bool = False) -> Judge:
    """The judge a user asks for, or the one the table of backbones names.

    Raises EscError where the hosted one is meant and there is no key; ``keyless`` says that it is
    not going to be asked.
    """
    name = name or backbones.get(model).judge
    if name == RANDOM:
        if urls:
            raise EscError("JUDGE=random asks nobody; drop JUDGE_BASE_URL, or name the model there")
        return Judge(RANDOM, ())
    if urls:
        return Judge(name, tuple(policy_server.split_urls(urls)))
    if not keyless and not os.environ.get("OPENAI_API_KEY", "").strip():
        raise EscError(
            f"JUDGE={name} is asked at {HOSTED}, and OPENAI_API_KEY is not set; set it, give "
            "JUDGE_BASE_URL=http://host:port/v1 for another endpoint, or take JUDGE=random, which "
            "is a smoke run"
        )
    return Judge(name, (HOSTED,))


def keyless(given: argparse.Namespace) -> bool:
    """Whether a run with these parsed arguments of `Sending` asks no hosted judge."""
    return bool(given.dry_run or given.batch not in (None, "openai"))


def check_not_all_refused(who: str, results: Iterable[object]) -> None:
    """Raise EscError where it is the request that is refused, not what a question quotes.

    ``results`` holds a final `Failure`, or whatever else became of it, for every question.
    """
    kept = list(results)
    refusals = [
        one.message for one in kept if isinstance(one, Failure) and one.kind is FailureKind.REFUSED
    ]
    if refusals and len(refusals) == len(kept):
        raise EscError(
            f"{who} refuses every question ({refusals[0]}); nothing is written: take another judge "
            "(JUDGE, JUDGE_BASE_URL)"
        )


def add_judge_name(parser: argparse.ArgumentParser) -> None:
    """Add the option that names a judge; its default is the environment's JUDGE."""
    parser.add_argument(
        "--judge",
        type=cli.optional,
        default=os.environ.get("JUDGE") or None,
        help="model at the endpoint, or 'random' (default: $JUDGE, or as the table says)",
    )


def form_of(text: str) -> str:
    """The form of scores that JUDGE_FORM names, the paper's where it is not set.

    Raises argparse.ArgumentTypeError for another word.
    """
    if text and text not in FORMS:
        raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(FORMS)}")
    return text or NUMBER


def add_judge_form(parser: argparse.ArgumentParser) -> None:
    """Add the option that says what a score is asked as; its default is the environment's."""
    parser.add_argument(
        "--form",
        type=form_of,
        default=os.environ.get("JUDGE_FORM", ""),
        help="the number alone, or after a reason (default: $JUDGE_FORM, or number)",
    )


def add_judge_url(parser: argparse.ArgumentParser) -> None:
    """Add the option that says where the judge is; its default is the environment's."""
    parser.add_argument(
        "--judge-base-url",
        type=cli.optional,
        default=os.environ.get("JUDGE_BASE_URL") or None,
        help="one or several, separated by commas (default: $JUDGE_BASE_URL, or the hosted one)",
    )


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

    @property
    def contradiction(self) -> str:
        """What in it cannot both be so, or nothing."""
        return ""


V = TypeVar("V", bound=Verdict)
_OPENED = re.compile(r'\{\s*"([^"\n]{1,80})"\s*:')
"""The beginning of an object, with its first key."""
_BEGINS = re.compile(r"\s*(?:```\w*\s*)?\{")
"""The head of an answer that is the verdict itself."""
_Pairs = tuple[tuple[str, Any], ...]
"""An object as it was written: its keys may be there twice."""


def read(kind: type[V], text: str, *, truncated: bool = False) -> V | Unscored:
    """The verdict of ``kind`` in a judge's answer, or why there is none.

    A judge may think aloud before it, unless it was cut: objects that are not whole do not count.
    Two whole verdicts that differ are none, since one of them may be quoted from the text that was
    judged; nor is one that stands in a broken verdict, or one that names a field twice, for the
    same reason.
    """
    if not text.strip():
        return Unscored(Reason.CUT if truncated else Reason.EMPTY)
    if truncated and not _BEGINS.match(text):
        # Whatever stands in it may be the draft of a verdict that was still thought about.
        return Unscored(Reason.CUT, _short(text))
    objects: list[dict[str, object]] = []
    broken = False
    for found in _objects(text):
        if isinstance(found, str):
            broken = broken or _key(found) in _names(kind)
        elif not broken:
            objects += _readings(kind, found)
    labels = {name for name in kind.model_fields if _is_label(kind, name)}
    whole = [fields for fields in objects if labels <= fields.keys()]
    if not whole:
        named = broken or any(labels & fields.keys() for fields in objects)
        reason = Reason.CUT if truncated else Reason.INCOMPLETE if named else Reason.PROSE
        return Unscored(reason, _short(text))
    read_all = [_validated(kind, fields) for fields in whole]
    said = {_essence(kind, one) for one in read_all}
    if len(said) > 1:
        return Unscored(Reason.TWO, _short(text))
    return read_all[-1]


def _validated(kind: type[V], fields: Mapping[str, object]) -> V | Unscored:
    try:
        verdict = kind.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        told = str(first["msg"]).removeprefix("Value error, ")
        return Unscored(kind.not_offered, f"{first['loc'][0]}: {told}")
    if verdict.contradiction:
        return Unscored(Reason.CONTRADICTION, verdict.contradiction)
    return verdict


def _essence(kind: type[V], one: V | Unscored) -> object:
    """What makes two verdicts the same: the labels, not the words around them."""
    if isinstance(one, Unscored):
        return one
    return tuple(getattr(one, name) for name in kind.model_fields if _is_label(kind, name))


def _is_label(kind: type[Verdict], name: str) -> bool:
    return kind.model_fields[name].is_required()


def _readings(kind: type[Verdict], found: _Pairs) -> list[dict[str, object]]:
    """The object's values by the verdict's own field names.

    Two readings where a field is named twice, since one of the two may be quoted.
    """
    names = _names(kind)
    named = [(names[_key(key)], value) for key, value in found if _key(key) in names]
    readings = [dict(named)] if len(dict(named)) == len(named) else [dict(named[::-1]), dict(named)]
    return [
        {name: value if _is_label(kind, name) else _said(value) for name, value in one.items()}
        for one in readings
    ]


def _said(value: object) -> str:
    """An explanation as one line; half a character, which JSON can name, cannot be written."""
    return " ".join(str(value or "").split()).encode(errors="replace").decode()


def _names(kind: type[Verdict]) -> dict[str, str]:
    """Key of a name that a judge may use to the verdict's own field name."""
    return {_key(name): name for name in kind.model_fields} | {
        _key(field.title or name): name for name, field in kind.model_fields.items()
    }


def _key(name: str) -> str:
    return "".join(re.findall(r"[a-z]+", name.casefold()))


def _objects(text: str) -> Iterator[_Pairs | str]:
    """Every JSON object in the text, outermost ones alone, in order; of a broken one its key."""
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


def _short(text: str) -> str:
    return " ".join(text.split())[:120].encode(errors="replace").decode()


def strict_schema(properties: Mapping[str, Any]) -> str:
    """The JSON schema of an object of these properties, as JSON text.

    Every field is required and no other allowed, which is what strict endpoints ask for.
    """
    return json.dumps(
        {
            "type": "object",
            "properties": properties,
            "required": list(properties),
            "additionalProperties": False,
        }
    )
