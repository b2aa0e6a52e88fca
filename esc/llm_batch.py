"""Asking through files of requests, of the form of OpenAI's Batch API, instead of a live server.

``batch/NNNN.requests.jsonl`` in the run's folder asks what no stored answer tells, under the keys
and ids of live requests; who runs it leaves ``NNNN.answers.jsonl`` beside it. A record that asks
several things takes as many rounds. With BATCH=vllm, ray or openai ``python -m serving run-batch``
runs the shards; write leaves them to others, and read takes in what those have brought.
"""

import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import orjson

from esc import adapters, backbones, files, llm
from esc.files import EscError, Waiting
from esc.llm import (
    Answer,
    Call,
    CallFailed,
    Failure,
    FailureKind,
    Record,
    Result,
    RunStopped,
)

ENGINES = ("vllm", "ray", "openai", "write", "read")
"""What BATCH may be."""
SHARD = 5000
"""Requests of a shard: each costs a local engine its start, and a killed one at most one shard."""
REQUESTS, ANSWERS, STATE = ".requests.jsonl", ".answers.jsonl", ".batch.json"
"""How a shard's files end; the last one is of a batch that a service was given."""
_URL = "/v1/chat/completions"


@dataclass(frozen=True, slots=True)
class Batch:
    """What a user asks of batches: one of `ENGINES`, the requests of a shard, whose models."""

    engine: str
    shard: int
    model: str
    work: Path


@dataclass(frozen=True, order=True)
class Shard:
    """A file of requests, ``0001.requests.jsonl``; its answers lie beside it."""

    folder: Path
    number: int

    def path(self, ending: str) -> Path:
        """One of its files."""
        return self.folder / f"{self.number:04}{ending}"

    @property
    def is_paid(self) -> bool:
        """Whether a service was given it."""
        return self.path(STATE).is_file()

    @cached_property
    def ids(self) -> frozenset[str]:
        """The cache keys it asks for."""
        return frozenset(row["custom_id"] for row in _lines(self.path(REQUESTS)))


def _lines(path: Path) -> Iterator[files.Row]:
    """The rows of a file of a shard, but for a last line that a killed engine has torn."""
    with path.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            try:
                row = orjson.loads(line)
                yield row | {"custom_id": str(row["custom_id"])}
            except (ValueError, KeyError, TypeError) as error:
                if line.endswith(b"\n"):
                    raise EscError(
                        f"{path}, line {number}: no request or answer; delete that line, it is "
                        "asked for again"
                    ) from error


class _Pending(Exception):
    """Raised to a task whose answer is to come: its record goes on in a later round."""


@dataclass
class BatchChat:
    """Asks models through files, each thing once: what `llm.Chat` is for live servers."""

    batch: Batch
    urls: Sequence[str]
    cache: llm.Cache
    weights: Mapping[str, str]
    """Served name to a hash of what answers under it."""
    meter: llm.Meter
    _pending: dict[str, Call[Any]] = field(default_factory=dict)
    """What this round has to ask, by cache key, in the records' order."""
    _failures: dict[str, CallFailed] = field(default_factory=dict)
    _ran: set[Shard] = field(default_factory=set)

    async def ask(self, call: Call[Answer]) -> Answer:
        """The stored answer; CallFailed where it failed in this run.

        What no batch file can ask is answered as by a live server that does not offer it.
        """
        key = llm.key_of(call.identity(), self.weights.get(call.model))
        if (stored := self.cache.get(key)) is not None:
            return call.read(stored)
        if call.body() is None:
            return call.rehearse()
        if key in self._failures:
            raise self._failures[key]
        self._pending.setdefault(key, call)
        raise _Pending

    def run(
        self, records: Sequence[Record], work: Callable[[llm.Asks, Record], Awaitable[Result]]
    ) -> list[Result | Failure]:
        """The result of ``work`` for every record, in order, or its final failure.

        Raises EscError where the engine stopped, and Waiting where others have to work first; what
        was answered until then is kept.
        """

        async def one(record: Record) -> Any:
            try:
                return await work(self, record)
            except CallFailed as failed:
                return failed.failure
            except _Pending:
                return None

        async def all_records() -> list[Any]:
            return [await one(record) for record in records]

        try:
            while True:
                self._pending.clear()
                results = asyncio.run(all_records())
                if not self._pending:
                    return results
                if not self._take():
                    self._have_run()
        finally:
            self.cache.close()

    @property
    def _folder(self) -> Path:
        return self.cache.folder / "batch"

    def _shards(self) -> list[Shard]:
        """All of the run, oldest first."""
        names = [path.name.removesuffix(REQUESTS) for path in self._folder.glob(f"*{REQUESTS}")]
        return sorted(Shard(self._folder, int(name)) for name in names if name.isdecimal())

    def _take(self) -> bool:
        """Whether answers to what is pending, or final failures, lay beside the shards.

        A failure is final in the last shard that asks for it, where it is of this run or only
        brought answers are read. Raises EscError for an answer that nobody asked for, and where an
        engine that ran left answers out.
        """
        failed: dict[str, CallFailed | RunStopped] = {}
        before = self.meter.answered
        for shard in self._shards():
            asked = shard.ids & self._pending.keys()
            failed = {key: error for key, error in failed.items() if key not in asked}
            answers = shard.path(ANSWERS)
            if not answers.is_file():
                continue
            for row in _lines(answers):
                key = row["custom_id"]
                if key not in shard.ids:
                    raise EscError(
                        f"{answers} has an answer to {key}, which its requests do not ask: it is "
                        "of another run; move that file away"
                    )
                if key in asked:
                    asked -= {key}
                    try:
                        self._store(key, _answer_in(row, self._pending[key]))
                    except (CallFailed, RunStopped) as error:
                        if shard in self._ran or self.batch.engine == "read":
                            failed[key] = error
            if asked and shard in self._ran:
                raise EscError(
                    f"{answers} lacks {len(asked):,} of {len(shard.ids):,} answers; what is there "
                    "is kept: the same command asks for the others alone"
                )
        for key, why in failed.items():
            if isinstance(why, RunStopped):
                raise why
            self._failures[key] = why
            self.meter.failed += 1
            self._pay(*why.used)
        return bool(failed) or self.meter.answered > before

    def _store(self, key: str, answer: llm.Payload) -> None:
        self.cache.put(key, self._pending.pop(key).audit(), answer)
        self.meter.answered += 1
        self._pay(answer["prompt_tokens"], answer["completion_tokens"])

    def _pay(self, prompt_tokens: int, completion_tokens: int) -> None:
        self.meter.budget.settle(0.0, prompt_tokens, completion_tokens)
        self.meter.prompt_tokens += prompt_tokens
        self.meter.completion_tokens += completion_tokens

    def _have_run(self) -> None:
        """Have what is pending answered; EscError or Waiting where that is not done here."""
        engine = self.batch.engine
        waiting = [shard for shard in self._shards() if not shard.path(ANSWERS).is_file()]
        # What a service was given is paid for, and waited for; of another shard that was answered
        # in part, as by a live server, the rest is asked in a new one.
        todo = [one for one in waiting if one.is_paid and one.ids & self._pending.keys()]
        rest = new = self._pending.keys() - {key for shard in todo for key in shard.ids}
        for shard in waiting:
            if not shard.is_paid and shard.ids <= rest:
                todo.append(shard)
                rest = rest - shard.ids
        if engine == "read":
            names = ", ".join(shard.path(REQUESTS).name for shard in todo[:10])
            raise Waiting(
                f"batch       {len(todo)} shards in {self._folder} have no answers yet ({names}): "
                "bring their answers files there, or BATCH=openai fetches those of its service; "
                f"{len(rest):,} requests are in no open shard: BATCH=write writes them"
            )
        self._check_engine(new)
        todo += self._write([key for key in self._pending if key in rest])
        if engine == "write":
            raise Waiting(
                f"batch       {len(self._pending):,} requests in {len(todo)} shards wait in "
                f"{self._folder}\nnext        any engine that reads OpenAI batch files makes "
                f"NNNN{ANSWERS} of NNNN{REQUESTS} (docs/scaling.md has the lines for vLLM); then "
                "the same command with BATCH=read"
            )
        run(self.batch, self.urls, todo)
        self._ran.update(todo)

    def _check_engine(self, new: Set[str]) -> None:
        """Raise EscError where the engine does not have what is asked, or it could cost too much.

        ``new`` are the requests that are not paid for yet.
        """
        engine, urls, budget = self.batch.engine, self.urls, self.meter.budget
        if engine == "openai":
            if not urls:
                raise EscError("BATCH=openai asks a hosted model: give BASE_URL, or use BATCH=vllm")
            most = [budget.reserve(*self._pending[key].size()) for key in new]
            budget.settle(sum(filter(None, most)), 0, 0)
            if None in most:
                raise RunStopped(
                    f"the {len(new):,} new requests could pass MAX_COST={budget.limit:g}; nothing "
                    "is sent: raise it, or LIMIT takes fewer"
                )
        if engine in ("vllm", "ray"):
            served = {adapters.BASE, *adapters.found(self.batch.work, self.batch.model)}
            others = {call.model for call in self._pending.values()} - served
            # Under the same names another server may have other models.
            if others or urls:
                raise EscError(
                    f"BATCH={engine} runs this WORK's own models here ({', '.join(sorted(served))})"
                    f", not {', '.join([*sorted(others), *urls])}: without BATCH it is asked live, "
                    "with BATCH=openai in batches at its service, and BATCH=write leaves files"
                )

    def _write(self, keys: Sequence[str]) -> list[Shard]:
        """New shards that ask for ``keys``."""
        bodies = {key: self._body(self._pending[key]) for key in keys}
        last = max((shard.number for shard in self._shards()), default=0)
        made = []
        for number, begin in enumerate(range(0, len(keys), self.batch.shard), start=last + 1):
            shard = Shard(self._folder, number)
            with files.atomic_writer(shard.path(REQUESTS)) as stream:
                writer = files.JsonlWriter(stream)
                for key in keys[begin : begin + self.batch.shard]:
                    row = {"custom_id": key, "method": "POST", "url": _URL, "body": bodies[key]}
                    writer.write(row)
            made.append(shard)
        return made

    def _body(self, call: Call[Any]) -> llm.Payload:
        """What a live server is sent; RunStopped where a service has no such constraint."""
        constraint, body = getattr(call, "constraint", None), dict(call.body() or {})
        if self.batch.engine == "openai" and constraint and not constraint.schema:
            raise RunStopped(
                f"{self.urls[0]} does not know the constraint; use DECODE=free, or an engine with "
                "structured outputs, such as BATCH=vllm"
            )
        if constraint and constraint.choice:
            body |= choice_fields(self.batch.model, constraint.choice)
        return body


def run(batch: Batch, urls: Sequence[str], shards: Sequence[Shard]) -> None:
    """Leave answers beside the shards, by ``serving run-batch``; EscError says why it stopped."""
    of = ("--engine", batch.engine, "--model", batch.model, "--work", str(batch.work))
    where = ("--base-url", urls[0]) if batch.engine == "openai" else ()
    requests = (str(shard.path(REQUESTS)) for shard in shards)
    # It ends its engine when its input ends: so also when this process is killed.
    with subprocess.Popen(
        [sys.executable, "-m", "serving", "run-batch", *of, *where, "--requests", *requests],
        stdin=subprocess.PIPE,
        stdout=sys.__stderr__,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as runner:
        assert runner.stdin is not None
        assert runner.stderr is not None
        try:
            told = runner.stderr.read().strip().splitlines() or ["the batch was killed"]
        finally:
            runner.stdin.close()
    if runner.returncode:
        raise EscError(told[-1].removeprefix("error: "))


def _answer_in(row: files.Row, call: Call[Any]) -> llm.Payload:
    """The answer in a line, as a live request has it.

    Raises CallFailed of the kind that a live one fails with, and RunStopped where every other
    request would fail alike: a key, a quota, an unknown model, a constraint that is ignored.
    """
    response, error = row.get("response"), row.get("error")
    response = response if isinstance(response, dict) else {}
    status, body = response.get("status_code"), response.get("body")
    if status == 200 and not error:
        answer = llm.read_completion(body)
        call.check(answer)
        return answer
    words, code = llm.told(error or body)
    message = " ".join(words.split())[:300] or f"HTTP {status}"
    if status in (401, 402, 403, 404) or code == "insufficient_quota":
        raise RunStopped(f"the engine refuses every request: {message}")
    kind = FailureKind.BAD_ANSWER
    if code == "batch_expired":
        kind = FailureKind.TIMEOUT
    elif isinstance(status, int) and status >= 400:
        kind = llm.kind_of(status, message)
    raise CallFailed(kind, message)


@cache
def choice_fields(model: str, options: tuple[str, ...]) -> llm.Payload:
    """What `llm.Pool.paths_of` learns of a server of this kit, of a backbone's tokenizer alone."""
    backbone = backbones.get(model)
    tokenizer, template = adapters.load(backbone.location, backbone.template)
    paths = []
    for option in options:
        chat = [{"role": "user", "content": "?"}, {"role": "assistant", "content": option}]
        count = len(tokenizer(option, add_special_tokens=False)["input_ids"])
        # The option's tokens and the one that ends the turn.
        paths.append(tuple(template.encode_oneturn(tokenizer, chat)[1][: count + 1]))
    return llm.allowed(paths)
