"""The engines by the name a user gives them, and those that run on machines of one's own."""

import asyncio
import json
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Final, Literal, Protocol, TypeVar

import openai
import orjson

from esc import adapters, backbones, files
from esc.exceptions import EscError, Waiting
from esc.files import JsonlWriter, Row
from esc.llm import (
    Asks,
    AttemptFailed,
    Budget,
    Cache,
    Call,
    CallFailed,
    Choice,
    Failure,
    FailureKind,
    Meter,
    Payload,
    Regex,
    RunStopped,
    Tokens,
    allowed,
    api_key,
    checked,
    is_loopback,
    key_of,
    kind_of,
    path_of,
    read_completion,
    split_query,
    spoken,
    told,
    usage_of,
)
from esc.prompts import Message
from esc.visible import visible

_EXPIRED = "batch_expired"


def outcome_of(row: Any) -> Payload | Failure:
    """What a line with ``response`` and ``error`` says; a failure is of the kind a live one has.

    Raises RunStopped where every other request would fail alike: a key, a quota, an unknown model.
    """
    response, error = row.get("response"), row.get("error")
    response = response if isinstance(response, dict) else {}
    body, status = response.get("body"), response.get("status_code")
    if status == 200 and not error:
        try:
            return read_completion(body)
        except AttemptFailed as failed:
            return Failure(failed.kind, failed.message, 1)
    words, code = told(error or body)
    message = " ".join(words.split())[:300] or f"HTTP {status}"
    if code == _EXPIRED:
        return Failure(FailureKind.TIMEOUT, message, 1)
    if not isinstance(status, int) or status < 400:
        return Failure(FailureKind.BAD_ANSWER, message, 1)
    if status in (401, 402, 403, 404) or code == "insufficient_quota":
        raise RunStopped(message)
    return Failure(kind_of(status, message), message, 1)


def paid_for(row: Any) -> tuple[int, int]:
    """(tokens of the prompt, of the answer) that a line without an answer costs all the same."""
    response = row.get("response")
    body = response.get("body") if isinstance(response, dict) else None
    try:
        return usage_of(body)
    except (AttributeError, TypeError, ValueError):
        return 0, 0


Answer = TypeVar("Answer", covariant=True)
Record = TypeVar("Record")
Result = TypeVar("Result")


class Pending(Exception):
    """Raised to a task whose answer is not there yet: its record goes on in a later round."""


class Collecting:
    """Gives stored answers and known failures; collects the first other call of each record."""

    def __init__(
        self, cache: Cache, weights: Mapping[str, str], failures: Mapping[str, Failure]
    ) -> None:
        self._cache, self._weights, self._failures = cache, weights, failures
        self.pending: dict[str, Call[Any]] = {}
        """What has to be asked now, by cache key, in the records' order."""
        self.stored: set[str] = set()
        """The cache keys whose answers were there."""

    async def ask(self, call: Call[Answer]) -> Answer:
        """The stored answer; CallFailed where it failed in this run, Pending where it is to come.

        What no batch engine offers is answered as by a live endpoint that does not.
        """
        key = key_of(call.identity(), self._weights.get(call.model))
        stored = self._cache.get(key)
        if stored is not None:
            self.stored.add(key)
            return call.read(stored)
        if call.body() is None:
            return call.rehearse()
        if key in self._failures:
            raise CallFailed(self._failures[key])
        self.pending.setdefault(key, call)
        raise Pending

    async def all(
        self, records: Sequence[Record], work: Callable[[Asks, Record], Awaitable[Result]]
    ) -> list[Result | Failure | Pending]:
        """For every record its result, its final failure, or Pending where an answer is to come."""
        return [await self._one(record, work) for record in records]

    async def _one(
        self, record: Record, work: Callable[[Asks, Record], Awaitable[Result]]
    ) -> Result | Failure | Pending:
        try:
            return await work(self, record)
        except CallFailed as failed:
            return failed.failure
        except Pending as pending:
            return pending


FOLDER = "batch"
REQUESTS, ANSWERS = ".requests.jsonl", ".answers.jsonl"
STATE = ".batch.json"
"""Beside a shard that a service was given, and is paid for."""
URL: Final = "/v1/chat/completions"


def request_line(key: str, body: Payload) -> Row:
    """One line of a requests file, as OpenAI's Batch API and vLLM read it."""
    return {"custom_id": key, "method": "POST", "url": URL, "body": body}


@dataclass(frozen=True)
class Shard:
    """A file of requests, and the place of its answers."""

    requests: Path

    @property
    def name(self) -> str:
        """Its number, as its files have it."""
        return self.requests.name.removesuffix(REQUESTS)

    def beside(self, ending: str) -> Path:
        """Another file of the shard."""
        return self.requests.with_name(self.name + ending)

    @property
    def answers(self) -> Path:
        """The file of its answers."""
        return self.beside(ANSWERS)

    @cached_property
    def ids(self) -> frozenset[str]:
        """The ids its requests have; EscError where the file was cut or changed."""
        found = set()
        with self.requests.open("rb") as stream:
            for number, line in enumerate(stream, start=1):
                row = _parsed(line)
                if row is None:
                    raise EscError(
                        f"{self.requests}, line {number}: no whole request; delete {self.name}.* "
                        "there, its requests are written anew"
                    )
                found.add(row["custom_id"])
        return frozenset(found)

    def lines(self) -> Iterator[Row]:
        """Every whole line of its answers; a last one that is torn is left out.

        Raises EscError for a line that is no answer, or answers what this shard does not ask.
        """
        with self.answers.open("rb") as stream:
            for number, line in enumerate(stream, start=1):
                row = _parsed(line)
                if row is None and not line.endswith(b"\n"):
                    return
                where = f"{self.answers}, line {number}"
                if row is None:
                    raise EscError(f"{where}: no answer; delete that line, it is asked for again")
                if row["custom_id"] not in self.ids:
                    raise EscError(
                        f"{where}: an answer to {row['custom_id']}, which {self.requests.name} "
                        "does not ask: it is of another run; move that file away"
                    )
                yield row


def _parsed(line: bytes) -> Any:
    """The object with an id in a line, or None."""
    try:
        row = orjson.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and isinstance(row.get("custom_id"), str) else None


@dataclass
class Shards:
    """All shards of a run's folder, in the order of their numbers."""

    folder: Path
    all: list[Shard] = field(init=False)

    def __post_init__(self) -> None:
        found = [Shard(path) for path in self.folder.glob(f"*{REQUESTS}")]
        numbered = [shard for shard in found if shard.name.isdecimal()]
        self.all = sorted(numbered, key=lambda shard: int(shard.name))

    def answered(self) -> list[Shard]:
        """Those beside which answers lie, whole or not."""
        return [shard for shard in self.all if shard.answers.is_file()]

    def open(self, keys: Iterable[str]) -> list[Shard]:
        """Those without any answers whose requests are all among ``keys``: to be run as they are.

        One of which another run has answered a part is not, and its rest is asked in a new one;
        but where a service has it, its answers are paid for. No request is in two of them, but in
        what a service has twice.
        """
        wanted = frozenset(keys)
        waiting = [one for one in self.all if not one.answers.is_file()]
        paid = {one for one in waiting if one.beside(STATE).is_file() and one.ids & wanted}
        left = wanted.difference(*(one.ids for one in paid))
        found = []
        for one in waiting:
            if one in paid:
                found.append(one)
            elif one.ids <= left:
                found.append(one)
                left -= one.ids
        return found

    def write(self, requests: Sequence[tuple[str, Payload]], size: int) -> list[Shard]:
        """New shards of up to ``size`` requests, (cache key, body) each."""
        last = int(self.all[-1].name) if self.all else 0
        made = []
        for number, begin in enumerate(range(0, len(requests), size), start=last + 1):
            path = self.folder / f"{number:04}{REQUESTS}"
            with files.atomic_writer(path) as stream:
                writer = JsonlWriter(stream)
                for key, body in requests[begin : begin + size]:
                    writer.write(request_line(key, body))
            made.append(Shard(path))
        self.all += made
        return made


Asked = Mapping[str, Call[Any]]
"""What has to be asked, by cache key."""


class Engine(Protocol):
    """Whatever leaves answers beside requests."""

    @property
    def writes(self) -> bool:
        """Whether requests that no shard holds are written; otherwise answers are only taken in."""

    def body(self, call: Call[Any]) -> Payload:
        """What a request's line asks; EscError where the engine cannot be asked that."""

    def run(self, shards: Sequence[Shard], pending: Asked) -> None:
        """Leave an answers file beside each of ``shards``, which hold ``pending``.

        Raises EscError where it cannot, and Waiting where somebody else has to; what is answered
        until then stays.
        """


@dataclass
class Rounds:
    """One run's requests through an engine."""

    cache: Cache
    weights: Mapping[str, str]
    engine: Engine
    size: int
    """Requests of a shard."""
    meter: Meter
    _failures: dict[str, Failure] = field(default_factory=dict)
    _ran: set[Shard] = field(default_factory=set)
    _taken: set[str] = field(default_factory=set)

    def ask(
        self, records: Sequence[Record], work: Callable[[Asks, Record], Awaitable[Result]]
    ) -> list[Result | Failure]:
        """The result of ``work`` for every record, in order, or its final failure.

        Raises EscError or Waiting where answers are missing; those that are there are stored.
        """
        shards = Shards(self.cache.folder / FOLDER)
        try:
            while True:
                asked = Collecting(self.cache, self.weights, self._failures)
                results = asyncio.run(asked.all(records, work))
                self.meter.cached = len(asked.stored - self._taken)
                if not asked.pending:
                    return [one for one in results if not isinstance(one, Pending)]
                if not self._take(shards, asked.pending):
                    self._run(shards, asked.pending)
        finally:
            self.cache.close()

    def _run(self, shards: Shards, pending: Asked) -> None:
        todo = shards.open(pending)
        if self.engine.writes:
            held = frozenset[str]().union(*(shard.ids for shard in todo))
            new = [
                (key, self.engine.body(call)) for key, call in pending.items() if key not in held
            ]
            todo += shards.write(new, self.size)
        self.engine.run(todo, pending)
        self._ran.update(todo)

    def _take(self, shards: Shards, pending: Asked) -> bool:
        """Whether answers or failures of what is pending were in the answers files.

        A failure counts where it is of this run, or nobody is going to ask again. Raises EscError
        for one that others would meet too, or for missing answers, when all that are there are
        stored.
        """
        failures: dict[str, tuple[Failure, tuple[int, int]]] = {}
        stops: dict[str, RunStopped] = {}
        lacking = None
        taken: set[str] = set()
        waits = frozenset[str]().union(*(shard.ids for shard in shards.open(pending)))
        for shard in shards.answered():
            counts, seen = shard in self._ran or not self.engine.writes, set()
            for row in shard.lines():
                key = row["custom_id"]
                seen.add(key)
                if key not in pending or key in taken:
                    continue
                try:
                    outcome = _within(pending[key], outcome_of(row))
                except RunStopped as stopped:
                    if counts:
                        stops[key] = RunStopped(f"{shard.answers}: {stopped}")
                    continue
                if not isinstance(outcome, Failure):
                    self._store(key, pending[key], outcome)
                    taken.add(key)
                    self._taken.add(key)
                elif counts:
                    failures[key] = outcome, paid_for(row)
            if shard in self._ran and (lacks := shard.ids & pending.keys() - seen):
                lacking = lacking or EscError(
                    f"{shard.answers} lacks {len(lacks):,} of {len(shard.ids):,} answers; what is "
                    "there is kept: the same command asks for the others alone"
                )
        for key, stop in stops.items():
            if key not in taken | waits:
                raise stop
        if lacking:
            raise lacking
        final = {k: failure for k, (failure, _) in failures.items() if k not in taken | waits}
        self._failures |= final
        for key in final:
            self._pay(failures[key][1])
        self.meter.failed += len(final)
        return bool(taken or final)

    def _store(self, key: str, call: Call[Any], answer: Payload) -> None:
        self.cache.put(key, call.audit(), answer)
        self._pay((answer["prompt_tokens"], answer["completion_tokens"]))
        self.meter.answered += 1

    def _pay(self, used: tuple[int, int]) -> None:
        self.meter.budget.settle(0.0, *used)
        self.meter.prompt_tokens += used[0]
        self.meter.completion_tokens += used[1]


def _within(call: Call[Any], outcome: Payload | Failure) -> Payload | Failure:
    """The outcome; RunStopped where it is an answer that its constraint does not let through."""
    constraint = getattr(call, "constraint", None)
    if not isinstance(outcome, Failure) and _breaks(constraint, outcome):
        raise RunStopped(
            "the engine answers, but ignores the constraint; use DECODE=free, or an engine with "
            "structured outputs, such as vLLM"
        )
    return outcome


def _breaks(constraint: object, answer: Payload) -> bool:
    """Whether a whole answer is none that its constraint lets through."""
    text, is_cut = spoken(answer["text"])
    if is_cut or answer["finish"] == "length" or getattr(constraint, "hint", False):
        return False
    if isinstance(constraint, Choice):
        return text not in constraint.options
    if isinstance(constraint, Regex):
        return re.match(constraint.pattern, text, re.DOTALL) is None
    return False


def choice_fields(model: str, options: Sequence[str]) -> dict[str, Any]:
    """The request fields of `tokens.choice_tokens` for a backbone, without a server.

    Made of its tokenizer and the chat template that a server of this kit has.
    """
    backbone = backbones.get(model)
    tokenizer, template = adapters.load(backbone.location, backbone.template)
    text = template._get_jinja_template(tokenizer)

    def ids(chat: Sequence[Message], *, goes_on: bool) -> Tokens:
        messages = [message.wire() for message in chat]
        whole = tokenizer.apply_chat_template(
            messages, chat_template=text, tokenize=False, add_generation_prompt=goes_on
        )
        return tuple(tokenizer(whole, add_special_tokens=False)["input_ids"])

    asked = Message("user", "?")
    head = ids([asked], goes_on=True)
    paths = []
    for option in options:
        whole = ids([asked, Message("assistant", option)], goes_on=False)
        count = len(tokenizer(option, add_special_tokens=False)["input_ids"])
        path = path_of(head, whole, count)
        if path is None:
            # As of a server whose template does so.
            return {}
        paths.append(path)
    return allowed(paths)


T = TypeVar("T")
LARGEST = 50_000
"""Requests that the Batch API takes in one file."""
_ENDPOINT: Literal["/v1/chat/completions"] = URL
_MARK = "shard_sha256"
POLL_SECONDS = 30.0
"""Between two looks at the batches."""
_ENDED = ("completed", "failed", "expired", "cancelled")
_ON_ITS_WAY = ("validating", "in_progress", "finalizing", "cancelling")


class _NotRun(EscError):
    """A batch that its service did not run."""


class Hosted:
    """A service with OpenAI's Batch API."""

    writes = True

    def __init__(self, url: str, budget: Budget) -> None:
        self._url, query = split_query(checked(url))
        self._budget = budget
        self._key = api_key(self._url)
        self._client = openai.OpenAI(
            base_url=self._url,
            default_query=query,
            api_key=self._key,
            max_retries=5,
            http_client=openai.DefaultHttpxClient(trust_env=not is_loopback(self._url)),
        )

    def body(self, call: Call[Any]) -> Payload:
        """The request as it is sent live; RunStopped where it has vLLM's own constraint."""
        constraint = getattr(call, "constraint", None)
        if isinstance(constraint, Choice | Regex):
            raise RunStopped(
                f"{self._url} does not know the constraint ({type(constraint).__name__}); "
                "use DECODE=free, or an engine with structured outputs, such as BATCH=vllm"
            )
        return call.body() or {}

    def run(self, shards: Sequence[Shard], pending: Asked) -> None:
        """Make a batch of each shard that has none, and wait for the answers of all.

        Raises EscError where the service refuses one, when the others have ended, or where
        MAX_COST forbids the new ones.
        """
        new = [shard for shard in shards if not shard.beside(STATE).is_file()]
        for shard in new:
            if len(shard.ids) > LARGEST:
                raise EscError(
                    f"{shard.requests} has more than {LARGEST:,} requests; delete it, and it is "
                    f"written anew with SHARD={LARGEST}"
                )
        refused: list[_NotRun] = []
        with self._afforded(new, pending), self._told():
            made = {shard: self._batch_of(shard) for shard in shards}
            while made:
                for shard, identity in list(made.items()):
                    try:
                        if self._fetched(shard, identity):
                            del made[shard]
                    except _NotRun as error:
                        refused.append(error)
                        del made[shard]
                if made:
                    time.sleep(POLL_SECONDS)
        if refused:
            raise refused[0]

    @contextmanager
    def _afforded(self, shards: Sequence[Shard], pending: Asked) -> Iterator[None]:
        """Set aside what the shards can cost; RunStopped where that is more than is left."""
        reserved = 0.0
        try:
            for key in (key for shard in shards for key in shard.ids):
                most = self._budget.reserve(*pending[key].size())
                if most is None:
                    raise RunStopped(
                        f"the {sum(len(one.ids) for one in shards):,} new requests could pass "
                        f"MAX_COST={self._budget.limit:g}; nothing is sent: raise it, or LIMIT "
                        "takes fewer"
                    )
                reserved += most
            yield
        finally:
            self._budget.settle(reserved, 0, 0)

    def _batch_of(self, shard: Shard) -> str:
        """The id of the shard's batch, made now where there is none."""
        state = shard.beside(STATE)
        known = files.read_json(state) if state.is_file() else {}
        if known and known["url"] != self._url:
            raise EscError(f"{state} is of {known['url']}; ask there, or move {shard.name}.* away")
        if not known:
            digest = files.sha256(shard.requests)
            files.write_json(state, {"url": self._url, _MARK: digest, "batch": None})
            identity = self._make(shard.requests, digest)
        elif known["batch"]:
            return str(known["batch"])
        else:
            digest = known[_MARK]
            identity = self._made_before(digest) or self._make(shard.requests, digest)
        files.write_json(state, {"url": self._url, _MARK: digest, "batch": identity})
        return identity

    def _make(self, requests: Path, digest: str) -> str:
        with requests.open("rb") as stream:
            uploaded = self._object(self._client.files.create(file=stream, purpose="batch"))
        # Asking again could make a second one: a lost answer is found by the mark.
        once = self._client.with_options(max_retries=0)
        made = self._object(
            once.batches.create(
                input_file_id=uploaded.id,
                endpoint=_ENDPOINT,
                completion_window="24h",
                metadata={_MARK: digest},
            )
        )
        told = visible(f"batch       {requests}: {made.id} at {self._url}")
        print(told, file=sys.stderr, flush=True)
        return made.id

    def _made_before(self, digest: str) -> str | None:
        for batch in self._object(self._client.batches.list(limit=100)):
            if (batch.metadata or {}).get(_MARK) == digest:
                return batch.id
        return None

    def _fetched(self, shard: Shard, identity: str) -> bool:
        """Whether the batch has ended; then its answers lie beside the shard."""
        batch = self._object(self._client.batches.retrieve(identity))
        if batch.status in _ON_ITS_WAY:
            return False
        if batch.status not in _ENDED:
            raise EscError(f"{self._url}: batch {identity} is {batch.status!r}, which is no state")
        found = [one for one in (batch.output_file_id, batch.error_file_id) if one]
        if batch.status == "failed" or not found:
            # Nothing ran, and nothing is paid: the next run makes another.
            shard.beside(STATE).unlink()
            errors = batch.errors.data if batch.errors and batch.errors.data else []
            reason = "; ".join(str(error.message) for error in errors) or "no reason is given"
            raise _NotRun(
                f"{self._url}: batch {identity} of {shard.requests} {batch.status}: {reason}; the "
                "same command makes it anew"
            )
        with files.atomic_writer(shard.answers) as stream:
            for one in found:
                text = self._client.files.content(one).content
                stream.write(text if text.endswith(b"\n") or not text else text + b"\n")
        return True

    def _object(self, found: T) -> T:
        """What the service answered; EscError where the client could not read it."""
        if isinstance(found, str):
            raise EscError(f"{self._url} answers no JSON; a base URL mostly ends in /v1")
        return found

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Tell of a failed request in one line, without the key."""
        try:
            yield
        except openai.APIStatusError as error:
            reason = f"{error.status_code}: {error.message}"
        except openai.APIConnectionError as error:
            reason = str(error.__cause__ or error)
        except json.JSONDecodeError as error:
            reason = f"no JSON ({error})"
        else:
            return
        if self._key != "none":
            reason = reason.replace(self._key, "***")
        raise EscError(
            f"{self._url}: {' '.join(reason.split())[:300]}; batches that were made are noted and "
            "not made again: the same command goes on"
        )


SHARD = 5000
"""Requests of a shard: each costs a local engine its start, and a killed one at most one shard."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What a user asks of batches."""

    engine: str
    """A key of `ENGINES`."""
    shard: int
    model: str
    """The backbone."""
    work: Path


@cache
def _choice_fields(model: str, options: tuple[str, ...]) -> dict[str, Any]:
    return choice_fields(model, options)


@dataclass(frozen=True)
class _OfThisWork:
    """An engine of this WORK's models, or files for one."""

    batch: Batch
    writes: bool = True

    def body(self, call: Call[Any]) -> Payload:
        """As a live server of this kit is sent it."""
        body = dict(call.body() or {})
        constraint = getattr(call, "constraint", None)
        if isinstance(constraint, Choice):
            body |= _choice_fields(self.batch.model, constraint.options)
        return body

    def _step(self, *words: str) -> list[str]:
        whose = ("--model", self.batch.model, "--work", str(self.batch.work))
        return [sys.executable, "-m", "serving", "run-batch", *whose, *words]


@dataclass(frozen=True)
class Local(_OfThisWork):
    """vLLM's batch runner, or Ray Data with vLLM: one start for each shard."""

    urls: Sequence[str] = ()
    """Where a user asks another server, which a batch here would not be."""

    def run(self, shards: Sequence[Shard], pending: Asked) -> None:
        """Run the shards one after the other; EscError says where it stopped, and why."""
        self._check({call.model for call in pending.values()})
        for number, shard in enumerate(shards, start=1):
            print(
                f"batch       {shard.requests}: {len(shard.ids):,} requests, shard {number} of "
                f"{len(shards)}, log {shard.beside('.log')}",
                file=sys.stderr,
                flush=True,
            )
            reason = self._run(shard)
            if reason:
                raise EscError(
                    f"shard {shard.name} was not run: {reason}; {number - 1} of {len(shards)} "
                    "shards of this round are answered and kept, the same command goes on"
                )

    def _check(self, models: set[str]) -> None:
        served = {adapters.BASE, *adapters.found(self.batch.work, self.batch.model)}
        if others := models - served:
            raise EscError(
                f"BATCH={self.batch.engine} runs this WORK's models ({', '.join(sorted(served))}), "
                f"and {', '.join(sorted(others))} is none of them: without BATCH it is asked "
                "live, with BATCH=openai in batches at its service, and BATCH=write leaves files"
            )
        # Under the same names another server may have other models.
        if self.urls:
            raise EscError(
                f"BATCH={self.batch.engine} runs this WORK's own models here, and {self.urls[0]} "
                "is asked: give one of the two"
            )

    def _run(self, shard: Shard) -> str | None:
        """Why a shard has no answers, or None where it has."""
        command = self._step("--engine", self.batch.engine, "--requests", str(shard.requests))
        # It ends its engine when its input ends: so also when this process is killed.
        with subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        ) as runner:
            assert runner.stdin is not None
            assert runner.stderr is not None
            try:
                told = runner.stderr.read().strip().splitlines() or ["no output"]
            finally:
                runner.stdin.close()
        return told[-1].removeprefix("error: ") if runner.returncode else None


class Written(_OfThisWork):
    """Nobody: the shards are for engines on other machines."""

    def run(self, shards: Sequence[Shard], pending: Asked) -> None:
        """Leave a script that runs the shards; raises Waiting, which says what to do with it."""
        folder = shards[0].requests.parent
        # One that a service was given is paid for there.
        names = [shard.name for shard in shards if not shard.beside(STATE).is_file()]
        models = sorted({call.model for call in pending.values()})
        self._script(folder, names, models)
        requests = sum(len(shard.ids) for shard in shards)
        script = shlex.quote(str(folder / "run.sh"))
        raise Waiting(
            f"batch       {requests:,} requests in {len(shards)} shards wait in {folder}\n"
            f"next        sh {script} on a machine with vLLM (NNODES=N NODE_RANK=K shares the "
            "shards out), or any engine that reads OpenAI batch files; then the same command with "
            "BATCH=read"
        )

    def _script(self, folder: Path, shards: Sequence[str], models: Sequence[str]) -> None:
        words = ("--script", str(folder), "--shards", *shards, "--names", *models)
        command = self._step(*words)
        made = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
        if made.returncode:
            raise EscError(made.stderr.strip().splitlines()[-1].removeprefix("error: "))


class Read(_OfThisWork):
    """Nobody: the answers that were brought are taken in."""

    def run(self, shards: Sequence[Shard], pending: Asked) -> None:
        """Raise Waiting, which says what is missing."""
        at_service = [shard for shard in shards if shard.beside(STATE).is_file()]
        brought = [shard for shard in shards if shard not in at_service]
        told = []
        for some, how in (
            (brought, "bring their answers files there"),
            (at_service, "BATCH=openai fetches them from their service"),
        ):
            if some:
                names = ", ".join(shard.name for shard in some[:10])
                more = ", …" if len(some) > 10 else ""
                told.append(
                    f"{len(_held(some, pending)):,} requests of {len(some)} shards have no answers "
                    f"yet ({names}{more} in {some[0].requests.parent}): {how}"
                )
        if rest := len(pending) - len(_held(shards, pending)):
            told.append(f"{rest:,} requests are in no open shard: BATCH=write writes them")
        raise Waiting("batch       " + "; ".join(told))


def _held(shards: Sequence[Shard], pending: Asked) -> frozenset[str]:
    """Those of ``pending`` that the shards hold."""
    return frozenset[str]().union(*(shard.ids for shard in shards)) & pending.keys()


def engine_of(batch: Batch, urls: Sequence[str], budget: Budget) -> Engine:
    """The engine a user asks for; EscError where it needs an address that is not given."""
    return ENGINES[batch.engine](batch, urls, budget)


def _hosted(batch: Batch, urls: Sequence[str], budget: Budget) -> Engine:
    if not urls:
        raise EscError(
            "BATCH=openai asks a hosted model; this WORK's own run with BATCH=vllm, and another "
            "service's with BASE_URL"
        )
    if batch.shard > LARGEST:
        raise EscError(f"a batch takes {LARGEST:,} requests, not SHARD={batch.shard:,}")
    return Hosted(urls[0], budget)


ENGINES: dict[str, Callable[[Batch, Sequence[str], Budget], Engine]] = {
    "vllm": lambda batch, urls, budget: Local(batch, urls=urls),
    "ray": lambda batch, urls, budget: Local(batch, urls=urls),
    "openai": _hosted,
    "write": lambda batch, urls, budget: Written(batch),
    "read": lambda batch, urls, budget: Read(batch, writes=False),
}
"""What BATCH may be."""
